"""Runs the Python blocks of the README and of docs/ as tests, each page from its top."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Most of the time goes into compiling, and many tests compile the same programs. The workers share
# one directory, though JAX writes without a lock: whoever reads half an entry compiles anew and
# warns, which pyproject.toml ignores. All tests are to find the variables, also those in a process
# of their own; JAX reads them as it is imported, which is later.
_CACHE = Path(__file__).parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# XLA's newer emitter for CPUs takes 20 ms for every loop that it writes: the suite compiles in half
# the time by the older one. XLA stops at a flag that it does not know, hence the question. A test
# that looks at compiled programs asks for the newer one.
_FASTER = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"


def _is_known(flags: str) -> bool:
    return not subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        check=False,
    ).returncode


if "XLA_FLAGS" not in os.environ:  # the workers inherit it
    os.environ["XLA_FLAGS"] = _FASTER if _is_known(_FASTER) else ""

if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 8):
    # The tests know it by its present name.
    import jax
    import jax.experimental

    jax.enable_x64 = jax.experimental.enable_x64

# What several test files share; its assertions are to show values, as those of the tests do.
pytest.register_assert_rewrite("contract_runs", "device_runs", "flax_training", "guarded_runs")

collect_ignore = ["docs/conf.py"]  # needs Sphinx
pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The guides compile whole training steps: they are slow tests."""
    for item in items:
        if "guides" in item.path.parts:
            item.add_marker("slow")

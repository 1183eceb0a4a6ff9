"""Runs the Python blocks of the README and of docs/ as tests, each page from its top."""

import os
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Most of the time goes into compiling, and many tests compile the same programs. One directory for
# every worker, since JAX writes without a lock. All tests are to find the variables, also those in
# a process of their own; JAX reads them as it is imported, which is later.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
_CACHE = Path(__file__).parent / ".pytest_cache" / "xla" / _WORKER
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

collect_ignore = ["docs/conf.py"]  # needs Sphinx
pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The guides compile whole training steps: they are slow tests."""
    for item in items:
        if "guides" in item.path.parts:
            item.add_marker("slow")

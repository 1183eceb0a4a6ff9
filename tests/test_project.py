"""What is said about the project in several places is the same in all of them."""

import re
import tomllib
from pathlib import Path

import salera_optax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_everywhere():
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == salera_optax.__version__ == PROJECT["version"]


def test_committed_results_name_no_place_on_a_machine():
    pages = sorted((ROOT / "benchmarks" / "results").rglob("*.md"))
    assert pages
    for page in pages:
        assert not re.search(r"(?<![\w.)])/\w+/\w+", page.read_text()), page


def test_public_addresses_are_those_of_pyproject():
    """Without a repository there, none is named, and nothing is installed from an index."""
    address = PROJECT["urls"].get("Repository")
    for page in [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.py"))]:
        text = page.read_text()
        if address is None:
            assert not re.search(r"colab|badge\.svg|\"install\"", text, re.IGNORECASE), page
        elif page.suffix == ".py":
            path = f"{address.removeprefix('https://github.com/')}/blob/main/notebooks/{page.stem}"
            assert f"](https://colab.research.google.com/github/{path}.ipynb)" in text, page

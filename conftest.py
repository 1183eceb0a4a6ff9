"""Runs the Python blocks of the README and of docs/ as tests, each page from its top."""

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

collect_ignore = ["docs/conf.py"]  # needs Sphinx
pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The guides compile whole training steps: they are slow tests."""
    for item in items:
        if "guides" in item.path.parts:
            item.add_marker("slow")

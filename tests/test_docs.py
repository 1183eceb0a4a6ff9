"""The API reference has every public name. (Sphinx fails on a page that names what is not there.)"""

import re
from pathlib import Path

import pytest

import salera_optax
import salera_optax.flax

PAGES = Path(__file__).parents[1] / "docs" / "api"


@pytest.mark.parametrize("module", [salera_optax, salera_optax.flax])
def test_every_public_name_stands_in_the_reference_once(module):
    entries = []
    for page in PAGES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if f".. currentmodule:: {module.__name__}\n" in text:
            entries += re.findall(r"\.\. auto(?:class|function):: (\w+)", text)
    assert sorted(entries) == sorted(module.__all__)


@pytest.mark.parametrize("module", [salera_optax, salera_optax.flax])
def test_every_public_name_has_a_docstring_of_its_own(module):
    for name in module.__all__:
        # A named tuple makes one up, which begins with its name.
        assert not (getattr(module, name).__doc__ or name).startswith(name)

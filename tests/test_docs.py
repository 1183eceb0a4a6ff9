"""The documentation is complete; that it has no more than there is, Sphinx sees to."""

import re
from pathlib import Path

import pytest

import salera_optax
import salera_optax.flax

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("module", [salera_optax, salera_optax.flax])
def test_every_public_name_stands_in_the_reference_once(module):
    entries = []
    for page in DOCS.glob("api/*.md"):
        text = page.read_text(encoding="utf-8")
        if f".. currentmodule:: {module.__name__}\n" in text:
            entries += re.findall(r"\.\. auto(?:class|function):: (\w+)", text)
    assert sorted(entries) == sorted(module.__all__)


@pytest.mark.parametrize("module", [salera_optax, salera_optax.flax])
def test_every_public_name_has_a_docstring_of_its_own(module):
    for name in module.__all__:
        # A named tuple makes one up, which begins with its name.
        assert not (getattr(module, name).__doc__ or name).startswith(name)


def test_no_displayed_formula_has_an_angle_bracket_which_would_cut_it_off():
    # The extension for KaTeX does not escape it there: write a backslash and lt or gt.
    formulas = [
        formula
        for page in DOCS.rglob("*.md")
        for formula in re.findall(r"\$\$(.+?)\$\$", page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert formulas
    assert not [formula for formula in formulas if "<" in formula or ">" in formula]

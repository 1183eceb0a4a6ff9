"""The documentation is complete; that it has no more than there is, Sphinx sees to."""

import json
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


def rows(text):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in re.findall(r"^\|.*", text, re.M)
    ]


def test_the_tables_of_the_readme_say_what_was_measured():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    results = DOCS.parent / "benchmarks" / "results"
    _, _, after = readme.partition("## Results\n")
    errors, _, after = after.partition("## What it costs\n")
    measured = rows((results / "README.md").read_text(encoding="utf-8"))
    assert len(rows(errors)) > 20
    assert [row for row in rows(errors) if row not in measured] == []
    found = re.search(r"\*\*(Of the .*?)\*\*", (results / "README.md").read_text(encoding="utf-8"))
    assert found
    assert found[1] in " ".join(errors.split())

    costs, _, _ = after.partition("\n## ")
    cpu, gpu = (
        {
            row["optimizer"]: row
            for row in json.loads((folder / "cost.json").read_text())["optimizers"]
        }
        for folder in (results, results / "h200")
    )
    assert rows(costs)[2:] == [
        [
            name,
            f"{cpu[name]['step_ratio']:.2f}",
            f"{cpu[name]['chain_ratio']:.2f}" if "chain_ratio" in cpu[name] else "",
            f"{gpu[name]['step_ratio']:.2f}" if name in gpu else "",
            f"{cpu[name]['alarm_ratio']:.2f}" if "alarm_ratio" in cpu[name] else "",
            f"{cpu[name]['state']:.0f}",
            f"{cpu[name]['temporaries']:.2f}",
        ]
        for name in cpu
    ]

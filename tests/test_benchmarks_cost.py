"""Tests of `python -m benchmarks cost`, at a tiny size: what it counts, not how long it takes."""

import functools
import json
from pathlib import Path

import optax
import pytest
from click.testing import CliRunner

import salera_optax
from benchmarks.__main__ import main
from benchmarks.cost import measure, programs


@pytest.mark.slow
def test_the_costs_are_written_as_a_table_as_json_and_as_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tx = salera_optax.page_hinkley(optax.sgd(1e-3))
    makers = {"adam": lambda: optax.adam(1e-3), "page_hinkley(adam)": lambda: tx}
    monkeypatch.setattr(measure, "MEASURED", makers)
    # The networks by name; a small one will do for both.
    small = dict.fromkeys(programs.NETWORKS, functools.partial(programs.at_size, parameters=100))
    monkeypatch.setattr(programs, "NETWORKS", small)
    monkeypatch.setattr(measure, "FEW", tuple(makers))
    sizes = ["--parameters", "1600", "--largest", "10000", "--leaves", "10", "--rounds", "1"]
    result = CliRunner().invoke(main, ["cost", *sizes, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "cost.md").read_text() in result.output
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")

    costs = json.loads((tmp_path / "cost.json").read_text())
    adam, guarded = costs["optimizers"]
    assert adam["step_ratio"] == adam["update_ratio"] == 1
    assert "alarm_ratio" in guarded
    assert "alarm_ratio" not in adam
    # Scalars, too, are part of the state. Four layers of 20 x 20 weights and 20 biases.
    assert adam["state"] == pytest.approx(2, abs=0.1)
    assert guarded["state"] == pytest.approx(1, abs=0.2)  # its history too
    assert adam["floor_bytes"] == pytest.approx(7 * 1680 * 4, rel=0.03)
    assert 1 <= adam["traffic_bytes"] / adam["floor_bytes"] < 2
    assert guarded["floor_bytes"] == pytest.approx(4 * 1680 * 4, rel=0.1)
    assert [row["size"] for row in costs["leaves"]] == [1, 1, 10, 10]
    assert [row["size"] for row in costs["networks"][::2]] == list(programs.NETWORKS)
    assert "chain_ratio" in guarded

"""The simulation of detectors alone: its losses, its rivals, and the command."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import detector_command, streams
from benchmarks.__main__ import main
from benchmarks.detectors import DETECTORS


# Not Student's t(3): its fourth moment is infinite, so that the deviation of a sample tells little.
@pytest.mark.parametrize("noise", ["Gaussian", "lognormal(1)", "AR(0.9)", "minibatch of 4"])
def test_a_noise_has_mean_0_and_deviation_1(noise: str):
    drawn = np.asarray(streams.NOISES[noise](jax.random.key(0), 400_000), np.float64)
    within = 4 * drawn.std() * (20 if noise == "AR(0.9)" else 1) ** 0.5 / drawn.size**0.5
    assert abs(drawn.mean()) < within
    assert drawn.std() == pytest.approx(1, abs=0.03)


def test_the_rule_of_six_deviations_is_that_of_a_plain_loop():
    generator = np.random.default_rng(0)
    losses = generator.standard_t(3, (3, 400)).astype(np.float32)
    expected = np.zeros(losses.shape, bool)
    for stream, row in zip(losses, expected, strict=True):
        for step in range(64, row.size):
            window = stream[max(step - 128, 0) : step].astype(np.float64)
            row[step] = stream[step] - window.mean() > 6 * window.std(ddof=1)
    assert expected.any()
    found = DETECTORS["mean + 6 deviations of 128"].alarms(losses)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["robust", "CUSUM", "river ADWIN"])
def test_a_detector_keeps_quiet_on_a_plateau_and_notices_a_jump(name: str):
    losses = np.random.default_rng(0).normal(1, 0.02, (2, 1000)).astype(np.float32)
    losses[:, 700:] += 1
    alarms = DETECTORS[name].alarms(losses)
    assert not alarms[:, :700].any()
    assert alarms[:, 700:800].any(axis=1).all()


@pytest.mark.slow
def test_the_command_writes_tables_numbers_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detector_command, "MOMENTS", {"early": 100, "late": 300})
    arguments = ["detector", "--streams", "2", "--steps", "2100", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "detector.json").read_text())
    assert {row["detector"] for row in numbers["false alarms"]} == set(DETECTORS)
    text = (tmp_path / "detector.md").read_text()
    assert all(f"| {name} " in text for name in DETECTORS)
    assert (tmp_path / "detector.png").stat().st_size > 10_000

"""The simulation of detectors alone: its losses, its rivals, and the command."""

import json
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.detector import streams
from benchmarks.detector.detectors import COMPARED
from benchmarks.detector.measure import delays, false_alarms
from benchmarks.detector.picture import save_picture
from benchmarks.detector.tables import write_tables
from benchmarks.paths import COMMITTED


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
    found = COMPARED["mean + 6 deviations of 128"].alarms(losses)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["robust", "CUSUM", "river ADWIN"])
def test_a_detector_keeps_quiet_on_a_plateau_and_notices_a_jump(name: str):
    losses = np.random.default_rng(0).normal(1, 0.02, (2, 1000)).astype(np.float32)
    losses[:, 700:] += 1
    alarms = COMPARED[name].alarms(losses)
    assert not alarms[:, :700].any()
    assert alarms[:, 700:800].any(axis=1).all()


def test_false_alarms_are_counted_over_all_streams():
    row = next(false_alarms(COMPARED["published, smoothing 1"], 2, 2100, 0))
    assert (row["curve"], row["noise"], row["streams"], row["steps"]) == (
        "descent",
        "Gaussian",
        2,
        4200,
    )
    assert 0 < row["early alarms"] < row["alarms"] < 4200


def test_a_delay_is_counted_from_the_change():
    rows = {row["change"]: row for row in islice(delays(COMPARED["robust"], 4, 0), 8)}
    assert rows["jump 2"]["median"] is None
    assert rows["jump 2"]["missed"] == 1
    assert (rows["jump 50"]["median"], rows["jump 50"]["missed"]) == (2, 0), "it looks three times"
    assert rows["jump 10"]["median"] > 0


def test_tables_and_picture_are_made_of_the_numbers(tmp_path: Path):
    numbers = json.loads((COMMITTED / "detector.json").read_text())
    write_tables(numbers, tmp_path / "detector.md")
    text = (tmp_path / "detector.md").read_text().replace(str(tmp_path), "benchmarks/results")
    assert text == (COMMITTED / "detector.md").read_text()
    save_picture(numbers, tmp_path / "detector.png")
    assert (tmp_path / "detector.png").stat().st_size > 10_000


def test_a_number_of_steps_that_ends_before_the_bad_loss_is_refused():
    result = CliRunner().invoke(main, ["detector", "--steps", "2000"])
    assert "Invalid value for '--steps': 2000 is not in the range x>=2002." in result.output

"""The grid of experiments: the same runs as one by one, each once, and the report on them."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import data
from benchmarks.__main__ import main
from benchmarks.grid import measure
from benchmarks.grid.frame import as_frame, of_figure_2
from benchmarks.grid.measure import run_grid
from benchmarks.grid.paper import published_failures
from benchmarks.grid.report import write_report
from benchmarks.grid.results import Results
from benchmarks.grid.space import space
from benchmarks.log import read_log
from benchmarks.run import Run
from benchmarks.train.measure import Trainer


def a_run(optimizer="sgd", seed=0, model="m0", **hyperparameters):
    chosen = tuple(sorted(({"learning_rate": 0.1} | hyperparameters).items()))
    return Run("digits", model, 0.05, 2, optimizer, chosen, seed)


def outcomes(folder: Path):
    return dict(Results(folder))


def command(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["salera", "schedule-free-sgd", "cosine-adam"])
def test_a_run_of_the_grid_is_that_of_the_training_command(tmp_path: Path, name: str):
    runs = [a_run(name, seed, learning_rate=rate) for seed in (0, 1) for rate in (0.03, 0.1)]
    dataset = data.load("digits")
    run_grid(runs, dataset, Results(tmp_path / "grid"))

    for one in runs:
        Trainer(one, dataset).run(tmp_path / "one")
        epochs = read_log(tmp_path / "one").epochs[1:]
        result = outcomes(tmp_path / "grid")[one]
        expected = [line["test_error"] for line in epochs]
        # One image of 297 may fall on the other side by rounding.
        np.testing.assert_allclose(result["test_error"], expected, atol=1.01 / 297)
        expected = [line["test_loss"] for line in epochs]
        np.testing.assert_allclose(result["test_loss"], expected, rtol=0.01)
        assert result["train_loss"][1] < result["train_loss"][0]


@pytest.mark.slow
def test_the_minibatch_error_is_that_of_the_training_set_while_nothing_is_learned(tmp_path: Path):
    one, dataset = a_run(learning_rate=1e-12), data.load("digits")
    run_grid([one], dataset, Results(tmp_path / "grid"))
    Trainer(one, dataset).run(tmp_path / "one")
    first, *_ = read_log(tmp_path / "one").epochs
    errors = outcomes(tmp_path / "grid")[one]["train_error"]
    np.testing.assert_allclose(errors, first["train_error"], rtol=1e-5)
    assert 0.5 < first["train_error"] < 1


@pytest.mark.slow
def test_a_model_with_batch_normalization_and_alarms_runs_in_the_grid(tmp_path: Path):
    runs = [a_run("paper-salera", model="m2b", learning_rate=rate) for rate in (0.1, 1e6)]
    run_grid(runs, data.load("digits"), Results(tmp_path))

    healthy, exploding = (outcomes(tmp_path)[one] for one in runs)
    assert sum(healthy["alarms"]) == 0
    assert sum(exploding["alarms"]) > 0
    assert healthy["test_error"][-1] < 0.2
    assert exploding["train_loss"][-1] is not None


@pytest.mark.slow
def test_what_has_a_result_is_not_run_again_and_what_was_cut_short_is(tmp_path: Path):
    runs = [a_run(learning_rate=rate) for rate in (0.1, 0.2, 0.3)]
    dataset, results = data.load("digits"), Results(tmp_path)
    assert run_grid(runs[:2], dataset, results) == 2
    assert run_grid(runs, dataset, results) == 1
    assert run_grid(runs, dataset, results) == 0

    path = tmp_path / "digits-m0.jsonl"
    text = path.read_text()
    path.write_text(text[:-30])  # killed in the middle of a line
    before = outcomes(tmp_path)
    assert len(before) == 2
    assert run_grid(runs, dataset, results) == 1
    after = outcomes(tmp_path)
    assert set(after) == set(runs)
    assert all(after[one] == result for one, result in before.items())


@pytest.mark.slow
def test_runs_that_do_not_fit_into_the_memory_are_run_in_smaller_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes = []

    def fits(program: object, device: object) -> bool:
        (carry, *_), _ = program.args_info
        sizes.append(jax.tree.leaves(carry)[0].shape[0])
        return sizes[-1] <= 2

    monkeypatch.setattr(measure, "_fits", fits)
    runs = [a_run(learning_rate=rate) for rate in (0.1, 0.2, 0.3, 0.4, 0.5)]
    run_grid(runs, data.load("digits"), Results(tmp_path))
    assert set(outcomes(tmp_path)) == set(runs)
    assert sizes == [5, 2, 3, 2]  # 3 became 1, which is not asked about


def test_a_run_that_diverges_has_a_result_like_any_other(tmp_path: Path):
    run_grid([a_run(model="m2", learning_rate=1e30)], data.load("digits"), Results(tmp_path))

    (line,) = (tmp_path / "digits-m2.jsonl").read_text().splitlines()
    assert json.loads(line)["train_loss"] == [None, None]
    assert as_frame(Results(tmp_path))["failed"].all()


def test_the_slices_are_those_of_the_paper():
    def size(slice_name, *names):
        where = {"minibatch_ratio": 0.01, "epochs": 20, "seeds": 1}
        return len(set(space(slice_name, "mnist", "m2", names=names, **where)))

    assert size("paper", "paper-salera") == 4 * 4 * 6
    assert size("paper", "nag") == 4 * 6
    assert size("paper", "adam") == 9 * 6
    assert size("robust", "paper-salera") == size("robust", "adam") == 6
    assert size("defaults", "prodigy") == 13
    assert size("gain", "paper-salera") == size("gain", "spalera") == 4 * 13
    assert size("divisor") == 3 * 2 * 4 * 2


@pytest.mark.slow
def test_the_command_runs_a_slice_and_reports_on_it(tmp_path: Path):
    chosen = ("--optimizer", "paper-salera", "--optimizer", "adam", "--learning-rate", 0.1)
    where = ("--dataset", "digits", "--model", "m0", "--epochs", 2, "--out", tmp_path / "runs")
    for slice_name, new in (("defaults", 2), ("robust", 1), ("defaults", 0)):
        result = command("grid", "--slice", slice_name, *chosen, *where)
        assert result.exit_code == 0, result.output
        assert f"{new} of 2 runs were new." in result.output

    result = command("report", "--runs", tmp_path / "runs", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "README.md").read_text()
    frame = as_frame(Results(tmp_path / "runs"))
    for error in frame[frame["setting"] == ""]["error"]:
        assert f"{error:.2f}" in text
    assert "## digits, m0, minibatch 1 %, epochs: 2" in text
    assert (tmp_path / "robustness-digits-m0-0.01-2.png").stat().st_size > 10_000


def add_result(
    results: Results, one: Run, errors: list[float], alarms: int = 1, **others: object
) -> None:
    how = {"devices": 1, "device": "cpu", "precision": "float32"} | others
    each = {"train_loss": [1.0] * one.epochs, "alarms": [alarms] * one.epochs}
    results.add(one, {"test_error": errors, **each, **how})


def rows_of(folder: Path, name: str) -> list[list[str]]:
    lines = (folder / "README.md").read_text().splitlines()
    return [[c.strip() for c in x.split("|")[1:-1]] for x in lines if x.startswith(f"| {name} ")]


def test_the_report_counts_failures_and_finds_the_robust_setting(tmp_path: Path):
    # Of two settings, the first is best at one rate, the second at all others.
    results = Results(tmp_path / "runs")
    errors = {0.1: {0.01: 0.02, 0.1: 0.5, 1.0: 0.9}, 0.2: {0.01: 0.05, 0.1: 0.06, 1.0: 0.07}}
    for alpha, by_rate in errors.items():
        for rate, error in by_rate.items():
            add_result(results, a_run("paper-alera", alpha=alpha, learning_rate=rate), [1.0, error])
    frame = as_frame(results)
    assert frame["failed"].sum() == 1
    write_report(frame, tmp_path)
    overall, one_setting, best, robust, failed, _ = rows_of(tmp_path, "paper-alera")
    assert overall[1:] == ["2.00"]
    assert one_setting[1:] == ["alpha 0.1", "0.01", "2.00"]
    assert best[1:4] == ["alpha 0.1", "0.01", "2.00"]
    assert robust == ["paper-alera", "alpha 0.2", "5.00", "6.00", "7.00"]
    assert failed[1:] == ["6", "1", "16.67", f"{published_failures()['paper-alera']:.2f}"]


def test_a_long_run_is_measured_after_5_epochs_too_unless_its_rate_follows_a_schedule(
    tmp_path: Path,
):
    results = Results(tmp_path / "runs")
    errors = [index / 100 for index in range(30, 10, -1)]
    for name in ("adam", "cosine-adam"):
        add_result(results, a_run(name)._replace(epochs=20), errors)
    frame = as_frame(results)
    measured = frame.set_index(["optimizer", "epochs"])["error"].to_dict()
    assert measured == pytest.approx({("adam", 5): 26, ("adam", 20): 11, ("cosine-adam", 20): 11})
    assert frame.set_index("epochs")["alarms"][5] == 5
    write_report(frame, tmp_path)
    assert rows_of(tmp_path, "adam")[0][1:] == ["26.00", "11.00"]
    assert rows_of(tmp_path, "cosine-adam")[0][1:] == ["", "11.00"]
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_figure_2_draws_the_best_run_of_the_three_that_kept_its_losses(tmp_path: Path):
    results = Results(tmp_path / "runs")
    kept = {"test_loss": [1.0] * 20, "train_error": [0.25] * 20}
    for name, rate, error, others in (
        ("paper-salera", 0.1, 0.5, kept),
        ("paper-salera", 1.0, 0.4, kept),
        ("paper-salera", 0.01, 0.3, {}),
        ("paper-alera", 0.1, 0.45, kept),
        ("adam", 0.1, 0.2, kept),
    ):
        run = Run("cifar10", "m4", 0.001, 20, name, (("learning_rate", rate),), 0)
        add_result(results, run, [0.9] * 19 + [error], **others)
    frame = as_frame(results)
    drawn = of_figure_2(frame).set_index("optimizer")
    assert drawn["error"].to_dict() == pytest.approx({"paper-alera": 45, "paper-salera": 40})
    assert drawn["train_errors"]["paper-salera"] == [25.0] * 20
    write_report(frame, tmp_path)
    assert (
        "initial rate 1, minibatch 0.1 %, is wrong on 40.00 %"
        in (tmp_path / "README.md").read_text()
    )
    assert (tmp_path / "figure2.png").stat().st_size > 10_000


def test_a_setting_must_be_robust_over_the_problems_together(tmp_path: Path):
    # Each of the first two rates is best on one problem and worst on the other.
    results = Results(tmp_path / "runs")
    for model, errors in (("m0", (0.1, 0.4, 0.2, 0.3)), ("m2", (0.4, 0.1, 0.2, 0.3))):
        for rate, error in zip((0.1, 0.2, 0.3, 0.4), errors, strict=True):
            add_result(results, a_run("adam", model=model, learning_rate=rate), [1.0, error])
    write_report(as_frame(results), tmp_path)
    best, robust, *_ = rows_of(tmp_path, "adam")
    assert best[1:] == ["10.00", "10.00"]
    assert robust[1:] == ["", "0.3", "20.00", "20.00"]


def test_runs_with_several_factors_are_compared_apart_from_the_others(tmp_path: Path):
    results = Results(tmp_path / "runs")
    for factor, error in ((1 / 2, 0.3), (1 / 4, 0.2)):
        add_result(results, a_run("paper-salera", factor=factor), [1.0, error])
    add_result(results, a_run("adam"), [1.0, 0.4])
    write_report(as_frame(results), tmp_path)
    assert not rows_of(tmp_path, "paper-salera")
    for divisor, error in (("2", "30.00"), ("4", "20.00")):
        assert rows_of(tmp_path, divisor) == [[divisor, "1", "0", error, error, "2.00"]]


def test_runs_with_several_gains_are_compared_apart_from_the_others(tmp_path: Path):
    results = Results(tmp_path / "runs")
    for gain, rate, errors in (
        (1e-6, 0.1, (0.2, 0.5, 0.3)),
        (1e-6, 1.0, (0.6, 0.9, 0.5)),
        (1e-5, 0.1, (0.25,)),
    ):
        for seed, error in enumerate(errors):
            run = a_run("paper-salera", seed=seed, gain=gain, learning_rate=rate)
            add_result(results, run, [1.0, error], alarms=seed)
    write_report(as_frame(results), tmp_path)
    assert rows_of(tmp_path, "paper-salera") == [
        ["paper-salera", "rates", "seeds", "1e-06", "1e-05"]
    ]
    assert rows_of(tmp_path, "digits m0 5 %, 2") == [
        ["digits m0 5 %, 2", "1", "1", "", "25.00 to 25.00 (0)"],
        ["digits m0 5 %, 2", "2", "3", "30.00 to 60.00 (4)", ""],
    ]


def test_refusals(tmp_path: Path):
    result = command("grid", "--slice", "paper", "--optimizer", "dog", "--out", tmp_path)
    assert "Error: the slice paper has no dog; it has paper-alera," in result.output
    result = command("report", "--runs", tmp_path)
    assert f"Error: there are no results in {tmp_path}" in result.output
    result = command("grid", "--dataset", "digits", "--model", "m4", "--out", tmp_path)
    assert "Error: m4 and m4b take images of 32 x 32" in result.output
    assert not list(tmp_path.iterdir())

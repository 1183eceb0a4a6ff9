"""`python -m benchmarks train`: its log, event files and pictures, whatever becomes of a run."""

import inspect
import json
import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmark_runs import run
from click.testing import Result
from tensorboardX.proto.event_pb2 import Event

import salera_optax
from benchmarks import data
from benchmarks.log import Log, read_log
from benchmarks.train.measure import Trainer
from benchmarks.train.picture import save_comparison, save_picture

PNG = b"\x89PNG\r\n\x1a\n"


def strict_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, read by a parser that knows no NaN and no Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def events(folder: Path) -> dict[int, dict[str, float]]:
    """What the one event file of a folder holds: for every step its tags and values."""
    (path,) = folder.glob("*tfevents*")
    content = path.read_bytes()
    scalars: dict[int, dict[str, float]] = {}
    while content:  # a record: its length (8 bytes), a checksum (4), itself, a checksum (4)
        end = 12 + struct.unpack("<Q", content[:8])[0]
        event = Event.FromString(content[12:end])
        found = {value.tag: value.simple_value for value in event.summary.value}
        scalars[event.step] = scalars.get(event.step, {}) | found
        content = content[end + 4 :]
    return scalars


SHORT = ("--epochs", 3, "--minibatch-ratio", 0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """SALERA on digits for three epochs of twenty steps: the folder and what was printed."""
    out = tmp_path_factory.mktemp("run")
    arguments = ("--optimizer", "salera", "--learning-rate", 0.2, "--groups", "module", "--seed", 1)
    result = run(*SHORT, *arguments, "--out", out)
    assert result.exit_code == 0, result.output
    return out, result


def test_a_run_learns_and_leaves_a_log_a_picture_and_a_line_for_people(
    finished: tuple[Path, Result],
):
    out, result = finished

    log = read_log(out)
    assert [line["step"] for line in log.steps] == list(range(1, 61))
    assert [line["epoch"] for line in log.epochs] == [0, 1, 2, 3]
    assert log.epochs[0]["test_error"] > 0.5
    assert log.epochs[-1]["test_error"] < 0.2
    error = f"test error {100 * log.epochs[-1]['test_error']:.2f} % after 3 epochs (60 steps, "
    assert f"salera on digits: {error}" in result.output
    assert len(result.output.splitlines()) == 1
    assert (out / "training.png").read_bytes().startswith(PNG)


def test_the_log_starts_with_all_that_defines_the_run(finished: tuple[Path, Result]):
    config, *others = strict_lines(finished[0] / "log.jsonl")

    assert config["kind"] == "config"
    assert (config["dataset"], config["model"], config["optimizer"]) == ("digits", "mlp", "salera")
    assert (config["epochs"], config["minibatch_ratio"], config["seed"]) == (3, 0.05, 1)
    chosen = config["hyperparameters"]
    assert (chosen["learning_rate"], chosen["groups"]) == (0.2, "module")
    assert chosen["alpha"] == inspect.signature(salera_optax.salera).parameters["alpha"].default
    assert set(config["versions"]) >= {"jax", "optax", "flax", "salera_optax"}
    assert config["device"]
    assert {line["kind"] for line in others} == {"step", "epoch"}


def test_every_step_logs_the_loss_and_all_that_the_optimizer_reports(
    finished: tuple[Path, Result],
):
    counts = {"alarm", "alarms", "cause", "held", "holds", "nonfinite"}
    guard = counts | {"statistic", "threshold", "scale"}
    for line in read_log(finished[0]).steps:
        assert set(line) == guard | {"step", "epoch", "loss", "learning_rate"}
        assert math.isfinite(line["loss"])
        assert line["alarm"] in {True, False}
        assert set(line["learning_rate"]) == {"Dense_0", "Dense_1", "Dense_2"}
        assert all(rate > 0 for rate in line["learning_rate"].values())


def test_tensorboard_gets_the_numbers_of_the_log(finished: tuple[Path, Result]):
    log = read_log(finished[0])
    scalars = events(finished[0])

    assert set(scalars) == set(range(61))
    for line in log.steps:
        shown = scalars[line["step"]]
        for group, rate in line.pop("learning_rate").items():
            assert shown[f"learning_rate/{group}"] == pytest.approx(rate, rel=1e-6)
        for key in set(line) - {"step", "epoch"}:
            assert shown[f"step/{key}"] == pytest.approx(float(line[key]), rel=1e-6)
    for line in log.epochs:
        for key in ("train_error", "test_error", "train_loss", "test_loss"):
            assert scalars[line["step"]][f"epoch/{key}"] == pytest.approx(line[key], rel=1e-6)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_log_and_another_seed_another(tmp_path: Path):
    logs = []
    for seed in (1, 1, 2):
        run(*SHORT, "--model", "m0", "--optimizer", "sgd", "--seed", seed, "--out", tmp_path)
        logs.append((tmp_path / "log.jsonl").read_text().splitlines())

    assert logs[0] == logs[1]
    assert logs[0][1:] != logs[2][1:]


def test_a_run_replaces_the_event_file_of_the_run_before_it_but_nobody_elses(tmp_path: Path):
    earlier = tmp_path / "events.out.tfevents.1.host.salera_optax"
    others = tmp_path / "events.out.tfevents.1.host"
    for path in (earlier, others):
        path.touch()

    run(*SHORT, "--model", "m0", "--optimizer", "sgd", "--out", tmp_path)

    assert not earlier.exists()
    others.unlink()
    assert set(events(tmp_path)) == set(range(61))


def test_a_diverging_run_says_so_and_its_log_is_still_json(tmp_path: Path):
    result = run(*SHORT, "--optimizer", "sgd", "--learning-rate", 1e30, "--out", tmp_path)

    assert "DIVERGED, the loss is not finite since step " in result.output
    losses = [line["loss"] for line in strict_lines(tmp_path / "log.jsonl") if "alarm" in line]
    assert losses[0] is not None
    assert losses[-1] is None
    assert not math.isfinite(events(tmp_path)[60]["step/loss"])
    assert (tmp_path / "training.png").read_bytes().startswith(PNG)


def test_a_run_that_stays_at_chance_says_that_it_failed(tmp_path: Path):
    nothing = ("--model", "m0", "--optimizer", "sgd", "--learning-rate", 0, "--out", tmp_path)

    assert ": NOTHING LEARNED YET: test error" in run(*SHORT, *nothing).output
    long = run("--epochs", 1, "--minibatch-ratio", 1 / 1500, *nothing)
    assert ": FAILED TO LEARN: test error" in long.output


def test_an_interrupted_run_says_where_its_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def press_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_progress", press_ctrl_c)
    result = run(*SHORT, "--model", "m0", "--out", tmp_path)

    assert result.exit_code == 1
    assert f"salera_adamw interrupted. Its log so far: {tmp_path / 'log.jsonl'}" in result.output
    assert [line["step"] for line in read_log(tmp_path).steps] == list(range(1, 11))
    assert set(events(tmp_path)) == set(range(11))


def test_a_run_that_fails_leaves_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    two = ("--optimizer", "adam", "--optimizer", "alera", "--alpha", 3)

    assert run("--alpha", 3).exit_code == run(*two, "--out", "a/b").exit_code == 1
    assert list(tmp_path.iterdir()) == []
    Path("a/mine").mkdir(parents=True)
    assert run("--alpha", 3, "--out", "a/b/c").exit_code == 1
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "mine"]


def test_a_run_has_a_folder_of_its_own_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = run("--epochs", 1, "--minibatch-ratio", 0.2, "--model", "m0", "--optimizer", "sgd")

    assert result.exit_code == 0, result.output
    name = "digits-m0-sgd-0.1-ratio0.2-epochs1-seed0"
    assert (tmp_path / "runs" / "train" / name / "log.jsonl").exists()


@pytest.mark.slow
def test_side_by_side_sgd_loses_the_recurrent_network_that_the_guard_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(data, "_ADDING_LENGTH", 4)
    monkeypatch.setattr(data, "_ADDING_SIZES", (500, 100))
    names = ("--optimizer", "sgd", "--optimizer", "guarded-sgd", "--optimizer", "sgd")
    values = ("--learning-rate", 0.3, "--factor", 0.4)
    result = run(*SHORT, "--model", "rnn", *names, *values, "--out", tmp_path)

    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "sgd on adding",
        "guarded-sgd on adding",
        "Together",
    ]
    sgd, guarded = (read_log(tmp_path / name) for name in ("sgd", "guarded-sgd"))
    assert sgd.epochs[0] == guarded.epochs[0]
    assert sgd.epochs[-1]["test_loss"] is None
    assert sgd.epochs[-1]["test_error"] == 1
    assert guarded.epochs[-1]["test_loss"] < 0.1  # the best constant, 1, has a loss of 1 / 6
    assert guarded.epochs[-1]["test_error"] < 0.8
    assert "factor" not in sgd.config["hyperparameters"]
    assert guarded.config["hyperparameters"]["factor"] == 0.4
    last = guarded.steps[-1]
    assert last["scale"] < 1
    assert last["learning_rate"]["all"] == pytest.approx(0.3 * last["scale"])
    assert (tmp_path / "comparison.png").read_bytes().startswith(PNG)


def test_the_picture_copes_with_many_groups_alarms_and_losses_that_are_not_finite(tmp_path: Path):
    groups = [f"Conv_{i}/{name}" for i in range(12) for name in ("kernel", "bias")]
    rate = partial(dict.fromkeys, groups)
    log = Log(
        config={
            "optimizer": "salera",
            "dataset": "digits",
            "model": "mlp",
            "hyperparameters": {"learning_rate": 0.1},
            "steps_per_epoch": 10,
            "epochs": 2,
        },
        steps=[
            {"step": i, "loss": None if i in {5, 6} else 1 / i, "alarm": i == 7}
            | {"learning_rate": rate(0.0 if i == 20 else 0.1 * i)}
            for i in range(1, 21)
        ],
        epochs=[{"epoch": i, "test_error": error} for i, error in enumerate((0.9, 0.1, 0.0))],
    )

    save_picture(log, tmp_path / "picture.png")
    save_comparison([log] * 8, tmp_path / "comparison.png")

    for name in ("picture.png", "comparison.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)

"""Tests of `python -m benchmarks`, through its command line and through its pure functions."""

import inspect
import json
import math
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
import pytest
from click.testing import CliRunner, Result
from tensorboardX.proto.event_pb2 import Event

import salera_optax
from benchmarks import data, models, optimizers, training
from benchmarks.__main__ import main
from benchmarks.log import Log, read_log
from benchmarks.train.measure import Trainer
from benchmarks.train.picture import save_comparison, save_picture

PREPARED = Path(__file__).parent.parent.parent / "shared" / "data" / "tfds"
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def digits_on_device() -> training.Examples:
    return training.Examples(*map(jax.numpy.asarray, data.load("digits").train))


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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "salera_adamw"))
        for name in optimizers.OPTIMIZERS
    ],
)
def test_every_optimizer_learns_at_its_default_learning_rate(name: str):
    model = models.MODELS["m0"]("digits")
    (values,) = optimizers.hyperparameters([name], {})
    tx = optimizers.build(name, values, total_steps=400, minibatch_ratio=0.01)
    examples = digits_on_device()
    carry = training.init(model, tx, jax.random.key(0), examples)
    epochs = [
        training.epoch_order(jax.random.key(0), e, examples.labels.size, 15) for e in range(4)
    ]
    order = jax.numpy.concatenate(epochs)

    _, records = jax.jit(partial(training.train_chunk, model, tx))(carry, examples, order)

    assert records.loss[-20:].mean() < 0.7 * records.loss[0]
    for key, rate in records.metrics.items():
        if key.startswith("learning_rate/"):
            assert rate[0] == pytest.approx(values["learning_rate"], rel=0.05)


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


@pytest.mark.parametrize("name", sorted(set(main.commands) - {"train"}))
def test_a_command_writes_into_a_folder_of_its_own_unless_told_otherwise(name: str):
    (out,) = (option for option in main.commands[name].params if option.name == "out")
    assert out.default == Path("runs") / name


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


@pytest.mark.parametrize("name", ["sgd", "nag", "adagrad", "adam"])
def test_a_guarded_optimizer_takes_its_own_options_and_those_of_the_guard(name: str):
    (plain,) = optimizers.hyperparameters([name], {})
    (guarded,) = optimizers.hyperparameters([f"guarded-{name}"], {"factor": 0.7})
    guard = inspect.signature(salera_optax.page_hinkley).parameters

    assert set(guarded) - set(plain) == set(guard) - {"inner"}
    assert plain.items() <= guarded.items()
    assert guarded["factor"] == 0.7
    with pytest.raises(ValueError, match="factor must be"):
        optimizers.build(
            f"guarded-{name}", guarded | {"factor": 0}, total_steps=1, minibatch_ratio=0.01
        )


@pytest.mark.parametrize(
    ("option", "valid"),
    [
        ("--dataset", data.DATASETS),
        ("--model", models.MODELS),
        ("--optimizer", optimizers.OPTIMIZERS),
        ("--groups", optimizers.GROUPS),
    ],
)
def test_an_unknown_name_gets_the_list_of_the_valid_ones(option: str, valid: Any):
    result = run(option, "nonsense")

    assert result.exit_code == 2
    assert "'nonsense'" in result.output
    assert all(f"'{name}'" in result.output for name in valid)


def test_a_misspelt_name_gets_the_nearest_ones():
    assert "Did you mean 'adam' or " in run("--optimizer", "adamm").output
    assert run("--dataset", "minst").output.endswith("Did you mean 'mnist'?\n")
    assert "Did you mean" not in run("--optimizer", "nonsense").output


def test_an_option_that_the_optimizer_does_not_take_names_those_that_do():
    result = run("--optimizer", "adam", "--factor", 0.1)

    assert result.exit_code == 1
    ours = "salera_adamw, salera-ratio, salera, spalera"
    guarded = "guarded-sgd, guarded-nag, guarded-adagrad, guarded-adam"
    assert result.output == f"Error: adam takes no --factor; {ours}, {guarded} do.\n"


def test_an_option_that_none_of_several_optimizers_takes_is_refused():
    result = run("--optimizer", "adam", "--optimizer", "sgd", "--alpha", 0.1)

    assert result.exit_code == 1
    takers = "salera_adamw, salera-ratio, salera, alera, spalera, ag_adam, published-salera"
    assert result.output == f"Error: adam and sgd take no --alpha; {takers} do.\n"


def test_a_number_that_the_library_refuses_gives_its_message_on_one_line():
    result = run("--alpha", 3)

    assert result.exit_code == 1
    assert result.output.startswith("Error: alpha must be in (0, 1]")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--minibatch-ratio", 2, "0<x<=1"),
        ("--epochs", 0, "x>=1"),
        ("--b1", 1, "0<=x<1"),
        ("--learning-rate", "nan", "not a finite number"),
        ("--learning-rate", "inf", "not a finite number"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(option: str, value: Any, message: str):
    result = run(option, value)

    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_data_directory_without_the_data_set_says_what_to_do(tmp_path: Path, folder: str):
    result = run("--dataset", "mnist", "--data-dir", tmp_path / folder)

    assert result.exit_code == 1
    assert f"There is no mnist in {tmp_path / folder}" in result.output
    assert "leave out --data-dir" in result.output
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_a_download_fails_in_seconds_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens

    start = time.monotonic()
    for dataset in ("mnist", "cifar10"):
        with pytest.raises(data.DataError, match=rf"{dataset}.*does not answer.*--data-dir"):
            data.load(dataset)

    assert time.monotonic() - start < 30
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "source"), [("digits", "come with scikit-learn"), ("adding", "is made here")]
)
def test_data_that_are_not_of_tfds_refuse_a_data_directory(
    tmp_path: Path, dataset: str, source: str
):
    result = run("--dataset", dataset, "--data-dir", tmp_path, "--out", tmp_path)

    assert result.output == f"Error: {dataset} {source}: leave out --data-dir.\n"


def test_digits_are_normalized_and_have_every_class_in_both_parts():
    digits = data.load("digits")

    assert digits.train.inputs.shape == (1500, 8, 8, 1)
    assert digits.test.inputs.shape == (297, 8, 8, 1)
    assert digits.train.inputs.mean() == pytest.approx(0, abs=1e-4)
    assert digits.train.inputs.std() == pytest.approx(1, abs=1e-4)
    for part in digits:
        assert np.bincount(part.labels).min() >= 0.09 * part.labels.size


def test_the_adding_problem_asks_for_the_sum_of_the_marked_values():
    adding = data.load("adding")

    assert adding.train.inputs.shape == (10_000, 50, 2)
    assert adding.test.inputs.shape == (1_000, 50, 2)
    for inputs, labels in adding:
        values, markers = inputs[..., 0], inputs[..., 1]
        assert (markers[:, :25].sum(axis=1) == 1).all()
        assert (markers[:, 25:].sum(axis=1) == 1).all()
        np.testing.assert_allclose((values * markers).sum(axis=1), labels, rtol=1e-6)
        assert values.min() >= 0
        assert values.max() < 1
        assert values.mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_array_equal(adding.train.inputs, data.load("adding").train.inputs)
    assert not np.isin(adding.test.labels, adding.train.labels).all()


@pytest.mark.parametrize("dataset", ["digits", pytest.param("adding", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", [name for name in models.MODELS if "m4" not in name])
def test_every_model_takes_images_and_sequences(model: str, dataset: str):
    network = models.MODELS[model](dataset)
    examples = training.Examples(
        *(jax.numpy.asarray(part[:20]) for part in data.load(dataset).test)
    )
    carry = training.init(
        network, optimizers.OPTIMIZERS["sgd"].factory(0), jax.random.key(0), examples
    )

    evaluation = training.evaluate(network, training.variables(carry, None), examples)

    assert 0 < evaluation.error <= 1
    assert 0 < evaluation.loss < 5


def test_the_flagship_is_compared_as_a_user_has_it():
    (values,) = optimizers.hyperparameters(["salera_adamw"], {})
    compared = optimizers.build("salera_adamw", values, total_steps=1, minibatch_ratio=0.01)
    params = jnp.linspace(-1, 1, 50)
    states = []
    for tx in (compared, salera_optax.salera_adamw()):
        x, state = params, tx.init(params)
        for key in jax.random.split(jax.random.key(0), 20):
            grads = x + jax.random.normal(key, x.shape)
            x, state = salera_optax.step(tx, grads, state, x, value=1.0)
        states.append((x, state))
    chex.assert_trees_all_equal(*states)


def test_convolution_as_a_product_is_that_of_jax():
    images, kernel = (
        np.random.default_rng(0).normal(size=shape).astype(np.float32)
        for shape in ((2, 7, 6, 3), (5, 4, 3, 8))
    )
    wanted = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

    found = models._convolved(images, kernel)

    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_recurrent_network_and_adding_problem_are_the_default_for_each_other():
    assert models.default_dataset("rnn") == "adding"
    assert models.default_model("adding") == "rnn"
    assert models.default_model(models.default_dataset(None)) == "mlp"


def test_a_number_is_wrong_when_it_is_not_within_the_tolerance_of_the_label():
    class Echo(nn.Module):
        def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
            return inputs

    outputs = np.array([[1.0], [1.07], [0.91], [np.nan]], np.float32)
    examples = training.Examples(jax.numpy.asarray(outputs), jax.numpy.ones(4))

    assert training.evaluate(Echo(), {}, examples).error == 0.5
    assert training.evaluate(
        Echo(), {}, training.Examples(examples.inputs[:3], examples.labels[:3])
    ).loss == pytest.approx((0.07**2 + 0.09**2) / 3, rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not PREPARED.is_dir(), reason="no prepared TFDS directory beside the clone")
def test_mnist_trains_from_a_prepared_directory_and_is_decoded_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    before = sorted(PREPARED.rglob("*"))

    first = data.load("mnist", PREPARED)
    monkeypatch.setattr(data, "_decoded", None)
    result = run(
        *("--dataset", "mnist", "--data-dir", PREPARED, "--model", "m0", "--optimizer", "adam"),
        *("--epochs", 1, "--out", tmp_path),
    )

    assert result.exit_code == 0, result.output
    assert read_log(tmp_path).epochs[-1]["test_error"] < 0.15
    assert first.train.inputs.shape == (60_000, 32, 32, 1)
    assert first.test.labels.shape == (10_000,)
    assert sorted(PREPARED.rglob("*")) == before
    assert [path.suffix for path in (tmp_path / "salera_optax").iterdir()] == [".npz"]


def test_an_epoch_takes_every_image_once_and_each_epoch_in_its_own_order():
    key = jax.random.key(0)
    first, second = (np.asarray(training.epoch_order(key, epoch, 100, 10)) for epoch in (1, 2))

    assert sorted(first.ravel()) == list(range(100))
    assert first.shape == second.shape == (10, 10)
    assert (first != second).any()


def test_a_vectorised_run_over_seeds_gives_what_each_seed_gives_alone():
    model = models.MODELS["m0"]("digits")
    tx = optimizers.build("alera", {"learning_rate": 0.1}, total_steps=1, minibatch_ratio=0.01)
    examples = digits_on_device()

    @jax.jit
    def losses(key: jax.Array) -> jax.Array:
        order = training.epoch_order(key, 1, examples.labels.size, 100)
        carry = training.init(model, tx, key, examples)
        return training.train_chunk(model, tx, carry, examples, order)[1].loss

    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.vmap(losses)(keys)
    np.testing.assert_allclose(together, [losses(key) for key in keys], rtol=1e-4)


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

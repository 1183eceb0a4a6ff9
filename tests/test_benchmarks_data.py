"""The data sets are what they say, and what is missing or cannot be fetched says what to do."""

import time
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from benchmark_runs import run

from benchmarks import data
from benchmarks.log import read_log

PREPARED = Path(__file__).parent.parent.parent / "shared" / "data" / "tfds"


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

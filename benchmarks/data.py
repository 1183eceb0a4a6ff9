"""The data sets: digits of scikit-learn, MNIST and CIFAR-10 of TFDS, and the adding problem."""

import hashlib
import os
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt
import platformdirs
import requests
from tqdm import tqdm

Arrays = dict[str, npt.NDArray[Any]]
"""`train_images`, `train_labels`, `test_images`, `test_labels`; see `Split` for the shapes."""

DATASETS = ("digits", "mnist", "cifar10", "adding")
_DIGITS_TEST_SIZE = 297  # leaves 1,500 images to train on
_ADDING_SIZES = (10_000, 1_000)
_ADDING_LENGTH = 50
_PER_CHANNEL = (0, 1, 2)
_READ_AT_ONCE = 1000
_NETWORK_TIMEOUT = 5.0  # seconds
_NO_NETWORK = "Check the network, or give the directory of a prepared copy with --data-dir."


class DataError(RuntimeError):
    """The data cannot be had; the message says what to do."""


class Split(NamedTuple):
    """One part of a data set: n float32 inputs and their n labels.

    The inputs are images (n, height, width, channels) or sequences (n, length, channels); the
    labels are classes (int32) or numbers to predict (float32).
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]


class Dataset(NamedTuple):
    """The training and the test part of a data set."""

    train: Split
    test: Split


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Loads a data set.

    Args:
      name: one of `DATASETS`.
      data_dir: a TFDS directory that holds the data set; it is only read. None lets TFDS download.

    Returns:
      The data set. Images are normalized by the mean and deviation of the training images: per
      channel for CIFAR-10, one for all pixels for the others. MNIST's are padded to 32 x 32 first,
      as in the paper's code.

    Raises:
      DataError: if the data set is not in `data_dir`, or cannot be downloaded.
    """
    if data_dir is not None and name in {"digits", "adding"}:
        source = "digits come with scikit-learn" if name == "digits" else "adding is made here"
        raise DataError(f"{source}: leave out --data-dir.")
    if name == "adding":
        generator = np.random.default_rng(0)
        return Dataset(*(adding(generator, size, _ADDING_LENGTH) for size in _ADDING_SIZES))
    arrays = _digits() if name == "digits" else _from_tfds(name, data_dir)
    if name == "mnist":
        border = ((0, 0), (2, 2), (2, 2), (0, 0))
        arrays |= {f"{p}_images": np.pad(arrays[f"{p}_images"], border) for p in ("train", "test")}
    train = arrays["train_images"]
    axes = _PER_CHANNEL if name == "cifar10" else None
    mean = train.mean(axes, dtype=np.float64).astype(np.float32)
    deviation = train.std(axes, dtype=np.float64).astype(np.float32)
    return Dataset(
        *(
            Split(
                (arrays[f"{part}_images"] - mean) / deviation,
                arrays[f"{part}_labels"].astype(np.int32),
            )
            for part in ("train", "test")
        )
    )


def adding(generator: np.random.Generator, size: int, length: int) -> Split:
    """Sequences of pairs: a value in [0, 1), and a marker that is 1 once in each half, else 0.

    The label is the sum of the two marked values (Hochreiter and Schmidhuber, 1997, Section 5.4,
    as later papers pose it).
    """
    values = generator.random((size, length), np.float32)
    half = length // 2
    rows = np.arange(size)[:, None]
    marked = generator.integers([0, half], [half, length], (size, 2))
    markers = np.zeros_like(values)
    markers[rows, marked] = 1
    return Split(np.stack([values, markers], axis=-1), values[rows, marked].sum(axis=1))


def _digits() -> Arrays:
    """The 1,797 digits of scikit-learn, split once and for all, each digit in both parts."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (slow to import)
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    names = ("train_images", "test_images", "train_labels", "test_labels")
    parts = train_test_split(
        images.astype(np.float32).reshape(-1, 8, 8, 1),
        labels,
        test_size=_DIGITS_TEST_SIZE,
        stratify=labels,
        random_state=0,
    )
    return dict(zip(names, parts, strict=True))


def _from_tfds(name: str, data_dir: Path | None) -> Arrays:
    """Reads a data set of TFDS, decoding its images only the first time."""
    if data_dir is not None and not (data_dir / name).is_dir():
        raise DataError(
            f"There is no {name} in {data_dir}. Give the TFDS directory that has a folder named "
            f"{name}, or leave out --data-dir to let TFDS download it."
        )
    import tensorflow_datasets as tfds  # noqa: PLC0415  (slow to import)

    if data_dir is None:
        _check_network(tfds.builder(name))
    try:
        sources = tfds.data_source(
            name, split=["train", "test"], data_dir=data_dir, download=data_dir is None
        )
    except NotImplementedError as error:  # TFDS says so when it finds another version or TFRecord
        raise DataError(
            f"TFDS cannot read {name} in {data_dir or 'its data directory'} without TensorFlow: "
            f"prepare the current version as array_record, or let TFDS download it elsewhere."
        ) from error
    except (OSError, tfds.download.DownloadError) as error:
        raise DataError(f"TFDS could not get {name}: {error} {_NO_NETWORK}") from error
    folder = Path(tfds.builder(name, data_dir=data_dir).data_path)
    info = (folder / "dataset_info.json").read_bytes()
    # The path and the description (sizes of the files) tell one copy of a version from another.
    origin = hashlib.sha256(str(folder.resolve()).encode() + info).hexdigest()[:16]
    return _cached(
        f"{name}-{folder.name}-{origin}",
        lambda: {
            **_decoded(f"{name} train", "train", sources[0]),
            **_decoded(f"{name} test", "test", sources[1]),
        },
    )


def _check_network(builder: Any) -> None:
    """Raises unless what is to be downloaded can be had: TFDS would try for minutes."""
    if builder.is_prepared():
        return
    url = next(iter(builder.url_infos))
    try:
        # As TFDS does it, so that proxies and certificates are the same.
        requests.head(url, timeout=_NETWORK_TIMEOUT)
    except OSError as error:
        host = urllib.parse.urlsplit(url).hostname
        raise DataError(
            f"TFDS cannot get {builder.name}, for {host} does not answer. {_NO_NETWORK}"
        ) from error


def _decoded(title: str, part: str, source: Any) -> Arrays:
    """The images and labels of a TFDS data source as two arrays."""
    examples: list[dict[str, Any]] = []
    with tqdm(total=len(source), desc=f"Decoding {title}", unit="image", disable=None) as bar:
        for start in range(0, len(source), _READ_AT_ONCE):
            rows = range(start, min(start + _READ_AT_ONCE, len(source)))
            examples += source.__getitems__(rows)  # twice as fast as one by one
            bar.update(len(rows))
    return {
        f"{part}_images": np.stack([example["image"] for example in examples]),
        f"{part}_labels": np.array([example["label"] for example in examples]),
    }


def _cached(key: str, decode: Callable[[], Arrays]) -> Arrays:
    """The arrays of an earlier run, or else those of `decode`, kept for the next run."""
    path = platformdirs.user_cache_path("salera_optax") / f"{key}.npz"
    if path.exists():
        with np.load(path) as file:
            return dict(file)
    arrays = decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = Path(folder) / path.name
            np.savez(partial, allow_pickle=False, **arrays)
            os.replace(partial, path)  # atomic: a run beside this one sees all of it or nothing
    except OSError as error:
        click.echo(f"The decoded images are not kept for the next run: {error}", err=True)
    return arrays

"""The data of the other tasks: made up by NumPy, or the digits that come with scikit-learn."""

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import data
from benchmarks.data import Dataset, Split

ROWS, COLUMNS, RANK = 300, 200, 8
FEATURES = 64
_SEQUENCE = 20

Floats = npt.NDArray[np.float32]


def ratings() -> Dataset:
    """A third of the entries of a noisy matrix of low rank to train on, a tenth to test on.

    Rows and columns are seen more or less often, the most frequent ones some ten times as often as
    the rarest. The inputs are the indices of the entries.
    """
    generator = np.random.default_rng(0)
    left, right = generator.normal(size=(ROWS, RANK)), generator.normal(size=(COLUMNS, RANK))
    matrix = left @ right.T / np.sqrt(RANK)
    matrix += 0.3 * generator.normal(size=matrix.shape)
    often = np.outer(*(np.arange(1, n + 1) ** -0.4 for n in matrix.shape)).ravel()
    trained, tested = matrix.size // 3, matrix.size // 10
    entries = generator.choice(matrix.size, trained + tested, False, often / often.sum())
    indices = np.stack(np.unravel_index(generator.permutation(entries), matrix.shape), axis=1)
    labels = matrix[indices[:, 0], indices[:, 1]].astype(np.float32)
    return _parted(indices.astype(np.int32), labels, trained)


def images_themselves() -> Dataset:
    """The digits, to be had again from a few numbers each."""
    return Dataset(*(Split(part, part) for part in _flat(data.load("digits"))))


def friedman() -> Dataset:
    """Friedman's first regression problem: ten features, five of which matter, and noise.

    The labels, of deviation 4.9 with a noise of deviation 0.5, are divided by 5.
    """
    generator = np.random.default_rng(0)
    x = generator.random((3_000, 10))
    signal = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    signal += 10 * x[:, 3] + 5 * x[:, 4]
    labels = (signal - signal.mean() + 0.5 * generator.normal(size=len(x))) / 5
    return _parted((np.sqrt(12) * (x - 0.5)).astype(np.float32), labels.astype(np.float32), 2_000)


def crumpled_digits() -> Dataset:
    """Digits shifted by up to a pixel and under noise, six of each to train on.

    Undisturbed, they are too easy to tell one optimizer from another.
    """
    generator = np.random.default_rng(0)
    return Dataset(
        *(
            _crumpled(generator, part, copies)
            for part, copies in zip(data.load("digits"), (6, 4), strict=True)
        )
    )


def _crumpled(generator: np.random.Generator, part: Split, copies: int) -> Split:
    images, labels = (np.repeat(array, copies, axis=0) for array in part)
    shifts = generator.integers(0, 3, (len(images), 2, 1, 1))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    size = np.arange(images.shape[1])
    where = np.arange(len(images))[:, None, None]
    shifted = padded[where, shifts[:, 0] + size[:, None], shifts[:, 1] + size]
    noisy = shifted + 0.3 * generator.normal(size=images.shape)
    return Split(noisy.astype(np.float32), labels)


def noisy_sums() -> Dataset:
    """The adding problem at length 20, with a noise of deviation 0.1 on the sums.

    Without the noise the error has no floor, and a run is as good as its last minibatch.
    """
    generator = np.random.default_rng(0)
    parts = [data.adding(generator, size, _SEQUENCE) for size in (10_000, 1_000)]
    return Dataset(
        *(
            part._replace(labels=part.labels + 0.1 * _normal(generator, part.labels.shape))
            for part in parts
        )
    )


def uneven_features() -> Dataset:
    """Two classes, from features whose scales span three decades and which all matter as much.

    The classes overlap: at best the loss is 0.46 nats.
    """
    generator = np.random.default_rng(0)
    features = _normal(generator, (6_000, FEATURES))
    weights = _normal(generator, (FEATURES,)) * np.float32(2 / np.sqrt(FEATURES))
    labels = generator.random(len(features)) < 1 / (1 + np.exp(-features @ weights))
    scales = np.logspace(-1.5, 1.5, FEATURES, dtype=np.float32)
    return _parted(features * generator.permutation(scales), labels.astype(np.float32), 4_000)


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return generator.normal(size=shape).astype(np.float32)


def _flat(dataset: Dataset) -> list[Floats]:
    return [part.inputs.reshape(len(part.inputs), -1) for part in dataset]


def _parted(inputs: npt.NDArray[Any], labels: Floats, trained: int) -> Dataset:
    return Dataset(
        Split(inputs[:trained], labels[:trained]), Split(inputs[trained:], labels[trained:])
    )

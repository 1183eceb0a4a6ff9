"""The eight tasks. Constants may be chosen on the first four; the others confirm them."""

import flax.linen as nn

from benchmarks.models import MLP, RNN
from benchmarks.tasks import language, networks, sources
from benchmarks.tasks.task import (
    Task,
    binary_cross_entropy,
    cross_entropy,
    squared_error,
    wrong,
)

TASKS: dict[str, Task] = {
    "transformer": Task(
        text="A causal transformer (two blocks, width 32) predicts the next character of a text in "
        "a made-up language: a probabilistic grammar with agreement between noun and verb, clauses "
        "in brackets and sums, 60,000 characters to train on in windows of 32.",
        split="tuning",
        model=networks.LanguageModel(len(language.ALPHABET)),
        data=language.text,
        loss=cross_entropy,
        metric=cross_entropy,
        unit="nats per character",
        steps=500,
        batch=8,
        nats=True,
    ),
    "factorization": Task(
        text="A noisy 300 x 200 matrix of rank 8 from a third of its entries: two tables of "
        "vectors, of which a minibatch touches a part. Rows and columns are seen unequally often.",
        split="tuning",
        model=networks.Factors(sources.ROWS, sources.COLUMNS, sources.RANK),
        data=sources.ratings,
        loss=squared_error,
        metric=squared_error,
        unit="mean squared error",
        steps=1500,
        batch=128,
    ),
    "autoencoder": Task(
        text="A deep autoencoder (64-48-24-6-24-48-64, ReLU) of the 8 x 8 digits of scikit-learn.",
        split="tuning",
        model=MLP((48, 24, 6, 24, 48), 64),
        data=sources.images_themselves,
        loss=squared_error,
        metric=squared_error,
        unit="mean squared error",
        steps=1500,
        batch=32,
    ),
    "tabular": Task(
        text="Friedman's first regression problem, ten features of which five matter, 2,000 noisy "
        "examples; a network with two hidden layers of 48.",
        split="tuning",
        model=MLP((48, 48), 1),
        data=sources.friedman,
        loss=squared_error,
        metric=squared_error,
        unit="mean squared error",
        steps=1500,
        batch=32,
    ),
    "residual": Task(
        text="A convolutional network of two residual blocks with group normalization; the digits "
        "of scikit-learn, shifted by up to a pixel and under noise.",
        split="confirmation",
        model=networks.ResidualNetwork(),
        data=sources.crumpled_digits,
        loss=cross_entropy,
        metric=wrong,
        unit="% wrong",
        steps=500,
        batch=16,
    ),
    "recurrent": Task(
        text="The adding problem at length 20 with noise on the sums; a GRU of width 24. Nothing "
        "is learned for a while, then all at once.",
        split="confirmation",
        model=RNN(24, 1),
        data=sources.noisy_sums,
        loss=squared_error,
        metric=squared_error,
        unit="mean squared error",
        steps=800,
        batch=32,
    ),
    "logistic": Task(
        text="Logistic regression on 64 features whose scales span three decades and which all "
        "matter as much: convex and ill-conditioned.",
        split="confirmation",
        model=nn.Dense(1, kernel_init=nn.initializers.zeros),
        data=sources.uneven_features,
        loss=binary_cross_entropy,
        metric=binary_cross_entropy,
        unit="nats",
        steps=1500,
        batch=32,
    ),
    "mixer": Task(
        text="An MLP-mixer (two blocks, width 24, patches of 2 x 2) on the disturbed digits of the "
        "residual network.",
        split="confirmation",
        model=networks.Mixer(),
        data=sources.crumpled_digits,
        loss=cross_entropy,
        metric=wrong,
        unit="% wrong",
        steps=600,
        batch=16,
    ),
}
"""By name. The loss of the logistic regression is compared as a share: it is never above log 2."""

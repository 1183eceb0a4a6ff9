"""The models, by name: `mlp` for a quick look, `m...` of the paper, `rnn` to explode."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_GLOROT = nn.initializers.glorot_uniform()


def _around_one(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
    return 1 + nn.initializers.normal(0.02)(key, shape, dtype)


def _normed(features: jax.Array, train: bool) -> jax.Array:
    """Batch normalization with the constants of the paper's code, Torch's defaults."""
    return jnp.asarray(
        nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, scale_init=_around_one)(features)
    )


def patches(images: jax.Array, rows: int, columns: int, stride: int = 1) -> jax.Array:
    """What a convolution without padding sees at each place.

    Args:
      images: (n, height, width, channels).
      rows: of the kernel.
      columns: of the kernel.
      stride: of the convolution.

    Returns:
      An array (n, places down, places across, rows * columns * channels).
    """
    down, across = images.shape[1] - rows + 1, images.shape[2] - columns + 1
    shifted = [
        images[:, row : row + down : stride, column : column + across : stride]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _convolved(images: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """A convolution without padding as a product of matrices, for CPUs.

    In a loop XLA runs a convolution there on one core, and slower still for many runs at once: ten
    times as long as this.
    """
    features = kernel.shape[-1]
    seen = patches(images, *kernel.shape[:2])
    product = seen.reshape(-1, seen.shape[-1]) @ kernel.reshape(-1, features)
    return product.reshape(*seen.shape[:-1], features)


class MLP(nn.Module):
    """Dense layers with ReLU between them; Glorot-uniform weights and zero biases.

    Attributes:
      hidden: the widths of the hidden layers; none makes it softmax regression.
      outputs: the number of outputs: of logits, or one for a number to predict.
      batch_norm: whether every hidden layer is normalized before its ReLU.
      last_bias: initial bias of the last layer.
    """

    hidden: tuple[int, ...] = ()
    outputs: int = 10
    batch_norm: bool = False
    last_bias: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Returns the outputs (n, outputs) for inputs (n, ...)."""
        features = inputs.reshape(inputs.shape[0], -1)
        for width in self.hidden:
            features = nn.Dense(width, kernel_init=_GLOROT)(features)
            features = nn.relu(_normed(features, train) if self.batch_norm else features)
        bias = nn.initializers.constant(self.last_bias)
        return nn.Dense(self.outputs, kernel_init=_GLOROT, bias_init=bias)(features)


class ConvNet(nn.Module):
    """The paper's M4: two convolutions of 5 x 5 with pooling, then three dense layers.

    Attributes:
      width: of the two hidden dense layers.
      outputs: the number of outputs.
      batch_norm: whether every hidden layer is normalized before its ReLU.
    """

    width: int = 128
    outputs: int = 10
    batch_norm: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Returns the outputs (n, outputs) for images (n, 32, 32, channels)."""
        conv = partial(
            nn.Conv,
            kernel_size=(5, 5),
            padding="VALID",
            kernel_init=nn.initializers.normal(0.02),
            conv_general_dilated=_convolved if jax.default_backend() == "cpu" else None,
        )

        def activated(features: jax.Array) -> jax.Array:
            return nn.relu(_normed(features, train) if self.batch_norm else features)

        features = activated(conv(32)(inputs))
        features = nn.max_pool(features, (3, 3), (3, 3), ((1, 1), (1, 1)))
        features = activated(conv(64)(features))
        features = nn.max_pool(features, (2, 2), (2, 2))
        rows = features.reshape(features.shape[0], -1)
        return MLP((self.width, self.width), self.outputs, self.batch_norm, last_bias=0.1)(
            rows, train
        )


class RNN(nn.Module):
    """A gated recurrent unit (GRU) over the sequence, and a dense layer on its last state.

    Attributes:
      width: the size of the recurrent state.
      outputs: the number of outputs: of logits, or one for a number to predict.
    """

    width: int = 64
    outputs: int = 10

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Returns the outputs (n, outputs) for inputs (n, length, ...); an image is its rows."""
        del train
        sequence = inputs.reshape(*inputs.shape[:2], -1)
        last, _ = nn.RNN(nn.GRUCell(self.width), return_carry=True)(sequence)
        return nn.Dense(self.outputs)(last)


def _m2(dataset: str, *, batch_norm: bool) -> MLP:
    widths = (1500, 900) if dataset == "cifar10" else (500, 300)
    return MLP(widths, _outputs(dataset), batch_norm, last_bias=0.1)


def _m4(dataset: str, *, batch_norm: bool) -> ConvNet:
    if dataset not in {"mnist", "cifar10"}:
        raise ValueError(f"m4 and m4b take images of 32 x 32, mnist or cifar10, not {dataset}.")
    return ConvNet(384 if dataset == "cifar10" else 128, _outputs(dataset), batch_norm)


MODELS: dict[str, Callable[[str], nn.Module]] = {
    "mlp": lambda dataset: MLP((256, 128), _outputs(dataset)),
    "m0": lambda dataset: MLP((), _outputs(dataset), last_bias=0.1),
    "m2": partial(_m2, batch_norm=False),
    "m2b": partial(_m2, batch_norm=True),
    "m4": partial(_m4, batch_norm=False),
    "m4b": partial(_m4, batch_norm=True),
    "rnn": lambda dataset: RNN(outputs=_outputs(dataset)),
}
"""Each entry makes the model for the data set of that name."""


def default_model(dataset: str) -> str:
    """The model for a data set when the user names none."""
    return {"digits": "mlp", "adding": "rnn"}.get(dataset, "m2")


def default_dataset(model: str | None) -> str:
    """The data set for a model, None for the default one, when the user names no data set."""
    return "adding" if model == "rnn" else "digits"


def _outputs(dataset: str) -> int:
    return 1 if dataset == "adding" else 10

"""The models that `benchmarks.models` does not have."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.models import patches

_SMALL = nn.initializers.normal(0.02)


class Block(nn.Module):
    """A causal transformer block, normalized before attention and before its two dense layers.

    Attributes:
      heads: of the attention.
    """

    heads: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns tokens of the same shape (n, length, width)."""
        *batch, length, width = tokens.shape
        projected = nn.Dense(3 * width, use_bias=False)(nn.LayerNorm()(tokens))
        split = projected.reshape(*batch, length, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(*jnp.moveaxis(split, -3, 0), is_causal=True)
        tokens += nn.Dense(width, use_bias=False)(attended.reshape(tokens.shape))
        return tokens + _mixed(nn.LayerNorm()(tokens))


class LanguageModel(nn.Module):
    """A causal transformer over characters, with learned positions.

    Attributes:
      characters: in the alphabet.
      width: of a token.
      depth: number of blocks.
      heads: of the attention.
    """

    characters: int
    width: int = 32
    depth: int = 2
    heads: int = 2

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the logits (n, length, characters) of the next characters."""
        tokens = nn.Embed(self.characters, self.width)(inputs)
        tokens += self.param("positions", _SMALL, (inputs.shape[1], self.width))
        for _ in range(self.depth):
            tokens = Block(self.heads)(tokens)
        return nn.Dense(self.characters)(nn.LayerNorm()(tokens))


class Mixer(nn.Module):
    """An MLP-mixer over patches of 2 x 2 pixels: dense layers across the patches, then within each.

    Attributes:
      outputs: number of classes.
      width: of a patch's features.
      depth: number of blocks.
    """

    outputs: int = 10
    width: int = 24
    depth: int = 2

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the logits (n, outputs) for images (n, height, width, channels)."""
        number, height, width, channels = inputs.shape
        cut = inputs.reshape(number, height // 2, 2, width // 2, 2, channels)
        patches = nn.Dense(self.width)(cut.swapaxes(2, 3).reshape(number, -1, 4 * channels))
        for _ in range(self.depth):
            patches += _mixed(nn.LayerNorm()(patches).swapaxes(1, 2)).swapaxes(1, 2)
            patches += _mixed(nn.LayerNorm()(patches))
        return nn.Dense(self.outputs)(nn.LayerNorm()(patches).mean(axis=1))


def _mixed(features: jax.Array) -> jax.Array:
    """Two dense layers along the last axis, the hidden one twice as wide."""
    size = features.shape[-1]
    return nn.Dense(size)(nn.gelu(nn.Dense(2 * size)(features)))


class Convolution(nn.Module):
    """A convolution of 3 x 3, as one matrix product: over many runs at once XLA has no better.

    Attributes:
      features: number of output channels.
      stride: 1 or 2.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns images (n, height / stride, width / stride, features)."""
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        initial = nn.initializers.he_normal()
        return nn.Dense(self.features, use_bias=False, kernel_init=initial)(
            patches(padded, 3, 3, self.stride)
        )


class ResidualNetwork(nn.Module):
    """A convolution, and two residual blocks with group normalization at half the resolution.

    Attributes:
      outputs: number of classes.
      width: channels of the first convolution; the blocks have twice as many.
    """

    outputs: int = 10
    width: int = 8

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the logits (n, outputs) for images (n, height, width, channels)."""
        images = Convolution(self.width)(inputs)
        features = 2 * self.width
        for stride in (2, 1):
            branch = Convolution(features, stride)(_activated(images))
            branch = Convolution(features)(_activated(branch))
            if stride > 1:
                images = nn.Dense(features, use_bias=False)(images[:, ::stride, ::stride])
            images += branch
        return nn.Dense(self.outputs)(_activated(images).mean(axis=(1, 2)))


def _activated(images: jax.Array) -> jax.Array:
    return nn.relu(nn.GroupNorm(num_groups=4)(images))


class Factors(nn.Module):
    """A matrix as the product of two tables of small vectors.

    Attributes:
      rows: of the matrix.
      columns: of the matrix.
      rank: length of the vectors.
    """

    rows: int
    columns: int
    rank: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the entries (n,) at the indices (n, 2)."""
        initial = nn.initializers.normal(0.1)
        left = nn.Embed(self.rows, self.rank, embedding_init=initial)(inputs[:, 0])
        right = nn.Embed(self.columns, self.rank, embedding_init=initial)(inputs[:, 1])
        return jnp.sum(left * right, axis=-1)

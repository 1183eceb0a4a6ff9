"""The models, by name: `mlp` for a quick look, `m0` and `m2` from the paper, `rnn` to explode."""

from collections.abc import Callable

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Dense layers with ReLU between them; Glorot-uniform weights and zero biases.

    Attributes:
      hidden: the widths of the hidden layers; none makes it softmax regression.
      outputs: the number of outputs: of logits, or one for a number to predict.
    """

    hidden: tuple[int, ...] = ()
    outputs: int = 10

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the outputs (n, outputs) for inputs (n, ...)."""
        features = inputs.reshape(inputs.shape[0], -1)
        glorot = nn.initializers.glorot_uniform()
        for width in self.hidden:
            features = nn.relu(nn.Dense(width, kernel_init=glorot)(features))
        return nn.Dense(self.outputs, kernel_init=glorot)(features)


class RNN(nn.Module):
    """A gated recurrent unit (GRU) over the sequence, and a dense layer on its last state.

    Attributes:
      width: the size of the recurrent state.
      outputs: the number of outputs: of logits, or one for a number to predict.
    """

    width: int = 64
    outputs: int = 10

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Returns the outputs (n, outputs) for inputs (n, length, ...); an image is its rows."""
        sequence = inputs.reshape(*inputs.shape[:2], -1)
        last, _ = nn.RNN(nn.GRUCell(self.width), return_carry=True)(sequence)
        return nn.Dense(self.outputs)(last)


MODELS: dict[str, Callable[[str], nn.Module]] = {
    "mlp": lambda dataset: MLP((256, 128), _outputs(dataset)),
    "m0": lambda dataset: MLP((), _outputs(dataset)),
    "m2": lambda dataset: MLP(
        (1500, 900) if dataset == "cifar10" else (500, 300), _outputs(dataset)
    ),
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

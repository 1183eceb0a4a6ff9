"""The models, by name: `mlp` for a quick look, `m0` and `m2` from the paper."""

from collections.abc import Callable

import flax.linen as nn
import jax


class MLP(nn.Module):
    """Dense layers with ReLU between them; Glorot-uniform weights and zero biases.

    Attributes:
      hidden: the widths of the hidden layers; none makes it softmax regression.
      classes: the number of classes.
    """

    hidden: tuple[int, ...] = ()
    classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the logits (n, classes) of images (n, height, width, channels)."""
        features = images.reshape(images.shape[0], -1)
        glorot = nn.initializers.glorot_uniform()
        for width in self.hidden:
            features = nn.relu(nn.Dense(width, kernel_init=glorot)(features))
        return nn.Dense(self.classes, kernel_init=glorot)(features)


MODELS: dict[str, Callable[[str], nn.Module]] = {
    "mlp": lambda dataset: MLP((256, 128)),
    "m0": lambda dataset: MLP(),
    "m2": lambda dataset: MLP((1500, 900) if dataset == "cifar10" else (500, 300)),
}
"""Each entry makes the model for the data set of that name."""


def default_model(dataset: str) -> str:
    """The model for a data set when the user names none."""
    return "mlp" if dataset == "digits" else "m2"

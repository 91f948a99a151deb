"""The model. It may be any Flax NNX or Linen module."""

import jax
from flax import nnx


class MyModel(nnx.Module):
  """Two convolutions, dropout and a linear layer.

  The constructor receives `num_classes`, `in_features` (channels of an image), `input_shape` and `rngs` if it has
  arguments of these names. Its other arguments are `model.kwargs.NAME` in the config.
  """

  def __init__(self, width: int = 16, dropout: float = 0.1, *, num_classes: int, in_features: int, rngs: nnx.Rngs):
    self.first = nnx.Conv(in_features, width, (3, 3), rngs=rngs)
    self.second = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.output = nnx.Linear(2 * width, num_classes, rngs=rngs)

  def __call__(self, images):
    """Return logits [B, classes] for images [B, height, width, channels]."""
    x = jax.nn.relu(self.second(jax.nn.relu(self.first(images))))
    return self.output(self.dropout(x.mean(axis=(1, 2))))

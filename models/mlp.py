"""A multilayer perceptron over flattened inputs, or over the rows of a table."""

import itertools
import math
from typing import Literal

from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from trialbook.models import table_columns
from trialbook.models.activation import ACTIVATIONS, Activation
from trialbook.models.dropout import Dropout
from trialbook.models.initializer import scaled_normal
from trialbook.models.normalization import norm
from trialbook.models.table_columns import EmbeddedColumn, TableColumns
from trialbook.settings import Settings, Static, Traced


class MlpConfig(Settings):
  """Hidden layers of `widths`, each linear → normalization → activation → dropout, then a linear layer.

  `virtual_batch_size`, the examples that share statistics (None: the global batch), counts for batch
  normalization only. `dropout_rate` None leaves the dropout layers out; `batch_norm_momentum` is the share of
  the moving statistics that a step keeps.

  `embeddings` lists the columns of a table [batch, features] that hold codes of categories instead of numbers.
  The codes must reach the model as they are: the dataset's normalization has mean 0 and standard deviation 1
  there. In bfloat16 there can be 257 categories.
  """

  name: Static[Literal["mlp"]] = "mlp"
  widths: Static[tuple[PositiveInt, ...]] = (256, 256)
  embeddings: tuple[EmbeddedColumn, ...] = ()
  activation: Static[Activation] = "relu"
  normalization: Static[Literal["none", "batch", "layer"]] = "none"
  virtual_batch_size: Static[PositiveInt | None] = None
  dropout_rate: Traced[float | None] = Field(default=None, ge=0, lt=1)
  batch_norm_momentum: Traced[float] = Field(default=0.9, ge=0, lt=1)


def problems(config: MlpConfig) -> list[str]:
  """Return the problems of settings that are each in their range."""
  return table_columns.problems(config.embeddings)


class Mlp(nnx.Module):
  """A network from float inputs [batch, *input_shape] to outputs [batch, num_outputs]; without widths it is linear.

  Raises:
    ValueError: a column that is to be embedded is not in the inputs.
  """

  def __init__(self, config: MlpConfig, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
    embed = bool(config.embeddings)
    self.columns = TableColumns(config.embeddings, input_shape=input_shape, rngs=rngs) if embed else None
    sizes = (math.prod(input_shape) if self.columns is None else self.columns.outputs, *config.widths)
    self.hidden = nnx.List(
      HiddenLayer(config, inputs, outputs, rngs=rngs) for inputs, outputs in itertools.pairwise(sizes)
    )
    self.output = nnx.Linear(sizes[-1], num_outputs, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)

  def __call__(self, x: Float[Array, "batch ..."], *, train: bool) -> Float[Array, "batch outputs"]:
    x = x.reshape(x.shape[0], -1) if self.columns is None else self.columns(x)
    for layer in self.hidden:
      x = layer(x, train=train)
    return self.output(x)


class HiddenLayer(nnx.Module):
  """Linear → normalization → activation → dropout."""

  def __init__(self, config: MlpConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    self.linear = nnx.Linear(
      inputs,
      outputs,
      use_bias=config.normalization == "none",  # Normalization has a bias of its own.
      kernel_init=scaled_normal(2.0, "in"),
      rngs=rngs,
    )
    self.norm = norm(config.normalization, outputs, virtual_batch_size=config.virtual_batch_size, rngs=rngs)
    self.activation = ACTIVATIONS[config.activation]
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)

  def __call__(self, x: Float[Array, "batch inputs"], *, train: bool) -> Float[Array, "batch outputs"]:
    x = self.activation(self.norm(self.linear(x), train=train))
    return x if self.dropout is None else self.dropout(x, train=train)

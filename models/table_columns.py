"""Tables whose categorical columns are embedded: codes among numbers, in one float array."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from trialbook.models.embedding import Embedding
from trialbook.settings import Settings, Static

# Of bfloat16's whole numbers, all up to this one are exact.
BFLOAT16_WHOLE = 256


class EmbeddedColumn(Settings):
  """A column of codes 0 … `categories` - 1, each of which becomes a trained vector of `width` numbers."""

  column: Static[int] = Field(ge=0)
  categories: Static[PositiveInt]
  width: Static[PositiveInt]


def problems(columns: tuple[EmbeddedColumn, ...]) -> list[str]:
  """Return the problems of several columns together."""
  first = {}
  for index, column in enumerate(columns):
    first.setdefault(column.column, index)
  return [
    f"model.embeddings.{index}.column: column {column.column} is already embedded by model.embeddings"
    f".{first[column.column]}; leave one of them out"
    for index, column in enumerate(columns)
    if first[column.column] != index
  ]


class TableColumns(nnx.Module):
  """Rows [batch, features] to [batch, other columns and vectors]: first the numbers, then each column's vector.

  Codes must arrive as they are. The network standardizes inputs by the dataset's normalization, so that has mean
  0 and standard deviation 1 for these columns. What is not a code (a fraction, NaN, a number out of range)
  gives NaN, so a code that was standardized by mistake shows in the first loss.

  Raises:
    ValueError: the inputs are not rows of that many features; or, at a call, codes above 256 come in bfloat16,
      which would round them.
  """

  def __init__(self, columns: tuple[EmbeddedColumn, ...], *, input_shape: tuple[int, ...], rngs: nnx.Rngs):
    if len(input_shape) != 1:
      raise ValueError(f"model.embeddings: only rows of a table have columns; the inputs have shape {input_shape}")
    features = input_shape[0]
    for index, column in enumerate(columns):
      if column.column >= features:
        raise ValueError(
          f"model.embeddings.{index}.column: there is no column {column.column};"
          f" the dataset has columns 0 to {features - 1}"
        )
    self.codes = tuple(column.column for column in columns)
    self.numbers = tuple(sorted(set(range(features)) - set(self.codes)))
    self.tables = nnx.List(Embedding(column.categories, column.width, std=1.0, rngs=rngs) for column in columns)
    self.most_categories = max(column.categories for column in columns)
    self.outputs = len(self.numbers) + sum(column.width for column in columns)

  def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch outputs"]:
    if x.dtype == jnp.bfloat16 and self.most_categories > BFLOAT16_WHOLE + 1:
      raise ValueError(
        f"model.embeddings: bfloat16 cannot hold codes of {self.most_categories} categories; whole numbers are exact"
        f" only up to {BFLOAT16_WHOLE}. Compute in float32 (precision.compute_dtype), or merge rare categories."
      )
    vectors = []
    for column, table in zip(self.codes, self.tables, strict=True):
      code = x[:, column]
      # -1 is in no table.
      vectors.append(table(jnp.where(code == jnp.round(code), code, -1).astype(jnp.int32)))
    return jnp.concatenate([x[:, jnp.asarray(self.numbers, jnp.int32)], *vectors], axis=-1)

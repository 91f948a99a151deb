"""What a task's functions return: means and sums over the whole batch or split, and how a model is called."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
  """A mean over examples, positions, pixels …: Σ total / Σ count over the whole global batch, or a whole split.

  It is the same however the batch is divided among devices, hosts and the parts of gradient accumulation. It is 0 where
  nothing counts in a batch, and NaN where nothing counts in a split.

  Attributes:
    total: [B, ...], such as the loss of each token times its weight.
    count: of the shape of `total`, such as the weights of the tokens; None: 1 for each element. Has no gradient.
    coefficient: factor of this term in the objective, a number or a traced setting; not used in metrics.
  """

  total: Array
  count: Array | None = None
  coefficient: ArrayLike = 1.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum:
  """A metric that an evaluation adds up over the examples of a split.

  Attributes:
    total: [B], or [B, K] for K numbers.
  """

  total: Array


def ratio(total: Array, count: Array) -> Float[Array, ""]:
  """Return total / count, 0 where nothing counts."""
  return jnp.where(count == 0, 0, total / jnp.where(count == 0, 1, count))


def objective(terms: Mapping[str, Mean], totals: Mapping[str, Array], counts: Mapping[str, Array]) -> Float[Array, ""]:
  """Return Σ coefficient · total / count over the terms of a loss."""
  parts = [
    jnp.asarray(term.coefficient, jnp.float32) * ratio(totals[name], counts[name]) for name, term in terms.items()
  ]
  return sum(parts[1:], parts[0])

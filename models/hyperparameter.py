"""Settings that a layer reads while the compiled program runs, so that changing one never recompiles."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from trialbook.naming import nearest


class SettingError(ValueError):
  """A layer reads a setting that is not given."""


class Hyperparameter(nnx.Variable[jax.Array]):
  """A float32 scalar that is filled at the jit boundary, never differentiated and never saved.

  It keeps its origin as metadata: `setting`, the name of the model setting that fills it, or None with
  `constant`, the value it always has. Until it is filled, a named one holds NaN, so that a forgotten `fill`
  shows in the first output.
  """

  @classmethod
  def read(cls, source: str | float) -> "Hyperparameter":
    """Return a hyperparameter that the model setting of that name fills, or, given a number, a constant."""
    if isinstance(source, str):
      return cls(jnp.full((), jnp.nan, jnp.float32), setting=source, constant=None)
    return cls(jnp.asarray(source, jnp.float32), setting=None, constant=float(source))


def fill(state: nnx.State, values: Mapping[str, ArrayLike]) -> nnx.State:
  """Give every hyperparameter its value; those of one name share it.

  Args:
    state: the `Hyperparameter` group of `nnx.split(model, ..., Hyperparameter, ...)`; its own values are not
      read and may be abstract.
    values: scalars by setting name, tracers inside jit. Names that no layer reads are ignored.

  Returns:
    A state of the same structure, to merge with the model's other groups.

  Raises:
    SettingError: a layer reads a name that `values` lacks.
  """

  def filled(path: tuple, variable: Hyperparameter) -> nnx.Variable:
    setting = variable.get_metadata("setting")
    if setting is None:
      return variable.replace(jnp.asarray(variable.get_metadata("constant"), jnp.float32))
    if setting not in values:
      raise SettingError(_missing(jax.tree_util.keystr(path, simple=True, separator="."), setting, list(values)))
    return variable.replace(jnp.asarray(values[setting], jnp.float32))

  return jax.tree_util.tree_map_with_path(filled, state, is_leaf=lambda x: isinstance(x, Hyperparameter))


def _missing(layer: str, setting: str, given: list[str]) -> str:
  return (
    f"{layer} reads the model setting {setting!r}, which is not set; "
    f"set model.traced.{setting}, or correct the layer{nearest(setting, given)}"
  )

"""Initial parameters of a new run from another run's checkpoint."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from trialbook.errors import ConfigError, UserError
from trialbook.paths import PathError, as_path
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.checkpoints.array_names import flatten, map_named, matches
from trialbook.trainer.config import WarmStart
from trialbook.trainer.overrides import nearest

_PARTS = ("params/", "variables/")


def find(config: WarmStart) -> pathlib.Path:
  """Return the checkpoint's folder. Raises ConfigError if there is none."""
  try:
    source = as_path(config.source)
  except PathError as error:
    raise ConfigError(f"warm_start.source = {config.source!r}: {error}") from None
  if not source.is_dir():
    raise ConfigError(f"warm_start.source = {config.source!r}: there is no such folder")
  if source.name.isdigit() and not (source / "config.json").exists():
    return source
  return source / "checkpoints" / str(storage.find_step(source, config.step))


def sources(config: WarmStart, template: Any) -> dict[str, str]:
  """Return own name -> name in the checkpoint, for all arrays that are taken.

  Args:
    config: where from.
    template: shapes and dtypes of the state.

  Raises:
    UserError: if nothing fits, or the checkpoint lacks an array, or has another shape or dtype for it.
  """
  path = find(config)
  try:
    saved = storage.describe(path)
  except storage.DamagedCheckpointError as error:
    raise ConfigError(f"warm_start: {error}") from None
  own = {name: leaf for name, leaf in flatten(template).items() if name.startswith(_PARTS)}
  prefix = "average/" if any(name.startswith("average/") for name in saved) else ""
  chosen, problems = {}, []
  for name, leaf in own.items():
    short = name.partition("/")[2]
    if not matches(short, config.include) or matches(short, config.exclude):
      continue
    there = saved.get(prefix + name)
    if not storage.fits(prefix + name, there, leaf):
      has, wanted = storage.shown(there), storage.shown(leaf)
      problems.append(f"{short}: {path} has {has}, the model needs {wanted}")
    chosen[name] = prefix + name
  if not chosen:
    names = [name.partition("/")[2] for name in own]
    raise UserError(f"warm_start.include = {config.include!r} matches no parameter{nearest(config.include[0], names)}")
  if problems:
    remedy = "narrow warm_start.include, or name these parameters in warm_start.exclude"
    raise UserError([*storage.first_few(problems), remedy])
  return chosen


def apply(config: WarmStart, state: Any, template: Any) -> Any:
  """Return the state at step 0 with the arrays that `sources` names; the average, if there is one, starts from them.

  Raises:
    UserError: as `sources`, or if the checkpoint is damaged.
  """
  chosen = sources(config, template)
  shapes = {theirs: flatten(template)[own] for own, theirs in chosen.items()}
  try:
    arrays = storage.restore(find(config), shapes)
  except storage.DamagedCheckpointError as error:
    raise ConfigError(f"warm_start: {error}") from None

  def take(name: str, leaf: jax.Array) -> jax.Array:
    own = name.removeprefix("average/")
    if own not in chosen:
      return leaf
    array = arrays[chosen[own]]
    # The average needs arrays of its own, in its own dtype: the step gives away the state's buffers.
    return jnp.array(array, leaf.dtype, copy=True) if own != name else array

  return map_named(take, state)

"""Initial parameters of a new run: from another run's checkpoint, or from a file of weights that others trained."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from trialbook.errors import ConfigError, UserError
from trialbook.object_store import StorePath
from trialbook.paths import PathError, as_path
from trialbook.trainer.checkpoints import array_files, pretrained, renaming, storage
from trialbook.trainer.checkpoints.array_names import flatten, map_named, matches
from trialbook.trainer.config import Config, WarmStart
from trialbook.trainer.overrides import nearest

_PARTS = ("params/", "variables/")
_OF_FILES = ("naming", "names", "axes", "transposes", "reshape", "optional", "cast")
"""Settings without a meaning for a checkpoint of a run, whose names are those of the model."""
_DEFAULT = WarmStart(source="-")


def find(config: WarmStart) -> pathlib.Path:
  """Return the checkpoint's folder, or the file of weights. Raises ConfigError if there is none."""
  try:
    source = as_path(config.source)
  except PathError as error:
    raise ConfigError(f"warm_start.source = {config.source!r}: {error}") from None
  if wrong := renaming.problems(config.names):
    raise ConfigError(wrong)
  if (source / "checkpoints").is_dir():
    source = source / "checkpoints" / str(storage.find_step(source, config.step))
  if _is_of_a_run(source):
    if changed := [name for name in _OF_FILES if getattr(config, name) != getattr(_DEFAULT, name)]:
      raise ConfigError(f"warm_start.{changed[0]}: is for files of weights, but {source} is a checkpoint of a run")
  elif isinstance(source, StorePath):
    raise ConfigError(
      f"warm_start.source = {config.source!r}: there is no run or checkpoint; copy other weights to a disk"
    )
  elif told := array_files.problem(source):
    raise ConfigError(f"warm_start.source = {config.source!r}: {told}")
  return source


def _is_of_a_run(source: pathlib.Path) -> bool:
  """Return whether a folder is a checkpoint of ours: by its place, even if it is damaged, or by what it holds."""
  run = source.parent.parent
  is_in_a_run = source.parent.name == "checkpoints" and (run / "config.json").exists()
  return source.name.isdigit() and source.is_dir() and (is_in_a_run or storage.is_own(source))


def sources(config: Config, template: Any) -> dict[str, str] | pretrained.Plan:
  """Return own name -> name in the checkpoint, for all arrays that are taken; or the same of a file of weights.

  Args:
    config: with a warm start.
    template: shapes and dtypes of the state.

  Raises:
    UserError: if nothing fits, or the checkpoint lacks an array, or has another shape or dtype for it.
  """
  settings = config.warm_start
  assert settings is not None, "asked only with one"
  path = find(settings)
  own = {name: leaf for name, leaf in flatten(template).items() if name.startswith(_PARTS)}
  if not _is_of_a_run(path):
    return pretrained.plan(settings, path, config.model, own)
  try:
    saved = storage.describe(path)
  except storage.DamagedCheckpointError as error:
    raise ConfigError(f"warm_start: {error}") from None
  prefix = "average/" if any(name.startswith("average/") for name in saved) else ""
  chosen, problems = {}, []
  for name, leaf in own.items():
    short = name.partition("/")[2]
    if not matches(short, settings.include) or matches(short, settings.exclude):
      continue
    there = saved.get(prefix + name)
    if not storage.fits(prefix + name, there, leaf):
      has, wanted = storage.shown(there), storage.shown(leaf)
      problems.append(f"{short}: {path} has {has}, the model needs {wanted}")
    chosen[name] = prefix + name
  if not chosen:
    names = [name.partition("/")[2] for name in own]
    raise UserError(
      f"warm_start.include = {settings.include!r} matches no parameter{nearest(settings.include[0], names)}"
    )
  if problems:
    remedy = "narrow warm_start.include, or name these parameters in warm_start.exclude"
    raise UserError([*storage.first_few(problems), remedy])
  return chosen


def apply(config: Config, state: Any, template: Any) -> tuple[Any, list[str]]:
  """Return the state at step 0 with the arrays that `sources` names, and what to report about others.

  An average, if there is one, starts from them.

  Raises:
    UserError: as `sources`, or if the checkpoint is damaged.
  """
  chosen, leaves = sources(config, template), flatten(template)
  if isinstance(chosen, pretrained.Plan):
    arrays = {name: chosen.read(name, leaves[name]) for name in chosen.pieces}
    notes = chosen.notes
  else:
    assert config.warm_start is not None, "asked only with one"
    try:
      restored = storage.restore(find(config.warm_start), {theirs: leaves[own] for own, theirs in chosen.items()})
    except storage.DamagedCheckpointError as error:
      raise ConfigError(f"warm_start: {error}") from None
    arrays, notes = {own: restored[theirs] for own, theirs in chosen.items()}, []

  def take(name: str, leaf: jax.Array) -> jax.Array:
    own = name.removeprefix("average/")
    if own not in arrays:
      return leaf
    # The average needs arrays of its own, in its own dtype: the step gives away the state's buffers.
    return jnp.array(arrays[own], leaf.dtype, copy=True) if own != name else arrays[own]

  return map_named(take, state), notes

"""Parameters and batch statistics of a new run from a file of weights that others trained."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trialbook.errors import ConfigError, UserError
from trialbook.models import ModelConfig
from trialbook.models.batch_norm import ROWS
from trialbook.models.public_names import PublicNames, libraries, public_names
from trialbook.naming import nearest
from trialbook.trainer.checkpoints.array_files import ArrayFile, open_arrays, readable
from trialbook.trainer.checkpoints.array_names import matches
from trialbook.trainer.checkpoints.renaming import Piece, pieces
from trialbook.trainer.config import WarmStart

_LISTED, _PROBLEMS = 5, 10
_TORCH_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}
"""Of a kernel of torch, outputs first, inputs second: its axes in the order that flax has them."""

Places = Mapping[str, Mapping[int | None, Piece]]
"""What a file has for each array of the model, by its name and by the layer of a stack."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
  """An opened file, and how its arrays become those of a model.

  Attributes:
    path: the file or folder.
    file: the same, opened.
    settings: of the warm start.
    public: names and axes of the library that the weights come from.
  """

  path: pathlib.Path
  file: ArrayFile
  settings: WarmStart
  public: PublicNames

  def read(self, parts: list[Piece], short: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Return an array of the state from its pieces, laid out as the leaf says.

    Raises:
      ConfigError: the file cannot be read.
    """
    wanted, fitted = _shape_of_piece(parts[0], short, leaf), []
    for piece in parts:
      with readable(self.path):
        array = self.file.read(piece.source)
      fitted.append(self._turned(array, piece).reshape(wanted).astype(leaf.dtype))
    # Statistics that each replica has for itself are the same for all.
    whole = np.stack(fitted) if parts[0].entry is not None else np.broadcast_to(fitted[0], leaf.shape)
    array = jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: whole[index])
    # A step gives its buffers away, and those of NumPy's arrays are not jax's.
    return jnp.array(array, copy=True)

  def problem(self, piece: Piece, short: str, leaf: jax.ShapeDtypeStruct) -> str | None:
    """Return why a piece does not fit into an array of the state, if it does not."""
    shape, dtype = self.file.arrays[piece.source]
    wanted = _shape_of_piece(piece, short, leaf)
    has, needs = f"{piece.source!r} is {dtype}{list(shape)}", f"the model needs {leaf.dtype}{list(wanted)}"
    try:
      # Takes no memory, whatever its shape.
      turned = self._turned(np.broadcast_to(np.zeros((), dtype), shape), piece).shape
    except ValueError as error:
      return f"{has}: {error}"
    may_reshape = matches(short, (*self.settings.reshape, *self.public.reshape))
    if turned != wanted and not (may_reshape and math.prod(turned) == math.prod(wanted)):
      return f"{has}, {'' if turned == shape else f'here {list(turned)}, '}{needs}"
    if dtype == leaf.dtype:
      return None
    floats = jnp.issubdtype(dtype, jnp.floating) and jnp.issubdtype(leaf.dtype, jnp.floating)
    if floats and self.settings.cast:
      return None
    return f"{has}, {needs}{'; set warm_start.cast to true to convert floats' if floats else ''}"

  def _turned(self, array: np.ndarray, piece: Piece) -> np.ndarray:
    """Return a view of what a piece is of an array of the file, with its axes in the order that flax has."""
    is_torch = (self.settings.axes or self.public.axes) == "torch"
    if piece.parts > 1:
      array = np.split(array, piece.parts, 0 if is_torch else -1)[piece.part]
    for pattern, axes in self.settings.transposes.items():
      if matches(piece.name, (pattern,)):
        return array.transpose(axes)
    is_kernel = is_torch and piece.name.rpartition("/")[2] == "kernel"
    return array.transpose(_TORCH_AXES[array.ndim]) if is_kernel and array.ndim in _TORCH_AXES else array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What a state takes from a file.

  Attributes:
    weights: the file.
    pieces: of each array of the state that is taken, by its name there; those of a stack in order.
    notes: what the file has and the state does not take, and the reverse, in words.
  """

  weights: Weights
  pieces: Mapping[str, list[Piece]]
  notes: list[str]

  def read(self, name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Return an array of the state, laid out as the leaf says. Raises ConfigError if the file cannot be read."""
    return self.weights.read(self.pieces[name], _short(name), leaf)


def plan(settings: WarmStart, path: pathlib.Path, model: ModelConfig, own: Mapping[str, Any]) -> Plan:
  """Open a file, and find what the state takes from it.

  Args:
    settings: of the warm start.
    path: the file or folder.
    model: the config of the model, to whose arrays libraries give names of their own.
    own: shape and dtype of each array of the state that could be taken, by name.

  Raises:
    UserError: nothing fits, an array is missing that is not optional, or one has another shape or dtype.
  """
  public = _public(settings, model)
  weights = Weights(path=path, file=open_arrays(path), settings=settings, public=public)
  places, problems = _places(weights.file.arrays, settings, public)
  wanted = {
    name: leaf
    for name, leaf in own.items()
    if matches(_short(name), settings.include) and not matches(_short(name), settings.exclude)
  }
  if not wanted:
    near = nearest(settings.include[0], [_short(name) for name in own])
    raise UserError(f"warm_start.include = {settings.include!r} matches no parameter{near}")
  taken: dict[str, list[Piece]] = {}
  missing, optional = [], []
  for name, leaf in wanted.items():
    short = _short(name)
    there = places.get(short) or places.get(_usual_name(short), {})
    is_whole = None in there or not there or not leaf.shape
    entries = [None] if is_whole else list(range(leaf.shape[0]))
    if absent := [entry for entry in entries if entry not in there]:
      (optional if matches(short, settings.optional) else missing).append(_shown(short, absent[0]))
      continue
    taken[name] = [there[entry] for entry in entries]
    misfits = (f"{short}: {told}" for piece in taken[name] if (told := weights.problem(piece, short, leaf)))
    problems += [f"{path}: {told}" for told in [next(misfits, None)] if told]
  surplus = _surplus(places, taken, {_short(name) for name in own})
  notes = [f"{path} also has {_listed(surplus)}, for which the model has no place"] if surplus else []
  if missing:
    remedy = "give warm_start.naming or substitutions in warm_start.names; what may be missing belongs in"
    remedy += " warm_start.optional, what is to be drawn in warm_start.exclude"
    problems = [f"{path} has nothing for {_listed(missing)} of the model", *notes, *problems, remedy]
  if problems:
    raise UserError([*problems[:_PROBLEMS], *([f"and {len(problems) - _PROBLEMS} more"] * (len(problems) > _PROBLEMS))])
  if not taken:
    raise UserError([f"{path} has nothing for the model, which has {_listed(list(wanted))}", *notes])
  return Plan(
    weights=weights,
    pieces=taken,
    notes=[*notes, *([f"{path} has nothing for {_listed(optional)}, drawn instead"] if optional else [])],
  )


def _public(settings: WarmStart, model: ModelConfig) -> PublicNames:
  if settings.naming == "own":
    return PublicNames((), axes="flax")
  if found := public_names(settings.naming, model):
    return found
  known = libraries(model)
  how = f"it is known with those of {', '.join(known)}" if known else "give substitutions in warm_start.names"
  raise ConfigError(f"warm_start.naming = {settings.naming!r}: its names for model {model.name!r} are not known; {how}")


def _places(names: Iterable[str], settings: WarmStart, public: PublicNames) -> tuple[Places, list[str]]:
  """Return where the arrays of a file belong, and which of them belong to the same place."""
  places: dict[str, dict[int | None, Piece]] = {}
  problems = []
  for piece in pieces(names, (*public.names, *settings.names)):
    there = places.setdefault(piece.name, {})
    if piece.entry in there:
      both = f"{there[piece.entry].source!r} and {piece.source!r}"
      problems.append(f"warm_start.names: {both} both become {_shown(piece.name, piece.entry)!r}")
    there[piece.entry] = piece
  return places, problems


def _surplus(places: Places, taken: Mapping[str, list[Piece]], own: set[str]) -> list[str]:
  """Return what a file has for no array of the model; what is for one that is not taken is no surplus."""
  used = {piece.source for parts in taken.values() for piece in parts}
  names = {_short(name) for name in taken}
  return list(
    dict.fromkeys(
      piece.source if piece.source == name else f"{piece.source} (as {_shown(name, entry)})"
      for name, there in places.items()
      for entry, piece in there.items()
      if piece.source not in used and (name not in own or name in names)
    )
  )


def _shape_of_piece(piece: Piece, short: str, leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
  return leaf.shape[1:] if piece.entry is not None or _usual_name(short) else leaf.shape


def _usual_name(short: str) -> str:
  """Return the usual name of statistics that each replica has for itself; "" if a name is not that of such."""
  above, _, last = short.rpartition("/")
  return f"{above}/{last.removeprefix('replica_')}" if last in ROWS else ""


def _short(name: str) -> str:
  """Return a name without the part of the state that it is in."""
  return name.partition("/")[2]


def _shown(name: str, entry: int | None) -> str:
  return name if entry is None else f"{name}[{entry}]"


def _listed(names: list[str]) -> str:
  more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
  return f"{len(names)} arrays ({', '.join(names[:_LISTED])}{more})" if len(names) > 1 else names[0]

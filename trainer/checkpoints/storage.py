"""Checkpoints: written while training continues, verified when read, kept by our own records. Orbax holds the arrays.

A checkpoint is a folder named by its step, holding the state as a flat mapping from names such as
`params/output/kernel` to arrays, and as metadata the step, the id of the run, and for each array its shape, dtype and
checksum. One that has its name is whole, or was damaged later (`places`).
"""

import concurrent.futures
import errno
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NotRequired

import jax
import jax.numpy as jnp
import pydantic
import pydantic_core
from absl import logging
from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import ConfigError, TryAgainError, UserError
from trialbook.models.batch_norm import spread
from trialbook.naming import step_of
from trialbook.object_store import StorePath
from trialbook.record import Count, sentences, stored
from trialbook.store_client import StoreLostError
from trialbook.trainer.checkpoints import late_callbacks, places
from trialbook.trainer.checkpoints.array_names import flatten, map_named
from trialbook.trainer.checkpoints.checksums import by_name, checksums
from trialbook.trainer.checkpoints.places import saved_steps
from trialbook.trainer.records import read_best, read_fork, read_run
from trialbook.trainer.sharding import is_rows, replicated


@stored
class SavedArray(TypedDict):
  """Shape, dtype and checksum of an array."""

  shape: tuple[Count, ...]
  dtype: str
  checksum: Count


@stored
class Saved(TypedDict):
  """The metadata of a checkpoint; earlier versions saved neither the step nor the id of the run."""

  arrays: dict[str, SavedArray]
  step: NotRequired[Count]
  run: NotRequired[str]


_SAVED = pydantic.TypeAdapter(Saved)
_ATTEMPTS = 3
"""How often a save is tried in an object store, whose failures the clients within Orbax give up sooner than we do."""


class DamagedCheckpointError(Exception):
  """A checkpoint that cannot be read, or does not hold what was saved."""


class OtherStateError(UserError):
  """A checkpoint that holds another kind of state than the one that is asked for: other names, shapes, dtypes."""


def find_step(workdir: pathlib.Path, step: str | int) -> int:
  """Return the step of a checkpoint by "best", "last" or number. Raises ConfigError, naming those there are."""
  saved = saved_steps(workdir / "checkpoints")
  best = read_best(workdir)
  found = {"best": best and best["step"], "last": saved[-1] if saved else None}.get(str(step), step)
  if str(found) not in map(str, saved):
    known = ", ".join(map(str, saved)) or "none"
    raise ConfigError(f"{workdir} has no checkpoint {str(step)!r}; available: {known}")
  return int(str(found))


class Saver:
  """A saver of states in one background thread; the loop pays for a copy of the state: on the device, or to the host.

  Args:
    folder: of the run's checkpoints; made if absent, cleared of what interruptions left.
    to_keep: the steps among those given that are to stay; asked after each evaluation, everything else goes.
    tell: called in the thread with the steps that are committed, before any checkpoint is removed.
    run: id of the run.
    place: its workdir, which Orbax would make anew if it is gone.
    lead: whether this is the host that decides and removes; all hosts save.
    copies_on_device: whether there is room for a copy of the state on the devices, which takes the loop the least time;
      without, the loop waits until the state has been read from them.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    to_keep: Callable[[list[int]], Iterable[int]],
    tell: Callable[[list[int]], None],
    run: str = "",
    place: files.Place | None = None,
    *,
    lead: bool = True,
    copies_on_device: bool = True,
  ):
    if lead:
      places.make_ready(folder)
    self._folder, self._to_keep, self._tell, self._run, self._lead = folder, to_keep, tell, run, lead
    self._place, self._copies_on_device = place, copies_on_device
    self._checkpointer = _orbax().AsyncCheckpointer(_handler())
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
    self._saving: concurrent.futures.Future[None] | None = None

  def save(self, step: int, state: Any) -> None:
    """Start saving, after waiting for the save before it if that is not finished.

    Raises:
      OSError: if the save before this one failed; nothing that was committed is affected.
    """
    self.wait()
    # The state's buffers are given to the next step, so what is written must be a copy. Orbax begins with one.
    arrays = flatten(state)
    arrays, sums = _copy_with_checksums(arrays) if self._copies_on_device else (arrays, _checksums(arrays))
    if jax.process_count() == 1 and self._copies_on_device:
      self._saving = self._thread.submit(self._write, step, arrays, sums)
    else:
      # Orbax begins with a collective among the hosts, which must not fall between those of the training.
      self._begin(step, arrays, sums)
      self._saving = self._thread.submit(self._finish, step)

  def skip(self) -> None:
    """Report an evaluation whose state is not saved. Raises OSError as `save`."""
    self.wait()
    self._saving = self._thread.submit(self._settle)

  def wait(self) -> None:
    """Return when every save that was started is committed. Raises OSError if one failed."""
    if self._saving is not None:
      saving, self._saving = self._saving, None
      saving.result()

  def __enter__(self) -> "Saver":
    return self

  def __exit__(self, *_: object) -> None:
    """Wait, whether or not the last save failed, and end the thread."""
    self._thread.shutdown()
    self._checkpointer.close()

  def _write(self, step: int, arrays: dict[str, jax.Array], sums: jax.Array) -> None:
    for left in reversed(range(_ATTEMPTS)):
      try:
        self._begin(step, arrays, sums)
        self._finish(step)
        return
      except StoreLostError as error:
        if not left:
          raise
        logging.warning("%s; it is saved again", error)
      # It waits until the store answers, for longer than Orbax does. What was written is no checkpoint yet.
      places.make_ready(self._folder)
      if step in saved_steps(self._folder):
        self._settle()
        return

  def _begin(self, step: int, arrays: dict[str, jax.Array], sums: jax.Array) -> None:
    known = by_name(arrays, sums)
    described = {
      name: {"shape": list(array.shape), "dtype": str(array.dtype), "checksum": known[name]}
      for name, array in arrays.items()
    }
    metadata = {"arrays": described, "step": step, "run": self._run}
    path = self._folder / str(step)
    if self._place is not None:
      self._place.check()
    places.check_room(self._folder, sum(array.nbytes for array in arrays.values()))
    try:
      arguments = _orbax().args.PyTreeSave(arrays)
      self._checkpointer.save(os.fspath(path.resolve()), args=arguments, custom_metadata=metadata)
    except Exception as error:
      raise _save_error(error, path) from error

  def _finish(self, step: int) -> None:
    try:
      self._checkpointer.wait_until_finished()
    except Exception as error:
      raise _save_error(error, self._folder / str(step)) from error
    self._settle()

  def _settle(self) -> None:
    if not self._lead:
      return
    saved = saved_steps(self._folder)
    self._tell(saved)
    for other in set(saved) - set(self._to_keep(saved)):
      places.remove(self._folder / str(other))


def is_own(path: pathlib.Path) -> bool:
  """Return whether a checkpoint says that a run saved it, whether or not it is damaged."""
  try:
    return b'"arrays"' in (path / "_CHECKPOINT_METADATA").read_bytes()
  except OSError:
    return False


def describe(path: pathlib.Path) -> dict[str, SavedArray]:
  """Return name -> shape, dtype, checksum of each array in a checkpoint.

  Raises:
    DamagedCheckpointError: if its metadata cannot be read, or it is that of another step or run.
  """
  return _metadata(path)["arrays"]


def run_of(path: pathlib.Path) -> str | None:
  """Return the id of the run that saved a checkpoint; None if it was not saved. Raises as `describe`."""
  return _metadata(path).get("run")


def _metadata(path: pathlib.Path) -> Saved:
  """Return the metadata of a checkpoint. Raises as `describe`."""
  try:
    metadata = _reading(path, lambda: _checkpointer().metadata(os.fspath(path.resolve())))
    saved = _SAVED.validate_json(pydantic_core.to_json(metadata.custom_metadata), strict=True)
    for array in saved["arrays"].values():
      jnp.dtype(array["dtype"])
  except pydantic.ValidationError as error:
    raise DamagedCheckpointError(f"{path}: its metadata cannot be read: {'; '.join(sentences(error))}") from error
  except TryAgainError:
    raise
  except Exception as error:
    raise DamagedCheckpointError(f"{path}: its metadata cannot be read: {_first_line(error)}") from error
  if saved.get("step", step_of(path.name)) != step_of(path.name):
    raise DamagedCheckpointError(f"{path}: it is the checkpoint of step {saved.get('step')}, copied or renamed")
  if (by := saved.get("run")) and by not in (known := _runs(path.parent.parent)) and known:
    raise DamagedCheckpointError(f"{path}: it was saved by another run ({by}, not {known[0]}), and copied")
  return saved


def _reading(path: pathlib.Path, read: Callable[[], Any]) -> Any:
  """Return what is read of a checkpoint. In an object store an error need not lie with the checkpoint, so it is read
  again, once the store answers. Raises StoreLostError if it does not."""
  try:
    return read()
  except Exception as error:
    if not isinstance(path, StorePath):
      raise
    logging.warning("%s could not be read, and is read again: %s", path, _first_line(error))
    path.is_dir()
  return read()


def _runs(workdir: pathlib.Path) -> list[str]:
  """Return the ids of the runs whose checkpoints a workdir may hold: its own, and of a fork the one forked from."""
  run, fork = read_run(workdir), read_fork(workdir)
  ids = [None if run is None else run.get("id"), None if fork is None else fork.get("run")]
  # Without its own, nothing is known.
  return [one for one in ids if one] if ids[0] else []


def check(path: pathlib.Path, template: Any, *, whole: bool) -> None:
  """Compare what a checkpoint holds with what it is to be restored into: names, shapes and dtypes.

  Args:
    path: the checkpoint.
    template: a tree of `jax.ShapeDtypeStruct`.
    whole: whether the checkpoint may hold nothing else.

  Raises:
    OtherStateError: with the differences.
    DamagedCheckpointError: if its metadata cannot be read.
  """
  saved, wanted = describe(path), flatten(template)
  differences = [
    f"{name}: the checkpoint has {shown(saved.get(name))}, the run needs {shown(wanted.get(name))}"
    for name in sorted(wanted.keys() | (saved.keys() if whole else set()))
    if name not in wanted or not fits(name, saved.get(name), wanted[name])
  ]
  if differences:
    raise OtherStateError(f"{path} was saved by another model or optimizer: {'; '.join(first_few(differences))}")


def fits(name: str, saved: Mapping[str, Any] | None, wanted: Any) -> bool:
  """Return whether an array that `describe` describes can be restored as one of the wanted shape and dtype.

  Statistics that every replica has for itself (`ROWS`) may be those of another number of replicas. An average may be
  in another floating-point dtype: it is float32 or wider, and the parameters that start from it may not be.
  """
  if saved is None:
    return False
  shape, dtypes = tuple(saved["shape"]), (jnp.dtype(saved["dtype"]), wanted.dtype)
  fits_dtype = dtypes[0] == dtypes[1] or (
    name.startswith("average/") and all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
  )
  return fits_dtype and (shape == wanted.shape or (is_rows(name) and shape[1:] == wanted.shape[1:]))


def shown(array: Any) -> str:
  """Return dtype and shape of an array, from `describe` or a `jax.ShapeDtypeStruct`; None is "no such array"."""
  if array is None:
    return "no such array"
  dtype, shape = (array["dtype"], array["shape"]) if isinstance(array, Mapping) else (array.dtype, array.shape)
  return f"{dtype}{list(shape)}"


def first_few(differences: list[str]) -> list[str]:
  """Return at most five differences, and how many more there are."""
  more = len(differences) - 5
  return [*differences[:5], f"and {more} more arrays"] if more > 0 else differences


def restore(path: pathlib.Path, template: Any) -> Any:
  """Restore a state, or a part of one, from a checkpoint, laid out as the template says, every checksum verified.

  Any layout is restored from any other. Rows of another number of replicas are replaced by their mean, by
  `trialbook.models.batch_norm.spread`, and an average of another dtype is cast, after they were verified.

  Args:
    path: the checkpoint.
    template: a tree of `jax.ShapeDtypeStruct` with shardings.

  Raises:
    OtherStateError: as `check`.
    DamagedCheckpointError: if it cannot be read, or a checksum differs.
  """
  check(path, template, whole=False)
  described, wanted = describe(path), flatten(template)
  # As they were saved; and rows whole, since another number of replicas need not divide the devices.
  strange = {
    name: jax.ShapeDtypeStruct(
      saved["shape"], saved["dtype"], sharding=replicated(leaf.sharding.mesh) if is_rows(name) else leaf.sharding
    )
    for name, leaf in wanted.items()
    if (saved := described[name]) and (tuple(saved["shape"]), saved["dtype"]) != (leaf.shape, str(leaf.dtype))
  }
  asked = wanted | strange
  arguments = _orbax().args.PyTreeRestore(
    asked,
    restore_args=_orbax().checkpoint_utils.construct_restore_args(asked),
    partial_restore=len(asked) < len(described),
  )
  try:
    arrays = _reading(path, lambda: _checkpointer().restore(os.fspath(path.resolve()), args=arguments))
  except TryAgainError:
    raise
  except Exception as error:
    raise DamagedCheckpointError(f"{path}: cannot be read: {_first_line(error)}") from error
  arrays = {name: arrays[name] for name in asked}
  found = by_name(arrays, _checksums(arrays))
  wrong = [name for name in arrays if found[name] != described[name]["checksum"]]
  if wrong:
    raise DamagedCheckpointError(f"{path}: the checksum of {', '.join(wrong[:3])} differs from the one saved")
  if strange:
    arrays |= _converted({name: arrays[name] for name in strange}, {name: wanted[name] for name in strange})
  return map_named(lambda name, _: arrays[name], template)


def _converted(saved: dict[str, jax.Array], wanted: dict[str, Any]) -> dict[str, jax.Array]:
  """Return the rows for the wanted numbers of replicas, and all arrays in the wanted dtypes and layout."""

  def one(name: str, array: jax.Array) -> jax.Array:
    array = spread(array, wanted[name].shape[0]) if is_rows(name) else array
    return array.astype(wanted[name].dtype)

  def convert(saved: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: one(name, array) for name, array in saved.items()}

  return jax.jit(convert, out_shardings={name: leaf.sharding for name, leaf in wanted.items()})(saved)


def restore_newest(folder: pathlib.Path, template: Any) -> tuple[int, Any] | None:
  """Restore the newest checkpoint that is whole, as (step, state); return None if there has never been one.

  Raises:
    UserError: if there are checkpoints, and none of them can be read.
    OtherStateError: as `check`.
  """
  steps = saved_steps(folder)
  damages = []
  for step in reversed(steps):
    try:
      check(folder / str(step), template, whole=True)
      state = restore(folder / str(step), template)
      # Earlier versions saved the step in the state alone.
      if isinstance(state, Mapping) and (held := int(state.get("step", step))) != step:
        raise DamagedCheckpointError(f"{folder / str(step)}: it holds the state after step {held}, copied or renamed")
      return step, state
    except DamagedCheckpointError as error:
      logging.error("damaged checkpoint: %s", error)
      damages.append(str(error))
  if damages:
    raise UserError(
      [*damages, f"no checkpoint in {folder} can be read; remove the workdir to start from the beginning"]
    )
  return None


_checksums = jax.jit(checksums)


@jax.jit
def _copy_with_checksums(arrays: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], jax.Array]:
  return jax.tree.map(jnp.copy, arrays), checksums(arrays)


def _orbax() -> Any:
  """Return Orbax, which takes half a second to import: mistakes in a config are reported without it."""
  import orbax.checkpoint

  return orbax.checkpoint


def _checkpointer() -> Any:
  late_callbacks.ignore()
  return _orbax().Checkpointer(_handler())


def _handler() -> Any:
  from orbax.checkpoint import type_handlers

  # By default a replicated array is cut into pieces, one for each device to write, by programs that have to be
  # compiled first, and the sharding is written, which a restore is told anyway.
  handler = type_handlers.ArrayHandler(use_replica_parallel=False, enable_write_sharding_file=False)
  return _orbax().PyTreeCheckpointHandler(
    type_handler_registry=type_handlers.create_type_handler_registry((jax.Array, handler))
  )


_LIMITS = {
  "no space left": errno.ENOSPC,
  "too many open files": errno.EMFILE,
  "file too large": errno.EFBIG,
  "resource_exhausted": errno.ENOSPC,
}


def _first_line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _save_error(error: Exception, path: pathlib.Path) -> Exception:
  """Return the error as an OSError, or a StoreLostError. Orbax reports a full disk as a text, with whatever type its
  writer has, and so do the clients of an object store."""
  if isinstance(error, TryAgainError) or (isinstance(error, OSError) and error.errno is not None):
    return error
  text = str(error).lower()
  told = f"{path} could not be saved: {_first_line(error)}"
  if isinstance(path, StorePath):
    is_refused = any(words in text for words in ("forbidden", "permission_denied", "permission denied"))
    return OSError(errno.EACCES, told) if is_refused else StoreLostError(told)
  number = next((number for words, number in _LIMITS.items() if words in text), errno.EIO)
  return OSError(number, told)

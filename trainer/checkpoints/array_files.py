"""Files of arrays by name that other projects write: opened at once, and read one array at a time.

No code in a file is ever run: arrays of objects, and pickles of anything but tensors, are refused.
"""

import contextlib
import json
import mmap
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from trialbook.errors import ConfigError, said
from trialbook.trainer.checkpoints import late_callbacks
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.checkpoints.safetensors_file import Safetensors

Spec = tuple[tuple[int, ...], np.dtype]
"""Shape and dtype."""
_OLDEST_TORCH = (2, 6)
"""Before it, a pickle could run code in spite of `weights_only` (CVE-2025-32434)."""


class ArrayFile(Protocol):
  """Arrays by name."""

  @property
  def arrays(self) -> Mapping[str, Spec]:
    """Return shape and dtype of each array, by name."""
    ...

  def read(self, name: str) -> np.ndarray:
    """Return an array."""
    ...


def is_orbax(folder: pathlib.Path) -> bool:
  """Return whether Orbax wrote a folder: arrays, or a folder for each item of a step."""
  return any((folder / name).exists() for name in ("_METADATA", "_CHECKPOINT_METADATA"))


def problem(path: pathlib.Path) -> str | None:
  """Return why there is no reader for a path, and which path would have one; None if there is one."""
  if not path.exists():
    return "there is no such file or folder"
  if path.is_file():
    return None if _kind(path) else f"this kind of file cannot be read; these can: {', '.join(_OPEN)}"
  if (path / "_METADATA").exists():
    return None
  inside = sorted(path.iterdir())
  # A shard alone is a part of the weights, so an index goes before its shards.
  named = [one.name for one in inside if one.is_file() and one.name.endswith(".index.json") and _kind(one)]
  named = named or [one.name for one in inside if one.is_file() and _kind(one)]
  named += [f"{one.name}/" for one in inside if one.is_dir() and is_orbax(one)]
  if not named:
    return "is a folder without a run, a file of weights or a checkpoint of Orbax"
  return f"is a folder; name what is in it: {', '.join(named)}"


def open_arrays(path: pathlib.Path) -> ArrayFile:
  """Open a file, an index of several, or a folder of Orbax.

  Raises:
    ConfigError: it cannot be read, holds something else than arrays, or needs a package that is not installed.
  """
  if told := problem(path):
    raise ConfigError(f"{path}: {told}")
  with readable(path):
    return _OPEN[_kind(path) or ""](path) if path.is_file() else _Orbax(path)


@contextlib.contextmanager
def readable(path: pathlib.Path) -> Iterator[None]:
  """Turn what a reader raises, whatever package it comes from, into a ConfigError that names the file."""
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:
    text = str(error) if type(error) is ValueError else said(error)
    raise ConfigError(f"{path}: cannot be read: {(text.strip() or 'no reason given').splitlines()[0][:300]}") from error


class _Index:
  """The arrays of several files, by a JSON file that says which array is where."""

  def __init__(self, path: pathlib.Path):
    places = json.loads(path.read_text()).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
      raise ValueError("it has no weight_map from names to files")
    if outside := [file for file in places.values() if pathlib.PurePath(file).name != file]:
      raise ValueError(f"it names {outside[0]!r}; a file beside it has no folder in its name")
    files = {file: open_arrays(path.parent / file) for file in dict.fromkeys(places.values())}
    if absent := [name for name, file in places.items() if name not in files[file].arrays]:
      raise ValueError(f"{places[absent[0]]} does not hold {absent[0]!r}")
    self._files = {name: files[file] for name, file in places.items()}
    self.arrays = {name: file.arrays[name] for name, file in self._files.items()}

  def read(self, name: str) -> np.ndarray:
    return self._files[name].read(name)


class _Npz:
  """The arrays of a file of `numpy.savez`."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    with zipfile.ZipFile(path) as members:
      names = [name for name in members.namelist() if name.endswith(".npy")]
      self.arrays = {name.removesuffix(".npy"): _npy_spec(members, name) for name in names}

  def read(self, name: str) -> np.ndarray:
    with np.load(self._path, allow_pickle=False) as arrays:
      return arrays[name]


def _npy_spec(members: zipfile.ZipFile, name: str) -> Spec:
  with members.open(name) as file:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
  if dtype.kind == "O":
    raise ValueError(f"{name!r} holds Python objects, which are never loaded")
  if dtype.kind not in "biufc":
    # NumPy writes bfloat16 as two bytes without a meaning.
    raise ValueError(f"{name!r} is {dtype}, which is no number; save bfloat16 as float32, or in a safetensors file")
  return shape, dtype


class _Msgpack:
  """The arrays of a file of `flax.serialization`, by path such as `params/Dense_0/kernel`."""

  def __init__(self, path: pathlib.Path):
    import msgpack

    with path.open("rb") as file:
      self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
      unpacker = msgpack.Unpacker(file, strict_map_key=False, max_buffer_size=0)
      self._places = dict(self._walk(unpacker, ""))
    self.arrays = {name: (array.shape, array.dtype) for name in self._places for array in [self.read(name)]}

  def read(self, name: str) -> np.ndarray:
    from flax import serialization

    first, stop = self._places[name]
    return np.asarray(serialization.msgpack_restore(self._bytes[first:stop]))

  def _walk(self, unpacker: Any, above: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name, first byte and one past the last of each leaf."""
    for _ in range(unpacker.read_map_header()):
      name = f"{above}{unpacker.unpack()}"
      first = unpacker.tell()
      if self._is_mapping(first):
        yield from self._walk(unpacker, f"{name}/")
      else:
        unpacker.skip()
        yield name, (first, unpacker.tell())

  def _is_mapping(self, place: int) -> bool:
    # Flax writes an array of more than 1 GB as a mapping with this as its first key.
    kind = self._bytes[place]
    is_map = 0x80 <= kind <= 0x8F or kind in (0xDE, 0xDF)
    return is_map and b"__msgpack_chunked_array__" not in self._bytes[place : place + 64]


class _Torch:
  """The tensors of a file of `torch.save`, by their keys; those of nested dicts by keys joined with dots."""

  def __init__(self, path: pathlib.Path):
    try:
      import torch
    except ImportError:
      raise ConfigError(
        f"{path}: reading it needs torch, which is not installed; run pip install torch, or convert it once where torch"
        ' is: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "weights.safetensors")'
      ) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST_TORCH:
      oldest = ".".join(map(str, _OLDEST_TORCH))
      raise ConfigError(f"{path}: torch {torch.__version__} may run code in a pickle; install torch>={oldest}")
    with path.open("rb") as file:
      # A format of before torch 1.6 cannot be mapped.
      mapped = zipfile.is_zipfile(file)
    self._tensors = dict(_tensors(torch.load(path, map_location="cpu", mmap=mapped, weights_only=True), ""))
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in self._tensors.items()}
    self.arrays = {name: (tuple(tensor.shape), jnp.dtype(kinds[name])) for name, tensor in self._tensors.items()}

  def read(self, name: str) -> np.ndarray:
    import torch

    tensor = self._tensors[name].detach().contiguous()
    if tensor.dtype == torch.bfloat16:
      return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _tensors(tree: Any, above: str) -> Iterator[tuple[str, Any]]:
  for name, value in tree.items() if isinstance(tree, Mapping) else ():
    if isinstance(value, Mapping):
      yield from _tensors(value, f"{above}{name}.")
    elif hasattr(value, "is_floating_point"):
      yield f"{above}{name}", value


class _Orbax:
  """The arrays of a folder of Orbax, by path such as `params/dense/kernel`."""

  def __init__(self, path: pathlib.Path):
    import orbax.checkpoint

    late_callbacks.ignore()
    self._path, self._orbax = path.resolve(), orbax.checkpoint
    self._checkpointer = self._orbax.Checkpointer(self._orbax.PyTreeCheckpointHandler())
    metadata: Any = self._checkpointer.metadata(self._path).item_metadata
    if metadata is None:
      raise ValueError("its metadata cannot be read")
    leaves = {name: leaf for name, leaf in flatten(metadata.tree).items() if getattr(leaf, "shape", None) is not None}
    self.arrays = {name: (tuple(leaf.shape), jnp.dtype(leaf.dtype)) for name, leaf in leaves.items()}

  def read(self, name: str) -> np.ndarray:
    *above, last = name.split("/")
    asked: Any = {last: self._orbax.RestoreArgs(restore_type=np.ndarray)}
    wanted: Any = {last: 0}
    for key in reversed(above):
      asked, wanted = {key: asked}, {key: wanted}
    arguments = self._orbax.args.PyTreeRestore(wanted, restore_args=asked, partial_restore=True)
    return np.asarray(flatten(self._checkpointer.restore(self._path, args=arguments))[name])


_OPEN: Mapping[str, Callable[[pathlib.Path], ArrayFile]] = {
  ".safetensors": Safetensors,
  ".npz": _Npz,
  ".msgpack": _Msgpack,
  ".bin": _Torch,
  ".pt": _Torch,
  ".pth": _Torch,
  ".safetensors.index.json": _Index,
  ".bin.index.json": _Index,
}


def _kind(path: pathlib.Path) -> str | None:
  return next((kind for kind in _OPEN if path.name.endswith(kind)), None)

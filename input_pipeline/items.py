"""Examples as people's classes give them: tuples or mappings, under keys of their own, some of different lengths."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.errors import DataError
from trialbook.input_pipeline.conversion import as_array, stacked

Keys = Sequence[str] | Mapping[str, str] | None
"""Names of the entries of a tuple, or from the keys of a mapping to those that tasks read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pad:
  """Arrays of different lengths, filled up to one length.

  Attributes:
    keys: the arrays, by key or path; in an example, their first axes have the same length.
    length: of all of them afterwards.
    mask: key of bool [length], true where an array has something; "mask" is what `language_model` reads.
    value: what they are filled up with.
    cut: whether a longer one is cut; otherwise it is an error.
  """

  keys: tuple[str, ...]
  length: int
  mask: str = "mask"
  value: float = 0
  cut: bool = False

  def __post_init__(self):
    if isinstance(self.keys, str) or not self.keys:
      raise DataError(f'Pad(keys={self.keys!r}): must be a tuple of keys, such as ("inputs", "labels")')
    if self.length < 1:
      raise DataError(f"Pad(length={self.length}): must be at least 1")

  def fill(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> dict[str, np.ndarray]:
    """Return those of the columns, lists of arrays by path, that are to be filled up, and the mask.

    Raises:
      DataError: an array is too long, has no axis, or is not as long as another of its example.
    """
    found: dict[str, np.ndarray] = {}
    lengths: list[int] | None = None
    for key in self.keys:
      if key not in columns:
        continue
      rows = [as_array(key, row) for row in columns[key]]
      own = [self._length(key, row) for row in rows]
      if lengths is not None and (lengths != own):
        number = next(number for number, pair in enumerate(zip(lengths, own, strict=True)) if pair[0] != pair[1])
        first = next(iter(found))
        raise DataError(
          f"{key} has length {own[number]}, but {first} of the same example has {lengths[number]}; give each a Pad of"
          " its own, with a mask of its own"
        )
      lengths = own
      filled = np.full((len(rows), self.length, *rows[0].shape[1:]), self.value, np.result_type(*rows))
      for number, row in enumerate(rows):
        filled[number, : own[number]] = row[: self.length]
      found[key] = filled
    if lengths is not None:
      found[self.mask] = np.arange(self.length) < np.array(lengths)[:, None]
    return found

  def _length(self, key: str, row: np.ndarray) -> int:
    if not row.ndim:
      raise DataError(f"{key} is a single value, and cannot be padded")
    if len(row) > self.length and not self.cut:
      raise DataError(
        f"{key} has length {len(row)}, more than the {self.length} of its Pad; raise that, or set cut=True"
      )
    return min(len(row), self.length)


@dataclasses.dataclass(frozen=True)
class Items:
  """Examples of an object with `__len__` and `__getitem__` or `__getitems__` as a split.

  Attributes:
    items: the object.
    keys: of the examples.
    pads: what is filled up.
    paths: of the arrays that are stacked; None: all.
  """

  items: Any
  keys: Keys = None
  pads: tuple[Pad, ...] = ()
  paths: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.items)

  def only(self, paths: Iterable[str]) -> "Items":
    """Return the split with these arrays alone."""
    return dataclasses.replace(self, paths=tuple(paths))

  def read(self, indices: np.ndarray) -> dict[str, Any]:
    """Return the examples at these indices, stacked."""
    wanted = indices.tolist()
    many = getattr(self.items, "__getitems__", None)
    examples = many(wanted) if many else [self.items[index] for index in wanted]
    needed = None if self.paths is None else {*self.paths, *measured(self.pads, self.paths)}
    return padded(stacked([named(example, self.keys) for example in examples], needed), self.pads, self.paths)


def named(example: Any, keys: Keys) -> Any:
  """Return an example, or a split in memory, as a mapping with the keys that are given; what is none as it is.

  Without keys, the second entry of a tuple is "labels" if it has whole numbers, else "targets".

  Raises:
    DataError: a tuple has another number of entries, or a mapping lacks a key.
  """
  if isinstance(example, Mapping):
    if not isinstance(keys, Mapping):
      return example
    if missing := [key for key in keys if key not in example]:
      raise DataError(f"has no {missing[0]!r}, which keys name; it has {', '.join(map(repr, example))}")
    return {keys.get(key, key): value for key, value in example.items()}
  if not isinstance(example, tuple | list):
    return example
  names: Collection[str] = keys if isinstance(keys, Sequence) else ("inputs", _kind_of_answer(example))
  if len(example) != len(names) or isinstance(keys, Mapping):
    how = "trialbook.Data(splits=..., keys=('inputs', 'labels', ...))"
    raise DataError(f"is a tuple of {len(example)}; name each of its entries: {how}")
  return dict(zip(names, example, strict=True))


def _kind_of_answer(example: Sequence[Any]) -> str:
  return "labels" if len(example) > 1 and np.asarray(example[1]).dtype.kind in "iu" else "targets"


def measured(pads: Sequence[Pad], paths: Collection[str]) -> list[str]:
  """Return the arrays whose lengths the masks among some paths say."""
  return [key for pad in pads if pad.mask in paths for key in pad.keys[:1]]


def padded(columns: Mapping[str, Any], pads: Sequence[Pad], only: Collection[str] | None = None) -> dict[str, Any]:
  """Return columns by path with those filled up that pads name, and their masks.

  Args:
    columns: arrays [n, ...], or lists of n arrays.
    pads: which are filled up.
    only: the paths that are needed; None: all.

  Raises:
    DataError: as `Pad.fill`, or a mask has the name of an array.
  """
  found = dict(columns)
  for pad in pads:
    filled = pad.fill(columns)
    if pad.mask in filled and pad.mask in columns:
      raise DataError(f"has {pad.mask!r} already; name the mask otherwise: Pad(mask=...)")
    found |= filled
  return found if only is None else {path: found[path] for path in only if path in found}

"""The validation examples as training examples, for the last training of all (PB-43)."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from trialbook.input_pipeline.source import Arrays, Batch, Source, Split


@dataclasses.dataclass(frozen=True)
class Joined:
  """Two splits, one after the other."""

  first: Split
  second: Split

  def __len__(self) -> int:
    return len(self.first) + len(self.second)

  def only(self, paths: Iterable[str]) -> "Joined":
    """Return the split with these arrays alone, where its parts can leave others out."""
    wanted = list(paths)
    return Joined(*(getattr(part, "only", lambda _, part=part: part)(wanted) for part in (self.first, self.second)))

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at these indices."""
    is_first = indices < len(self.first)
    parts = self.first.read(indices[is_first]), self.second.read(indices[~is_first] - len(self.first))
    # The places of the examples among those that were read, in the order in which they are wanted.
    order = np.empty(len(indices), np.int64)
    order[np.concatenate([np.flatnonzero(is_first), np.flatnonzero(~is_first)])] = np.arange(len(indices))
    return {path: np.concatenate([part[path] for part in parts])[order] for path in parts[0]}


def with_validation(source: Source) -> Source:
  """Return a source whose training split has the validation examples too, after its own; the others stay.

  Inputs are normalized as before, so that only the number of examples differs.
  """
  train, validation = source.splits["train"], source.splits["validation"]
  joined: Split
  if isinstance(train, Arrays) and isinstance(validation, Arrays):
    joined = Arrays({path: np.concatenate([array, validation.arrays[path]]) for path, array in train.arrays.items()})
  else:
    joined = Joined(train, validation)
  examples = {**source.info.examples, "train": len(joined)}
  info = dataclasses.replace(source.info, examples=examples)
  return dataclasses.replace(source, info=info, splits={**source.splits, "train": joined})

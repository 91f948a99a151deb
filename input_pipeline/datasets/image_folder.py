"""Image files in folders: `train/cat/1.jpg` is a training example of the class "cat"."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import Field, PositiveInt

from trialbook.errors import DataError
from trialbook.input_pipeline import images
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.checked_source import checked, is_split
from trialbook.input_pipeline.source import SPLITS, Batch, Source
from trialbook.paths import as_local_path
from trialbook.settings import FilePath, Host, Settings, Static

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")


class ImageFolder(Settings):
  """Images below `path`, in a folder for each split ("train", "validation", perhaps "test"), and there for each class.

  The classes are the folders of "train" in the order of their names. An image is scaled until it covers `size`, and
  cropped around its centre.
  """

  name: Static[Literal["image_folder"]] = "image_folder"
  path: Host[FilePath[str | None]] = None
  size: Static[tuple[PositiveInt, PositiveInt]] = (224, 224)
  """Height and width in pixels."""
  channels: Static[Literal[1, 3]] = 3
  normalization: Static[tuple[tuple[float, ...], tuple[float, ...]] | None] = None
  """(means, deviations) by channel, of bytes 0 to 255; None: those of 2,000 training images, which are decoded for that
  at the start."""
  workers: Host[int] = Field(default=0, ge=0)
  """Processes that decode; 0: the training process does. The batches are the same."""
  augmentation: Augmentation | None = None

  def read(self) -> Source:
    """List the files. Raise `DataError` that names what is missing."""
    if self.path is None:
      raise DataError("dataset image_folder: dataset.path is not set; set it to the folder that has train/")
    folder = as_local_path(self.path)
    images.pillow()
    names = (
      [one.name for one in sorted(folder.iterdir()) if one.is_dir() and is_split(one.name)] if folder.is_dir() else []
    )
    if missing := [split for split in SPLITS[:2] if split not in names]:
      raise DataError(
        f"dataset image_folder: {folder} has no folder {' and no folder '.join(missing)};"
        " an image is at train/CLASS/FILE or validation/CLASS/FILE there"
      )
    classes = [one.name for one in sorted((folder / "train").iterdir()) if one.is_dir()]
    splits = {split: self._split(folder / split, classes) for split in names}
    return checked(
      f"dataset image_folder in {folder}",
      "image_folder",
      splits,
      num_classes=len(classes),
      normalization=self.normalization,
    )

  def _split(self, folder: pathlib.Path, classes: list[str]) -> "ImageFiles":
    found = [one.name for one in sorted(folder.iterdir()) if one.is_dir()]
    if unknown := [name for name in found if name not in classes]:
      raise DataError(f"dataset image_folder: {folder / unknown[0]} is a class that train/ has not")
    paths, labels = [], []
    for label, name in enumerate(classes):
      files = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in ENDINGS)
      paths += files
      labels += [label] * len(files)
    if not paths:
      raise DataError(f"dataset image_folder: {folder} has no images in folders of classes; images end with {ENDINGS}")
    return ImageFiles(tuple(paths), np.array(labels, np.int32), self.size, self.channels)


@dataclasses.dataclass(frozen=True)
class ImageFiles:
  """Image files and their classes, decoded when they are read.

  Attributes:
    paths: the files.
    labels: int32, one for each.
    size: height and width.
    channels: 1 or 3.
    keys: what is read.
  """

  paths: tuple[pathlib.Path, ...]
  labels: np.ndarray
  size: tuple[int, int]
  channels: int
  keys: tuple[str, ...] = ("inputs", "labels")

  def __len__(self) -> int:
    return len(self.paths)

  def only(self, paths: Iterable[str]) -> "ImageFiles":
    """Return the split with these arrays alone."""
    return dataclasses.replace(self, keys=tuple(paths))

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at these indices. Raise DataError that names a file that is not an image."""
    batch: Batch = {}
    if "inputs" in self.keys:
      batch["inputs"] = images.all_decoded(self._image, indices.tolist())
    if "labels" in self.keys:
      batch["labels"] = self.labels[indices]
    return batch

  def _image(self, index: int) -> np.ndarray:
    try:
      return images.decoded(self.paths[index], self.size, self.channels)
    except (OSError, ValueError, SyntaxError) as error:
      raise DataError(f"{self.paths[index]}: cannot be read as an image: {error}") from error

"""Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels, 10 classes.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", 2017 (MIT licence). Debian packages the original files as dataset-fashion-mnist.
"""

import filecmp
import pathlib
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from trialbook.errors import DataError
from trialbook.input_pipeline import cache, source, split
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.datasets import idx
from trialbook.settings import FilePath, Host, Settings, Static

FILES: dict[str, tuple[int, ...]] = {
  "train-images-idx3-ubyte.gz": (60_000, 28, 28),
  "train-labels-idx1-ubyte.gz": (60_000,),
  "t10k-images-idx3-ubyte.gz": (10_000, 28, 28),
  "t10k-labels-idx1-ubyte.gz": (10_000,),
}
VALIDATION_EXAMPLES = 5_000
NUM_CLASSES = 10

HOW_TO_GET = """to get it (31 MB, nothing is installed):
  apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR
  trialbook data prepare fashion_mnist --from=DIR"""


class FashionMnist(Settings):
  """55,000 train, 5,000 validation and 10,000 test images (uint8 [28, 28, 1]) of 10 classes.

  Validation examples come from the original train files: 500 of each class, fixed, whatever the run's seed.
  The test split is the original one. `data_dir` is the directory that holds the prepared `fashion_mnist/`; by
  default $TRIALBOOK_DATA_DIR, or else ~/.cache/trialbook/data.

  Attributes:
    data_dir: see above.
    augmentation: of training examples; None: none.
    split_seed: another one draws other validation examples from the train files (PB-41).
  """

  name: Static[Literal["fashion_mnist"]] = "fashion_mnist"
  data_dir: Host[FilePath[str | None]] = None
  augmentation: Augmentation | None = None
  split_seed: Host[int] = Field(default=0, ge=0)

  def read(self) -> source.Source:
    """Read the prepared files (0.6 s). Raise `DataError` that lists every problem with them."""
    folder = cache.root(self.data_dir) / "fashion_mnist"
    arrays, problems = _read_all({name: folder / name for name in FILES})
    if problems:
      absent = not folder.is_dir()
      problems = ["not prepared"] if absent else problems
      raise DataError("\n".join([f"dataset fashion_mnist in {folder}:", *(f"  {p}" for p in problems), HOW_TO_GET]))
    images, labels, test_images, test_labels = (arrays[name] for name in FILES)
    train, validation, _ = split.stratified(
      labels, "fashion_mnist", validation=VALIDATION_EXAMPLES, seed=self.split_seed
    )
    return source.classification(
      "fashion_mnist",
      {
        "train": images[train, ..., None],
        "validation": images[validation, ..., None],
        "test": test_images[..., None],
      },
      {"train": labels[train], "validation": labels[validation], "test": test_labels},
      num_classes=NUM_CLASSES,
    )


def prepare(found_in: pathlib.Path | None, data_dir: str | None = None) -> pathlib.Path:
  """Verify the four files, which may lie anywhere below `found_in`, and copy them into the data directory.

  Every file is checked before any is copied, and each appears whole or not at all; a repetition changes
  nothing.

  Returns:
    The directory that now holds them.

  Raises:
    DataError: one message with all problems; nothing was written.
  """
  if found_in is None:
    raise DataError(
      f"prepare fashion_mnist: --from is missing; give --from=DIR, the directory of the four files\n{HOW_TO_GET}"
    )
  if not found_in.is_dir():
    raise DataError(f"prepare fashion_mnist: --from={found_in} is not a directory\n{HOW_TO_GET}")
  paths, problems = {}, []
  for name in FILES:
    places = sorted(path for path in found_in.rglob(name) if path.is_file())
    if not places:
      problems.append(f"{name}: missing")
    elif any(not filecmp.cmp(places[0], other, shallow=False) for other in places[1:]):
      problems.append(f"{name}: several files with this name differ: {', '.join(map(str, places))}")
    else:
      paths[name] = places[0]
  problems += _read_all(paths)[1]
  if problems:
    lines = [f"prepare fashion_mnist: the files in {found_in} cannot be used:", *(f"  {p}" for p in problems)]
    raise DataError("\n".join([*lines, HOW_TO_GET]))
  return cache.install("fashion_mnist", paths, data_dir)


def _read_all(paths: Mapping[str, pathlib.Path]) -> tuple[dict[str, np.ndarray], list[str]]:
  """Return the arrays of the files that are right, and what is wrong with the others."""
  arrays, problems = {}, []
  for name, path in paths.items():
    try:
      arrays[name] = idx.read(path, FILES[name])
    except DataError as error:
      problems.append(str(error))
      continue
    if arrays[name].ndim == 1 and arrays[name].max() >= NUM_CLASSES:
      problems.append(f"{path}: has the label {arrays[name].max()}, expected 0 to {NUM_CLASSES - 1}")
  return arrays, problems

"""The handwritten digits that come inside scikit-learn: 1,797 grey images of 8x8 pixels, values 0 to 16.

Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998 (its
test part).
"""

import gzip
import importlib.util
import pathlib
from typing import Literal

import numpy as np
from pydantic import Field

from trialbook.errors import DataError
from trialbook.input_pipeline import source, split
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.settings import Host, Settings, Static


class Digits(Settings):
  """1,297 train, 250 validation and 250 test images (uint8 [8, 8, 1], values 0 to 16) of 10 classes.

  The split is fixed, stratified by class, and does not depend on the run's seed. It mixes the writers, so
  it is easier than the original task, in which the test set has writers of its own.

  Attributes:
    augmentation: of training examples; None: none.
    split_seed: another one draws other validation examples, and leaves the test examples as they are (PB-41).
  """

  name: Static[Literal["digits"]] = "digits"
  augmentation: Augmentation | None = None
  split_seed: Host[int] = Field(default=0, ge=0)

  def read(self) -> source.Source:
    """Read the file in the installed scikit-learn. Raise `DataError` if that is missing."""
    # Reading the file takes 5 ms; importing sklearn.datasets to do the same takes a second.
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
      raise DataError("dataset digits comes with scikit-learn, which is not installed; run pip install scikit-learn")
    path = pathlib.Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    try:
      with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    except (OSError, EOFError, ValueError) as error:
      raise DataError(f"dataset digits: cannot read {path}: {error}; reinstall scikit-learn") from error
    images, labels = table[:, :64].reshape(-1, 8, 8, 1), table[:, 64]
    parts = split.stratified(labels, "digits", validation=250, test=250, seed=self.split_seed)
    chosen = dict(zip(source.SPLITS, parts, strict=True))
    return source.classification(
      "digits",
      {name: images[index] for name, index in chosen.items()},
      {name: labels[index] for name, index in chosen.items()},
      num_classes=10,
    )

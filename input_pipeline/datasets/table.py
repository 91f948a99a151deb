"""Two small tables that come inside scikit-learn: numbers in, a class or a number out.

Sources: W. Street, W. Wolberg and O. Mangasarian, "Nuclear feature extraction for breast tumor diagnosis", 1993;
B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least angle regression", 2004 (diabetes).
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


class Table(Settings):
  """breast_cancer: 369 train, 100 validation and 100 test rows of 30 float32 features, 2 classes.

  diabetes: 282, 80 and 80 rows of 10 float32 features, and one target, the progression in a year (25 to 346). The
  split is fixed; that of breast_cancer is stratified. The features are as they were measured; mean and deviation of
  each in the train split are the normalization, which the model applies. The target is not standardised.

  Attributes:
    table: which of both.
    augmentation: of training examples; None: none.
    split_seed: another one draws other validation examples, and leaves the test examples as they are (PB-41).
  """

  name: Static[Literal["table"]] = "table"
  table: Static[Literal["breast_cancer", "diabetes"]] = "breast_cancer"
  augmentation: Augmentation | None = None
  split_seed: Host[int] = Field(default=0, ge=0)

  def read(self) -> source.Source:
    """Read the files in the installed scikit-learn. Raise `DataError` if that is missing."""
    if self.table == "breast_cancer":
      rows = _numbers("breast_cancer.csv", delimiter=",", skip_rows=1)
      inputs, labels = rows[:, :-1].astype(np.float32), rows[:, -1].astype(np.int64)
      parts = split.stratified(labels, "breast_cancer", validation=100, test=100, seed=self.split_seed)
      chosen = dict(zip(source.SPLITS, parts, strict=True))
      return source.classification(
        "table",
        {name: inputs[index] for name, index in chosen.items()},
        {name: labels[index] for name, index in chosen.items()},
        num_classes=2,
        normalization=_statistics(inputs[chosen["train"]]),
      )
    inputs = _numbers("diabetes_data_raw.csv.gz").astype(np.float32)
    targets = _numbers("diabetes_target.csv.gz").reshape(-1, 1)
    # All of one class: a plain random split.
    no_classes = np.zeros(len(inputs), np.int64)
    parts = split.stratified(no_classes, "diabetes", validation=80, test=80, seed=self.split_seed)
    chosen = dict(zip(source.SPLITS, parts, strict=True))
    return source.regression(
      "table",
      {name: inputs[index] for name, index in chosen.items()},
      {name: targets[index] for name, index in chosen.items()},
      normalization=_statistics(inputs[chosen["train"]]),
    )


def _statistics(inputs: np.ndarray) -> source.Normalization:
  deviation = inputs.std(axis=0, dtype=np.float64)
  return tuple(inputs.mean(axis=0, dtype=np.float64).tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist())


def _numbers(name: str, delimiter: str | None = None, skip_rows: int = 0) -> np.ndarray:
  # Reading the file takes milliseconds; importing sklearn.datasets to do the same takes a second.
  package = importlib.util.find_spec("sklearn")
  if package is None or not package.submodule_search_locations:
    raise DataError("dataset table comes with scikit-learn, which is not installed; run pip install scikit-learn")
  path = pathlib.Path(package.submodule_search_locations[0], "datasets", "data", name)
  try:
    with gzip.open(path, "rt") if name.endswith(".gz") else open(path) as file:
      return np.loadtxt(file, delimiter=delimiter, skiprows=skip_rows)
  except (OSError, EOFError, ValueError) as error:
    raise DataError(f"dataset table: cannot read {path}: {error}; reinstall scikit-learn") from error

"""Puts the files of a dataset where training reads them."""

import pathlib
import re

from trialbook.errors import DataError
from trialbook.input_pipeline.datasets import tfds, tfds_preparation
from trialbook.input_pipeline.registry import PREPARE, datasets
from trialbook.naming import nearest


def prepare(name: str, found_in: pathlib.Path | None, data_dir: str | None) -> pathlib.Path:
  """Prepare a dataset and return its folder.

  Args:
    name: of the dataset, or "tfds:NAME".
    found_in: the folder that holds its files now; None if it needs none.
    data_dir: of prepared datasets; None is the default.

  Raises:
    DataError: if the dataset is unknown or needs no preparation, or its files are missing or wrong.
  """
  if name in PREPARE:
    return PREPARE[name](found_in, data_dir)
  if re.match(tfds.NAME, name):
    return tfds_preparation.prepare(name.removeprefix("tfds:"), found_in, data_dir)
  if name in datasets():
    raise DataError(f"dataset {name} needs no preparation; those that do: {', '.join(PREPARE)}, tfds:NAME")
  raise DataError(f"unknown dataset {name!r}{nearest(name, [*PREPARE, 'tfds:NAME'])}")

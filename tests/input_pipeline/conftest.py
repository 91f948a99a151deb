"""Flags of the command, as they were."""

from collections.abc import Iterator

import pytest
from absl import flags


@pytest.fixture
def clean_flags() -> Iterator[None]:
  """Give the flags back the values that they had before a command was called in this process."""
  saved = flags.FLAGS.flag_values_dict()
  yield
  for name, value in saved.items():
    setattr(flags.FLAGS, name, value)
  flags.FLAGS.unparse_flags()

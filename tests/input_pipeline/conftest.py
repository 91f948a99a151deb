"""Flags of the command, as they were; and a module of the user's."""

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from absl import flags

from trialbook.input_pipeline import PluginDataset


@pytest.fixture
def clean_flags() -> Iterator[None]:
  """Give the flags back the values that they had before a command was called in this process."""
  saved = flags.FLAGS.flag_values_dict()
  yield
  for name, value in saved.items():
    setattr(flags.FLAGS, name, value)
  flags.FLAGS.unparse_flags()


@pytest.fixture(name="plugin")
def user_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], PluginDataset]:
  """Gives a dataset config whose function returns what the test says."""
  module = types.ModuleType("users_own_data")
  module.__file__ = "users_own_data.py"
  monkeypatch.setitem(sys.modules, "users_own_data", module)

  def dataset(built: Any) -> PluginDataset:
    vars(module)["build"] = lambda: built
    return PluginDataset(name="users_own_data:build")

  return dataset

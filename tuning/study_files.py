"""Study files: Python files with a function `get_study()` that returns a `Study` or a `Round`."""

import pathlib

from trialbook.errors import ConfigError
from trialbook.trainer.config_files import load_function_result
from trialbook.tuning.study import Round, Study


def load_study(path: str | pathlib.Path) -> Study | Round:
  """Return what the file's `get_study()` returns.

  Raises:
    ConfigError: if the file is missing, does not run, has no `get_study`, or returns something else.
  """
  study = load_function_result(path, "--study", "get_study", "a trialbook.Study or a trialbook.Round")
  if not isinstance(study, Study | Round):
    raise ConfigError(
      f"{path}: get_study() returned {type(study).__name__}, not a trialbook.Study or a trialbook.Round"
    )
  return study

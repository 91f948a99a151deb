"""Experiment files: Python files with a function `get_config()` that returns a `Config`."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pydantic

from trialbook.errors import ConfigError, UserError, said
from trialbook.naming import nearest
from trialbook.paths import PathError, as_local_path, as_path
from trialbook.record import sentences
from trialbook.settings import Settings
from trialbook.trainer.overrides import explain

if TYPE_CHECKING:
  from trialbook.trainer.config import Config

DEFAULT = pathlib.Path(__file__).resolve().parent.parent / "experiments" / "digits_resnet.py"


def load_config(path: str | pathlib.Path) -> Config:
  """Return the config that the file's `get_config()` returns, or that a run's `config.json` holds.

  Raises:
    ConfigError: if the file is missing, does not run, has no `get_config`, or describes no valid config.
  """
  # A file with the study of a function is read by this module, too, and imports neither jax nor flax.
  from trialbook.trainer.config import Config
  from trialbook.trainer.workdir.existing_run import stored_config

  path = as_path(path)
  if path.name == "config.json" and path.is_file():
    return stored_config(path.parent)
  config = load_function_result(path, "--config", "get_config", "a trialbook.Config")
  if not isinstance(config, Config):
    raise ConfigError(f"{path}: get_config() returned {type(config).__name__}, not a trialbook.Config")
  return config


def load_function_result(path: str | pathlib.Path, flag: str, function: str, returns: str) -> Any:
  """Call a function in a Python file without arguments, and return its result.

  Args:
    path: of the file.
    flag: that named it, for messages.
    function: its name.
    returns: what it must return, in words.

  Raises:
    ConfigError: if the file is missing, does not run, has no such function, or sets something that cannot be.
  """
  try:
    path = as_local_path(path)
  except PathError as error:
    raise ConfigError(f"{flag}: {error}") from None
  if not path.is_file():
    siblings = [str(sibling) for sibling in path.parent.glob("*.py")] if path.parent.is_dir() else []
    raise ConfigError(f"{flag}={path}: there is no such file{nearest(str(path), siblings) if siblings else ''}")
  spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
  if spec is None or spec.loader is None:
    raise ConfigError(f"{flag}={path}: is not a Python file")
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module
  try:
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
      raise ConfigError(f"{path}: has no function {function}(); it must return {returns}")
    return getattr(module, function)()
  except UserError:
    raise
  except pydantic.ValidationError as error:
    kind = next((kind for kind in _settings_classes() if kind.__name__ == error.title), None)
    # It may be a model of the user's.
    problems = sentences(error) if kind is None else explain(error, kind)
    raise ConfigError([f"{path}: {error.title}: {problem}" for problem in problems]) from None
  except SyntaxError as error:
    raise ConfigError(f"{error.filename}:{error.lineno}: {error.msg}: {(error.text or '').strip()}") from None
  except (Exception, SystemExit) as error:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f":{frames[-1].lineno}" if frames else ""
    raise ConfigError(f"{path}{line}: {said(error)}") from None


def _settings_classes() -> list[type[Settings]]:
  found = Settings.__subclasses__()
  for kind in found:
    found += kind.__subclasses__()
  return found

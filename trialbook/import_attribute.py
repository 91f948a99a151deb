"""Things from outside the repository, named as "module:name", which need to import nothing of ours."""

import contextlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import pkgutil
import sys
import traceback
from typing import Any

from trialbook.errors import said
from trialbook.naming import nearest

_ROOMS = ("trainer", "models", "input_pipeline", "launch", "tuning", "experiments")
_MOVED = {"trainer.split_metrics": "trialbook.trainer.custom_metrics"}
"""Modules of ours that configs of version 0.1 name -> what they are called now."""


class PluginError(ValueError):
  """A plug-in cannot be loaded; the text says what would be right."""


def import_attribute(field: str, path: str) -> Any:
  """Return what "module:name" names, looking in the current directory last; `field` is the setting that names it.

  Raises:
    PluginError: the module is missing or raises, or has no such name.
  """
  module_name, _, name = path.partition(":")
  module_name = _present_name(module_name)
  search_current_directory()
  try:
    module = importlib.import_module(module_name)
  except (Exception, SystemExit) as error:
    raise PluginError(f"{field} {path!r}: {_import_failure(module_name, error)}") from error
  if not hasattr(module, name):
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    raise PluginError(f"{field} {path!r}: {module.__file__} has no {name!r}{nearest(name, own)}")
  return getattr(module, name)


def place_of(code: Any) -> str:
  """Return file and line of a class or function, for the end of a message; "" if they are not known."""
  with contextlib.suppress(TypeError, OSError):
    code = inspect.unwrap(code)
    return f" ({inspect.getsourcefile(code)}, line {inspect.getsourcelines(code)[1]})"
  return ""


def _present_name(module: str) -> str:
  """Return what a module is called now that was in a room of a checkout of version 0.1: `experiments.my_net`."""
  room = module.partition(".")[0]
  here = pathlib.Path.cwd() / room / "__init__.py"
  if room in _ROOMS and here.exists() and (pathlib.Path(__file__).parent / room / "__init__.py").samefile(here):
    module = _MOVED.get(module, f"trialbook.{module}")
  return _MOVED.get(module, module)


def search_current_directory() -> None:
  """Put the current directory last on the path, where it shadows no library. It stays: a model may import lazily."""
  directory = os.getcwd()
  if "" not in sys.path and directory not in sys.path:
    sys.path.append(directory)
  importlib.invalidate_caches()


def _import_failure(module: str, error: BaseException) -> str:
  missing = error.name if isinstance(error, ModuleNotFoundError) else None
  if missing is None or not f"{module}.".startswith(f"{missing}."):
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""
    return f"importing {module!r} failed: {said(error)}{where}"
  package = module.partition(".")[0]
  if missing != package:
    # Another package of that name may come first on the path, ours included.
    spec = importlib.util.find_spec(package)
    places = spec and (spec.submodule_search_locations or [spec.origin])
    return f"there is no module {missing!r}; {package!r} was found at {', '.join(map(str, places or []))}"
  here = [found.name for found in pkgutil.iter_modules([os.getcwd()])]
  looked = ", ".join(entry or os.getcwd() for entry in sys.path)
  return (
    f"there is no module {missing!r}{nearest(missing, here)}; "
    f"looked in {looked} (the current directory {os.getcwd()} is among them)"
  )

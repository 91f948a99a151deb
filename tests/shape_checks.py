"""Checks the shapes and dtypes in annotations, such as `Float[Array, "B D"]`, whenever a function of ours is called.

jaxtyping binds the names of axes for one call, and beartype compares. All other annotations are left to pyright: tests
pass stand-ins for many of them. `jaxtyping.install_import_hook` would also wrap the functions without shapes, nine of
ten, which takes seconds at each start.
"""

import importlib.abc
import importlib.machinery
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jaxtyping
from beartype import beartype

ROOMS = ("trialbook.models", "trialbook.trainer", "trialbook.tuning.search")
"""Where annotations have shapes."""


def install() -> None:
  """Check the functions of modules in `ROOMS` that are imported from now on."""
  sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
  def find_spec(
    self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    if not f"{fullname}.".startswith(tuple(f"{room}." for room in ROOMS)):
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
      spec.loader = _Loader(spec.loader.name, spec.loader.path)
    return spec


class _Loader(importlib.machinery.SourceFileLoader):
  def exec_module(self, module: types.ModuleType) -> None:
    super().exec_module(module)
    _check(module, module.__name__)


def _check(owner: Any, module: str) -> None:
  """Replace the functions of a module, and the methods of its classes."""
  for name, value in list(vars(owner).items()):
    if getattr(value, "__module__", None) != module:
      continue
    if inspect.isclass(value):
      _check(value, module)
    elif inspect.isfunction(value) and any(map(_has_shape, value.__annotations__.values())):
      setattr(owner, name, _checked(value))


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
  function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)}
  return jaxtyping.jaxtyped(typechecker=beartype)(function)


def _has_shape(hint: Any) -> bool:
  if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
    return True
  return any(map(_has_shape, typing.get_args(hint)))

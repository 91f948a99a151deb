"""Names of arrays: `params/blocks/0/conv/kernel` is where an array lies in a tree, and patterns choose among names."""

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from trialbook.errors import UserError


def flatten(tree: Any) -> dict[str, Any]:
  """Return the leaves of a tree by name. Raises UserError if two of them have the same name."""
  named: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = _name(path)
    if name in named:
      raise UserError(f"two arrays of the model are named {name!r}, because a name contains a slash; rename one")
    named[name] = leaf
  return named


def map_named(function: Callable[[str, Any], Any], tree: Any) -> Any:
  """Return the tree of function(name, leaf)."""
  return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_name(path), leaf), tree)


def changes(before: Any, after: Any) -> list[str]:
  """Return how the arrays of two trees differ in names, shapes and dtypes, in words; empty if they do not differ."""

  def kinds(tree: Any) -> dict[str, str]:
    return {name: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for name, leaf in flatten(tree).items()}

  old, new = kinds(before), kinds(after)
  found = [f"{name} {new[name]} is new" for name in new if name not in old]
  found += [f"{name} {old[name]} is gone" for name in old if name not in new]
  return found + [f"{name} {old[name]} becomes {new[name]}" for name in old if new.get(name, old[name]) != old[name]]


def matches(name: str, patterns: Iterable[str]) -> bool:
  """Return whether one of the patterns (`*` is any text, `?` one character, `[ab]` a choice) fits the whole name."""
  return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")

"""Names in files of others as names of this model's arrays.

A name goes through substitutions of regular expressions, one after the other. In what comes out,

- `blocks/{query,key,value}/kernel` is three arrays, which lie one after the other in the file's;
- `blocks/layer/kernel[3]` is entry 3 of an array of stacked layers;
- an empty name is an array that nobody wants.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from trialbook.errors import ConfigError

Substitutions = tuple[tuple[str, str], ...]

_ENTRY = re.compile(r"(.+)\[(\d+)\]")
_CHOICE = re.compile(r"([^{}]*)\{([^{}]+)\}([^{}]*)")


class Piece(NamedTuple):
  """An array of a file, or a part of it, and where it belongs.

  Attributes:
    source: its name in the file.
    part: which of the equal parts of it.
    parts: their number; 1: all of it.
    name: of the model's array.
    entry: which layer of a stack; None: the whole array.
  """

  source: str
  part: int
  parts: int
  name: str
  entry: int | None


def problems(substitutions: Substitutions) -> list[str]:
  """Return which patterns are no regular expressions."""
  found = []
  for index, (pattern, _) in enumerate(substitutions):
    try:
      re.compile(pattern)
    except re.error as error:
      found.append(f"warm_start.names.{index} = {pattern!r}: is not a regular expression: {error}")
  return found


def pieces(names: Iterable[str], substitutions: Substitutions) -> list[Piece]:
  """Return what the arrays of a file are for the model; nothing for those with an empty name.

  Raises:
    ConfigError: a replacement has a group that its pattern has not.
  """
  return [piece for name in names for piece in _pieces(name, _renamed(name, substitutions))]


def _renamed(name: str, substitutions: Substitutions) -> str:
  for pattern, replacement in substitutions:
    try:
      name = re.sub(pattern, replacement, name)
    except (re.error, IndexError) as error:
      raise ConfigError(f"warm_start.names: {pattern!r} cannot become {replacement!r}: {error}") from None
  return name


def _pieces(source: str, name: str) -> list[Piece]:
  if not name:
    return []
  stacked = _ENTRY.fullmatch(name)
  name, entry = (stacked[1], int(stacked[2])) if stacked else (name, None)
  several = _CHOICE.fullmatch(name)
  names = [f"{several[1]}{choice}{several[3]}" for choice in several[2].split(",")] if several else [name]
  return [Piece(source, part, len(names), one, entry) for part, one in enumerate(names)]

"""Columns whose cells are dictionaries, as the example code of W&B writes them: one column for each of their keys."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.tuning.importers.cells import is_empty


def unpacked(table: Mapping[str, Sequence[Any]]) -> tuple[dict[str, list[Any]], list[str]]:
  """Return a table with a column `COLUMN.KEY` for each key of dictionaries, and the names of the columns that had them.

  Dictionaries in dictionaries are `COLUMN.KEY.KEY`; keys that begin with an underscore and are dictionaries are
  left out.
  """
  found: dict[str, list[Any]] = {}
  names = []
  for column, cells in table.items():
    read = [_dictionary(cell) for cell in cells]
    if not any(read) or any(one is None and not is_empty(cell) for one, cell in zip(read, cells, strict=True)):
      found[column] = list(cells)
      continue
    names.append(column)
    flat = [_flat(column, one or {}) for one in read]
    for key in dict.fromkeys(key for one in flat for key in one):
      found[key] = [one.get(key) for one in flat]
  return found, names


def _dictionary(cell: Any) -> dict[Any, Any] | None:
  if isinstance(cell, dict):
    return cell
  text = cell.strip() if isinstance(cell, str) else ""
  if not (text.startswith("{") and text.endswith("}")):
    return None
  # Python writes numbers that are not finite as names, which no literal is.
  literal = re.sub(r"(?<=[:\[,( ])(-?(?:nan|inf))(?=[,\]})])", r"'\1'", text)
  for parse, given in ((ast.literal_eval, literal), (json.loads, text)):
    try:
      parsed = parse(given)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      continue
    return parsed if isinstance(parsed, dict) else None
  return None


def _flat(prefix: str, stored: Mapping[Any, Any]) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for key, value in stored.items():
    name = f"{prefix}.{key}"
    if isinstance(value, dict):
      if not str(key).startswith("_") and "_type" not in value:
        found |= _flat(name, value)
    elif isinstance(value, list | tuple):
      found[name] = str(value)
    else:
      found[name] = value
  return found

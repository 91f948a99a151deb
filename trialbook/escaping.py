"""Text of others in files of ours: each format has a function that makes it mean nothing but itself there."""

import re
import urllib.parse
from typing import Any


def markdown(text: Any) -> str:
  """Return text on one line, escaped so that Markdown shows it unchanged.

  An underscore within a word needs no escape.
  """
  return re.sub(r"([\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))


def markdown_code(text: str) -> str:
  """Return text on one line as code in a cell of a Markdown table, where a bar would end the cell."""
  line = " ".join(text.split()).replace("|", r"\|")
  fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
  space = " " if line.startswith("`") or line.endswith("`") else ""
  return f"{fence}{space}{line}{space}{fence}"


def markdown_link(text: str, path: str) -> str:
  """Return a link to a file below the one that has it; a colon in the path makes no scheme such as `javascript:`."""
  return f"[{markdown(text)}]({urllib.parse.quote(path)})"


def spreadsheet(cell: Any) -> Any:
  """Return a cell of a CSV file: text that a spreadsheet would compute as a formula has an apostrophe before it."""
  if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
    return cell
  try:
    float(cell)
  except ValueError:
    return f"'{cell}"
  return cell

"""Text of others in files of ours: each format has a function that makes it mean nothing but itself there."""

import re
import urllib.parse
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# The place of an escape in a line that would begin a heading, a list or a rule: "# x", "- x", "1. x", "---".
_BLOCK = re.compile(r"^(\d{1,9}(?=[.)])|(?=[#+=-]))(?=.[#=-]*(?: |$))")


def visible(text: str) -> str:
  """Return text for a terminal, where control characters would move the cursor, change colors or turn text around."""
  return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def markdown(text: Any) -> str:
  """Return text on one line, escaped so that Markdown shows it unchanged.

  An underscore within a word needs no escape.
  """
  line = re.sub(r"([\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w))", r"\\\1", visible(" ".join(str(text).split())))
  return _BLOCK.sub(r"\1\\", line)


def markdown_code(text: str) -> str:
  """Return text on one line as code in a cell of a Markdown table, where a bar would end the cell."""
  line = visible(" ".join(text.split())).replace("|", r"\|")
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

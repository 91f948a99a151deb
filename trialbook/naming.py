"""Unknown names in messages: what was probably meant, and what there is; and names that say a step."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
  """Return the end of a message about an unknown name: `; did you mean 'adam'? available: adam, sgd`."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  guess = f"; did you mean {close[0]!r}?" if close else ";"
  return f"{guess} available: {', '.join(known) or 'none'}"


def step_of(name: str) -> int | None:
  """Return the step that the name of a checkpoint's folder says, as it is written by us; None if it says none."""
  # Neither "055" nor "²" is one, and int() refuses thousands of digits.
  is_step = name.isascii() and name.isdigit() and len(name) < 19 and (name == "0" or name[0] != "0")
  return int(name) if is_step else None

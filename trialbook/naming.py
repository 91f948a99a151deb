"""Unknown names in messages: what was probably meant, and what there is."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
  """Return the end of a message about an unknown name: `; did you mean 'adam'? available: adam, sgd`."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  guess = f"; did you mean {close[0]!r}?" if close else ";"
  return f"{guess} available: {', '.join(known) or 'none'}"

"""Callbacks that come too late: if an array cannot be read, Orbax closes its event loop at once, and the threads that
read the other arrays still report to it."""

import functools
import sys


@functools.cache
def ignore() -> None:
  """Drop such reports from now on, of each of which Python would print a traceback."""
  before = sys.unraisablehook

  def hook(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  sys.unraisablehook = hook

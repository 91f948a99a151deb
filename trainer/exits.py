"""Exit codes, the same for every command: scripts and supervisors go by them."""

import os
import sys
from typing import NoReturn

DONE = 0
USER_MISTAKE = 2
"""Config, data or arguments; trying again does not help."""
INFEASIBLE = 3
"""The hyperparameters do not work (PB-21): the loss or the parameters stopped being finite."""
TRY_AGAIN = 75
"""Preempted, a peer died or never came, a hang."""
INTERRUPTED = 130
"""Ctrl-C."""


def leave(code: int) -> NoReturn:
  """Ends the process with a code, also where whoever read its output has gone: Python would give one about that."""
  try:
    sys.stdout.flush()
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(code)

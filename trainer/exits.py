"""Exit codes, the same for every command: scripts and supervisors go by them."""

DONE = 0
USER_MISTAKE = 2
"""Config, data or arguments; trying again does not help."""
INFEASIBLE = 3
"""The hyperparameters do not work (PB-21): the loss or the parameters stopped being finite."""
TRY_AGAIN = 75
"""Preempted, a peer died or never came, a hang."""
INTERRUPTED = 130
"""Ctrl-C."""

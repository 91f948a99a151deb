"""Runs commands of `trialbook tune` in processes of their own, which import what tests of studies do."""

import os
import pathlib

from forked import Forked, New

TESTS = pathlib.Path(__file__).resolve().parents[1]
ENVIRONMENT = {"PYTHONPATH": f"{TESTS / 'tuning'}:{TESTS / 'trainer'}"}


def start(*arguments: object, output: pathlib.Path, errors: pathlib.Path | None = None, **environment: str) -> Forked:
  """Starts a command; `environment` is added to this process's."""
  return Forked(
    ["-m", "trialbook", "tune", *arguments], output, errors, environment={**os.environ, **ENVIRONMENT, **environment}
  )


def start_new(*arguments: object, output: pathlib.Path, **environment: str) -> Forked:
  """As `start`, by a new interpreter, which starts new ones."""
  return New(["-m", "trialbook", "tune", *arguments], output, environment={**os.environ, **ENVIRONMENT, **environment})

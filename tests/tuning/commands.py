"""Runs commands of `trialbook tune` in this process."""

import pathlib

import in_process_command

TRAINING = """
import tiny
from trialbook.tuning import Halton, Log, Minimize, Study

def get_study():
  return Study(name="rate", goal="Which rate?", config=tiny.mlp(), objective=Minimize("validation/error"),
               nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)}, trials=2)
"""
"""A study file of two trainings."""


def outcome(capsys, *arguments) -> tuple[int, str, str]:
  """Exit code, standard output and standard error of a command."""
  return in_process_command.run_command(capsys, "tune", *arguments)


def changes(folder: pathlib.Path) -> dict[pathlib.Path, int]:
  """When each file and folder below was changed."""
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

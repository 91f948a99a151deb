"""Runs commands of `python -m tuning` in this process."""

import pathlib

from tuning.__main__ import main

TRAINING = """
import tiny
from tuning import Halton, Log, Minimize, Study

def get_study():
  return Study(name="rate", goal="Which rate?", config=tiny.mlp(), objective=Minimize("validation/error"),
               nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)}, trials=2)
"""
"""A study file of two trainings."""


def outcome(capsys, *arguments) -> tuple[int, str, str]:
  """Exit code, standard output and standard error of a command."""
  capsys.readouterr()
  try:
    code = main([str(argument) for argument in arguments])
  except SystemExit as leaving:
    code = leaving.code
  printed = capsys.readouterr()
  assert "Traceback" not in printed.err
  assert isinstance(code, int)
  return code, printed.out, printed.err


def files(folder: pathlib.Path) -> dict[pathlib.Path, int]:
  """When each file and folder below was changed."""
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

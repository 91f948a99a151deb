"""Runs a command of `trialbook` in this process."""

import pytest

from trialbook.__main__ import main


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
  """Return the exit code, standard output and standard error of `trialbook ARGUMENTS`; fail on a traceback."""
  capsys.readouterr()
  try:
    code = main([str(argument) for argument in arguments])
  except SystemExit as leaving:
    code = leaving.code
  printed = capsys.readouterr()
  assert "Traceback" not in printed.err
  assert isinstance(code, int)
  return code, printed.out, printed.err

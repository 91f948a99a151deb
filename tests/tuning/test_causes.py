"""The cause of a failure is kept whatever the exception is, and a folder that is gone is told as that."""

import os
import pathlib
import re
import shutil
from collections.abc import Mapping

import pytest
import quadratics
from in_process import run_in_process
from in_process_command import run_command

from trialbook import errors
from trialbook.errors import GoneError, UserError
from trialbook.tuning import Listed, read_results, run_study
from trialbook.tuning.records import read_trials

PLACE: list[pathlib.Path] = []
"""The study that `move` moves."""


class SilentError(Exception):
  def __str__(self) -> str:
    raise RuntimeError("no text")


def half_a_character(x: float) -> Mapping[str, float]:
  raise ValueError("a name \ud800 that no file can hold")


def silent(x: float) -> Mapping[str, float]:
  raise SilentError


def leaves(x: float) -> Mapping[str, float]:
  raise SystemExit(0)


def long(x: float) -> Mapping[str, float]:
  raise ValueError("y" * 5000)


def move(x: float) -> Mapping[str, float]:
  if x == 0.25:
    PLACE[0].rename(PLACE[0].with_name("elsewhere"))
  return {"loss": x}


@pytest.mark.parametrize(
  ("function", "told"),
  [
    ("half_a_character", r"ValueError: a name \\ud800 that no file can hold"),
    ("silent", "SilentError: its text is not known, since its __str__ raised RuntimeError"),
    ("leaves", r"called sys\.exit\(0\)"),
    ("long", r"y{500} \[\.\.\. 4,000 characters are left out \.\.\.\] y{500}"),
  ],
)
def test_the_cause_is_recorded_whatever_the_exception_is(tmp_path: pathlib.Path, function: str, told: str):
  study = quadratics.study(function=f"test_causes:{function}", max_attempts=1, search=Listed([{"x": 0.5}]))
  with pytest.raises(UserError):
    run_study(study, tmp_path / "study", executor=run_in_process)
  (record,) = read_trials(tmp_path / "study").values()
  assert record.state == "failed"
  assert re.search(told, record.reason or "")


def test_a_study_whose_folder_is_moved_ends_with_that_cause_and_is_not_made_again(tmp_path: pathlib.Path):
  PLACE[:] = [tmp_path / "study"]
  with pytest.raises(GoneError, match="study: the folder is gone"):
    run_study(quadratics.study(function="test_causes:move"), tmp_path / "study", executor=run_in_process)
  assert not (tmp_path / "study").exists()
  shutil.move(tmp_path / "elsewhere", tmp_path / "study")
  PLACE[:] = [tmp_path / "nothing"]
  assert read_results(tmp_path / "study").count("complete") == 1


def test_a_long_value_is_not_echoed_whole(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  code, _, said = run_command(capsys, "tune", "best", tmp_path / ("x" * 200), "--objective", "y" * 5000)
  assert code == errors.USER_MISTAKE
  assert len(said) < 3000


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
  os.mkdir(folder)
  code, _, said = run_command(capsys, "tune", "best", folder)
  assert code == errors.USER_MISTAKE
  assert "is not UTF-8" in said

import csv
import dataclasses
import io
import json
import os
import pathlib
import shutil

import pytest
import quadratics
from in_process import run_in_process
from in_process_command import run_command

from trialbook import errors
from trialbook.tuning import read_results, records, run_study, tables, tracking
from trialbook.tuning.records import read_study, write_study


@pytest.fixture
def shelf(tmp_path, curve_study):
  """A root with a copy of a study, which a test may change."""
  shutil.copytree(curve_study.folder, tmp_path / "curves")
  return tmp_path


def add(root, folder: str, **changes):
  """Another study that has not begun, from a copy of the record."""
  write_study(root / folder, dataclasses.replace(read_study(root / "curves"), **changes))


def table(root) -> list[dict[str, str]]:
  with (root / "studies.csv").open() as file:
    return list(csv.DictReader(file))


def test_a_run_leaves_the_playbooks_six_columns(root, curve_study):
  row = next(row for row in table(root) if row["study"] == "curves")
  assert tuple(row) == ("study", "config", "goal", "trials", "best", "reproduce")
  assert row["config"] == "curves/study.json"
  assert (root / row["config"]).exists()
  assert row["goal"] == quadratics.study().goal
  assert row["trials"] == "4 of 4"
  assert row["best"] == f"loss {min(quadratics.losses(0.5)):.4g} (trial 2, step 4)"


def test_reproduction_is_the_code_its_changes_and_the_command(shelf):
  record = dataclasses.replace(
    read_study(shelf / "curves"), commit="0123456789abcdef", diff="--- a", command="trialbook tune run --study=s.py"
  )
  write_study(shelf / "curves", record)
  (row,) = tracking.read(shelf).rows
  checkout, apply, command = row["reproduce"].split("; ")
  assert checkout == "git checkout 0123456789ab"
  assert apply == f"git apply {shelf / 'curves' / 'study.diff'}"
  assert command == "trialbook tune run --study=s.py"


def test_uncommitted_changes_lie_beside_the_study(tmp_path, shelf):
  add(shelf, "changed", diff="--- a\n+++ b\n")
  assert (shelf / "changed" / "study.diff").read_text() == "--- a\n+++ b\n"


def test_without_a_repository_reproduction_is_the_command(shelf):
  add(shelf, "curves", commit=None, diff="", command="python -m mine")
  assert tracking.read(shelf).rows[0]["reproduce"] == "python -m mine"


def test_studies_of_rounds_are_in_the_table_in_order_of_their_creation(shelf):
  created = read_study(shelf / "curves").created
  add(shelf, "round/second", name="second", created=created + 2)
  add(shelf, "first", name="first", created=created + 1)
  tracking.update(shelf)
  rows = table(shelf)
  assert [row["study"] for row in rows] == ["curves", "first", "second"]
  assert [row["best"] for row in rows[1:]] == ["none yet"] * 2
  assert [row["trials"] for row in rows[1:]] == ["0 of 4"] * 2
  assert rows[2]["config"] == "round/second/study.json"


def test_a_study_that_cannot_be_read_hides_no_other(shelf):
  (shelf / "broken").mkdir()
  (shelf / "broken" / "study.json").write_text("{")
  assert [row["study"] for row in tracking.read(shelf).rows] == ["curves"]


def test_the_table_for_people_says_the_same_whatever_is_in_the_words(shelf):
  # The goal has a bar in it, which ends a cell in Markdown.
  add(shelf, "lines", name="lines", goal="Two\nlines?")
  tracking.update(shelf)
  lines = (shelf / "studies.md").read_text().splitlines()
  rows = [line for line in lines if line.startswith("| ") and "study.json" in line]
  assert len(rows) == 2
  for line in [*rows, "| study | config | goal | trials | best | reproduce |"]:
    assert line in lines
    assert line.replace("\\|", "").count("|") == 7
  assert "Where is the bottom \\| of the bowl?" in rows[0]
  assert "[study.json](curves/study.json)" in rows[0]
  assert "Two lines?" in rows[1]


def test_readers_never_see_half_a_table(shelf, monkeypatch):
  tracking.update(shelf)
  before = (shelf / "studies.csv").read_text()

  def full(file):
    raise OSError(28, "No space left on device")

  add(shelf, "new", name="new", diff="")
  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(OSError, match="No space left"):
    tracking.update(shelf)
  monkeypatch.undo()
  assert (shelf / "studies.csv").read_text() == before
  assert not list(shelf.glob(".*.tmp"))


def test_the_table_of_trials_is_that_of_the_results(shelf):
  results = read_results(shelf / "curves")
  (shelf / "curves" / "trials.csv").unlink()
  tracking.write_trials(shelf / "curves", results)
  assert (shelf / "curves" / "trials.csv").read_text() == results.csv()
  assert records.read_trials(shelf / "curves").keys() == {0, 1, 2, 3}


DAMAGES = {
  "created": ("study.json", lambda text: text.replace('"created": ', '"created": null, "was": ')),
  "attempts": ("trials/0000/trial.json", lambda text: json.dumps({**json.loads(text), "attempts": [{}]})),
  "nested": ("study.json", lambda text: "[" * 100_000),
  "round": ("../round.json", lambda text: "{"),
  "folder": ("trials/0001/trial.json", pathlib.Path.mkdir),
  "pipe": ("study.json", os.mkfifo),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_neighbour_is_named_and_stops_no_study(shelf, name, capsys):
  file, change = DAMAGES[name]
  shutil.copytree(shelf / "curves", shelf / "neighbour/inner")
  path = shelf / "neighbour/inner" / file
  if name in ("folder", "pipe"):
    path.unlink()
    change(path)
  else:
    path.write_text(change(path.read_text() if path.exists() else ""))
  results = run_study(quadratics.study(), shelf / "mine", executor=run_in_process, progress=True)
  assert results.count("complete") == 3
  assert f"neighbour{'/inner' if name != 'round' else ''}" in capsys.readouterr().err
  assert [row["study"] for row in table(shelf)] == ["curves", "curves"]
  assert "is left out" in (shelf / "studies.md").read_text()
  for command in ("list", "index"):
    code, output, told = run_command(capsys, "tune", command, shelf)
    assert code == errors.DONE
    assert "is left out" in told
    assert path.name in told
    assert command == "index" or "mine" in output
  assert "mine" in (shelf / "studies.html").read_text()


def test_a_table_that_cannot_be_written_stops_no_study(shelf, capsys):
  (shelf / "studies.csv").mkdir()
  assert run_study(quadratics.study(), shelf / "mine", executor=run_in_process, progress=True).count("complete") == 3
  assert "studies.csv cannot be written" in capsys.readouterr().err


def test_names_of_others_are_text_in_every_table(shelf):
  add(shelf, "javascript:x) (y", name="<script>alert(1)</script>", goal="=HYPERLINK(1) [a](javascript:b)", diff="")
  tracking.update(shelf)
  (line,) = [line for line in (shelf / "studies.md").read_text().splitlines() if "script" in line]
  assert r"\<script\>" in line
  assert r"\[a\](javascript:b)" in line
  assert "(javascript%3Ax%29%20%28y/study.json)" in line
  row = next(row for row in table(shelf) if "script" in row["study"])
  assert row["goal"] == "'=HYPERLINK(1) [a](javascript:b)"


def test_names_of_others_do_not_control_the_terminal(shelf, capsys):
  hostile = "\x1b[2J\x1b]0;owned\x07\u202e"
  add(shelf, "hostile", name=f"name{hostile}", goal=f"goal{hostile}", diff="")
  (shelf / f"bad{hostile}").mkdir()
  (shelf / f"bad{hostile}" / "study.json").write_text("{")
  for command in (["list", shelf], ["index", shelf], ["best", shelf / "hostile"], ["status", shelf / "hostile"]):
    code, *printed = run_command(capsys, "tune", *command)
    assert code == errors.DONE
    assert not [text for text in printed if set(hostile) - set("[2J]0;owned") & set(text)]
  code, _, told = run_command(capsys, "tune", "best", shelf / f"bad{hostile}")
  assert code == errors.USER_MISTAKE
  assert r"bad\x1b[2J" in told
  tracking.update(shelf)
  assert "\x1b" not in (shelf / "studies.md").read_text()
  # What a terminal of our own shows has colors of ours, and no others.
  screen = io.StringIO()
  console = tables._Console(file=screen, force_terminal=True, highlight=False)
  console.print(f"a{hostile}b", style="red")
  assert screen.getvalue().count("\x1b") == 2


def test_values_of_others_are_no_formulas_in_the_table_of_trials(shelf):
  folder = shelf / "curves"
  stored = json.loads((folder / "trials/0000/trial.json").read_text())
  (folder / "trials/0000/trial.json").write_text(json.dumps({**stored, "state": "failed", "reason": "@SUM(1)"}))
  with io.StringIO(read_results(folder).csv()) as file:
    (first, *_) = csv.DictReader(file)
  assert first["reason"] == "'@SUM(1)"
  assert float(first["x"]) == -0.5

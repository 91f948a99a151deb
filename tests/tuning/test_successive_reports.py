"""A report on a study that was extended says what changed since the last one."""

import dataclasses
import json
import os
import pathlib
import shutil
import time

import csv_studies
import pytest
from commands import changes, outcome

from trialbook import files
from trialbook.tuning import Minimize, read_results, report
from trialbook.tuning.findings import Finding, Severity
from trialbook.tuning.reporting import successive
from trialbook.tuning.reporting.report import text_of


def rates(folder: pathlib.Path, values: list[float], name: str = "rates") -> pathlib.Path:
  """A study of learning rates, imported into a folder; what was there before of the same source is replaced."""
  return csv_studies.imported(
    folder,
    [{"learning_rate": repr(rate)} for rate in values],
    {
      number: {"validation/error": csv_studies.bowl(rate), "validation/loss": csv_studies.bowl(rate)}
      for number, rate in enumerate(values)
    },
    {"hyperparameters": {"learning_rate": {"role": "nuisance", "scale": "log", "min": 1e-4, "max": 1.0}}},
    name=name,
    goal="Which rate?",
  )


FIRST = [1e-4, 3e-4, 1e-3]
MORE = [*FIRST, 3e-3, 1e-2, 0.03, 0.1, 0.3, 1.0]


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  return rates(tmp_path / "runs/rates", FIRST)


def since(folder: pathlib.Path):
  return json.loads(text_of(read_results(folder), "json"))["since"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["html", "md", "json"])
def test_the_report_on_more_trials_says_what_changed(folder, kind):
  report(folder, format=kind)
  assert since(folder) is None
  rates(folder, MORE)
  results = read_results(folder)
  told = since(folder)
  day = time.strftime("%Y-%m-%d", time.gmtime())
  best = results.best
  assert best is not None
  assert told["summary"].startswith(f"Since the last report (3 trials, {day}): 6 more trials; best ")
  assert told["summary"].endswith(f" → {best.objective:.4g} (trial {best.trial}).")
  assert any(line.startswith("cannot tell → ") for line in told["findings"])
  # All formats say the same, however many are written, in any order.
  for again in ("html", "md", "json", kind):
    path = report(folder, format=again)
    assert since(folder) == told
    text = path.read_text()
    if again == "md":
      assert told["summary"] in text.replace("\\", "")
    elif again == "html":
      assert json.dumps(told["summary"])[1:20] in text
      assert '"since":{"summary"' in text


def test_the_next_report_compares_with_the_last_one_only(folder):
  report(folder, format="md")
  rates(folder, MORE[:5])
  report(folder, format="md")
  rates(folder, MORE)
  report(folder, format="md")
  assert "(5 trials, " in since(folder)["summary"]
  assert "4 more trials" in since(folder)["summary"]


def test_the_same_trials_with_other_values_are_said_to_be_the_same_number(folder):
  report(folder, format="md")
  rates(folder, [1e-4, 3e-4, 1e-2])
  assert "): the same trials; best " in since(folder)["summary"]
  rates(folder, FIRST[:2])
  assert "): 1 fewer trials; best " in since(folder)["summary"]


def test_a_report_elsewhere_or_by_another_objective_records_nothing(capsys, folder, tmp_path):
  before = changes(folder)
  report(folder, tmp_path / "mine.html")
  assert outcome(capsys, "report", folder, "--format=md", "--output=-")[0] == 0
  assert changes(folder) == before
  report(read_results(folder).by(Minimize("validation/loss")), format="md")
  assert not (folder / successive.RECORD).exists()
  report(folder, folder / "report.md", format="md")
  assert (folder / successive.RECORD).exists()


def test_by_another_objective_nothing_is_said(folder):
  report(folder, format="md")
  rates(folder, MORE)
  other = read_results(folder).by(Minimize("validation/loss"))
  assert json.loads(text_of(other, "json"))["since"] is None
  assert "Since the last report" not in text_of(other, "md")


FOREIGN = {
  "garbage": "garbage",
  "a list": "[1]",
  "somebody else's": '{"findings": []}',
  "a later version's": '{"format": 2, "last": {}}',
  "nothing": "",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_record_that_is_not_ours_is_left_alone_and_nothing_is_said(folder, name):
  path = folder / successive.RECORD
  path.write_text(FOREIGN[name])
  report(folder, format="md")
  assert path.read_text() == FOREIGN[name]
  assert since(folder) is None


def test_of_another_study_nothing_is_said(tmp_path, folder):
  report(folder, format="md")
  other = rates(tmp_path / "runs/other", MORE, name="other")
  shutil.copy(folder / successive.RECORD, other / successive.RECORD)
  assert since(other) is None


def test_a_record_that_cannot_be_written_costs_nothing(folder, monkeypatch):
  def full(*_):
    raise OSError("no space left on device")

  with monkeypatch.context() as patched:
    patched.setattr(files, "write_json", full)
    assert "Which rate?" in report(folder, format="md").read_text()
  assert not (folder / successive.RECORD).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_to_has_no_record(folder, tmp_path):
  folder.chmod(0o500)
  report(folder, tmp_path / "mine.md", format="md")
  assert not (folder / successive.RECORD).exists()


def finding(question: str, severity: Severity, title: str, subject: str | None = None, **numbers) -> Finding:
  return Finding(
    id="PB-00",
    question=question,
    severity=severity,
    subject=subject,
    title=title,
    why="",
    numbers=numbers,  # pyright: ignore
  )


VERDICT = {"settings": {}, "hyperparameter": "optimizer"}
CASES = {
  "new and gone": (
    [finding("boundary", "warning", "x is at an edge", "x")],
    [finding("density", "note", "few trials")],
    ["new note: few trials", "gone: x is at an edge"],
  ),
  "another severity": (
    [finding("density", "warning", "24 are few")],
    [finding("density", "ok", "48 are enough")],
    ["warning → ok: 48 are enough"],
  ),
  "of the whole study, then of a hyperparameter": (
    [finding("boundary", "cannot_tell", "too few")],
    [finding("boundary", "warning", "x is at an edge", "x")],
    ["cannot tell → warning: x is at an edge"],
  ),
  "another winner": (
    [finding("comparison", "ok", "adam wins", "adam", **VERDICT)],
    [finding("comparison", "ok", "sgd wins", "sgd", **VERDICT)],
    ["changed: sgd wins (before: adam wins)"],
  ),
  "a winner, at last": (
    [finding("comparison", "warning", "no clear winner", "adam", **VERDICT)],
    [finding("comparison", "ok", "sgd wins", "sgd", **VERDICT)],
    ["warning → ok: sgd wins"],
  ),
  "what passes is not told": (
    [finding("density", "ok", "48 are enough"), finding("fixed", "ok", "nothing is fixed")],
    [finding("density", "ok", "96 are enough"), finding("infeasible", "ok", "none")],
    ["No finding changed."],
  ),
  "two alike": (
    [finding("boundary", "warning", "a", "x"), finding("boundary", "note", "b", "x")],
    [finding("boundary", "warning", "a", "x"), finding("boundary", "warning", "b", "x")],
    ["note → warning: b"],
  ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_changed_in_the_findings_is_listed(folder, name):
  before, now, lines = CASES[name]
  results = read_results(folder)
  successive.write_record(results, before)
  longer = dataclasses.replace(results, trials=results.trials[:2])
  found = successive.changes(longer, now)
  assert found is not None
  assert found["findings"] == lines

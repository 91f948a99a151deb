"""The report of a procedure's folder shows its conclusion, its evidence and the recommended config."""

import html
import json
import re

import pytest
from commands import outcome
from test_procedure_adopt import BASELINE, candidate, noisy
from test_procedure_autopilot import pilot, training
from unstable_trainings import CONFIG as UNSTABLE
from unstable_trainings import Unstable
from unstable_trainings import simulation as unstable

from trialbook.trainer import Config
from trialbook.tuning.procedures import adopt, stability
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.flags import PROCEDURES
from trialbook.tuning.procedures.lab import Lab

HOSTILE = 'a < b & "c" <script>alert(1)</script> | `d`'


def reported(capsys, folder, *flags) -> str:
  """Return the report of a folder as it is printed."""
  code, output, error = outcome(capsys, "report", str(folder), "--output=-", *flags)
  assert code == 0, error
  return output


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_each_procedure_has_a_section_with_verdict_evidence_and_recommended_config(tmp_path, capsys, procedure):
  lab = Lab(folder=tmp_path / "one", config=Config(), runner=noisy(0.1))
  lab.sweep("rates", "Which rate?", "optimizer.learning_rate", [0.1, 0.2])
  lab.conclude(
    Conclusion(
      procedure=procedure,
      id="PB-99",
      verdict=f"Verdict: {HOSTILE}.",
      evidence=[f"Evidence: {HOSTILE}."],
      changes={"model.name": "mlp", "model.widths": (64, 64), "optimizer.learning_rate": 0.25},
      actions=["Do this."],
      table=[{"rate": 0.1, "value": None}, {"rate": 0.2, "value": HOSTILE}],
    )
  )
  page = reported(capsys, tmp_path / "one")
  assert "<script" not in page
  text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
  for shown in (f"{procedure} (PB-99)", f"Verdict: {HOSTILE}.", f"Evidence: {HOSTILE}.", "Do this.", "Which rate?"):
    assert " ".join(shown.split()) in text, shown
  assert "optimizer.learning_rate 0.1 0.25" in text
  assert "recommended/config.json" in page
  # The flags can be pasted into a shell.
  assert "--set 'model.widths=[64, 64]' --set optimizer.learning_rate=0.25" in text
  assert "Recommended: `" in reported(capsys, tmp_path / "one", "--format=md")
  [stored] = json.loads(reported(capsys, tmp_path / "one", "--format=json"))["procedures"]
  assert (stored["procedure"], stored["changes"]["optimizer.learning_rate"]) == (procedure, 0.25)


def test_a_procedure_that_recommends_nothing_says_so(tmp_path, capsys):
  lab = Lab(folder=tmp_path / "one", config=BASELINE, runner=noisy(0.004))
  adopt.run(lab, candidate=candidate(tmp_path), seeds=3)
  page = reported(capsys, tmp_path / "one")
  assert "Nothing is recommended." in page
  assert "Not enough evidence" in page


def test_its_pictures_are_in_the_page_and_are_written_as_files(tmp_path, capsys):
  folder = tmp_path / "stability"
  found = stability.run(Lab(folder=folder, config=UNSTABLE, runner=unstable(Unstable(limit=0.15))))
  assert found.plots
  assert reported(capsys, folder).count("data:image/svg+xml;base64,") == len(found.plots)
  assert outcome(capsys, "report", str(folder), "--format=svg")[0] == 0
  assert {path.stem for path in (folder / "plots").iterdir()} == {*found.plots}
  assert outcome(capsys, "report", str(folder))[0] == 0
  assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_the_report_of_the_autopilot_has_a_section_for_each_of_its_stages(tmp_path, capsys):
  pilot(tmp_path / "flight", training())
  page = reported(capsys, tmp_path / "flight")
  for stage in ("0_baseline/", "4_adopt/", "5_finish/"):
    assert f"<h2>{stage} " in page
    assert f'href="{stage}recommended/config.json"' in page or stage == "0_baseline/"
  assert 'href="logbook.html"' in page
  records = json.loads(reported(capsys, tmp_path / "flight", "--format=json"))["procedures"]
  assert [one["procedure"] for one in records] == ["autopilot", "baseline", "adopt", "finish"]


def test_mistakes_name_the_place_and_the_remedy(tmp_path, capsys):
  lab = Lab(folder=tmp_path / "begun", config=BASELINE, runner=noisy(0.1))
  lab.sweep("rates", "Which rate?", "optimizer.learning_rate", [0.1])
  ended = Lab(folder=tmp_path / "ended", config=BASELINE, runner=noisy(0.1))
  adopt.run(ended, candidate=candidate(tmp_path))
  for folder, flags, words in (
    ("begun", [], "rerun its command to resume it"),
    ("nothing", [], "holds no study"),
    ("ended", ["--objective=validation/loss"], "--objective ranks the trials of a study"),
    ("ended", ["--format=png"], "--format=svg"),
  ):
    code, _, error = outcome(capsys, "report", str(tmp_path / folder), *flags)
    assert code == 2
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize("held", ["study.json", "round.json", "run.json", "the procedure adopt"])
def test_a_procedure_refuses_a_folder_that_holds_something_else(tmp_path, capsys, held):
  folder = tmp_path / "one"
  if held.endswith(".json"):
    folder.mkdir()
    (folder / held).write_text("{}")
  else:
    Lab(folder=folder, config=BASELINE).conclude(Conclusion(procedure="adopt", id="PB-42", verdict="Kept.", changes={}))
  before = sorted(path.name for path in folder.rglob("*"))
  code, _, error = outcome(capsys, "baseline", f"--dir={folder}")
  assert code == 2
  assert "name another folder for baseline" in error
  assert sorted(path.name for path in folder.rglob("*")) == before

"""A report is written where it was asked for, and ranks, warns and lists findings as it should; and the page of all."""

import dataclasses
import json
import pathlib
import shutil

import csv_studies
import pytest
import quadratics
from commands import changes, outcome
from csv_studies import unfinished
from report_pages import Page

from trialbook import files
from trialbook.errors import ConfigError, UserError
from trialbook.tuning import Minimize, read_results, report, run_study
from trialbook.tuning.findings import SEVERITIES, Finding, findings
from trialbook.tuning.records import study_lock
from trialbook.tuning.reporting.report import text_of

ATTACK = csv_studies.HOSTILE[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A study that nobody changes."""
  return csv_studies.rates(tmp_path_factory.mktemp("runs") / "rates")


# Where it goes.


@pytest.mark.slow
def test_the_report_is_where_it_was_asked_for(capsys, folder, tmp_path):
  # The folder's own first: what is written there is the study's.
  own = tmp_path / "runs/study"
  shutil.copytree(folder, own)
  for kind, name in (("html", "report.html"), ("md", "report.md"), ("json", "report.json")):
    code, out, err = outcome(capsys, "report", own, f"--format={kind}")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"report: {own / name}"
    assert ("studies.html" in out) == (kind == "html")
    assert (own / name).stat().st_size > 1000
  assert 'href="study/report.html"' in (tmp_path / "runs/studies.html").read_text()
  before = set(changes(tmp_path))
  code, out, _ = outcome(capsys, "report", own, "--format=md", f"--output={tmp_path / 'mine.txt'}")
  assert (code, out) == (0, f"report: {tmp_path / 'mine.txt'}\n")
  assert set(changes(tmp_path)) - before == {tmp_path / "mine.txt"}
  assert (tmp_path / "mine.txt").read_text() == (own / "report.md").read_text()


def test_on_standard_output_there_is_the_report_and_nothing_else(capsys, folder):
  before = changes(folder)
  for kind in ("md", "json"):
    code, out, err = outcome(capsys, "report", folder, f"--format={kind}", "--output=-")
    assert (code, err) == (0, "")
    assert out == text_of(read_results(folder), kind)
  assert changes(folder) == before


def test_an_old_report_stays_whole_until_the_new_one_is(folder, tmp_path, monkeypatch):
  path = report(folder, tmp_path / "report.md", format="md")
  old = path.read_text()

  def full(*_):
    raise OSError("no space left on device")

  with monkeypatch.context() as patched:
    patched.setattr(pathlib.Path, "rename", full)
    with pytest.raises(OSError, match="no space left"):
      report(read_results(folder).by(Minimize("validation/loss")), path, format="md")
  assert path.read_text() == old
  assert list(tmp_path.iterdir()) == [path]


PLACES = {
  "a study that is not there": (["DIR/nothing"], "DIR/nothing holds no study: there is no study.json"),
  "a folder that is not there": (["STUDY", "--output=DIR/there/page.html"], "there is no folder DIR/there"),
  "a folder": (["STUDY", "--output=DIR"], "DIR is a folder; name a file"),
  "a device": (["STUDY", "--output=/dev/null"], "/dev/null is not a regular file"),
  "a file for pictures": (["STUDY", "--format=svg", "--output=DIR/file"], "DIR/file is a file; name a folder"),
  "pictures printed": (["STUDY", "--format=png", "--output=-"], "pictures are files: name a folder"),
  "an unknown format": (["STUDY", "--format=pdf"], "--format: invalid choice: 'pdf'"),
  "a metric that nobody logged": (["STUDY", "--objective=validation/eror"], "did you mean 'validation/error'?"),
}


@pytest.mark.parametrize("mistake", PLACES)
def test_a_mistake_is_told_and_nothing_is_written(capsys, folder, tmp_path, mistake):
  arguments, problem = PLACES[mistake]
  (tmp_path / "file").touch()
  before = changes(tmp_path), changes(folder)
  filled = [text.replace("STUDY", str(folder)).replace("DIR", str(tmp_path)) for text in arguments]
  code, out, err = outcome(capsys, "report", *filled)
  assert (code, out) == (2, "")
  assert problem.replace("DIR", str(tmp_path)) in err
  assert len(err.splitlines()) <= 2
  assert (changes(tmp_path), changes(folder)) == before
  assert pathlib.Path("/dev/null").is_char_device()


def test_a_format_or_a_place_that_is_wrong_is_told_in_python_too(folder, tmp_path):
  with pytest.raises(ConfigError, match="format 'htm'; did you mean 'html'"):
    report(folder, format="htm")  # pyright: ignore[reportArgumentType]
  with pytest.raises(ConfigError, match="is a folder; name a file"):
    report(folder, tmp_path)
  with pytest.raises(UserError, match="holds no study"):
    report(tmp_path)


# What it says.


def test_it_ranks_by_the_metric_value_and_direction_that_are_asked_for(capsys, folder):
  results = read_results(folder)
  ends = [t.curves["validation/error"][-1][1] for t in results.trials]
  lowest = ends.index(min(ends))
  loss = {t.trial: [value for _, value in t.curves["validation/loss"]] for t in results.trials}
  asked = {
    ("--objective=validation/loss",): min(loss, key=lambda n: min(loss[n])),
    ("--objective=validation/loss", "--mode=max", "--value=last"): max(loss, key=lambda n: loss[n][-1]),
    ("--value=smoothed",): lowest,
    (): lowest,
  }
  for flags, best in asked.items():
    code, out, _ = outcome(capsys, "report", folder, "--format=json", "--output=-", *flags)
    told = json.loads(out)
    assert (code, told["best"]["trial"]) == (0, best)
    for flag in flags:
      name, _, value = flag.removeprefix("--").partition("=")
      assert told["objective"]["metric" if name == "objective" else name] == value


def test_a_ranking_by_the_test_set_is_warned_of(capsys, folder, tmp_path):
  study = tmp_path / "study"
  shutil.copytree(folder, study)
  for path in study.glob("trials/*/metrics.jsonl"):
    path.write_text(path.read_text().replace("validation/loss", "test/loss"))
  code, _, err = outcome(capsys, "report", study, "--format=md", "--output=-", "--objective=test/loss")
  assert code == 0
  assert "selects on the test set" in err


def test_findings_are_json_of_one_schema(hostile):
  def refuse(text):
    raise AssertionError(text)

  told = json.loads(report(hostile, format="json").read_text(), parse_constant=refuse)
  assert set(told) == {
    "format",
    "study",
    "objective",
    "complete",
    "answer",
    "best",
    "findings",
    "provenance",
    "since",
    "states",
    "warnings",
  }
  fields = {field.name for field in dataclasses.fields(Finding)}
  seen = findings(read_results(hostile))
  assert len(told["findings"]) == len(seen) > 10
  for one, expected in zip(told["findings"], seen, strict=True):
    assert set(one) == fields
    assert one["severity"] in SEVERITIES
    assert (one["id"], one["title"], one["trials"]) == (expected.id, expected.title, list(expected.trials))
  assert [one["severity"] for one in told["findings"]] == sorted(
    (one["severity"] for one in told["findings"]), key=["problem", "warning", "note", "cannot_tell", "ok"].index
  )
  assert told["complete"] is True
  assert told["best"]["objective"] == pytest.approx(read_results(hostile).best.objective, rel=1e-4)  # pyright: ignore


@pytest.mark.slow
def test_a_study_that_is_not_at_its_end_is_reported_as_such(folder, tmp_path):
  study = unfinished(run_study(quadratics.study(), tmp_path / "made").folder, tmp_path / "study", trials=20)
  imported = unfinished(folder, tmp_path / "imported", trials=20)
  path = tmp_path / "report"

  def told(of):
    complete = json.loads(report(of, path, format="json").read_text())["complete"]
    return complete, report(of, path, format="md").read_text()

  assert told(folder)[0] is True
  assert "have ended. Results are preliminary" not in told(folder)[1]
  assert told(study)[0] is False
  assert "> Not running (rerun the same command to resume): 4 of 20 trials have ended. Results" in told(study)[1]
  assert "> Imported before its end: 8 of 20 trials have ended." in told(imported)[1]
  with files.locked(study_lock(study), "it"):
    assert told(study)[0] is False
    assert "> Running: 4 of 20 trials have ended." in told(study)[1]
    text = report(study, path).read_text()
  assert '<p id="running" class="banner">Running: 4 of 20 trials have ended.' in text
  data = json.loads(Page(text).raw["script"][0])["study"]
  assert (data["running"], data["states"]) == (True, {"complete": 3, "infeasible": 1, "pending": 16})


# The page of all studies.


def test_the_index_links_to_reports_that_are_there_and_names_those_that_are_not(capsys, folder, tmp_path):
  root = tmp_path / "runs"
  shutil.copytree(folder, root / "with a report #1")
  (root / "with a report #1/report.html").touch()
  unfinished(folder, root / "without", name=ATTACK, goal=f"{ATTACK} & more?")
  (root / "damaged").mkdir()
  (root / "damaged/study.json").write_text("garbage")
  code, out, err = outcome(capsys, "index", root)
  assert (code, out) == (0, f"all studies: {root / 'studies.html'}\n")
  assert err.startswith(f"warning: {root / 'damaged'} is left out: ")
  text = (root / "studies.html").read_text()
  parsed = Page(text)
  links = [of["href"] for tag, of in parsed.tags if tag == "a"]
  assert "with%20a%20report%20%231/report.html" in links
  assert "without/report.html" not in links
  assert f"trialbook tune report {root}/without" in text
  assert not parsed.raw["script"]
  assert ATTACK not in text
  assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp; more?" in text
  assert set(parsed.policy) == {"default-src", "style-src"}


def test_an_index_of_nothing_says_so_and_one_of_no_folder_is_refused(capsys, tmp_path):
  assert outcome(capsys, "index", tmp_path)[0] == 0
  assert "no studies yet" in (tmp_path / "studies.html").read_text()
  code, out, err = outcome(capsys, "index", tmp_path / "nothing")
  assert (code, out) == (2, "")
  assert "there is no such folder" in err

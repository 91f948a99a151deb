import base64
import dataclasses
import hashlib
import html.parser
import json
import math
import pathlib
import re
import shutil

import csv_studies
import pytest
import quadratics
from commands import changes, outcome

from trialbook import files
from trialbook.errors import ConfigError, UserError
from trialbook.tuning import Minimize, Objective, read_results, report, run_study
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import SEVERITIES, Finding, findings
from trialbook.tuning.records import study_lock
from trialbook.tuning.reporting.answer import answer
from trialbook.tuning.reporting.page_data import objectives_of, page_data
from trialbook.tuning.reporting.report import text_of

FORMATS = ("html", "md", "json")
ATTACK = csv_studies.HOSTILE[0]


class Page(html.parser.HTMLParser):
  """What a browser reads of a page: its tags with their attributes, and the texts of scripts and styles."""

  def __init__(self, text: str):
    super().__init__()
    self.tags: list[tuple[str, dict[str, str | None]]] = []
    self.raw: dict[str, list[str]] = {"script": [], "style": []}
    self._inside: str | None = None
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self._inside = tag if tag in self.raw else None
    if self._inside:
      self.raw[tag].append("")

  def handle_endtag(self, tag):
    self._inside = None

  def handle_data(self, data):
    if self._inside:
      self.raw[self._inside][-1] += data

  @property
  def policy(self) -> dict[str, list[str]]:
    content = next(of["content"] for _, of in self.tags if of.get("http-equiv") == "Content-Security-Policy")
    return {words[0]: words[1:] for part in (content or "").split(";") if (words := part.split())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A study that nobody changes."""
  return csv_studies.rates(tmp_path_factory.mktemp("runs") / "rates")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
  """A study whose every text is an attack."""
  first, second, third, line, last = csv_studies.HOSTILE
  return csv_studies.imported(
    tmp_path_factory.mktemp("hostile") / "study",
    [{"reason": "", first: 0.1 * (n + 1), second: third if n % 2 else last} for n in range(6)]
    + [{"state": "infeasible", "reason": " ".join(csv_studies.HOSTILE), first: 2.0, second: last}],
    {n: {"validation/error": csv_studies.bowl(0.1 * (n + 1)), third: csv_studies.bowl(0.1)} for n in range(6)},
    {"hyperparameters": {second: {"role": "scientific"}}},
    name=f"{first} {line}",
    goal=" ".join(csv_studies.HOSTILE),
  )


@pytest.fixture(scope="module")
def page(hostile):
  """Its report."""
  path = report(hostile)
  assert path == hostile / "report.html"
  return path.read_text()


# One file that needs nothing and lets nothing in.


@pytest.mark.slow
def test_nothing_outside_of_the_page_is_named_in_it(page):
  parsed = Page(page)
  for tag, attributes in parsed.tags:
    assert not {"src", "srcset", "action", "formaction", "background", "poster", "data"} & set(attributes), tag
    assert (attributes.get("href") or "#").startswith("#")
    assert not any(name.startswith("on") for name in attributes)
  assert not {"link", "base", "iframe", "object", "embed", "img", "form"} & {tag for tag, _ in parsed.tags}
  assert not re.search(r"@import|url\(", "".join(parsed.raw["style"]))


def test_its_policy_allows_no_request_and_no_scripts_but_its_own(page):
  parsed = Page(page)
  policy = parsed.policy
  assert policy["default-src"] == ["'none'"]
  assert set(policy) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
  assert policy["base-uri"] == policy["form-action"] == ["'none'"]
  assert set(policy["img-src"]) == {"data:", "blob:"}
  data, *scripts = parsed.raw["script"]
  assert json.loads(data)["format"] == 1
  assert len(scripts) == 2
  digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
  assert policy["script-src"] == [*(f"'sha256-{digest}'" for digest in digests), "'unsafe-eval'"]
  # A browser hashes what it has read, with other ends of lines; and it reads on in a script after these two.
  assert not any("\r" in text or re.search(r"<!--[^>]*<script", text) for text in scripts)


def test_hostile_texts_are_nowhere_in_the_page_and_all_in_its_data(page, hostile):
  parsed = Page(page)
  assert [tag for tag, _ in parsed.tags].count("script") == 3
  assert all(text not in page for text in csv_studies.HOSTILE[:3])
  text = parsed.raw["script"][0]
  assert not set("<>&") & set(text)
  data = json.loads(text)
  results = read_results(hostile)
  first, second, third, _, last = csv_studies.HOSTILE
  assert data["study"]["name"] == results.study.name
  assert data["study"]["goal"] == results.study.goal == " ".join(csv_studies.HOSTILE)
  assert {one["name"] for one in data["hyperparameters"]} == {first, second}
  assert set(data["trials"]["h0"]) == {third, last}
  reason = data["views"][0]["tables"]["trials"]["reason"][-1]
  assert reason == results.trials[-1].reason
  assert all(text in reason for text in csv_studies.HOSTILE)
  assert not any("\u2028" in text for text in parsed.raw["script"])


def test_hostile_texts_mean_themselves_in_markdown(hostile):
  text = report(hostile, format="md").read_text()
  # Indented by six, it is code in an item of a list.
  prose = "\n".join(line for line in text.splitlines() if not line.startswith("      "))
  assert "alert(1)" in prose
  assert not re.search(r"(?<!\\)[<>&`~]", prose)
  assert "\u2028" not in text
  table = [line for line in prose.splitlines() if line.startswith("|")]
  assert len(table) == 2 + 7
  assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}


def test_a_text_that_cannot_be_encoded_does_not_cost_the_report(tmp_path, folder):
  results = read_results(folder)
  odd = dataclasses.replace(results, study=dataclasses.replace(results.study, name="a\ud800b"))
  assert "a?b: 8 complete" in report(odd, tmp_path / "report.md", format="md").read_text()
  assert json.loads(report(odd, tmp_path / "r.json", format="json").read_text())["study"]["name"] == "a\ud800b"


@pytest.mark.slow
def test_a_page_of_100_trials_of_200_evaluations_is_small(tmp_path):
  study = planted.healthy(0, trials=100, evaluations=200)
  assert report(study, tmp_path / "page.html").stat().st_size <= 1.5e6


# Where it goes.


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


def unfinished(folder: pathlib.Path, target: pathlib.Path, **changes) -> pathlib.Path:
  """A copy of a study whose record says something else."""
  shutil.copytree(folder, target)
  stored = json.loads((target / "study.json").read_text())
  (target / "study.json").write_text(json.dumps(stored | changes))
  return target


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


# Studies and files in which something is missing or wrong.


def small(change=lambda number, curves: curves, count: int = 5, **more):
  """A study in memory of so many trials, with some of their curves changed."""
  trials = []
  for number in range(count):
    steps, values = map(list, zip(*csv_studies.bowl(0.1 * (number + 1)), strict=True))
    curves = {"validation/error": (steps, values), "train/loss": (steps, [3 * value for value in values])}
    trials.append(planted.trial(number, {"rate": 0.1 * (number + 1)}, change(number, curves), **more))
  space = (planted.nuisance("rate", 0.1, 1.0),)
  empty = planted.results([], space)
  found = dataclasses.replace(empty, trials=tuple(trials), study=dataclasses.replace(empty.study, trials=count))
  metrics = found.metrics
  return found.by(found.objective) if found.objective.metric in metrics else found


def only_of(number: int, change):
  return lambda place, curves: change(curves) if place == number else curves


def but_last(curves):
  return {name: (steps[:4], values[:4]) for name, (steps, values) in curves.items()}


def with_nan(curves):
  return {name: (steps, [math.nan, *values[1:-1], math.inf]) for name, (steps, values) in curves.items()}


def every_other(curves):
  return {name: ([step + 3 for step in steps[::2]], values[::2]) for name, (steps, values) in curves.items()}


def all_nan(_, curves):
  return {name: (steps, [math.nan] * len(steps)) for name, (steps, _) in curves.items()}


SHORT = {
  "no trial": (lambda: small(count=0), "No trial has begun"),
  "one trial": (lambda: small(count=1), "The only complete trial is trial 0"),
  "all infeasible": (lambda: small(state="infeasible", reason="train/loss = nan"), "Every trial was infeasible"),
  "all infeasible, nothing logged": (
    lambda: small(lambda *_: {}, state="infeasible", reason="out of memory"),
    "Every trial was infeasible",
  ),
  "all failed": (lambda: small(lambda *_: {}, state="failed", reason="OSError"), "No trial has a value yet"),
  "the objective was logged by no trial": (
    lambda: small(lambda _, curves: {"train/loss": curves["train/loss"]}),
    "No trial has a value yet",
  ),
  "NaN in curves": (lambda: small(only_of(1, with_nan)), "trial 0"),
  "NaN and nothing else": (lambda: small(all_nan), "Every trial was infeasible"),
  "other steps": (lambda: small(only_of(1, every_other)), "trial 0"),
  "a trial cut short": (lambda: small(only_of(0, but_last)), "The best of 5 complete trials"),
  "a trial without curves": (lambda: small(only_of(0, lambda _: {})), "The best of 4 complete trials"),
  "trials that did not begin": (lambda: small(lambda *_: {}, state="pending"), "No trial has a value yet"),
}


def test_trials_that_are_as_good_as_the_best_are_counted():
  for same, sentence in ((2, "; another one is as good."), (3, "; 2 others are as good.")):
    results = small(lambda number, curves, same=same: {"validation/error": ([1], [0.0])} if number < same else curves)
    assert answer(results, [])["sentence"].endswith(sentence)


def test_what_a_comparison_found_and_the_best_trial_are_sentences():
  told = Finding(
    id="PB-30", question="comparison", severity="ok", title="adam wins", why="", numbers={"settings": {"adam": {}}}
  )
  assert answer(small(), [told])["sentence"].startswith("adam wins. The best of 5 complete trials is trial ")


@pytest.mark.parametrize("name", SHORT)
def test_a_study_in_which_something_is_missing_is_reported_all_the_same(tmp_path, name):
  make, sentence = SHORT[name]
  for kind in FORMATS:
    path = report(make(), tmp_path / f"report.{kind}", format=kind)
    text = path.read_text()
    if kind == "html":
      data = json.loads(Page(text).raw["script"][0])
      assert sentence in data["views"][0]["answer"]["sentence"]
      assert len(data["views"]) == len(objectives_of(make()))
      assert data["views"][0]["findings"]
    else:
      assert sentence in text
      assert "PB-24" in text


def test_a_metric_that_was_renamed_away_is_missed_and_others_are_offered():
  study = small(lambda _, curves: {"validation/loss": curves["train/loss"]})
  page = page_data(study, objectives_of(study))
  assert page["views"][0]["best"] is None
  assert [one["metric"] for one in page["objectives"]] == ["validation/error", "validation/loss", "validation/loss"]
  assert {view["best"] for view in page["views"][1:]} == {0}


DAMAGE = {
  "no JSON": ("trials/0003/trial.json", lambda _: "garbage", "trial.json cannot be read"),
  "cut off": ("trials/0003/trial.json", lambda text: text[: len(text) // 2], "trial.json cannot be read"),
  "a list": ("trials/0003/trial.json", lambda _: "[1, 2]", "trial.json cannot be read"),
  "no state": ("trials/0003/trial.json", lambda text: text.replace('"state"', '"stat"'), "trial.json cannot be read"),
  "values that are none": (
    "trials/0003/trial.json",
    lambda text: re.sub(r'"values": \{[^}]*\}', '"values": 3', text),
    "trial.json cannot be read",
  ),
  "no trial": ("trials/0003/trial.json", lambda text: text.replace('"trial": 3', '"trial": "x"'), "cannot be read"),
  "garbage among lines": (
    "trials/0003/metrics.jsonl",
    lambda text: text.replace("\n", "\n\x00\xff\n", 1),
    "metrics.jsonl, line 2 cannot be read",
  ),
  "a line that is a number": (
    "trials/0003/metrics.jsonl",
    lambda text: text.replace("\n", "\n5\n", 1),
    "metrics.jsonl, line 2 cannot be read",
  ),
  "a line without a step": (
    "trials/0003/metrics.jsonl",
    lambda text: text.replace('"step"', '"stop"', 1),
    "metrics.jsonl, line 1 cannot be read",
  ),
  "no study": ("study.json", lambda _: "{}", "study.json cannot be read"),
  "hyperparameters that are none": (
    "study.json",
    lambda text: json.dumps(json.loads(text) | {"hyperparameters": {"learning_rate": {"scale": "log"}}}),
    "study.json cannot be read",
  ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_in_one_message(capsys, folder, tmp_path, name):
  place, change, problem = DAMAGE[name]
  study = tmp_path / "study"
  shutil.copytree(folder, study)
  path = study / place
  path.write_text(change(path.read_text()))
  before = changes(tmp_path)
  for kind in FORMATS:
    code, out, err = outcome(capsys, "report", study, f"--format={kind}")
    assert (code, out) == (2, "")
    assert f"{study}" in err
    assert problem in err
    assert len(err.splitlines()) == 2
  assert changes(tmp_path) == before


def test_a_last_line_that_was_not_finished_costs_nothing(folder, tmp_path):
  study = tmp_path / "study"
  shutil.copytree(folder, study)
  with (study / "trials/0003/metrics.jsonl").open("a") as file:
    file.write('{"step": 130, "validation/err')
  assert [one.title for one in findings(read_results(study))] == [one.title for one in findings(read_results(folder))]


def test_columns_of_the_wrong_type_are_told_before_there_is_a_study(capsys, tmp_path):
  tables = tmp_path / "tables"
  tables.mkdir()
  (tables / "trials.csv").write_text("trial,rate\n0,0.1\n1,fast\n2,0.3\n")
  (tables / "curves.csv").write_text("trial,step,metric,value\n0,one,validation/error,0.5\n1,10,validation/error,x\n")
  code, out, err = outcome(capsys, "import", "csv", tables, tmp_path / "study")
  assert (code, out) == (2, "")
  assert "trials.csv, line 3, column rate: 'fast'" in err
  assert "curves.csv, line 2, column step: 'one'" in err
  assert "curves.csv, line 3, column value: 'x'" in err
  assert not (tmp_path / "study").exists()


# Its plots as pictures.


@pytest.mark.parametrize("kind", [pytest.param("png", marks=pytest.mark.slow), "svg"])
def test_every_plot_that_has_something_to_show_is_a_picture(hostile, tmp_path, kind):
  results = read_results(hostile)
  folder = report(results, tmp_path / "made/plots", format=kind)
  written = {path.name: path.read_bytes() for path in folder.iterdir()}
  data = page_data(results, [results.objective])
  assert len(written) == len(data["plots"])
  assert {name.rpartition(".")[2] for name in written} == {kind}
  assert {"comparison", "curves", "best_of_k", "steps"} < {name.rpartition(".")[0] for name in written}
  for name, content in written.items():
    if kind == "png":
      assert content.startswith(b"\x89PNG\r\n"), name
    else:
      assert "<script" not in content.decode()
  if kind == "svg":
    for name, titles in {
      "curves": {"step", "validation/error"},
      "best_of_k": {"number of trials", "validation/error"},
      "steps": {"selected step", "trials"},
      "comparison": {"validation/error"},
    }.items():
      texts = re.findall(r"<text[^>]*>([^<]*)</text>", written[f"{name}.svg"].decode())
      assert titles < set(texts), name


@pytest.mark.slow
def test_pictures_of_names_in_any_script_do_not_replace_each_other(tmp_path):
  names = ("学习率", "动量", "a b", "a_b")
  space = tuple(planted.nuisance(name, 0.1, 10.0) for name in names)
  curve = {"validation/error": ([1, 2], [0.9, 0.5])}
  trials = [planted.trial(number, dict.fromkeys(names, number + 1.0), curve) for number in range(2)]
  folder = report(planted.results(trials, space), tmp_path / "plots", format="svg")
  assert len(list(folder.glob("axis*.svg"))) == 4


def test_a_plot_without_data_is_no_picture(tmp_path):
  folder = report(small(lambda *_: {}, count=0), tmp_path / "plots", format="svg")
  assert list(folder.iterdir()) == []


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


def test_the_page_and_the_text_give_the_same_answer_and_findings(folder):
  results = read_results(folder).by(Objective("validation/loss", "min", "last"))
  data = page_data(results, objectives_of(results))["views"][0]
  told = json.loads(text_of(results, "json"))
  assert data["answer"] == told["answer"]
  assert [one["title"] for one in data["findings"]] == [one["title"] for one in told["findings"]]
  text = text_of(results, "md").replace("\\", "")
  assert all(one["title"] in text for one in told["findings"])

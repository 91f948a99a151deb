"""A report of a study in which something is missing or wrong."""

import dataclasses
import json
import math
import re
import shutil

import csv_studies
import pytest
from commands import changes, outcome
from report_pages import Page

from trialbook.tuning import read_results, report
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import Finding, findings
from trialbook.tuning.reporting.answer import answer
from trialbook.tuning.reporting.page_data import objectives_of, page_data

FORMATS = ("html", "md", "json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A study that nobody changes."""
  return csv_studies.rates(tmp_path_factory.mktemp("runs") / "rates")


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

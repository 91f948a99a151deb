import csv
import io
import json
import statistics

import pytest
import quadratics
from json_lines import read_json_lines

from trialbook.errors import UserError
from trialbook.tuning import Maximize, Minimize, read_results
from trialbook.tuning.records import trial_folder
from trialbook.tuning.results import StudyResults

FEASIBLE = quadratics.POINTS[:3]


def ranking(results: StudyResults) -> list[int]:
  return [trial.trial for trial in results.ranked]


def expected(worth) -> list[int]:
  """Trials in order of the worth of their curve, computed from the formula."""
  return sorted(range(len(FEASIBLE)), key=lambda trial: worth(quadratics.losses(FEASIBLE[trial])))


@pytest.mark.slow
def test_trials_are_worth_their_best_value_and_ranked(curve_study):
  assert ranking(curve_study) == expected(min)
  for trial, x in zip(curve_study.trials, FEASIBLE, strict=False):
    assert trial.values == {"x": x}
    assert trial.objective == min(quadratics.losses(x))
    assert (trial.step, trial.state, trial.attempts) == (4, "complete", 1)
  assert curve_study.best is curve_study.ranked[0]


def test_an_infeasible_trial_has_no_value_and_the_reason(curve_study):
  last = curve_study.trials[3]
  assert (last.state, last.objective, last.reason) == ("infeasible", None, "x = 1.0 is too large")
  assert {state: curve_study.count(state) for state in ("complete", "infeasible", "failed", "pending")} == {
    "complete": 3,
    "infeasible": 1,
    "failed": 0,
    "pending": 0,
  }


def test_the_objective_is_chosen_afterwards_among_the_values_of_a_curve(curve_study):
  last = curve_study.by(Minimize("loss", "last"))
  smoothed = curve_study.by(Minimize("loss", "smoothed"))
  assert ranking(last) == expected(lambda losses: losses[-1])
  assert ranking(smoothed) == expected(lambda losses: statistics.median(losses[-5:]))
  assert len({tuple(ranking(results)) for results in (curve_study, last, smoothed)}) == 3
  assert [trial.step for trial in last.ranked] == [6, 6, 6]


def test_any_other_logged_metric_can_be_the_objective_afterwards(curve_study):
  score = curve_study.by(Maximize("score"))
  assert [trial.objective for trial in score.ranked] == sorted((-(x**2) for x in FEASIBLE), reverse=True)
  assert score.objective == Maximize("score")
  assert score.best.values == {"x": 0.25}
  assert ranking(curve_study.by(Minimize("score"))) == [0, 2, 1]


def test_choosing_another_objective_runs_and_writes_nothing(curve_study):
  before = {path: path.stat().st_mtime_ns for path in curve_study.folder.rglob("*")}
  curve_study.by(Minimize("loss", "last"))
  assert {path: path.stat().st_mtime_ns for path in curve_study.folder.rglob("*")} == before


def test_a_metric_that_was_never_logged_is_told_with_those_that_were(curve_study):
  with pytest.raises(UserError, match="'lose' was logged by no trial; did you mean 'loss'\\? available: loss, score"):
    curve_study.by(Minimize("lose"))


def test_a_trial_that_was_feasible_by_one_objective_may_not_be_by_another(tmp_path, curve_study):
  stored = json.loads((curve_study.folder / "study.json").read_text())
  # A function has no step 0; a study that was made elsewhere may have one.
  (tmp_path / "study.json").write_text(json.dumps({**stored, "source": "csv: elsewhere"}))
  folder = trial_folder(tmp_path, 0)
  folder.mkdir(parents=True)
  record = json.loads((trial_folder(curve_study.folder, 0) / "trial.json").read_text())
  record["summary"] |= {"step": 1, "lines": 2}
  (folder / "trial.json").write_text(json.dumps(record))
  lines = [{"step": 0, "a": 1.0, "b": 1.0}, {"step": 1, "a": 0.5, "b": 1.5}]
  (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
  results = read_results(tmp_path)
  assert [(trial.state, trial.objective) for trial in results.by(Minimize("a")).trials] == [("complete", 0.5)]
  (worse,) = results.by(Minimize("b")).trials
  assert (worse.state, worse.objective) == ("infeasible", None)
  assert worse.reason == "b was never better than at initialization (1); the best was 1.5"
  # It is of the objective, not of the trial.
  assert results.by(Minimize("b")).by(Minimize("a")).trials[0].state == "complete"
  assert results.count("pending") == 3


def test_the_table_has_a_row_for_each_trial_and_a_column_for_each_hyperparameter(curve_study):
  rows = list(csv.DictReader(io.StringIO((curve_study.folder / "trials.csv").read_text())))
  assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
  assert [float(row["x"]) for row in rows] == list(quadratics.POINTS)
  assert [row["loss"] for row in rows[:3]] == [repr(min(quadratics.losses(x))) for x in FEASIBLE]
  assert (rows[3]["loss"], rows[3]["state"], rows[3]["reason"]) == ("", "infeasible", "x = 1.0 is too large")
  assert curve_study.csv() == (curve_study.folder / "trials.csv").read_text()


def test_curves_are_a_table_too(curve_study):
  rows = curve_study.curve_rows("loss")
  assert [(row["trial"], row["step"], row["value"]) for row in rows] == [
    (trial, step, loss) for trial, x in enumerate(FEASIBLE) for step, loss in enumerate(quadratics.losses(x), start=1)
  ]
  assert {row["metric"] for row in curve_study.curve_rows()} == {"loss", "score"}


def test_results_are_read_back_from_the_folder(curve_study):
  again = read_results(str(curve_study.folder))
  assert again == curve_study
  assert again.study.search == quadratics.study().search.as_json()
  assert len(read_json_lines(again.trials[0].folder / "metrics.jsonl")) == 6


def test_a_folder_without_a_study_is_told(tmp_path):
  with pytest.raises(UserError, match=r"holds no study: there is no study\.json"):
    read_results(tmp_path)


@pytest.mark.parametrize(
  ("text", "problem"),
  [
    ("{", "cannot be read"),
    ("[]", "should be an object"),
    ('{"format": 99}', "newer version"),
    ("{}", "cannot be read"),
  ],
)
def test_a_study_that_cannot_be_read_is_told(tmp_path, text, problem):
  (tmp_path / "study.json").write_text(text)
  with pytest.raises(UserError, match=problem):
    read_results(tmp_path)

"""The replay of rules that end trials early: what they would have saved and lost."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pruned_functions
import pytest
from in_process import run_in_process

from trialbook.tuning import Linear, QuantileStopping, StudyResults, Trial, run_study
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.curves import Logged
from trialbook.tuning.early_stopping import Standing, Verdict, verdicts
from trialbook.tuning.findings import early_stopping
from trialbook.tuning.findings.finding import Finding
from trialbook.tuning.findings.statistics import stopping_replay
from trialbook.tuning.findings.statistics.stopping_replay import Curve, curves, replays

STEPS, EVALUATIONS = 1000, 20


def found(results: StudyResults) -> Finding:
  [one] = early_stopping.find(results)
  return one


def ended(order: Sequence[Curve], quantile: float, after: int, at: int = 0) -> set[int]:
  """Numbers of the trials that a rule ends which come in an order."""
  costs = np.array([one.costs[at] for one in order])
  left = np.array([one.steps - one.ends[at] for one in order])
  found = stopping_replay._ended(costs, left, stopping_replay.better_before(costs[None])[0], quantile, after)
  return {one.trial for one, is_ended in zip(order, found, strict=True) if is_ended}


def logging(trial: Trial, error: Sequence[tuple[int, float]], **changes: Any) -> Trial:
  """The trial, had it logged these errors."""
  log = Logged(curves={"validation/error": error}, examples=trial.log.examples)
  return dataclasses.replace(trial, log=log, _arrays={}, **changes)


def study(finals: np.ndarray, early: np.ndarray, *, seeds: int = 1, end: int = STEPS) -> StudyResults:
  """Trials with these errors at their end, and at a quarter and half of their steps; each point by several seeds."""
  space = planted.SPACE[:1]
  steps = np.arange(1, EVALUATIONS + 1) * STEPS // EVALUATIONS
  trials = []
  for number, (final, at) in enumerate(zip(np.repeat(finals, seeds), np.repeat(early, seeds), strict=True)):
    errors = np.where(steps < 0.8 * STEPS, np.maximum(at, final), final) * 1.0
    values = {space[0].name: space[0].scale.at((number // seeds + 0.5) / len(finals))}
    logged = {"validation/error": (steps[steps <= end], errors[steps <= end])}
    trials.append(planted.trial(number, values, logged))
  return planted.results(trials, space)


def learned(points: int, correlation: float, seed: int = 0) -> StudyResults:
  """A study whose errors early in training correlate with those at the end, which are all smaller."""
  rng = np.random.default_rng(seed)
  final = rng.normal(size=points)
  early = correlation * final + np.sqrt(1 - correlation**2) * rng.normal(size=points)
  return study(0.1 + 0.01 * final, 0.3 + 0.01 * early)


@pytest.mark.parametrize("seed", range(10))
def test_the_replay_decides_as_the_rule_does(seed: int):
  rng = np.random.default_rng(seed)
  costs = np.round(rng.normal(size=40), 1)
  costs[rng.random(40) < 0.1] = np.inf
  some = [
    Curve(trial, (float(cost),), (10,), 40 if rng.random() < 0.9 else 10, 0.0) for trial, cost in enumerate(costs)
  ]
  order = rng.permutation(40).tolist()
  standings = [Standing((some[one].costs[0],), int(some[one].ends[0] < some[one].steps)) for one in order]
  for quantile in early_stopping.QUANTILES:
    decided = verdicts(QuantileStopping(quantile=quantile, at=(10,), after=6), standings)
    expected = {one for one, verdict in zip(order, decided, strict=True) if isinstance(verdict, Verdict)}
    assert ended([some[one] for one in order], quantile, 6) == expected
    assert expected


def test_a_study_that_is_run_with_the_rule_ends_the_trials_that_the_replay_says(tmp_path: pathlib.Path):
  # Trials with a smaller x are complete before the others, and are left out.
  space = {"x": Linear(0.05, 1.0), "y": Linear(0.0, 1.0)}
  declared = pruned_functions.study(nuisance=space, stopping=None)
  whole = run_study(declared, tmp_path / "whole", executor=run_in_process)
  assert {"complete", "infeasible"} == {trial.state for trial in whole.trials}
  chosen = [one for [one] in curves(whole, (0.25, 0.5))]
  assert [one.trial for one in chosen] == list(range(30))
  pruned = ended(chosen, 0.5, 8)
  rule = QuantileStopping(quantile=0.5, at=(3,), after=8)
  results = run_study(dataclasses.replace(declared, stopping=rule), tmp_path / "pruned", executor=run_in_process)
  assert {trial.trial for trial in results.trials if trial.state == "pruned"} == pruned
  assert len(pruned) > 5
  saved = sum(chosen[one].steps - chosen[one].ends[0] for one in pruned)
  assert sum(trial.last_step for trial in results.trials) == sum(trial.last_step for trial in whole.trials) - saved
  # What the study says of itself afterwards.
  one = found(results)
  assert one.severity == "note"
  assert one.title.startswith(f"Early stopping ended {len(pruned)} of 30 trials, which saved ")
  made = sum(trial.last_step for trial in results.trials)
  assert one.numbers["saved"] == pytest.approx(len(pruned) * 9 / (made + len(pruned) * 9))


def test_a_rule_that_is_safe_is_recommended_with_what_it_saves_and_how_to_write_it():
  one = found(learned(48, 0.98))
  assert (one.severity, one.id, one.question) == ("note", "PB-69", "early_stopping")
  assert one.title == (
    "Ending bad trials early would have saved 31% of the steps (95% interval 20% to 41%) and kept the best trial of"
    " this study"
  )
  assert one.action == (
    "In the next study of this kind, write stopping=QuantileStopping(quantile=0.5, at=(250,), after=8), if that risk is"
    " worth the saving."
  )
  assert "200 random orders of 48 points" in one.why
  # Three quarters of the steps, of half of the 40 trials of 48 that are compared.
  assert one.numbers["saved"] == pytest.approx(0.75 * 0.5 * 40 / 48, abs=0.03)
  assert len(one.numbers["rules"]) == 4


def test_a_rule_that_loses_the_best_trial_is_not_recommended():
  points = np.linspace(0, 1, 40)
  # What is best in the end is worst until then.
  one = found(study(0.1 + 0.1 * points, 0.5 - 0.1 * points))
  assert one.severity == "ok"
  assert one.title.startswith("No rule that ends bad trials early is safe here: the safest one ends a best trial with")
  assert one.numbers["lost"] > 0.5
  assert 0 < one.numbers["loss"] < 0.1
  assert "which makes the best validation/error worse by 0.0" in one.why
  assert one.action == "Run each trial to its end."


def test_half_of_the_steps_are_waited_for_where_a_quarter_says_nothing():
  rng = np.random.default_rng(2)
  results = study(np.linspace(0.1, 0.2, 48), np.linspace(0.3, 0.4, 48))
  trials = []
  for trial in results.trials:
    logged = trial.curves["validation/error"]
    changed = [(step, 0.5 + 0.1 * rng.random() if step <= STEPS // 4 else value) for step, value in logged]
    trials.append(logging(trial, changed))
  one = found(planted.results(trials, planted.SPACE[:1]))
  assert one.severity == "note"
  assert (one.numbers["share"], one.numbers["quantile"]) == (0.5, 0.5)


@pytest.mark.parametrize("points", [1, 5, 15])
def test_too_few_points_are_said_with_how_many_it_takes(points: int):
  one = found(learned(points, 0.98))
  assert one.severity == "cannot_tell"
  assert f"{points} point{'s' * (points > 1)} can be replayed, and it takes 16" in one.title
  more = 16 - points
  assert one.action is not None
  assert one.action.startswith(f"Run {more} more point{'s' * (more > 1)} to their end")
  assert found(learned(16, 0.98)).severity == "note"


def test_retrains_of_a_point_count_once():
  finals = np.linspace(0.1, 0.2, 10)
  assert "10 points can be replayed" in found(study(finals, finals + 0.2, seeds=5)).title
  finals = np.linspace(0.1, 0.2, 24)
  once, often = found(study(finals, finals + 0.2)), found(study(finals, finals + 0.2, seeds=4))
  assert often.numbers["points"] == 24
  for name in ("saved", "low", "high"):
    assert often.numbers[name] == pytest.approx(once.numbers[name], abs=0.04)


def test_what_was_cut_short_or_failed_is_left_out_and_said():
  results = learned(40, 0.98)
  trials = list(results.trials)
  trials[3] = dataclasses.replace(trials[3], state="failed", recorded=("failed", "a bug"), objective=None)
  trials[7] = dataclasses.replace(trials[7], state="stopped", recorded=("stopped", "preempted"), objective=None)
  error = trials[9].curves["validation/error"]
  trials[9] = logging(trials[9], error[: len(error) // 3])
  one = found(planted.results(trials, planted.SPACE[:1]))
  assert one.numbers["points"] == 37
  assert "3 trials were left out: cut short, failed, or with too few evaluations" in one.why
  trials[5] = dataclasses.replace(trials[5], state="pruned", recorded=("pruned", None), objective=None)
  assert "Early stopping ended 1 of" in found(planted.results(trials, planted.SPACE[:1])).title


def test_infeasible_trials_count_as_worse_and_their_steps_as_spent():
  results = learned(40, 0.98)
  trials = list(results.trials)
  for number in range(0, 40, 2):
    error = trials[number].curves["validation/error"]
    ended: dict[str, Any] = {"state": "infeasible", "recorded": ("infeasible", "nan"), "objective": None}
    trials[number] = logging(trials[number], error[:2], **ended)
  one = found(planted.results(trials, planted.SPACE[:1]))
  assert one.numbers["points"] == 40
  # Half of all are worse than any other, so the median keeps each that is not.
  assert one.numbers["rules"][0]["saved"] < 0.1


def test_trials_without_curves_and_with_few_evaluations_are_told_what_it_takes():
  trials = [
    planted.trial(number, {planted.SPACE[0].name: 0.01 * (number + 1)}, {"validation/error": ([STEPS], [0.1 + number])})
    for number in range(30)
  ]
  one = found(planted.results(trials, planted.SPACE[:1]))
  assert (one.severity, "the trials have no curves" in one.title) == ("cannot_tell", True)
  trials = [
    planted.trial(
      number,
      {planted.SPACE[0].name: 0.01 * (number + 1)},
      {"validation/error": ([STEPS // 2, STEPS], [0.5 + number, 0.1 + number])},
    )
    for number in range(30)
  ]
  one = found(planted.results(trials, planted.SPACE[:1]))
  assert (one.severity, "with an evaluation at every eighth of the steps" in str(one.action)) == ("cannot_tell", True)


@pytest.mark.slow
def test_what_is_recommended_seldom_loses_the_best_of_a_fresh_study():
  """Pairs of studies: the rule of the first one is used in the second."""
  lost = {}
  for correlation in (0.5, 0.9):
    outcomes = []
    for seed in range(12):
      one = found(learned(32, correlation, seed))
      if one.severity != "note":
        continue
      fresh = [point for [point] in curves(learned(32, correlation, 1000 + seed), early_stopping.SHARES)]
      at = early_stopping.SHARES.index(one.numbers["share"])
      pruned = ended(fresh, one.numbers["quantile"], early_stopping.AFTER, at)
      outcomes.append(min(fresh, key=lambda each: each.cost).trial in pruned)
    lost[correlation] = outcomes
  assert len(lost[0.9]) >= 10
  assert sum(lost[0.9]) == 0
  assert sum(lost[0.5]) <= 1


def test_the_orders_and_the_margin_of_a_replay_are_used():
  points = [[Curve(number, (float(number),), (25,), 100, float(number))] for number in range(20)]
  [one] = replays(points, [0.25], [0.5], 8, 0.1)
  assert (one.lost, one.worse, one.loss, one.top) == (0, 0, 0, 0)
  assert 0 < one.low < one.saved < one.high < 0.45
  turned = [[Curve(number, (-float(number),), (25,), 100, float(number))] for number in range(20)]
  [two] = replays(turned, [0.25], [0.5], 8, 0.1)
  # The best trial is the worst at the step: it is kept only where it is among the first eight.
  assert two.lost == pytest.approx(12 / 20, abs=0.1)
  assert two.worse == two.lost
  assert replays(turned, [0.25], [0.5], 8, 100.0)[0].worse == 0

"""Trials that were ended early are censored: what their curves would have become is not said of the study."""

import pathlib
from collections.abc import Sequence

import numpy as np
import pytest

from trialbook.tuning import Minimize, StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.advice_benchmark.plants import found
from trialbook.tuning.findings.statistics.whole_trainings import at_target, whole_trainings
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.space.scales import Hyperparameter, OneOf

CASES = pathlib.Path(__file__).parent / "cases"
QUESTIONS = ("convergence", "late_noise", "selected_step")
STEPS, EVALUATIONS = 20_000, 50


def _curve(end: float, seed: int, *, noise: float = 0.0005) -> tuple[np.ndarray, np.ndarray]:
  """Errors that are at their end by a third of the steps, but for a little."""
  steps = STEPS * np.arange(1, EVALUATIONS + 1) / EVALUATIONS
  fall = 0.5 * np.exp(-steps / (0.05 * STEPS)) + 0.01 * (1 - steps / STEPS)
  return steps, end + fall + np.random.default_rng(seed).normal(0, noise, EVALUATIONS)


def _study(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> StudyResults:
  return planted.results(
    [planted.trial(number, {}, {"validation/error": curve}) for number, curve in enumerate(curves)],
    planted.SPACE,
    Minimize("validation/error"),
  )


def _until(curve: tuple[np.ndarray, np.ndarray], target: float) -> tuple[np.ndarray, np.ndarray]:
  """The curve to its first value that is better than the target."""
  steps, values = curve
  reached = np.flatnonzero(values < target)
  end = reached[0] + 1 if len(reached) else len(steps)
  return steps[:end], values[:end]


def _stopped_at_target(trials: int = 20) -> StudyResults:
  """The better trials reach a target between a third and nine tenths of the steps; the others run to their end."""
  ends = 0.1 + 0.001 * np.arange(trials)
  return _study([_until(_curve(end, seed), 0.113) for seed, end in enumerate(ends)])


def test_a_study_whose_best_trials_stop_at_a_target_says_so():
  results = _stopped_at_target()
  seen = whole_trainings(results)
  assert len(seen.of(seen.best)) == 0
  assert len(at_target(results, seen)) == len(seen.ended) >= 8
  (answer,) = found("convergence", results)
  assert answer.severity == "cannot_tell"
  assert answer.title == "Unknown whether training was long enough: none of the best 5 trials ran to its end"
  assert "as if they were stopped when they reached a target" in answer.why
  assert "without stopping at a target" in str(answer.action)
  for question in QUESTIONS:
    assert {one.severity for one in found(question, results)} == {"cannot_tell"}, question


def test_fewer_steps_are_not_advised_by_the_one_trial_that_ran_to_its_end():
  rng = np.random.default_rng(0)
  curves = [_curve(0.1 + 0.001 * seed, seed) for seed in range(12)]
  flat = curves[1][0], np.full(EVALUATIONS, 0.1)
  cut = [(steps[:end], values[:end]) for (steps, values), end in zip(curves, rng.integers(20, 45, 12), strict=True)]
  (answer,) = found("convergence", _study([flat, *cut[1:]]))
  assert answer.severity == "cannot_tell"
  assert answer.numbers["ran"] == 1
  assert answer.numbers["best"] == 5
  # Cut anywhere, they end at different values: no target.
  assert "target" not in answer.why
  assert found("convergence", _study([flat] * 5 + cut[5:]))[0].severity == "warning"


def test_it_is_said_how_many_of_the_best_ran_to_their_end():
  curves = [_curve(0.1 + 0.001 * seed, seed) for seed in range(12)]
  curves[0] = curves[0][0][:35], curves[0][1][:35]
  answer = found("convergence", _study(curves))[0]
  assert "long enough" not in answer.title
  assert "4 of the best 5 trials, which ran to their end" in answer.why
  assert "1 of the best 5 ended at step 14,000 of 20,000." in answer.why


def test_a_best_step_is_not_late_because_a_trial_was_ended_there():
  curves = [_curve(0.1 + 0.001 * seed, seed) for seed in range(24)]
  early = [(steps[:30], values[:30]) for steps, values in curves[12:]]
  (answer,) = found("selected_step", _study([*curves[:12], *early]))
  assert answer.numbers["trials"] == 12
  assert answer.numbers["left_out"] == 12
  assert "12 trials that ended early are left out" in answer.why


def test_lengths_without_a_usual_one_are_held_against_the_longest():
  """Twenty-three of twenty-five trials stop anywhere, so that two of about the same length are not the usual one."""
  lengths = [8361, 13930, 24820, 29474, 10763, 10089, 9433, 8048, 10531, 24833, 23559, 10763, 8032, 26792, 5962, 27793]
  lengths += [9756, 29312, 11295, 32801, 13232, 13514, 6661, 36189, 36189]
  curves = []
  for number, length in enumerate(lengths):
    steps = np.linspace(length / 50, length, 50).round()
    curves.append((steps, 0.28 + 0.0001 * number + 0.1 * np.exp(-5 * steps / length)))
  seen = whole_trainings(_study(curves))
  assert seen.steps == 36189
  assert len(seen.whole) == 2
  assert not seen.is_enough


def test_trainings_that_are_as_long_as_their_batch_size_says_are_whole():
  """Sixty epochs at three batch sizes; one trial was cut short."""
  trials = []
  for number in range(18):
    batch_size = (64, 128, 256)[number % 3]
    length = 20_000 * 64 // batch_size
    steps = np.linspace(length / 50, length, 50).round()[: 20 if number == 4 else 50]
    curve = steps, 0.1 + 0.001 * number + 0.4 * np.exp(-8 * steps / length)
    trials.append(planted.trial(number, {"batch_size": batch_size}, {"validation/error": curve}))
  batch_size = Hyperparameter(name="batch_size", path="batch_size", scale=OneOf([64, 128, 256]), role="scientific")
  results = planted.results(trials, (batch_size,))
  seen = whole_trainings(results)
  assert [trial.trial for trial in seen.ended] == [4]
  assert seen.is_enough


@pytest.mark.parametrize("name", ["restart_called_period_15"])
def test_real_trials_that_stopped_at_a_target_are_not_taken_for_whole_ones(name, tmp_path):
  """From public logs: four of the best five reached 0.774 before the end."""
  results = read_results(import_study("csv", CASES / name, tmp_path / name)[0])
  (answer,) = found("convergence", results)
  assert answer.severity == "cannot_tell"
  assert answer.title == "Unknown whether training was long enough: 1 of the best 5 trials ran to its end"
  assert "target" in answer.why


def test_trials_that_a_rule_pruned_do_not_count_as_short():
  curves = [_curve(0.1 + 0.001 * seed, seed) for seed in range(12)]
  trials = [planted.trial(number, {}, {"validation/error": curve}) for number, curve in enumerate(curves)]
  for number in range(12, 40):
    steps, values = _curve(0.3, number)
    short = {"validation/error": (steps[:10], values[:10])}
    trials.append(planted.trial(number, {}, short, state="pruned", reason="worse than half"))
  with_pruned = planted.results(trials, planted.SPACE)
  for question in QUESTIONS:
    assert [one.severity for one in found(question, with_pruned)] == [
      one.severity for one in found(question, planted.results(trials[:12], planted.SPACE))
    ]

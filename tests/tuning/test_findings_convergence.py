"""Whether training was long enough: what more steps would gain, what fewer would lose, and whether the loss rises."""

from collections.abc import Callable

import numpy as np
import pytest
from curve_studies import normal_noise, study_of_curves

from trialbook.tuning import Minimize, StudyResults
from trialbook.tuning.advice_benchmark import planted, planted_curves
from trialbook.tuning.advice_benchmark.planted_curves import SMALL
from trialbook.tuning.advice_benchmark.plants import found
from trialbook.tuning.findings.saturation import fewer
from trialbook.tuning.findings.statistics.curve_trends import training_loss_metric
from trialbook.tuning.findings.statistics.foreseen_gain import ends
from trialbook.tuning.findings.statistics.learning_curves import learning_curves
from trialbook.tuning.findings.statistics.whole_trainings import whole_trainings


def _from_chance(course: Callable[[np.ndarray], np.ndarray], first: int = 0, **world) -> StudyResults:
  """Errors that fall from 0.9 by a course from 0 to 0.5, of time [evaluations], from the evaluation `first` on."""

  def reshape(curves: planted.Curves, *_) -> planted.Curves:
    steps = curves["validation/error"][0]
    errors = 0.9 - course(steps / steps[-1])
    return {**curves, "validation/error": (steps[first:], errors[first:])}

  return planted.healthy(1, trials=12, untidy=False, **world, reshape=reshape)


def test_what_has_hardly_begun_is_a_warning_without_a_learning_rate():
  (answer,) = found("convergence", _from_chance(lambda time: 0.5 * time))
  assert answer.severity == "warning"
  assert "hardly explains it" in answer.why
  # Not where it began late, slows down to the end, or was not seen from its start.
  for late in (
    _from_chance(lambda time: 0.5 * np.maximum(time - 0.6, 0) / 0.4),
    _from_chance(lambda time: 0.25 * (1 - np.cos(np.pi * time))),
    _from_chance(lambda time: 0.4 * (1 - np.exp(-time / 0.03)) + 0.1 * time),
    _from_chance(lambda time: 0.5 * time, first=4),
  ):
    assert {one.severity for one in found("convergence", late)} <= {"note", "ok", "cannot_tell"}


def test_whether_half_the_steps_would_do_is_ok_only_where_it_was_seen():
  def flat(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    noise = rng.normal(0, 0.02, len(steps))
    return {**curves, "validation/error": (steps, errors[-1] + 0.5 * np.exp(-steps / 500) + noise)}

  studies = [found("convergence", planted.healthy(seed, **SMALL, reshape=flat)) for seed in range(8)]
  unsure = [one for answers in studies for one in answers if one.title.startswith("Unknown whether half the steps")]
  assert len(unsure) >= 6
  assert {one.severity for one in unsure} == {"cannot_tell"}
  answer = unsure[0]
  assert "10,000 steps" in str(answer.action)
  assert answer.numbers["half_low"] <= 0 < answer.numbers["half_high"]


def _ended(course: Callable[[np.ndarray], np.ndarray], seed: int, trials: int, noise: float, shared: float = 0.0):
  """Errors by a course of time [evaluations] from 0 to 1, with noise of their own and such as they share."""
  rng = np.random.default_rng(seed)
  time = np.arange(1, 51) / 50
  common = rng.normal(0, 1, 50) * shared
  return study_of_curves(
    *[
      {"validation/error": (5000 * time, 0.1 + 0.002 * n + course(time) + common + rng.normal(0, noise, 50))}
      for n in range(trials)
    ]
  )


@pytest.mark.slow
def test_more_steps_are_ok_only_where_a_relevant_gain_is_excluded():
  # A line that gains twice what is relevant in a fifth of the steps, in noise that hides it.
  hidden = [found("convergence", _ended(lambda time: 0.02 * (1 - time), seed, 12, 0.005)) for seed in range(20)]
  unsure = [one for answers in hidden for one in answers if one.title.startswith("Unknown whether more steps")]
  assert len(unsure) >= 15
  assert sum(one.severity == "ok" for answers in hidden for one in answers) <= 2
  for one in unsure:
    assert one.severity == "cannot_tell"
    assert one.numbers["high"] >= one.numbers["relevant"]
    assert "6,000 steps" in str(one.action)
  still = found("convergence", _ended(lambda time: 0.3 * np.maximum(0.6 - time, 0), 1, 12, 0.0005))
  assert [one.severity for one in still] == ["ok"]


@pytest.mark.slow
def test_what_more_steps_gain_at_most_holds_as_often_as_is_said():
  held = []
  for seed in range(100):
    results = _ended(lambda time: 0.05 * (1 - time), seed, 12, 0.002)
    ran = learning_curves(results, whole_trainings(results))
    assert ran is not None
    held.append(ends(results, ran).high >= 0.01)
  assert np.mean(held) >= 0.9


@pytest.mark.slow
def test_noise_that_trials_share_is_no_more_certain_for_being_seen_in_many():
  def lose(shared: float, own: float) -> list[float]:
    """What is said to be lost at most where it is 0.002."""
    drawn = (_ended(lambda time: 0.002 * (time <= 0.5), seed, 40, own, shared) for seed in range(10_000, 10_040))
    return [
      fewer(ran, 0.002).half[1] for results in drawn if (ran := learning_curves(results, whole_trainings(results)))
    ]

  # With 95% certainty; a rate from forty is known to 0.035.
  assert np.mean(np.array(lose(0.006, 0.001)) < 0.002) <= 0.15
  assert np.mean(np.array(lose(0.0, 0.006)) < 0.002) <= 0.15


def test_saturation_is_said_by_what_it_loses_and_of_whom_it_was_seen():
  (better,) = found(
    "convergence", _ended(lambda time: -0.01 * (time <= 0.3) + 0.1 * np.exp(-time / 0.01), 1, 80, 0.001)
  )
  assert better.title == "validation/error is no better at the end than after 30% of the steps (95% confidence)"
  (flat,) = found("convergence", _ended(lambda time: 0.1 * np.exp(-time / 0.01), 1, 80, 0.001))
  assert "improves by less than" in flat.title
  for one in (better, flat):
    assert one.numbers["averaged"] == len(one.trials) == 20
    assert "best 20 trials" in one.why


@pytest.mark.slow
def test_saturation_that_five_trials_cannot_tell_is_told_by_more():
  # By five of them it is told in three of eight.
  drawn = [planted_curves.saturated_and_noisy(seed, 0.8, trials=80, validation_examples=5000) for seed in range(8)]
  assert sum(one.severity == "warning" for results in drawn for one in found("convergence", results)) >= 6


def test_the_best_few_that_still_improve_are_not_outvoted_by_others():
  steps = np.arange(1, 51) * 100
  drop = np.where(steps <= 2500, 0.006, 0.0)
  curves = [
    {"validation/error": (steps, 0.1 + 0.002 * n + drop * (n < 5) + normal_noise(n, scale=0.001))} for n in range(80)
  ]
  (answer,) = found("convergence", study_of_curves(*curves))
  assert answer.severity == "ok"
  assert "half as many would lose at least" in answer.title


def _recovering(course: Callable[[np.ndarray], np.ndarray], one: int) -> StudyResults:
  """Twelve trials by a course of time from 0 to 1; one of the best falls far back at half of the steps, and recovers by
  their end."""
  time = np.arange(1, 51) / 50
  back = 0.2 * np.interp(time, [0.5, 0.52, 0.6, 1.0], [0, 1, 1, 0])
  return study_of_curves(
    *[
      {
        "validation/error": (
          5000 * time,
          0.1 + 0.001 * n + course(time) + back * (n == one) + normal_noise(n, scale=0.0005),
        )
      }
      for n in range(12)
    ]
  )


def test_one_recovering_trial_is_not_still_improving():
  def flat(time: np.ndarray) -> np.ndarray:
    return 0.1 * np.exp(-time / 0.01)

  for one in range(5):
    (answer,) = found("convergence", _recovering(flat, one))
    assert "Train for fewer steps" in str(answer.action), one
    assert f"Trial {one} is left out" in answer.why
    assert one not in answer.trials
  # What most trials do is not left out.
  (answer,) = found("convergence", _recovering(lambda time: 0.05 * (1 - time), 4))
  assert "still improves" in answer.title


@pytest.mark.slow
def test_trials_that_differ_only_by_noise_are_all_kept():
  left_out = 0
  for seed in range(40):
    results = _ended(lambda time: 0.03 * (1 - time) ** 2, seed, 12, 0.003)
    ran = learning_curves(results, whole_trainings(results))
    assert ran is not None
    left_out += len(ran.left_out)
  assert left_out <= 2


def _with_losses(**logged: tuple[int, int]) -> StudyResults:
  """Six trials of 1,000 steps that logged these training losses: name with "__" for "/" -> last step, evaluations."""
  curves: planted.Curves = {"validation/wer": (np.arange(20, 1001, 20), np.linspace(0.5, 0.1, 50))}
  for name, (last, count) in logged.items():
    curves[name.replace("__", "/")] = np.linspace(0, last, count).round(), np.linspace(2, 1, count)
  trials = [planted.trial(number, {}, curves) for number in range(6)]
  return planted.results(trials, planted.SPACE, Minimize("validation/wer"))


def test_the_training_loss_that_was_logged_until_late_is_found_whatever_its_name():
  names = {
    "train_subset/ctc_loss": _with_losses(train__loss=(10, 100), train_subset__ctc_loss=(1000, 30)),
    "train/loss": _with_losses(train__loss=(1000, 100), train_subset__ctc_loss=(300, 30)),
    "train_subset/loss": _with_losses(train__loss=(1000, 100), train_subset__loss=(980, 30)),
    "train_loss": _with_losses(train_loss=(1000, 100), validation__loss=(1000, 30)),
    "training/cross_entropy": _with_losses(training__cross_entropy=(1000, 100), train__accuracy=(1000, 30)),
    "trainLoss": _with_losses(trainLoss=(1000, 100)),
    None: _with_losses(validation__loss=(1000, 100), train__accuracy=(1000, 100)),
  }
  for name, results in names.items():
    assert training_loss_metric(results) == name


def test_a_loss_that_was_logged_at_the_start_only_does_not_show_that_none_rises_late():
  answers = found("convergence", _with_losses(train__loss=(10, 100)))
  (unseen,) = [one for one in answers if "training loss" in one.title]
  assert unseen.severity == "cannot_tell"
  assert unseen.title == ("Unknown whether the training loss rises late: train/loss was logged until step 10 of 1,000")
  assert not any("rises late in none" in one.why for one in answers)
  for results in (_with_losses(train__loss=(10, 100), train_subset__ctc_loss=(1000, 30)), _with_losses()):
    assert not any("training loss rises" in one.title for one in found("convergence", results))

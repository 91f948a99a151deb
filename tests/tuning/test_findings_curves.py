"""Findings about curves see what was planted, keep silent about healthy studies, and never fail."""

import dataclasses
import importlib
import itertools
from collections.abc import Callable

import numpy as np
import pytest

from trialbook.trainer.config import Config
from trialbook.tuning import Maximize, Minimize, StudyResults
from trialbook.tuning.advice_benchmark import planted, planted_curves
from trialbook.tuning.advice_benchmark.curve_plants import PLANTS, false_alarms
from trialbook.tuning.advice_benchmark.planted_curves import HARD, SMALL
from trialbook.tuning.advice_benchmark.plants import Plant, found, rate
from trialbook.tuning.findings import SEVERITIES, Finding
from trialbook.tuning.findings.saturation import fewer
from trialbook.tuning.findings.statistics.curve_trends import (
  correlation,
  effective_trials,
  noise_correlation,
  rise_after_best,
  share_interval,
  training_loss_metric,
  trend,
)
from trialbook.tuning.findings.statistics.foreseen_gain import ends
from trialbook.tuning.findings.statistics.learning_curves import learning_curves
from trialbook.tuning.findings.statistics.whole_trainings import whole_trainings
from trialbook.tuning.findings.wording import p_value
from trialbook.tuning.space.scales import Hyperparameter, Linear

QUESTIONS = (
  *("overfitting", "late_noise", "convergence", "selected_step", "periodicity", "gradient_norm", "optimization"),
)
SEEDS = range(50)


def _id(plant: Plant) -> str:
  return plant.name.replace(" ", "_")


@pytest.mark.parametrize("plant", PLANTS, ids=_id)
def test_what_is_plain_is_seen(plant):
  assert rate(plant, plant.sizes[-1], range(3)) == 1.0


@pytest.mark.parametrize("world", [SMALL, HARD], ids=["small", "hard"])
def test_healthy_studies_are_left_alone(world):
  rates = false_alarms(world, range(3))
  assert not any(rates.values()), rates


@pytest.mark.evidence
@pytest.mark.parametrize("plant", PLANTS, ids=_id)
def test_detection_grows_with_the_size_and_reaches_nine_of_ten_where_the_docs_say(plant):
  rates = {size: rate(plant, size, SEEDS) for size in plant.sizes}
  assert len(rates) >= 4
  # Each rate is known to about 0.07.
  values = list(rates.values())
  assert all(later >= earlier - 0.1 for earlier, later in itertools.pairwise(values)), rates
  assert min(share for size, share in rates.items() if size >= plant.reached) >= 0.9, rates
  assert values[0] <= 0.2, rates


@pytest.mark.evidence
@pytest.mark.parametrize("world", [{}, HARD], ids=["healthy", "harder"])
def test_at_most_one_in_twenty_healthy_studies_is_accused(world):
  rates = false_alarms(world, SEEDS)
  assert max(rates.values()) <= 0.05, rates


def _study(*curves: planted.Curves, state: str = "complete") -> StudyResults:
  trials = [
    planted.trial(number, {"optimizer.learning_rate": 0.01 * (number + 1)}, one, state=state, examples={})
    for number, one in enumerate(curves)
  ]
  # Also of a metric that no trial logged, as results read from records are.
  empty = planted.results([], planted.SPACE[:1])
  return dataclasses.replace(empty, trials=tuple(one.by(planted.OBJECTIVE) for one in trials))


def _flat(value: float, count: int = 50) -> planted.Curves:
  return {"validation/error": (np.arange(1, count + 1) * 100, np.full(count, value))}


def _noise(seed: int, count: int = 50, scale: float = 0.01) -> np.ndarray:
  return np.random.default_rng(seed).normal(0, scale, count)


BROKEN = {
  "no_trials": _study(),
  "one_trial": _study(_flat(0.1)),
  "all_infeasible": _study(_flat(0.1), _flat(0.2), state="infeasible"),
  "nothing_logged": _study({}, {}),
  "another_metric": _study({"validation/loss": (np.arange(50), np.arange(50.0))}),
  "only_the_start": _study({"validation/error": (np.array([0]), np.array([0.9]))}),
  "one_evaluation": _study(*[{"validation/error": (np.array([500]), np.array([0.5]))}] * 6),
  "all_nan": _study(*[_flat(np.nan)] * 6),
  "some_nan": _study(*[{"validation/error": (np.arange(50), np.where(np.arange(50) % 3, 0.1, np.nan))}] * 6),
  "infinite": _study(*[{"validation/error": (np.arange(50), np.where(np.arange(50) % 7, 0.1, np.inf))}] * 6),
  "constant": _study(*[_flat(0.1)] * 6),
  "zero": _study(
    *[{**_flat(0.0), "train/loss": (np.arange(50), np.zeros(50)), "grad_norm": (np.arange(50), np.zeros(50))}] * 6
  ),
  "huge": _study(*[{"validation/error": (np.arange(50), 1e38 * (1 + _noise(seed)))} for seed in range(6)]),
  "unequal": _study(*[{"validation/error": (np.arange(n) * n, 0.1 + _noise(n, n))} for n in (1, 5, 17, 40, 200)]),
  "equal_steps": _study(*[{"validation/error": (np.full(50, 7), 0.1 + _noise(1))}] * 6),
  "bursts": _study(*[{"validation/error": (np.r_[np.arange(1, 49), 10_000, 20_000], 0.1 + _noise(1))}] * 6),
  "cut_short": planted.healthy(
    1,
    trials=8,
    reshape=lambda curves, units, rng: {
      name: (steps[: len(steps) // 3], values[: len(steps) // 3]) for name, (steps, values) in curves.items()
    },
  ),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", BROKEN)
def test_any_study_gets_an_answer(name, question):
  answers = found(question, BROKEN[name])
  assert answers
  for one in answers:
    assert one.question == question
    assert one.severity in SEVERITIES
    assert one.severity not in ("warning", "problem") or one.action
    assert one.severity != "cannot_tell" or one.action
    assert "nan" not in one.title + one.why


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_the_same_each_time(question):
  assert found(question, planted.healthy(3, **SMALL)) == found(question, planted.healthy(3, **SMALL))


def _mirrored(results: StudyResults) -> StudyResults:
  """The same study by an accuracy."""
  trials = []
  for one in results.trials:
    curves = {name: (np.array(points)[:, 0], np.array(points)[:, 1]) for name, points in one.curves.items()}
    steps, errors = curves.pop("validation/error")
    curves["validation/accuracy"] = steps, 1 - errors
    trials.append(planted.trial(one.trial, one.values, curves, state=one.state, examples=one.log.examples))
  return planted.results(trials, planted.SPACE, Maximize("validation/accuracy"))


@pytest.mark.parametrize("plant", PLANTS, ids=_id)
def test_an_accuracy_is_judged_as_its_error_is(plant):
  results = plant.draw(1, plant.sizes[-1])
  by_error, by_accuracy = found(plant.question, results), found(plant.question, _mirrored(results))
  assert [one.severity for one in by_error] == [one.severity for one in by_accuracy]
  assert [one.trials for one in by_error] == [one.trials for one in by_accuracy]
  title = by_accuracy[0].title
  if plant.draw is planted_curves.overfitting_best:
    assert title.startswith("validation/accuracy of the best trial falls by")


def test_a_line_is_that_of_least_squares_and_its_error_too():
  rng = np.random.default_rng(0)
  steps = np.sort(rng.choice(10_000, 40, replace=False))
  values = 0.3 + 2e-5 * steps + rng.uniform(-0.01, 0.01, 40)
  design = np.stack([np.ones(40), steps], axis=1)
  solved, squares, *_ = np.linalg.lstsq(design, values, rcond=None)
  error = np.sqrt(squares[0] / 38 * np.linalg.inv(design.T @ design)[1, 1])
  line = trend(steps, values)
  assert line is not None
  length = steps[-1] - steps[0]
  np.testing.assert_allclose(line.change, solved[1] * length, rtol=1e-9)
  np.testing.assert_allclose(line.error, error * length, rtol=1e-9)
  spiked = trend(steps, values + np.where(np.arange(40) == 20, 5.0, 0.0))
  assert spiked is not None
  assert abs(spiked.change - line.change) < 3 * line.error


def test_intervals_of_a_line_hold_for_autocorrelated_noise():
  inside = 0
  for seed in range(300):
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(10):
      noise = rng.normal(0, 1, 50)
      for position in range(1, 50):
        noise[position] = 0.5 * noise[position - 1] + np.sqrt(0.75) * noise[position]
      curves.append((np.arange(50), noise + 0.02 * np.arange(50)))
    steps, noisy = curves[0]
    line = trend(steps, noisy, correlation(curves))
    assert line is not None
    inside += abs(line.change - 0.98) < line.half_width
  assert 0.91 <= inside / 300 <= 0.99


def test_a_flat_curve_does_not_seem_to_rise_after_its_best():
  ps = [rise.p for seed in range(400) if (rise := rise_after_best(np.arange(50), _noise(seed))) is not None]
  assert np.mean(np.array(ps) < 0.05) < 0.08


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson():
  # Table values: 8 of 10, and no success in 10.
  np.testing.assert_allclose(share_interval(8, 10), (0.44390, 0.97479), atol=1e-5)
  np.testing.assert_allclose(share_interval(0, 10), (0, 0.30850), atol=1e-5)


def test_a_tiny_p_is_not_said_to_more_than_is_known():
  assert [p_value(p) for p in (0.0312, 2e-6, 3e-80, 0.0)] == ["p = 0.031", "p = 2e-06", "p < 1e-6", "p < 1e-6"]


def _worst(findings: list[Finding]) -> Finding:
  return min(findings, key=lambda one: SEVERITIES.index(one.severity))


def _compared(name: str, path: str, seed: int = 2) -> StudyResults:
  """A study that overfits and compares two values of a hyperparameter."""
  results = planted_curves.overfitting_best(seed, 0.6, trials=24)
  scientific = Hyperparameter(name=name, path=path, scale=Linear(0.0, 1.0), role="scientific")
  trials = [dataclasses.replace(one, values={**one.values, name: float(one.trial % 2)}) for one in results.trials]
  return planted.results(trials, (*planted.SPACE, scientific))


def test_overfitting_counts_where_settings_are_compared_unless_regularization_is():
  answers = found("overfitting", _compared("model.width", "model.width"))
  assert {one.subject for one in answers if one.severity == "problem"} == {"0", "1"}
  exempt = found("overfitting", _compared("dropout", "model.dropout_rate"))
  assert {one.severity for one in exempt} == {"note"}
  assert any("dropout is compared" in one.why for one in exempt)


def test_a_remedy_is_a_change_that_the_config_can_make():
  for draw, question, size in (
    (planted_curves.overfitting_best, "overfitting", 0.6),
    (planted_curves.still_improving, "convergence", 0.6),
    (planted_curves.gradient_outliers, "gradient_norm", 8.0),
    (planted_curves.noisy_end, "late_noise", 0.05),
    (planted_curves.early_best, "selected_step", 1.0),
  ):
    results = draw(1, size)
    assert _worst(found(question, results)).changes is None
    config = Config(max_train_steps=20_000)
    results = dataclasses.replace(results, study=dataclasses.replace(results.study, config=config))
    changes = _worst(found(question, results)).changes
    assert changes, question
    assert config.override(changes) != config


def test_overfitting_says_where_it_is_and_that_the_best_may_be_best_by_accident():
  answers = found("overfitting", planted_curves.overfitting_others(1, 0.4, trials=24))
  assert "large optimizer.learning_rate" in answers[0].title
  assert answers[0].severity == "note"


def test_a_loss_that_rises_beside_a_flat_error_is_a_note():
  results = planted.healthy(
    1,
    **SMALL,
    reshape=lambda curves, _, rng: {
      **curves,
      "validation/loss": (curves["validation/loss"][0], curves["validation/loss"][1] + np.linspace(0, 0.5, 51)),
    },
  )
  (answer,) = found("overfitting", results)
  assert answer.severity == "note"
  assert answer.title.startswith("validation/loss of the best trial rises")


def test_late_noise_is_told_from_that_of_few_validation_examples():
  def surface(units: planted.Units, rng: np.random.Generator) -> float:
    return 0.1 + 0.002 * units["optimizer.learning_rate"]

  few = _worst(found("late_noise", planted.healthy(1, trials=16, surface=surface, validation_examples=500)))
  assert few.severity == "warning"
  assert "validation examples" in str(few.action)
  jitter = _worst(found("late_noise", planted.healthy(1, trials=16, surface=surface, jitter=0.3)))
  assert jitter.severity == "warning"
  assert "learning rate" in str(jitter.action)


def test_the_period_is_that_of_the_sine():
  for seed in range(5):
    turns = np.random.default_rng(seed + 500_000).uniform(5, 16)
    (answer,) = found("periodicity", planted_curves.periodic(seed, 0.01))
    assert answer.severity == "warning"
    np.testing.assert_allclose(answer.numbers["period"], 20_000 / turns, rtol=0.12)
    np.testing.assert_allclose(answer.numbers["amplitude"], 0.01, rtol=0.5)


def test_the_best_step_is_looked_for_also_where_the_last_one_counts():
  results = planted_curves.early_best(1, 1.0)
  last = results.by(Minimize("validation/error", "last"))
  assert [one.title for one in found("selected_step", last)] == [one.title for one in found("selected_step", results)]


def test_best_steps_at_the_end_are_a_note_and_too_few_of_them_are_said_to_be_few():
  def late(count: int) -> Finding:
    curves = [
      {"validation/error": (np.arange(1, 51) * 100, np.linspace(0.5, 0.1, 50) + 0.01 * n)} for n in range(count)
    ]
    (answer,) = found("selected_step", _study(*curves))
    return answer

  assert late(30).severity == "note"
  assert "last 25%" in late(30).title
  few = late(10)
  assert few.severity == "cannot_tell"
  assert few.title.startswith("10 of 10 best steps are in the last 25%, 0 in the first 10%")
  # The smallest number whose interval (Clopper and Pearson) is above 0.8 if all are late: 0.025 ** (1 / 17) = 0.805.
  assert "Complete 17 trials" in str(few.action)
  assert late(17).severity == "note"


def test_a_median_that_is_early_is_a_note_where_the_interval_does_not_decide():
  def early(count: int) -> StudyResults:
    bests = [4] * count + [20] * (20 - count)
    return _study(
      *[
        {"validation/error": (np.arange(1, 51) * 100, 0.1 + 0.01 * np.abs(np.arange(1, 51) - best) + 0.001 * n)}
        for n, best in enumerate(bests)
      ]
    )

  severities = [found("selected_step", early(count))[0].severity for count in (9, 12, 19)]
  assert severities == ["ok", "note", "problem"]
  assert "best step of the median trial is at 8%" in found("selected_step", early(12))[0].title


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
  return _study(
    *[
      {"validation/error": (5000 * time, 0.1 + 0.002 * n + course(time) + common + rng.normal(0, noise, 50))}
      for n in range(trials)
    ]
  )


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


def test_what_more_steps_gain_at_most_holds_as_often_as_is_said():
  held = []
  for seed in range(100):
    results = _ended(lambda time: 0.05 * (1 - time), seed, 12, 0.002)
    ran = learning_curves(results, whole_trainings(results))
    assert ran is not None
    held.append(ends(results, ran).high >= 0.01)
  assert np.mean(held) >= 0.9


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


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_what_the_noise_of_trials_has_in_common_is_measured(share):
  rng = np.random.default_rng(10_000)
  noise = np.sqrt(share) * rng.normal(size=60) + np.sqrt(1 - share) * rng.normal(size=(40, 60))
  assert abs(noise_correlation(noise, 3) - share) < 0.15
  np.testing.assert_allclose([effective_trials(8, 0.0), effective_trials(8, 1.0), effective_trials(1, 0.5)], [8, 1, 1])
  assert noise_correlation(np.zeros((5, 60)), 3) == 0


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


def test_saturation_that_five_trials_cannot_tell_is_told_by_more():
  # By five of them it is told in three of eight.
  drawn = [planted_curves.saturated_and_noisy(seed, 0.8, trials=80, validation_examples=5000) for seed in range(8)]
  assert sum(one.severity == "warning" for results in drawn for one in found("convergence", results)) >= 6


def test_the_best_few_that_still_improve_are_not_outvoted_by_others():
  steps = np.arange(1, 51) * 100
  drop = np.where(steps <= 2500, 0.006, 0.0)
  curves = [{"validation/error": (steps, 0.1 + 0.002 * n + drop * (n < 5) + _noise(n, scale=0.001))} for n in range(80)]
  (answer,) = found("convergence", _study(*curves))
  assert answer.severity == "ok"
  assert "half as many would lose at least" in answer.title


def _recovering(course: Callable[[np.ndarray], np.ndarray], one: int) -> StudyResults:
  """Twelve trials by a course of time from 0 to 1; one of the best falls far back at half of the steps, and recovers by
  their end."""
  time = np.arange(1, 51) / 50
  back = 0.2 * np.interp(time, [0.5, 0.52, 0.6, 1.0], [0, 1, 1, 0])
  return _study(
    *[
      {
        "validation/error": (
          5000 * time,
          0.1 + 0.001 * n + course(time) + back * (n == one) + _noise(n, scale=0.0005),
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


def test_clipping_most_updates_is_too_much():
  def clipped(share: float) -> StudyResults:
    return planted.healthy(
      1, **SMALL, reshape=lambda curves, _, rng: {**curves, "clip_fraction": (np.arange(1, 101), np.full(100, share))}
    )

  assert [one.severity for one in found("gradient_norm", clipped(0.8)) if one.id == "PB-83"] == ["warning"]
  assert [one.severity for one in found("gradient_norm", clipped(0.1)) if one.id == "PB-83"] == ["ok"]


def test_the_clipping_threshold_is_the_ninetieth_percentile_of_the_best_trial():
  results = planted_curves.gradient_outliers(1, 8.0)
  answer = _worst(found("gradient_norm", results))
  best = results.best
  assert best is not None
  expected = np.quantile(best.curve("grad_norm")[1], 0.9)
  np.testing.assert_allclose(answer.numbers["threshold"], expected, rtol=0.05)


def test_optimization_names_each_sign():
  assert "outliers of the gradient norm" in found("optimization", planted_curves.gradient_outliers(1, 8.0))[0].title
  assert "rising training loss" in found("optimization", planted_curves.rising_training_loss(1, 0.6))[0].title
  assert "a noisy end" in found("optimization", planted_curves.noisy_end(1, 0.06))[0].title
  cliff = planted.healthy(
    1,
    trials=32,
    surface=lambda units, rng: 0.5 - 0.6 * units["optimizer.learning_rate"],
    diverges=lambda units, rng: units["optimizer.learning_rate"] > 0.6,
  )
  assert "instability above the best learning rate" in found("optimization", cliff)[0].title

  def spikes(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, losses = curves["train/loss"]
    return {
      **curves,
      "train/loss": (steps, np.where(np.isin(np.arange(len(steps)), (12, 20, 31)), 10 * losses, losses)),
    }

  assert "early spikes" in found("optimization", planted.healthy(1, **SMALL, reshape=spikes))[0].title


def test_the_checklist_asks_each_question():
  asked = importlib.import_module("trialbook.tuning.findings").QUESTIONS
  assert set(QUESTIONS) <= set(asked)

"""Findings about curves see what was planted, keep silent about healthy studies, and never fail."""

import dataclasses
import importlib
import itertools

import numpy as np
import pytest
from curve_studies import normal_noise, study_of_curves

from trialbook.trainer.config import Config
from trialbook.tuning import Maximize, Minimize, StudyResults
from trialbook.tuning.advice_benchmark import planted, planted_curves
from trialbook.tuning.advice_benchmark.curve_plants import PLANTS, false_alarms
from trialbook.tuning.advice_benchmark.planted_curves import HARD, SMALL
from trialbook.tuning.advice_benchmark.plants import Plant, found, rate
from trialbook.tuning.findings import SEVERITIES, Finding
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


def _flat(value: float, count: int = 50) -> planted.Curves:
  return {"validation/error": (np.arange(1, count + 1) * 100, np.full(count, value))}


BROKEN = {
  "no_trials": study_of_curves(),
  "one_trial": study_of_curves(_flat(0.1)),
  "all_infeasible": study_of_curves(_flat(0.1), _flat(0.2), state="infeasible"),
  "nothing_logged": study_of_curves({}, {}),
  "another_metric": study_of_curves({"validation/loss": (np.arange(50), np.arange(50.0))}),
  "only_the_start": study_of_curves({"validation/error": (np.array([0]), np.array([0.9]))}),
  "one_evaluation": study_of_curves(*[{"validation/error": (np.array([500]), np.array([0.5]))}] * 6),
  "all_nan": study_of_curves(*[_flat(np.nan)] * 6),
  "some_nan": study_of_curves(*[{"validation/error": (np.arange(50), np.where(np.arange(50) % 3, 0.1, np.nan))}] * 6),
  "infinite": study_of_curves(*[{"validation/error": (np.arange(50), np.where(np.arange(50) % 7, 0.1, np.inf))}] * 6),
  "constant": study_of_curves(*[_flat(0.1)] * 6),
  "zero": study_of_curves(
    *[{**_flat(0.0), "train/loss": (np.arange(50), np.zeros(50)), "grad_norm": (np.arange(50), np.zeros(50))}] * 6
  ),
  "huge": study_of_curves(
    *[{"validation/error": (np.arange(50), 1e38 * (1 + normal_noise(seed)))} for seed in range(6)]
  ),
  "unequal": study_of_curves(
    *[{"validation/error": (np.arange(n) * n, 0.1 + normal_noise(n, n))} for n in (1, 5, 17, 40, 200)]
  ),
  "equal_steps": study_of_curves(*[{"validation/error": (np.full(50, 7), 0.1 + normal_noise(1))}] * 6),
  "bursts": study_of_curves(
    *[{"validation/error": (np.r_[np.arange(1, 49), 10_000, 20_000], 0.1 + normal_noise(1))}] * 6
  ),
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
    (answer,) = found("selected_step", study_of_curves(*curves))
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
    return study_of_curves(
      *[
        {"validation/error": (np.arange(1, 51) * 100, 0.1 + 0.01 * np.abs(np.arange(1, 51) - best) + 0.001 * n)}
        for n, best in enumerate(bests)
      ]
    )

  severities = [found("selected_step", early(count))[0].severity for count in (9, 12, 19)]
  assert severities == ["ok", "note", "problem"]
  assert "best step of the median trial is at 8%" in found("selected_step", early(12))[0].title


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

"""Findings about curves know schedules of the learning rate, trials of several lengths, and percentages."""

import dataclasses

import numpy as np
import planted
import planted_curves
import pytest
from planted_curves import SCHEDULES, SMALL, following, found, schedule_alarms

from trialbook.trainer.config import Config
from trialbook.tuning import Maximize, StudyResults
from trialbook.tuning.findings.statistics.relevance import of_perfection, relevant
from trialbook.tuning.space.scales import Hyperparameter, Log, OneOf


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_decay_is_no_fault(schedule):
  rates = schedule_alarms(schedule, 1.0, range(4))
  assert not any(rates.values()), rates


@pytest.mark.evidence
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_at_most_one_in_twenty_decays_is_accused(schedule, share):
  rates = schedule_alarms(schedule, share, range(40))
  assert max(rates.values()) <= 0.05, rates


def _convergence(results: StudyResults) -> tuple[str, str]:
  (one,) = found("convergence", results)
  return one.severity, one.title + one.why


def _without_learning_rate(results: StudyResults) -> StudyResults:
  trials = []
  for one in results.trials:
    curves = {name: one.curve(name) for name in one.curves if name != "learning_rate"}
    trials.append(planted.trial(one.trial, one.values, curves, examples=one.log.examples))
  return planted.results(trials, planted.SPACE)


def test_a_slope_at_the_end_is_a_warning_only_where_no_decay_can_have_made_it():
  constant = planted_curves.still_improving(1, 0.4)
  assert _convergence(constant)[0] == "warning"
  severity, text = _convergence(_without_learning_rate(constant))
  assert severity == "note"
  assert "was not logged" in text
  for schedule in ("linear", "last_fifth"):
    severity, text = _convergence(planted.healthy(1, **SMALL, reshape=following(schedule, 1.0, logged=True)))
    assert severity == "note"
    assert "while the learning rate decays" in text


def test_a_decay_that_was_logged_explains_a_large_gain():
  def reshape(curves: planted.Curves, units: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    time = steps / steps[-1]
    falling = errors[-1] + 0.25 * (1 - time) + 0.2 * np.exp(-time / 0.03)
    return {**curves, "validation/error": (steps, falling), "learning_rate": (steps, 1e-3 * (1 - time))}

  for seed in range(5):
    severity, text = _convergence(planted.healthy(seed, **SMALL, reshape=reshape))
    assert severity == "note"
    assert "while the learning rate decays" in text


def test_a_slope_before_the_decay_is_a_warning():
  decay = following("last_fifth", 0.3, logged=True)

  def reshape(curves: planted.Curves, units: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    slow = errors + 0.6 * errors[-1] * (1 - steps / steps[-1])
    return decay({**curves, "validation/error": (steps, slow)}, units, rng)

  assert _convergence(planted.healthy(1, **SMALL, reshape=reshape))[0] == "warning"


def test_that_fewer_steps_would_not_do_is_said_only_where_it_was_seen():
  def flat(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    return {
      name: (steps, np.interp(np.minimum(steps / 0.4, steps[-1]), steps, values))
      for name, (steps, values) in curves.items()
    }

  noisy = [planted.healthy(900 + seed, trials=12, evaluations=25, jitter=0.03, reshape=flat) for seed in range(8)]
  found_losses = [found("convergence", results)[-1] for results in noisy]
  # It is said with 95% certainty.
  assert sum("half as many" in one.title for one in found_losses) <= 1
  assert sum("Whether fewer" in one.title or "(95% certain)" in one.title for one in found_losses) >= 6

  def slow(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    return {**curves, "validation/error": (steps, errors[-1] + 0.3 * np.maximum(0.6 - steps / steps[-1], 0))}

  exact = planted.healthy(1, **SMALL, jitter=0.0004, validation_examples=1_000_000, reshape=slow)
  assert "half as many would not do" in found("convergence", exact)[0].title


def _with_one_longer() -> tuple[StudyResults, StudyResults]:
  usual = planted.healthy(3, trials=20, untidy=False)
  longer = dataclasses.replace(planted.healthy(4, trials=1, steps=240_000).trials[0], trial=20)
  return usual, planted.results([*usual.trials, longer], planted.SPACE)


def test_a_longer_trial_makes_the_others_not_too_long():
  usual, mixed = _with_one_longer()
  assert mixed.steps == 240_000
  assert {mixed.length(trial) for trial in usual.trials} == {20_000}
  assert mixed.length(mixed.trials[-1]) == 240_000
  for question in ("selected_step", "convergence"):
    assert [one.severity for one in found(question, mixed)] == [one.severity for one in found(question, usual)]


def test_each_trial_has_the_length_that_it_was_given():
  usual, _ = _with_one_longer()
  steps = Hyperparameter(name="steps", path="max_train_steps", scale=OneOf([20_000, 400_000]), role="scientific")
  trials = []
  for one in usual.trials:
    changes = {"max_train_steps": 400_000 if one.trial == 0 else 20_000}
    trials.append(dataclasses.replace(one, values={**one.values, "steps": changes["max_train_steps"]}, changes=changes))
  results = planted.results(trials, (*planted.SPACE, steps))
  config = Config(max_train_steps=400_000)
  results = dataclasses.replace(results, study=dataclasses.replace(results.study, config=config))
  assert [results.length(trial) for trial in results.trials] == [400_000] + [20_000] * 19
  assert found("selected_step", results)[0].severity in ("ok", "note")


def test_a_percentage_is_judged_as_the_share_is():
  def accuracy(scale: float, name: str) -> StudyResults:
    trials = []
    for one in planted.healthy(1, trials=16, jitter=0.3).trials:
      steps, errors = one.curve("validation/error")
      trials.append(planted.trial(one.trial, one.values, {name: (steps, scale * (1 - errors))}))
    return planted.results(trials, planted.SPACE, Maximize(name))

  share, percent = accuracy(1, "validation/accuracy"), accuracy(100, "validation/accuracy")
  np.testing.assert_allclose(of_perfection(percent, 92.0), 100 * of_perfection(share, 0.92))
  np.testing.assert_allclose(relevant(percent, 92.0), 100 * relevant(share, 0.92))
  for question in ("late_noise", "overfitting", "convergence"):
    assert [one.severity for one in found(question, percent)] == [one.severity for one in found(question, share)]
  # What is no share has no perfect value at 100.
  np.testing.assert_allclose(of_perfection(accuracy(100, "reward"), 92.0), 0.02 * 92)


def test_a_learning_rate_of_any_usual_name_is_looked_at_and_only_what_was_looked_at_is_said():
  lr = Hyperparameter(name="lr", path="lr", scale=Log(1e-4, 1.0), role="nuisance")
  trials = []
  for number in range(32):
    unit = number / 31
    curves = {"validation/error": (np.arange(1, 6), np.full(5, 0.5 - 0.4 * unit))}
    state = "infeasible" if unit > 0.6 else "complete"
    trials.append(planted.trial(number, {"lr": lr.scale.at(unit)}, curves, state=state))
  (cliff,) = found("optimization", planted.results(trials, (lr,)))
  assert "instability above the best learning rate" in cliff.title
  stable = planted.results([one for one in trials if one.state == "complete"][:1] + trials[2:19], (lr,))
  (nothing,) = found("optimization", stable)
  assert nothing.severity == "cannot_tell"
  curves = {"validation/error": (np.arange(1, 6), np.full(5, 0.05))}
  (fine,) = found("optimization", planted.results([planted.trial(99, {"lr": 0.001}, curves), *trials[:19]], (lr,)))
  assert fine.severity == "ok"
  assert fine.why.startswith("Looked at: ")
  assert "lr right above the best one train" in fine.why
  assert "norm" not in fine.why


def test_less_clipping_is_a_change_that_the_config_can_make():
  results = planted.healthy(
    1, **SMALL, reshape=lambda curves, _, rng: {**curves, "clip_fraction": (np.arange(1, 101), np.full(100, 0.8))}
  )
  config = Config(clip_norm=0.01)
  results = dataclasses.replace(results, study=dataclasses.replace(results.study, config=config))
  (answer,) = [one for one in found("gradient_norm", results) if one.id == "PB-83"]
  assert answer.changes is not None
  assert answer.changes == {"clip_norm": answer.numbers["threshold"]}
  assert config.override(answer.changes) != config

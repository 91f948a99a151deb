"""Findings about curves know schedules of the learning rate, trials of several lengths, and percentages."""

import dataclasses
import pathlib

import numpy as np
import pytest

from trialbook.trainer.config import Config
from trialbook.tuning import Maximize, StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted, planted_curves
from trialbook.tuning.advice_benchmark.curve_plants import schedule_alarms
from trialbook.tuning.advice_benchmark.planted_curves import SCHEDULES, SMALL, following
from trialbook.tuning.advice_benchmark.plants import found
from trialbook.tuning.findings import late_noise
from trialbook.tuning.findings.statistics import pieces
from trialbook.tuning.findings.statistics.curve_trends import costs
from trialbook.tuning.findings.statistics.relevance import has_natural_zero, of_perfection, relevant
from trialbook.tuning.importers.importing import import_study
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
  assert sum("whether half the steps" in one.title or "(95% confidence)" in one.title for one in found_losses) >= 6

  def slow(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    return {**curves, "validation/error": (steps, errors[-1] + 0.3 * np.maximum(0.6 - steps / steps[-1], 0))}

  exact = planted.healthy(1, **SMALL, jitter=0.0004, validation_examples=1_000_000, reshape=slow)
  assert "half as many would lose at least" in found("convergence", exact)[0].title


CASES = pathlib.Path(__file__).parent / "cases"
RATE_NAMES = ("learning_rate", "train/lr", "lr-AdamW/pg1", "optimizer/learningRate", None)
"""Names under which a learning rate is logged; None: it is not."""


@pytest.mark.parametrize("name", ["step80", "step80lr"])
def test_a_drop_of_the_rate_at_epoch_80_of_90_is_not_noise(name, tmp_path):
  results = read_results(import_study("csv", CASES / name, tmp_path / name)[0])
  (noise,) = found("late_noise", results)
  assert noise.severity == "ok"
  # Drawn with 0.0005.
  np.testing.assert_allclose(noise.numbers["deviation"], 0.0005, rtol=0.15)
  assert noise.numbers["jump"] == 80_000
  (length,) = found("convergence", results)
  assert length.severity == "ok"
  # The drop gained 0.03, which is nothing that more steps would gain.
  assert length.numbers["high"] < length.numbers["relevant"] < 0.01
  assert "jump at step 80" in length.why
  assert {one.severity for one in found("optimization", results)} == {"ok"}


def _step_decay(seed: int, *, lasts: float, name: str | None = None) -> tuple[StudyResults, float, float]:
  """A study whose rate drops one to three times, the last time late, and its noise at the end and the drop. The error
  falls within about `lasts` evaluations after a drop."""
  rng = np.random.default_rng(seed)
  count, trials = int(rng.choice([60, 90, 150])), int(rng.integers(8, 24))
  time = np.arange(1, count + 1) / count
  drops = [*rng.uniform(0.3, 0.7, rng.integers(0, 3)), rng.uniform(0.78, 1 - 9 / count)]
  size = 10 ** rng.uniform(-2, -1.2)
  noise = size * 10 ** rng.uniform(-2, -1)
  made = []
  for number in range(trials):
    error = 0.2 + 0.3 * noise * number + 0.4 * np.exp(-time / 0.08)
    for drop in drops:
      after = np.exp(-np.maximum(time - drop, 0) * count / lasts) if lasts else 0.0
      error = error + size * np.where(time <= drop, 1.0, after)
    curves = {"validation/error": (100 * np.arange(1, count + 1), error + rng.normal(0, noise, count))}
    if name is not None:
      rate = 0.3 * 0.1 ** np.sum([time > drop for drop in drops], axis=0)
      curves[name] = 100 * np.arange(1, count + 1), rate
    made.append(planted.trial(number, {}, curves))
  return planted.results(made, planted.SPACE), noise, size


@pytest.mark.parametrize("lasts", [0, 1])
def test_noise_around_a_late_drop_is_that_of_the_evaluations(lasts):
  for seed in range(10):
    results, noise, size = _step_decay(seed, lasts=lasts, name=RATE_NAMES[seed % len(RATE_NAMES)])
    seen = late_noise.measured(results)
    assert seen is not None
    assert 0.6 * noise < seen.deviation < 1.6 * noise, seed
    assert seen.is_decayed
    (answer,) = found("late_noise", results)
    assert "decay" not in str(answer.action)
    for one in found("convergence", results):
      assert one.severity in ("ok", "cannot_tell"), seed
      assert (one.numbers["high"] or 0.0) < size, seed


def test_a_smooth_decay_and_a_steep_start_have_no_jumps():
  studies = [planted.healthy(seed, **SMALL) for seed in range(8)]
  for schedule in ("linear", "cosine", "last_tenth", "last_fifth"):
    studies += [planted.healthy(seed, **SMALL, reshape=following(schedule, 1.0, logged=False)) for seed in range(4)]
  for results in studies:
    curves = [(trial, *costs(results, trial)) for trial in results.ranked]
    assert not any(pieces.all_jumps(results, curves))


@pytest.mark.parametrize("name", RATE_NAMES[:-1])
def test_only_a_logged_rate_that_changes_at_once_makes_a_piece(name):
  time = np.arange(1, 101) / 100
  cosine = 0.5 * (1 + np.cos(np.pi * time))
  rates = {
    "linear": (1 - time, []),
    "cosine": (cosine, []),
    "exponential": (0.9 ** (100 * time), []),
    "warmup": (np.minimum(10 * time, 1) * cosine, []),
    "staircase": (0.94 ** np.floor(20 * time), []),
    "steps": (0.1 ** np.floor(3 * time), [3400, 6700, 10_000]),
    "one step": (np.where(time <= 0.8, 0.1, 0.01), [8100]),
  }
  for kind, (rate, jumps) in rates.items():
    trial = planted.trial(0, {}, {name: (10_000 * time, 0.3 * rate), "validation/lr_of_nothing": ([1, 2], [1, 1])})
    assert pieces.steps_of_rate(trial) == jumps, kind


def test_noise_at_a_rate_that_has_decayed_is_not_met_by_more_decay():
  def logged(final: float) -> StudyResults:
    def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
      steps, errors = curves["validation/error"]
      rate = 10 * (1 - (1 - final) * steps / steps[-1])
      noisy = errors + rng.normal(0, 0.03, len(errors))
      return {**curves, "validation/error": (steps, noisy), "train/lr": (steps, rate)}

    return planted.healthy(1, **SMALL, reshape=reshape)

  decayed, constant = (str(found("late_noise", logged(final))[0].action) for final in (0.001, 1.0))
  assert "Let the learning rate decay to nearly 0" in constant
  assert "decay" not in decayed
  assert "larger batches" in decayed


def test_noise_that_decays_at_the_very_end_is_that_of_the_end():
  """At the full rate the noise is 0.01, in the last tenth 0.001; the best trials differ by 0.006."""
  time = np.arange(1, 101) / 100
  rng = np.random.default_rng(10_000)
  trials = []
  for number in range(16):
    noise = rng.normal(0, np.where(time <= 0.9, 0.01, 0.001))
    curves = {"validation/error": (100 * np.arange(1, 101), 0.1 + 0.004 * number + 0.3 * np.exp(-time / 0.05) + noise)}
    trials.append(planted.trial(number, {}, curves))
  (answer,) = found("late_noise", planted.results(trials, planted.SPACE))
  assert answer.severity == "ok"
  assert answer.numbers["evaluations"] == 10
  assert answer.numbers["deviation"] < 0.002


def test_a_gain_that_the_decay_made_is_not_foreseen_for_more_steps():
  """Before the decay, a fifth more steps gain about 0.012; in it, the last fifth gained 0.05."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    time = steps / steps[-1]
    decay = np.clip((1 - time) / 0.2, 0, 1)
    error = errors[-1] + 0.06 * (1 - time) + 0.04 * decay + 0.3 * np.exp(-time / 0.03)
    return {**curves, "validation/error": (steps, error), "learning_rate": (steps, decay)}

  (answer,) = found("convergence", planted.healthy(1, **SMALL, jitter=0.001, reshape=reshape))
  assert answer.severity == "warning"
  np.testing.assert_allclose(answer.numbers["gain"], 0.012, rtol=0.35)
  assert "before it began to decay" in answer.why


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
  # What is no share has no perfect value at 100, and none at 0.
  reward = accuracy(100, "reward")
  assert not has_natural_zero(reward)
  assert of_perfection(reward, 92.0) == of_perfection(reward, -1000.0) == relevant(reward, 0.0)


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
  assert "lr right above that of the best train to their end" in fine.why
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

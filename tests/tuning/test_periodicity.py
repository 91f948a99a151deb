"""A period in a validation metric is seen whatever its form, and noise, bends and steps are not taken for one."""

import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest

from trialbook.tuning import StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted, planted_curves
from trialbook.tuning.findings import periodicity
from trialbook.tuning.findings.finding import Finding
from trialbook.tuning.importers.importing import import_study

CASES = pathlib.Path(__file__).parent / "cases"

FORMS = {
  "sine": lambda at, period: np.sin(2 * np.pi * at / period),
  "saw": lambda at, period: 2 * (at / period % 1) - 1,
  "spike": lambda at, period: np.where(at % period < 1, 2.0, 0.0),
}
"""Of the number of the evaluation and the period in evaluations; an amplitude of 1."""


def _answer(results: StudyResults) -> Finding:
  (answer,) = periodicity.find(results)
  return answer


def _study(*curves: np.ndarray) -> StudyResults:
  """A trial for each curve, evaluated every 100 steps."""
  return planted.results(
    [
      planted.trial(number, {}, {"validation/error": (100 * np.arange(1, len(values) + 1), values)})
      for number, values in enumerate(curves)
    ],
    planted.SPACE,
  )


def _trained(seed: int, trials: int = 20, evaluations: int = 60, noise: float = 0.003) -> np.ndarray:
  """Errors [trials, evaluations] that fall to 0.1."""
  rng = np.random.default_rng(seed)
  falling = 0.1 + 0.8 * np.exp(-7 * np.arange(evaluations) / evaluations)
  return falling + rng.normal(0, noise, (trials, evaluations))


def _wave(form: str, period: float) -> np.ndarray:
  return FORMS[form](np.arange(60), period)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("period", [3.7, 4, 12])
@pytest.mark.parametrize("amplitude", [0.01, 0.03])
def test_a_period_of_any_form_is_seen_and_told(form, period, amplitude):
  wave = amplitude * _wave(form, period)
  answer = _answer(_study(*(_trained(10_000) + wave)))
  assert answer.severity == "warning"
  assert answer.numbers["period_low"] <= 100 * period <= answer.numbers["period_high"]
  assert answer.numbers["p"] < periodicity.CERTAIN


def test_a_larger_amplitude_explains_more_and_is_more_certain():
  wave = _wave("saw", 8)
  answers = [_answer(_study(*(_trained(10_001) + size * wave))) for size in (0.002, 0.004, 0.008, 0.016, 0.032)]
  shares = [answer.numbers["share"] for answer in answers]
  assert shares == sorted(shares)
  assert answers[0].severity == "ok"
  assert {answer.severity for answer in answers[2:]} == {"warning"}


def test_what_nobody_could_see_is_no_period_however_many_trials_have_it():
  wave = 0.0012 * _wave("sine", 5)
  answer = _answer(_study(*(_trained(10_002, trials=periodicity.MOST_TRIALS) + wave)))
  assert answer.severity == "ok"
  assert answer.numbers["period"] == pytest.approx(500, rel=0.05)
  assert answer.numbers["share"] < periodicity.VISIBLE


def test_a_share_is_not_said_to_be_more_than_it_is():
  for size in (0.0018, 0.0019, 0.002, 0.0021, 0.0022, 0.0023):
    answer = _answer(_study(*(_trained(10_002) + size * _wave("sine", 5))))
    said = re.search(r"at least ([\d.]+)%", answer.why)
    assert said
    assert 0 <= answer.numbers["share"] - float(said[1]) / 100 < 0.001


def test_the_interval_of_a_period_holds_as_often_as_it_says():
  inside = []
  for seed in range(30_000, 30_040):
    period = np.random.default_rng(seed).uniform(3.3, 14)
    answer = _answer(_study(*(_trained(seed, trials=4) + 0.005 * _wave("sine", period))))
    if answer.severity == "warning":
      inside.append(answer.numbers["period_low"] <= 100 * period <= answer.numbers["period_high"])
  assert len(inside) > 30
  assert np.mean(inside) >= 0.9


@pytest.mark.parametrize("correlation", [-0.5, 0.6])
def test_correlated_noise_has_no_period(correlation):
  rng = np.random.default_rng(10_003)
  noise = rng.normal(0, 0.003, (30, 60))
  for step in range(1, 60):
    noise[:, step] += correlation * noise[:, step - 1]
  assert _answer(_study(*(0.1 + noise))).severity == "ok"


@pytest.mark.parametrize("schedule", planted_curves.SCHEDULES)
def test_what_a_schedule_does_is_no_period(schedule):
  for seed in range(10_000, 10_003):
    reshape = planted_curves.following(schedule, 1.0, logged=False)
    assert _answer(planted.healthy(seed, trials=16, reshape=reshape)).severity == "ok"


def _cycles(*lengths: float) -> Callable[[np.ndarray], np.ndarray]:
  """A learning rate that falls as a cosine in cycles of these lengths."""
  ends = np.cumsum(lengths) / sum(lengths)

  def factor(time: np.ndarray) -> np.ndarray:
    cycle = np.minimum(np.searchsorted(ends, time, side="right"), len(ends) - 1)
    starts = np.r_[0, ends[:-1]]
    return 0.5 * (1 + np.cos(np.pi * (time - starts[cycle]) / (ends - starts)[cycle]))

  return factor


EVENTS = {
  "restart": lambda time, at: _cycles(at, 1 - at)(time),
  "unequal restarts": lambda time, at: _cycles(1, 2, 4)(time),
  "collapse and recovery": lambda time, at: np.where(time > at, np.exp(-np.maximum(time - at, 0) / 0.1), 0),
  "bump": lambda time, at: np.exp(-(((time - at) / 0.06) ** 2)),
  "plateau": lambda time, at: ((time > at) & (time < at + 0.12)).astype(float),
  "drop": lambda time, at: (time < at).astype(float),
  "slow recovery": lambda time, at: np.clip((time - at) / 0.05, 0, 1) * np.exp(-np.maximum(time - at - 0.05, 0) / 0.2),
}
"""What happens once, of time from 0 to 1 and when it happens; an amplitude of 1."""


@pytest.mark.parametrize("event", EVENTS)
def test_what_happens_once_is_no_period(event):
  for seed in range(20):
    rng = np.random.default_rng(seed)
    count, trials = int(rng.integers(50, 151)), int(rng.integers(3, 21))
    time = np.arange(1, count + 1) / count
    at, size = rng.uniform(0.3, 0.8), 10 ** rng.uniform(-2, -0.7)
    curves = _trained(seed, trials, count, noise=10 ** rng.uniform(-3.3, -2.3))
    # In all trials, or in the first half of them.
    hit = np.arange(trials) < trials * rng.choice([0.5, 1.0])
    answer = _answer(_study(*(curves + size * EVENTS[event](time, at) * hit[:, None])))
    assert answer.severity != "warning", seed


def test_one_restart_in_real_trials_is_no_period(tmp_path):
  """From public logs: five points of three seeds; three of the points restart once, in the middle."""
  name = "restart_called_period_15"
  results = read_results(import_study("csv", CASES / name, tmp_path / name)[0])
  answer = _answer(results)
  assert answer.severity == "ok"
  assert "one part of the curves" in answer.title
  assert answer.numbers["recurs"] < 0.3


@pytest.mark.parametrize("form", ["sine", "saw"])
def test_a_period_whose_amplitude_falls_is_still_one(form):
  fading = 0.03 * np.linspace(1, 0.25, 60)
  for seed in range(5):
    assert _answer(_study(*(_trained(seed) + fading * _wave(form, 12 + seed / 3)))).severity == "warning"


def test_a_period_of_the_logged_learning_rate_is_its_own():
  rate = _cycles(1, 1, 1, 1, 1)(np.arange(1, 101) / 100)
  errors = _trained(10_007, evaluations=100) + 0.02 * rate
  trials = [
    planted.trial(number, {}, {"validation/error": (np.arange(1, 101), one), "lr": (np.arange(1, 101), 0.1 * rate)})
    for number, one in enumerate(errors)
  ]
  answer = _answer(planted.results(trials, planted.SPACE))
  assert answer.severity == "note"
  assert "with the learning rate" in answer.title
  assert _answer(_study(*errors)).severity == "warning"


def test_few_trials_or_shared_noise_are_no_certainty():
  alone = [_answer(_study(*_trained(seed, trials=1))) for seed in range(10_000, 10_040)]
  shared = [_answer(_study(*(_trained(seed, 1) + _trained(seed, 20, noise=0.0003)))) for seed in range(10_000, 10_040)]
  for answers in (alone, shared):
    severities = [answer.severity for answer in answers]
    assert severities.count("warning") <= 1
    assert "cannot_tell" in severities
  assert max(answer.numbers["worth"] for answer in shared) < 2


def test_a_period_in_one_trial_is_seen_if_it_is_large():
  assert _answer(_study(*(_trained(10_004, 1) + 0.02 * _wave("sine", 5)))).severity == "warning"


def test_few_evaluations_and_values_that_do_not_differ_tell_nothing():
  for curves in (_trained(10_005, evaluations=25), np.full((5, 60), 0.1)):
    answer = _answer(_study(*curves))
    assert answer.severity == "cannot_tell"
    assert "30" in str(answer.action)


@pytest.mark.slow
def test_of_a_large_study_only_a_part_is_looked_at():
  results = _study(*_trained(10_006, trials=1000, evaluations=500))
  assert _answer(results).numbers["trials"] == periodicity.MOST_TRIALS

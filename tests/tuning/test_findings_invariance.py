"""No finding depends on an arbitrary zero, scale or direction of the objective.

A metric without a natural zero, such as a log-likelihood, may be shifted, mirrored and scaled. One with a natural zero
may be written as an error or an accuracy, as a share or a percentage. The same study then gets the same findings.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

from trialbook.metric_names import Mode
from trialbook.tuning import StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted, planted_curves, planted_points
from trialbook.tuning.advice_benchmark.plants import found
from trialbook.tuning.findings import QUESTIONS, Finding
from trialbook.tuning.findings.statistics.relevance import has_natural_zero, of_perfection, relevant, whole_of
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.results import Trial
from trialbook.tuning.study import Objective

CASES = pathlib.Path(__file__).parent / "cases"
SMALL = planted_curves.SMALL
NATURAL: dict[str, Callable[[], StudyResults]] = {
  "healthy": functools.partial(planted.healthy, 1, trials=32),
  "one trial": functools.partial(planted.healthy, 2, trials=1),
  "two trials": functools.partial(planted.healthy, 5, trials=2),
  "overfitting in the best": functools.partial(planted_curves.overfitting_best, 1, 0.3),
  "overfitting in others": functools.partial(planted_curves.overfitting_others, 1, 0.2),
  "noisy end": functools.partial(planted_curves.noisy_end, 1, 0.03),
  "still improving": functools.partial(planted_curves.still_improving, 1, 0.4),
  "hardly begun": functools.partial(planted_curves.hardly_begun, 1, 0.7),
  "saturated": functools.partial(planted_curves.saturated_early, 1, 0.7),
  "saturated, noisy": functools.partial(planted_curves.saturated_and_noisy, 1, 0.5, trials=24),
  "rising training loss": functools.partial(planted_curves.rising_training_loss, 1, 0.4),
  "periodic": functools.partial(planted_curves.periodic, 1, 0.006),
  "early best steps": functools.partial(planted_curves.early_best, 1, 1.0),
  "step decay": lambda: planted.healthy(1, **SMALL, reshape=planted_curves.following("steps", 1.0, logged=True)),
  "edge": functools.partial(planted_points.edge, 3, 0.2),
  "cliff": functools.partial(planted_points.cliff, 3, 0.2),
  "best point alone": functools.partial(planted_points.needle, 3, 1),
  "idle hyperparameter": functools.partial(planted_points.idle, 3, 0.03),
  "useless feature": functools.partial(planted_points.feature, 3, 0.02),
  "interaction": functools.partial(planted_points.pair, 3, 0.8),
  "a winner": functools.partial(planted_points.contest, 3, 0.1),
  "no winner": functools.partial(planted_points.equals, 3),
  "search saturated": functools.partial(planted_points.flat, 3, 0.1),
  "infeasible region": functools.partial(planted_points.region, 3, 0.3),
  "retrains": lambda: _retrained(),
}
"""Studies by their error."""
CHANGES = {"shifted": (1.0, -5000.0), "mirrored": (-0.003, 30.0), "around zero": (40.0, -8.0)}
"""Scale and shift."""


def _retrained() -> StudyResults:
  """Six points of four seeds each."""
  seeds = [planted.healthy(7, trials=6, retrain=0.0, jitter=0.004 + 0.001 * seed).trials for seed in range(4)]
  trials = [one for again in seeds for one in again]
  return planted.results([dataclasses.replace(one, trial=number) for number, one in enumerate(trials)], planted.SPACE)


@functools.cache
def _study(name: str) -> StudyResults:
  return NATURAL[name]()


@pytest.fixture(scope="session")
def log_likelihood(tmp_path_factory) -> StudyResults:
  """An imported study of an ELBO near -1180, whose good trials differ by less than one."""
  return read_results(import_study("csv", CASES / "ll", tmp_path_factory.mktemp("cases") / "ll")[0])


def _changed(results: StudyResults, name: str, scale: float, shift: float) -> StudyResults:
  """The study by another metric: `scale` times its values plus `shift`, on all splits; a negative scale turns it
  around."""
  last, new = (one.rpartition("/")[2] for one in (results.objective.metric, name))
  trials = []
  for trial in results.trials:
    curves = {}
    for metric, points in trial.curves.items():
      split, slash, what = metric.rpartition("/")
      steps, values = [step for step, _ in points], np.array([value for _, value in points])
      if what == last:
        curves[f"{split}{slash}{new}"] = steps, scale * values + shift
      else:
        curves[metric] = steps, values
    trials.append(_with_curves(trial, curves, last, new))
  mode = results.objective.mode if scale > 0 else "max" if results.objective.mode == "min" else "min"
  objective = Objective(name, mode, results.objective.value)
  study = dataclasses.replace(results.study, objective=objective)
  return dataclasses.replace(results, study=study, objective=objective, trials=tuple(trials)).by(objective)


def _with_curves(trial: Trial, curves: planted.Curves, last: str, new: str) -> Trial:
  state, reason = trial.recorded
  reason = None if reason is None else reason.replace(last, new)
  made = planted.trial(trial.trial, trial.values, curves, state=state, reason=reason, examples=dict(trial.log.examples))
  return dataclasses.replace(made, seconds=trial.seconds, changes=trial.changes)


def _said(one: Finding) -> tuple[object, ...]:
  """A finding without its numbers, the name of its metric, and the direction that is better."""

  def plain(text: str | None) -> str:
    text = re.sub(r"validation/\w+", "METRIC", text or "")
    text = re.sub(r"\b(rises|falls)\b", "moves", text)
    text = re.sub(r"\b(lower|higher|below|above)\b", "beyond", text)
    return re.sub(r"[+-]?\d+(,\d{3})*(\.\d+)?(e[+-]?\d+)?", "#", text)

  texts = [plain(text) for text in (one.title, one.why, one.action)]
  return one.id, one.severity, one.subject, one.trials, one.space, one.changes, *texts


def _all(question: str, results: StudyResults) -> list[tuple[object, ...]]:
  return [_said(one) for one in found(question, results)]


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_metric_without_a_natural_zero_may_be_shifted_mirrored_and_scaled(question, log_likelihood):
  for name in (*NATURAL, "log-likelihood"):
    results = log_likelihood if name == "log-likelihood" else _changed(_study(name), "validation/elbo", 1.0, 0.0)
    assert not has_natural_zero(results)
    said = _all(question, results)
    for change, (scale, shift) in CHANGES.items():
      assert _all(question, _changed(results, "validation/elbo", scale, shift)) == said, (name, change)


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_an_error_its_accuracy_and_their_percentages_get_the_same_findings(question):
  for name in NATURAL:
    results = _study(name)
    assert has_natural_zero(results)
    said = _all(question, results)
    for metric, scale, shift in (("accuracy", -1.0, 1.0), ("error", 100.0, 0.0)):
      changed = _changed(results, f"validation/{metric}", scale, shift)
      assert _all(question, changed) == said, (name, metric, scale)


def _final(name: str, mode: Mode, values: Iterable[float], points: Sequence[int] | None = None) -> StudyResults:
  """A study of final values; trials with the same number of `points` are retrains."""
  values = list(values)
  numbers = range(len(values)) if points is None else points
  axis = planted.SPACE[0]
  trials = [
    planted.trial(number, {axis.name: axis.scale.at(0.001 + 0.99 * point / len(values))}, {name: ([10], [value])})
    for number, (value, point) in enumerate(zip(values, numbers, strict=True))
  ]
  return planted.results(trials, planted.SPACE[:1], Objective(name, mode))


@pytest.mark.parametrize(
  ("name", "mode", "values", "expected"),
  [
    *((name, "min", (0.1, 0.2, 0.3, 0.5), True) for name in ("error", "val_err", "test/top5_error", "wer", "val/cer")),
    *((name, "max", (0.9, 0.8, 0.7, 0.5), True) for name in ("valAcc", "mAP50", "mIoU", "f1_macro", "roc_auc", "ssim")),
    *((name, "max", (91.0, 90.0, 80.0, 20.0), True) for name in ("accuracy", "bleu", "success_rate")),
    *((name, "min", (0.1, 0.2, 0.3, 0.9), True) for name in ("val_loss", "rmse", "mean_squared_error", "ppl", "fid")),
    ("neg_mean_squared_error", "max", (-0.1, -0.2, -0.3, -0.9), True),
    # Shares beyond the whole are none, and losses of both signs have no zero.
    ("accuracy", "max", (0.9, 0.8, 0.7, -0.5), False),
    ("loss", "min", (-0.1, 0.2, 0.3, 0.9), False),
    # Far from zero relative to what good trials differ by.
    ("loss", "min", (1180.1, 1180.2, 1180.4, 1181.0), False),
    ("loss", "min", (2.31, 2.32, 2.35, 2.4), False),
    *(
      (name, "max", (0.9, 0.8, 0.7, 0.5), False) for name in ("elbo", "log_likelihood", "reward", "score", "objective")
    ),
    *((name, "min", (0.1, 0.2, 0.3, 0.5), False) for name in ("nll", "elbo_loss", "negative_log_likelihood", "value")),
    # Words that only contain or end in a known one.
    *((name, "min", (0.1, 0.2, 0.3, 0.5), False) for name in ("power", "credit", "performance", "confidence")),
  ],
)
def test_a_natural_zero_is_known_by_the_name_and_the_values(name, mode, values, expected):
  assert has_natural_zero(_final(name, mode, values)) == expected


def test_relevant_is_what_good_trials_differ_by_and_not_what_bad_or_lucky_ones_do():
  rng = np.random.default_rng(0)
  good = np.sort(rng.normal(-1180, 0.4, 40))
  plain = relevant(_final("elbo", "max", good), -1180.0)
  # A quarter of the standard deviation of the better half, whose values are closer than all of them.
  assert 0.25 * 0.1 < plain < 0.25 * 0.4
  # Six tenths of the trials never learned anything, or diverged.
  bad = [*good, *rng.normal(-3000, 500, 60)]
  assert 0.4 * plain < relevant(_final("elbo", "max", bad), -1180.0) < 2.5 * plain
  lucky = [*good, -1150.0]
  assert 0.5 * plain < relevant(_final("elbo", "max", lucky), -1180.0) < 2 * plain
  # The best point was trained again twenty times, with little noise: it counts once.
  again = [*good, *(good[-1] + rng.normal(0, 0.001, 20))]
  numbers = [*range(40), *[39] * 20]
  assert 0.5 * plain < relevant(_final("elbo", "max", again, numbers), -1180.0) < 2 * plain


def test_relevant_does_not_jump_where_a_loss_is_far_from_zero():
  """A loss is shifted away from 0: what matters grows with it until it is what good trials differ by, and stays so."""
  values = np.array([0.1, 0.12, 0.15, 0.2, 0.3, 0.4, 0.6, 0.9])
  margins = [relevant(_final("loss", "min", values + shift), 0.1 + shift) for shift in np.linspace(0, 5, 101)]
  steps = np.diff(margins)
  assert margins[0] < margins[-1]
  assert np.abs(steps).max() < 0.3 * margins[-1]
  np.testing.assert_allclose(margins[-20:], margins[-1], rtol=1e-6)


def test_a_log_likelihood_has_no_natural_zero(log_likelihood):
  """The second half gains 1.2 where the best trials differ by 0.13: it matters."""
  assert not has_natural_zero(log_likelihood)
  assert relevant(log_likelihood, -1180.4) == of_perfection(log_likelihood, 12.0) < 0.13
  (answer,) = found("convergence", log_likelihood)
  assert answer.severity == "note"
  assert "still improves" in answer.title
  assert not answer.title.startswith("validation/elbo improves by less than")


def test_percentages_without_curves_are_known_by_their_values():
  share, percent = (_final("accuracy", "max", scale * np.array([0.95, 0.94, 0.9, 0.5])) for scale in (1.0, 100.0))
  assert (whole_of(share), whole_of(percent)) == (1.0, 100.0)
  np.testing.assert_allclose(relevant(percent, 95.0), 100 * relevant(share, 0.95))

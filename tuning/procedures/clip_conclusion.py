"""What `clip` found, and what follows from it (PB-83)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from trialbook.tuning.findings.gradient_norm import AGGRESSIVE, LEAST, THRESHOLD, Outliers
from trialbook.tuning.findings.wording import listed
from trialbook.tuning.procedures.against_baseline import SEEDS, confirmation
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.instability import NORM, Behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.loss_plots import loss_curves, norm_curves, norm_histogram
from trialbook.tuning.procedures.rate_sweep import RATE, RateSweep, rate_of, rounded
from trialbook.tuning.results import Trial

PERCENTILES = (THRESHOLD, 0.75, 0.6)
"""Percentiles of the norms that are tried as thresholds, in turn: the playbook's first, then harder ones, up to where
more than `AGGRESSIVE` would be clipped."""
THRESHOLD_FIELD = "clip_norm"


@dataclasses.dataclass(frozen=True)
class Clipped:
  """A training with clipping.

  Attributes:
    trial: the training.
    rate: its learning rate.
    threshold: of the norm of the gradient.
    share: of clipped updates.
    went: how it went.
    broken: number of trainings with other seeds that broke.
  """

  trial: Trial
  rate: float
  threshold: float
  share: float
  went: Behaviour
  broken: int = 0

  @property
  def is_aggressive(self) -> bool:
    """Return whether it clips so much that a smaller learning rate would be clearer."""
    return self.share > AGGRESSIVE

  @property
  def works(self) -> bool:
    """Return whether it is stable, with other seeds as well, without being aggressive."""
    is_stable = self.went.kind == "stable" and not self.broken
    return is_stable and not self.is_aggressive and self.trial.objective is not None


@dataclasses.dataclass(frozen=True)
class Found:
  """All that was found.

  Attributes:
    rates: trainings without clipping.
    typical: that whose norms the thresholds are percentiles of.
    outliers: of its norms; None if they were not logged often enough.
    targets: learning rates that clipping is tried at.
    baseline: the training of the config as it is.
    clipped: trainings with clipping.
  """

  rates: RateSweep
  typical: Trial
  outliers: Outliers | None
  targets: Sequence[float]
  baseline: Trial
  clipped: Sequence[Clipped]

  @property
  def best(self) -> Clipped | None:
    """Return the best clipped training that works; None if none does."""
    working = [one for one in self.clipped if one.works]
    return min(working, key=lambda one: self.rates.sign * (one.trial.objective or 0.0), default=None)

  @property
  def is_better(self) -> bool:
    """Return whether the best clipped training is better than the baseline, and than all without clipping."""
    if self.best is None:
      return False
    value = self.rates.sign * (self.best.trial.objective or 0.0)
    others = [self.baseline, *([] if self.rates.best is None else [self.rates.best])]
    return all(one.objective is None or value < self.rates.sign * one.objective for one in others)


def nothing_trains(lab: Lab, rates: RateSweep) -> Conclusion:
  return Conclusion(
    procedure="clip",
    id="PB-83",
    verdict=f"No training with a learning rate from {rates.span} has a value and at least {LEAST} gradient norms, so"
    " their usual size is not known.",
    numbers={"rates": rates.rates},
    table=rates.table(lab.ranked_by.metric),
    plots={"loss_curves": loss_curves(_by_rate(rates), "Training loss by learning rate")},
    actions=[
      f"Search smaller learning rates: --set {RATE}={rounded(rates.rates[0] / 10):g}.",
      "If none trains, look for a bug in the model, the data or the loss: `trialbook train --debug`.",
    ],
  )


def nothing_to_clip(lab: Lab, rates: RateSweep, typical: Trial, outliers: Outliers | None) -> Conclusion:
  return Conclusion(
    procedure="clip",
    id="PB-83",
    verdict=f"There is nothing to clip: training is stable at learning rates up to {rates.rates[-1]:.3g}, and its"
    " gradient norms have no recurrent outliers.",
    evidence=[_norms(typical, outliers)],
    numbers={"rates": rates.rates, "outliers": 0 if outliers is None else len(outliers.steps)},
    table=rates.table(lab.ranked_by.metric),
    plots=_norm_plots(rates, typical),
    actions=[f"Search the learning rate around {rate_of(typical):.3g}, which has the best value."],
  )


def concluded(lab: Lab, found: Found) -> Conclusion:
  metric, best = lab.ranked_by.metric, found.best
  make = functools.partial(
    Conclusion,
    procedure="clip",
    id="PB-83",
    evidence=_evidence(lab, found),
    numbers=_numbers(found),
    table=[*_unclipped_table(found, metric), *_clipped_table(found, metric)],
    plots=_plots(found),
  )
  if best is None:
    return _cut_instead(lab, found, make)
  sign, value = found.rates.sign, best.trial.objective or 0.0
  rates = f"at a learning rate of {best.rate:.3g}"
  before = found.baseline.objective
  if before is not None and sign * value >= sign * before:
    return make(
      verdict=f"Gradients clipped at {best.threshold:g} make training stable {rates}, but {metric} is {value:.4g}, not"
      f" better than {before:.4g} of the baseline.",
      actions=["Keep the config. " + _others()],
    )
  unclipped = found.rates.best
  smaller = None if unclipped is None else unclipped.objective
  if unclipped is not None and smaller is not None and sign * smaller <= sign * value:
    rate = rate_of(unclipped)
    return make(
      verdict=f"Gradients clipped at {best.threshold:g} make training stable {rates}, but a learning rate of {rate:.3g}"
      f" without clipping is as good: {metric} is {smaller:.4g}, and {value:.4g} with clipping.",
      changes={RATE: rate, **({} if lab.config.clip_norm is None else {THRESHOLD_FIELD: None})},
      actions=["Search the learning rate around this one."],
    )
  changes: dict[str, Any] = {THRESHOLD_FIELD: best.threshold}
  if best.rate != rounded(float(lab.config.optimizer.learning_rate)):
    changes = {RATE: best.rate, **changes}
  without = "the baseline has no value" if before is None else f"{before:.4g} without"
  return make(
    verdict=f"Clip gradients at {best.threshold:g} {rates}: {metric} is {value:.4g}, and {without}."
    f" {best.share:.0%} of the updates are clipped.",
    changes=changes,
    actions=[
      confirmation(lab.folder),
      "Search the learning rate again, around this one and above.",
    ],
  )


def _cut_instead(lab: Lab, found: Found, make: Any) -> Conclusion:
  """Return the conclusion if no threshold works: a smaller learning rate if one is better than the baseline."""
  rates = listed([f"{rate:.3g}" for rate in found.targets])
  aggressive = [one for one in found.clipped if one.is_aggressive]
  why = (
    f"at {aggressive[-1].threshold:g}, {aggressive[-1].share:.0%} of the updates are clipped, which is extremely"
    " aggressive"
    if aggressive
    else "it breaks with other seeds"
    if any(one.broken for one in found.clipped)
    else f"it is unstable still, down to percentile {100 * PERCENTILES[-1]:.0f} of the norms"
  )
  verdict = f"Clipping does not help at a learning rate of {rates}: {why}."
  stable = found.rates.best
  before = found.baseline.objective
  sign = found.rates.sign
  better = stable is not None and (before is None or sign * (stable.objective or 0.0) < sign * before)
  if stable is not None and better and rate_of(stable) < lab.config.optimizer.learning_rate:
    rate = rate_of(stable)
    return make(
      verdict=f"{verdict} Cut the learning rate to {rate:.3g} instead: {lab.ranked_by.metric} is"
      f" {stable.objective:.4g}, and {'the baseline has no value' if before is None else f'{before:.4g} without'}.",
      changes={RATE: rate},
      actions=["Search the learning rate around this one.", _others()],
    )
  return make(
    verdict=verdict,
    actions=[f"Keep the learning rate at {rate_of(stable or found.typical):.3g}, the best that was tried.", _others()],
  )


def _others() -> str:
  return "A long warmup or the architecture may allow a larger learning rate: see `trialbook tune stability`."


def _norms(trial: Trial, outliers: Outliers | None) -> str:
  norms = trial.curve(NORM)[1]
  text = (
    f"Norms of the whole gradient at a learning rate of {rate_of(trial):.3g}, without clipping: median"
    f" {np.median(norms):.3g}, 90th percentile {np.quantile(norms, THRESHOLD):.3g}, largest {norms.max():.3g}"
  )
  if outliers is None or not outliers.steps:
    return f"{text}. None is an outlier."
  return f"{text}. {len(outliers.steps)} of {outliers.logged:,} are outliers among their neighbours."


def _evidence(lab: Lab, found: Found) -> list[str]:
  lines = [_norms(found.typical, found.outliers)]
  unclipped = dict(zip(found.rates.rates, found.rates.behaviours, strict=True))
  lines += [f"At a learning rate of {rate:.3g}, without clipping, {unclipped[rate].text}." for rate in found.targets]
  lines += [
    f"At a learning rate of {one.rate:.3g}, clipped at {one.threshold:g}, {one.went.text}. {one.share:.0%} of the"
    " updates are clipped."
    for one in found.clipped
  ]
  if lab.config.clip_norm is not None:
    lines.append(f"The baseline is clipped at {lab.config.clip_norm:g}.")
  lines += [
    f"At a learning rate of {one.rate:.3g}, clipped at {one.threshold:g}, {one.broken} of {SEEDS - 1} trainings with"
    " other seeds break."
    for one in found.clipped
    if one.broken
  ]
  if found.is_better:
    lines.append(f"With {SEEDS - 1} other seeds, training with the recommended threshold is stable as well.")
  return [*lines, "The values are those of one training each, with the same seed."]


def _numbers(found: Found) -> dict[str, Any]:
  best = found.best
  return {
    "percentile_90": float(np.quantile(found.typical.curve(NORM)[1], THRESHOLD)),
    "typical_learning_rate": rate_of(found.typical),
    "outliers": 0 if found.outliers is None else len(found.outliers.steps),
    "targets": list(found.targets),
    "thresholds": sorted({one.threshold for one in found.clipped}, reverse=True),
    "threshold": None if best is None else best.threshold,
    "learning_rate": None if best is None else best.rate,
    "clipped": None if best is None else best.share,
    "value": None if best is None else best.trial.objective,
    "baseline": found.baseline.objective,
    "unclipped": None if found.rates.best is None else found.rates.best.objective,
  }


def _unclipped_table(found: Found, metric: str) -> list[dict[str, Any]]:
  return [
    {"learning rate": row["learning rate"], "threshold": None, "clipped": None}
    | {name: row[name] for name in (f"best {metric}", "training", "seen")}
    for row in found.rates.table(metric)
  ]


def _clipped_table(found: Found, metric: str) -> list[dict[str, Any]]:
  return [
    {
      "learning rate": one.rate,
      "threshold": one.threshold,
      "clipped": f"{one.share:.0%}",
      f"best {metric}": one.trial.objective,
      "training": one.went.kind,
      "seen": one.went.text,
    }
    for one in found.clipped
  ]


def _by_rate(rates: RateSweep) -> dict[str, Trial]:
  return {f"{rate:.3g}": trial for rate, trial in zip(rates.rates, rates.trials, strict=True)}


def _norm_plots(rates: RateSweep, typical: Trial) -> dict[str, Any]:
  plots: dict[str, Any] = {
    "loss_curves": loss_curves(_by_rate(rates), "Training loss by learning rate, without clipping"),
    "gradient_norms": norm_curves({f"{rate_of(typical):.3g}": typical}, "Gradient norm without clipping"),
  }
  if histogram := norm_histogram(typical, "Gradient norms without clipping"):
    plots["gradient_norm_histogram"] = histogram
  return plots


def _plots(found: Found) -> dict[str, Any]:
  plots = _norm_plots(found.rates, found.typical)
  shown = {f"baseline, {rate_of(found.baseline):.3g}": found.baseline}
  shown |= {f"{one.rate:.3g}, clipped at {one.threshold:g}": one.trial for one in found.clipped}
  return {**plots, "comparison": loss_curves(shown, "Training loss of the baseline and with clipping")}

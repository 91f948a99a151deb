"""Whether training is stable where it is best, and what to do if not (PB-80, PB-81, PB-84).

The playbook ("Identifying unstable workloads"): find the best learning rate lr* by a sweep; look at the training loss
right above it; train for about 500 steps at twice lr* with an evaluation at every step, since usual evaluations miss an
early instability; look at five to ten times lr* for a rise after a steady decline. If the loss goes up there, fixing
that is likely to make training better. Else stability does not limit the learning rate.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.tuning.findings.gradient_norm import RECURRENT, outliers_of
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.instability import NORM, Behaviour, behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.loss_plots import loss_curves, norm_curves, norm_histogram
from trialbook.tuning.procedures.rate_sweep import MOST_WIDENED, PROBE, RATE, RateSweep, rate_of, rounded, sweep
from trialbook.tuning.procedures.remedies import Remedy, remedies
from trialbook.tuning.results import Trial

JUST_ABOVE = (1.5, 2.0, 3.0)
"""Multiples of lr* that are right above it."""
CONFIRMED_AT = (5.0, 10.0)
"""Multiples of lr* that the playbook confirms an instability at."""
OFTEN, OFTEN_STEPS = 2.0, 500
"""Multiple of lr*, and steps, of the run with an evaluation at every step."""
NEAR = 1.1
"""Factor by which a learning rate may exceed the last of `JUST_ABOVE` and still be right above lr*: the sweep has one
at 3.16 times lr*."""
LEAST_STEPS = 50
"""Fewest steps of a training that can show an instability: ten times those that the loss is smoothed over."""
SHOWN_BELOW = 0.3
"""Multiple of lr* from which on curves are in the pictures."""

Verdict = Literal["stable", "early", "mid"]


@dataclasses.dataclass(frozen=True)
class _Seen:
  """All that was measured: trainings by learning rate, the run with frequent evaluations, and how it went."""

  trainings: RateSweep
  best: Trial
  often: Trial
  often_went: Behaviour

  @property
  def rate(self) -> float:
    """Return lr*."""
    return rate_of(self.best)

  def between(self, low: float, high: float) -> list[tuple[Trial, Behaviour]]:
    """Return the trainings at more than `low` and at most `high` times lr*."""
    went = zip(self.trainings.trials, self.trainings.behaviours, strict=True)
    return [(trial, one) for trial, one in went if low < rate_of(trial) / self.rate <= high]

  @property
  def above(self) -> list[tuple[Trial, Behaviour]]:
    """Return the trainings at lr* and right above it."""
    return self.between(0.99, NEAR * JUST_ABOVE[-1])

  @property
  def far(self) -> list[tuple[Trial, Behaviour]]:
    """Return the trainings that confirm an instability."""
    return self.between(0.9 * CONFIRMED_AT[0], NEAR * CONFIRMED_AT[-1])


def run(lab: Lab, *, budget: int | None = None) -> Conclusion:
  """Judge whether training is stable at the best learning rate and right above it (PB-80).

  Args:
    lab: where the trainings run.
    budget: steps of each training; None: the config's `max_train_steps`.
  """
  if lab.config.optimizer.learning_rate == 0:
    raise UserError("optimizer.learning_rate = 0: give a positive learning rate to begin the sweep with")
  length = budget or lab.config.max_train_steps
  if length < LEAST_STEPS:
    raise UserError(f"{length} steps are too few to show an instability; train for at least {LEAST_STEPS}")
  changes: dict[str, Any] = {**PROBE, "max_train_steps": length}
  rates = sweep(lab, changes=changes)
  best = rates.best
  if best is None or rates.edge is not None:
    return lab.conclude(_without_best(lab, rates))
  wanted = [rounded(factor * rate_of(best)) for factor in (*JUST_ABOVE, *CONFIRMED_AT)]
  missing = [rate for rate in wanted if rates.near(rate) is None]
  if missing:
    lab.sweep("above", "Is training stable above the best learning rate?", RATE, missing, changes=changes)
  often = lab.sweep(
    "every_step",
    f"Is training unstable in the beginning, at {OFTEN:g} times the best learning rate?",
    RATE,
    [rounded(OFTEN * rate_of(best))],
    config=_short(lab.config, length),
    changes=_every_step(lab.ranked_by.metric),
  ).trials[0]
  studies = [study for name, study in lab.results.items() if name == "above" or name.startswith("rates_")]
  whole = RateSweep.of(studies, length)
  went = behaviour(often, length, whole.reference)
  return lab.conclude(_concluded(lab, _Seen(whole, best, often, went)))


LATER = (
  f"If the best learning rate is at an end of the sweep, the sweep is widened, at most {MOST_WIDENED} times. Then"
  f" trainings at {', '.join(f'{factor:g}' for factor in (*JUST_ABOVE, *CONFIRMED_AT))} times the best learning rate,"
  f" and one of at most {OFTEN_STEPS} steps with an evaluation at every step."
)
"""What may be run after the first study."""


def _every_step(metric: str) -> dict[str, Any]:
  """Return the changes that evaluate a metric at every step, and do no more than that."""
  changes = {**PROBE, "evaluation.every_steps": 1, "evaluation.predictions": 0}
  if not metric.startswith("train_subset/"):
    changes["evaluation.train_examples"] = 0
  # The run is short, and a checkpoint at every evaluation would take longer than it.
  return {**changes, "checkpointing.every_evaluations": 0}


def _short(config: Config, length: int) -> Config:
  """Return the config of the first steps of a training, with the schedule of the whole."""
  whole = config.override({"max_train_steps": length}).resolved()
  # A training may not end within its warmup.
  return whole.model_copy(update={"max_train_steps": min(length, max(OFTEN_STEPS, whole.schedule.warmup_steps))})


def _without_best(lab: Lab, rates: RateSweep) -> Conclusion:
  """Return the conclusion if no best learning rate lies inside of the sweep."""
  numbers = {"rates": rates.rates, "edge": rates.edge, "kind": None}
  table = rates.table(lab.ranked_by.metric)
  plots = {"loss_curves": loss_curves(_named(rates.trials), "Training loss by learning rate")}
  if rates.best is None:
    return Conclusion(
      procedure="stability",
      id="PB-80",
      verdict=f"No learning rate from {rates.span} trains: none of {len(rates.trials)} trials has a value.",
      numbers=numbers,
      table=table,
      plots=plots,
      actions=[
        "Look for a bug in the model, the data or the loss: `trialbook train --debug`.",
        "Run `trialbook tune baseline`: an unstable workload trains at some learning rate.",
      ],
    )
  rate = rate_of(rates.best)
  return Conclusion(
    procedure="stability",
    id="PB-80",
    verdict=f"The best learning rate, {rate:.3g}, is the {rates.edge} that was tried, after the sweep was widened"
    f" {MOST_WIDENED} times. Whether training is stable above it is not known.",
    numbers=numbers,
    table=table,
    plots=plots,
    actions=[f"Run this again with --set {RATE}={rate:.3g}."],
  )


def _concluded(lab: Lab, seen: _Seen) -> Conclusion:
  metric = lab.ranked_by.metric
  unstable = [(rate_of(trial), one) for trial, one in seen.above if one.is_unstable]
  if seen.often_went.is_unstable:
    unstable.append((rate_of(seen.often), seen.often_went))
  unstable.sort(key=lambda pair: pair[0])
  kind: Verdict = unstable[0][1].kind if unstable else "stable"  # pyright: ignore[reportAssignmentType]
  config = lab.folder / "recommended" / "config.json"
  found = [] if kind == "stable" else remedies(lab.config, kind, f" --config={config}")
  confirmed = any(one.is_unstable for _, one in seen.far)
  changes = {} if seen.rate == lab.config.optimizer.learning_rate else {RATE: seen.rate}
  return Conclusion(
    procedure="stability",
    id="PB-80",
    verdict=_verdict(seen, kind, [rate for rate, _ in unstable], confirmed),
    evidence=_evidence(lab, seen, kind, unstable),
    changes=changes,
    numbers={
      "kind": kind,
      "learning_rate": seen.rate,
      "value": seen.best.objective,
      "unstable_learning_rate": unstable[0][0] if unstable else None,
      "begins_at_step": unstable[0][1].step if unstable else None,
      "recovers": unstable[0][1].recovered if unstable else None,
      "confirmed": confirmed,
      "missed_by_evaluation": _is_missed(lab.config, seen),
      "remedies": list(dict.fromkeys(remedy.name for remedy in found)),
    },
    actions=_actions(kind, found),
    table=seen.trainings.table(metric),
    plots=_plots(seen),
  )


def _verdict(seen: _Seen, kind: Verdict, unstable: list[float], confirmed: bool) -> str:
  best = f"the best learning rate, {seen.rate:.3g}"
  if kind == "stable":
    limit = seen.far and all(one.is_unstable for _, one in seen.far)
    return (
      f"Stable: training does not become unstable right above {best}, so instability does not limit it."
      f"{' It does at 5 to 10 times that, as any training would.' if limit else ''}"
    )
  where = "Early instability" if kind == "early" else "Mid-training instability"
  factor = unstable[0] / seen.rate
  at = f"at {best}, itself" if factor < 1.01 else f"at {unstable[0]:.3g}, {factor:.2g} times {best}"
  sure = "It is confirmed at 5 to 10 times the best." if confirmed else "It is not confirmed at 5 to 10 times the best."
  return f"{where} {at}. {sure}"


def _evidence(lab: Lab, seen: _Seen, kind: Verdict, unstable: list[tuple[float, Behaviour]]) -> list[str]:
  value = f"{seen.best.objective:.4g}"
  lines = [
    f"{value} is the best {lab.ranked_by.metric}, at {seen.rate:.3g}, inside a sweep from {seen.trainings.span}."
  ]
  above = [(trial, one) for trial, one in seen.above if trial is not seen.best]
  broken = [one for _, one in above if one.is_unstable]
  lines.append(
    f"Right above it, {len(broken)} of {len(above)} trainings are unstable"
    + (f": {'; '.join(_told(trial, one) for trial, one in above if one.is_unstable)}." if broken else ".")
  )
  lines.append(_often(lab.config, seen))
  far = "; ".join(_told(trial, one) for trial, one in seen.far)
  lines.append(f"At 5 to 10 times it: {far}." if far else "No training at 5 to 10 times it ran.")
  lines.append(_outliers(seen.best))
  if kind != "stable" and unstable and unstable[0][1].recovered:
    lines.append("Training recovers, so a rare evaluation would not show it.")
  if kind != "stable":
    lines.append("The recommended config is the best without a remedy. What to try next is in the playbook's order.")
  return lines


def _told(trial: Trial, went: Behaviour) -> str:
  where = "" if went.kind not in ("early", "mid") else f" ({'early' if went.kind == 'early' else 'mid-training'})"
  return f"at {rate_of(trial):.3g} {went.text}{where}"


def _often(config: Config, seen: _Seen) -> str:
  """Return what the run with an evaluation at every step shows."""
  went, steps = seen.often_went, seen.often.last_step
  if not went.is_unstable:
    shows = went.text if went.kind == "unknown" else f"it is stable: {went.text}"
    return f"In {steps:,} steps at {OFTEN:g} times it, with an evaluation at every step, {shows}."
  missed = f" Evaluations every {config.evaluation.every_steps:,} steps miss it." if _is_missed(config, seen) else ""
  return f"In {steps:,} steps at {OFTEN:g} times it, with an evaluation at every step, {went.text}.{missed}"


def _is_missed(config: Config, seen: _Seen) -> bool:
  """Return whether none of the config's own evaluations lies in an early instability that training recovers from."""
  went = seen.often_went
  if not went.recovered or went.step is None:
    return False
  steps, values = seen.often.curve("train/loss")
  low = float(values[steps <= went.step].min())
  over = steps[(steps > went.step) & (values > low)]
  return not any(step % config.evaluation.every_steps == 0 for step in over)


def _outliers(trial: Trial) -> str:
  found = outliers_of(trial, NORM)
  if found is None:
    return "The norm of the gradient was not logged often enough to see outliers."
  norms = trial.curve(NORM)[1]
  usual = f"Gradient norms at the best learning rate: median {np.median(norms):.3g}, 90th percentile"
  usual += f" {np.quantile(norms, 0.9):.3g}, largest {norms.max():.3g}"
  if len(found.steps) < RECURRENT:
    return f"{usual}. No outliers recur."
  return f"{usual}. {len(found.steps)} are outliers, which clipping would cut."


def _actions(kind: Verdict, found: list[Remedy]) -> list[str]:
  if kind == "stable":
    return ["Nothing has to be fixed. Search the learning rate around the best one, with the other hyperparameters."]
  flags = [" ".join(f"--set {path}={_flag(value)}" for path, value in remedy.changes.items()) for remedy in found]
  return [f"{remedy.text}{f' `{flag}`' if flag else ''}" for remedy, flag in zip(found, flags, strict=True)]


def _flag(value: Any) -> str:
  return str(value).lower() if isinstance(value, bool) else str(value)


def _named(trials: Any) -> dict[str, Trial]:
  return {f"{rate_of(trial):.3g}": trial for trial in trials}


def _plots(seen: _Seen) -> dict[str, Any]:
  shown = {
    name: trial for name, trial in _named(seen.trainings.trials).items() if rate_of(trial) >= SHOWN_BELOW * seen.rate
  }
  often = {f"{rate_of(seen.often):.3g}": seen.often, f"{seen.rate:.3g}, the best": seen.best}
  plots: dict[str, Any] = {
    "loss_curves": loss_curves(shown, "Training loss by learning rate"),
    "gradient_norms": norm_curves(shown, "Gradient norm by learning rate"),
    "first_steps": loss_curves(often, "The first steps", until=seen.often.last_step),
  }
  if histogram := norm_histogram(seen.best, "Gradient norms at the best learning rate"):
    plots["gradient_norm_histogram"] = histogram
  return plots

"""Signs of optimization problems, in one place (PB-33, PB-80 to PB-84).

The playbook ("How do I debug and mitigate optimization failures?"): a workload is unstable if learning rates a little
above the best one diverge, if its loss or its gradient norm spikes, and where its training loss goes up.
"""

import dataclasses

from trialbook.tuning.findings import convergence, gradient_norm, late_noise, rising_loss
from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.statistics.curve_trends import complete, share_interval, training_losses
from trialbook.tuning.findings.statistics.points import is_learning_rate
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.space.scales import Linear, Log

_finding = finding_of("PB-33", "optimization")

ABOVE = 0.25
"""Share of the range of learning rates, on its scale, that is "right above" the best: a decade in a space of four."""
DIVERGES = 0.5
"""Share of the trials there that are infeasible, from which on stability limits the learning rate: most of them."""
AT_LEAST = 0.25
"""The lower end of that share's interval, so that two trials that fail by chance are not a sign."""
EARLY = 0.2
"""Share of a training that is early: warmup is at most half of it (PB-82)."""
NOISY_END = "a noisy end"
"""The sign that has remedies of its own, since it is not an instability."""
REMEDIES = (
  "learning rate warmup (early instability)",
  "gradient clipping (early and mid-training)",
  "another optimizer (Adam sometimes handles what momentum cannot)",
  "residual connections and normalization, inside the residual branch: x + f(Norm(x))",
  "a smaller learning rate last",
)
"""PB-84, in the playbook's order."""


@dataclasses.dataclass(frozen=True)
class Sign:
  """One sign of a problem: in words, and the trials that show it."""

  name: str
  seen: str
  trials: tuple[int, ...]


def find(results: StudyResults) -> list[Finding]:
  """Return the finding that lists all signs of optimization problems (PB-33).

  The signs are what `gradient_norm`, `convergence` and `late_noise` see, infeasible trials right above the best
  learning rate, and early spikes of the training loss. It is a warning if there is any.
  """
  trials = complete(results)
  if not trials:
    return [
      _finding(
        severity="cannot_tell",
        title="Whether optimization has problems cannot be told: no trial is complete",
        why=f"{results.count('infeasible')} trials are infeasible. One that trains is needed to tell a space that is"
        " wrong from a workload that is unstable.",
        action="Search smaller learning rates, until one trial is complete.",
      )
    ]
  seen = [look(results) for look in (_cliff, _spikes, _norms, _rising, _noise)]
  found = [one for one in seen if isinstance(one, Sign)]
  fine = [one for one in seen if isinstance(one, str)]
  if not found and not fine:
    return [
      _finding(
        severity="cannot_tell",
        title="Whether optimization has problems cannot be told: nothing that shows it was logged",
        why="It shows in infeasible trials right above the best learning rate, in the training loss, in gradient norms,"
        " and in the end of curves with many evaluations.",
        action="Log the training loss and the norm of the gradient (train/loss, grad_norm) at every step.",
      )
    ]
  if not found:
    return [
      _finding(
        severity="ok",
        title="There is no sign of optimization problems"
        + (f" in what could be looked at, {len(fine)} of {len(seen)} signs" if len(fine) < len(seen) else ""),
        why=f"Looked at: {'; '.join(fine)}.",
        numbers={"signs": [], "looked_at": len(fine)},
      )
    ]
  return [
    _finding(
      severity="warning",
      title=f"Optimization shows {len(found)} sign{'s' if len(found) > 1 else ''} of problems:"
      f" {', '.join(sign.name for sign in found)}",
      why=" ".join(sign.seen for sign in found),
      trials=tuple(sorted({trial for sign in found for trial in sign.trials})),
      numbers={"signs": [sign.name for sign in found]},
      action="Lower the learning rate late, average parameters, or enlarge the batch (PB-27)."
      if [sign.name for sign in found] == [NOISY_END]
      else f"Try, in this order: {'; '.join(REMEDIES)}. Then search the learning rate again.",
      plot="grad_norm",
    )
  ]


# Each of these returns the sign, what is fine in words, or None where there was nothing to look at.


def _cliff(results: StudyResults) -> Sign | str | None:
  """Return infeasible trials right above the best learning rate (PB-80) as a sign."""
  best = complete(results)[0]
  fine = []
  for one in results.varied:
    if not is_learning_rate(one) or one.name not in best.values or not isinstance(one.scale, Linear | Log):
      continue
    at = one.scale.unit(best.values[one.name])
    near: list[Trial] = [
      trial
      for trial in results.trials
      if trial.state in ("complete", "infeasible")
      and one.name in trial.values
      and at < one.scale.unit(trial.values[one.name]) <= at + ABOVE
    ]
    bad = [trial for trial in near if trial.state == "infeasible"]
    if not near:
      continue
    low, high = share_interval(len(bad), len(near))
    if len(bad) >= DIVERGES * len(near) and low > AT_LEAST:
      return Sign(
        "instability above the best learning rate",
        f"Of {len(near)} trials with {one.name} right above that of the best trial, {len(bad)} are infeasible"
        f" ({low:.0%} to {high:.0%}, 95% interval): stability limits the learning rate.",
        trial_numbers(bad),
      )
    fine.append(f"{len(near) - len(bad)} of {len(near)} trials with {one.name} right above the best one train")
  return " and ".join(fine) or None


def _spikes(results: StudyResults) -> Sign | str | None:
  seen = gradient_norm.looked_at(results, "train/loss", EARLY)
  if not seen:
    return None
  hit = gradient_norm.recurrent(seen)
  if not hit or not gradient_norm.is_grave(hit, seen):
    return "the training loss does not spike early"
  return Sign(
    "early spikes of the loss",
    f"In {len(hit)} of {len(seen)} trials the training loss spikes in the first {EARLY:.0%} of the training, up to"
    f" {max(one.largest for one in hit):.1f} times its neighbours.",
    trial_numbers([one.trial for one in hit]),
  )


def _norms(results: StudyResults) -> Sign | str | None:
  seen = gradient_norm.looked_at(results, gradient_norm.METRIC)
  if not seen:
    return None
  hit = gradient_norm.recurrent(seen)
  if not hit or not gradient_norm.is_grave(hit, seen):
    return "gradient norms have no frequent outliers"
  return Sign(
    "outliers of the gradient norm",
    f"Gradient norms have outliers in {len(hit)} of {len(seen)} trials.",
    trial_numbers([one.trial for one in hit]),
  )


def _rising(results: StudyResults) -> Sign | str | None:
  trials = complete(results)
  seen = rising_loss.rising(results)
  if seen and rising_loss.is_grave(results, seen):
    wrong = [trial for trial, _ in seen]
    return Sign(
      "rising training loss", f"Training loss rises late in {len(wrong)} of {len(trials)} trials.", trial_numbers(wrong)
    )
  enough = any(len(training_losses(results, trial)[0]) >= convergence.LEAST for trial in trials)
  return "the training loss does not rise late" if enough else None


def _noise(results: StudyResults) -> Sign | str | None:
  """Return late noise as a sign, unless more validation examples would remove it."""
  seen = late_noise.measured(results)
  if seen is None:
    return None
  bad = late_noise.is_order_chance(results, seen) or late_noise.is_large(results, seen)
  if not bad or seen.explained >= late_noise.EXPLAINED:
    return "the end is not too noisy"
  return Sign(
    NOISY_END,
    f"{results.objective.metric} varies late in training by more than validation examples explain.",
    trial_numbers(seen.trials),
  )

"""Signs of optimization problems, in one place (PB-33, PB-80 to PB-84).

The playbook ("How do I debug and mitigate optimization failures?"): a workload is unstable if learning rates a little
above the best one diverge, if its loss or its gradient norm spikes, and where its training loss goes up.
"""

import dataclasses

from tuning.findings import convergence, gradient_norm, late_noise
from tuning.findings.curve_noise import complete, listed, share_interval
from tuning.findings.finding import Finding
from tuning.results import StudyResults, Trial
from tuning.space import Linear, Log

ABOVE = 0.25
"""Of the range of learning rates, on its scale, that is "right above" the best: a decade in a space of four."""
DIVERGES = 0.5
"""Share of the trials there that are infeasible, from which on stability limits the learning rate: most of them."""
AT_LEAST = 0.25
"""The lower end of that share's interval, so that two unlucky trials are no sign."""
EARLY = 0.2
"""Share of a training that is early: warmup is at most half of it (PB-82)."""
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
  """PB-33. A list of what `gradient_norm`, `convergence` and `late_noise` see, of infeasible trials right above the
  best learning rate, and of early spikes of the training loss; a warning if there is any."""
  trials = complete(results)
  if not trials:
    return [
      Finding(
        id="PB-33",
        question="optimization",
        severity="cannot_tell",
        title="Whether optimization has problems cannot be told: no trial is complete",
        why=f"{results.count('infeasible')} trials are infeasible. One that trains is needed to tell a space that is"
        " wrong from a workload that is unstable.",
        action="Search smaller learning rates, until one trial is complete.",
      )
    ]
  found = [sign for look in (_cliff, _spikes, _norms, _rising, _noise) if (sign := look(results)) is not None]
  if not found:
    return [
      Finding(
        id="PB-33",
        question="optimization",
        severity="ok",
        title="There is no sign of optimization problems",
        why="Learning rates right above the best one train, the training loss neither spikes early nor rises late,"
        " gradient norms have no frequent outliers, and the end is not too noisy; as far as each was logged.",
        numbers={"signs": []},
      )
    ]
  return [
    Finding(
      id="PB-33",
      question="optimization",
      severity="warning",
      title=f"Optimization shows {len(found)} sign{'s' if len(found) > 1 else ''} of problems:"
      f" {', '.join(sign.name for sign in found)}",
      why=" ".join(sign.seen for sign in found),
      trials=tuple(sorted({trial for sign in found for trial in sign.trials})),
      numbers={"signs": [sign.name for sign in found]},
      action=f"Try, in this order: {'; '.join(REMEDIES)}. Then search the learning rate again.",
      plot="grad_norm",
    )
  ]


def _cliff(results: StudyResults) -> Sign | None:
  """Infeasible trials right above the best learning rate (PB-80)."""
  best = complete(results)[0]
  for one in results.varied:
    if not one.path.endswith("learning_rate") or one.name not in best.values or not isinstance(one.scale, Linear | Log):
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
        listed(bad),
      )
  return None


def _spikes(results: StudyResults) -> Sign | None:
  seen = gradient_norm.looked_at(results, "train/loss", EARLY)
  hit = gradient_norm.recurrent(seen)
  if not hit or not gradient_norm.is_grave(hit, seen):
    return None
  return Sign(
    "early spikes of the loss",
    f"In {len(hit)} of {len(seen)} trials the training loss spikes in the first {EARLY:.0%} of the training, up to"
    f" {max(one.largest for one in hit):.1f} times its neighbours.",
    listed([one.trial for one in hit]),
  )


def _norms(results: StudyResults) -> Sign | None:
  seen = gradient_norm.looked_at(results, gradient_norm.METRIC)
  hit = gradient_norm.recurrent(seen)
  if not hit or not gradient_norm.is_grave(hit, seen):
    return None
  return Sign(
    "outliers of the gradient norm",
    f"Gradient norms have outliers in {len(hit)} of {len(seen)} trials.",
    listed([one.trial for one in hit]),
  )


def _rising(results: StudyResults) -> Sign | None:
  count = len(complete(results))
  seen = convergence.rising(results)
  if not seen or not convergence.is_grave(results, seen):
    return None
  wrong = [trial for trial, _ in seen]
  return Sign("rising training loss", f"Training loss rises late in {len(wrong)} of {count} trials.", listed(wrong))


def _noise(results: StudyResults) -> Sign | None:
  """Only of what more validation examples would not mend."""
  seen = late_noise.measured(results)
  if seen is None or seen.explained >= late_noise.EXPLAINED:
    return None
  if not (late_noise.is_luck(results, seen) or late_noise.is_large(results, seen)):
    return None
  return Sign(
    "a noisy end",
    f"{results.objective.metric} varies late in training by more than validation examples explain.",
    listed(seen.trials),
  )

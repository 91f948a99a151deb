"""Signs of optimization problems, in one place (PB-33, PB-80 to PB-84).

The playbook ("How do I debug and mitigate optimization failures?"): a workload is unstable if learning rates a little
above the best one diverge, if its loss or its gradient norm spikes, and where its training loss goes up.
"""

import dataclasses

from trialbook.tuning.findings import gradient_norm, late_noise, rising_loss
from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.outcomes import DEAD
from trialbook.tuning.findings.statistics.curve_trends import complete, share_interval
from trialbook.tuning.findings.statistics.points import feasible, is_learning_rate, points_of, unit_of
from trialbook.tuning.findings.wording import many
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Linear, Log

_finding = finding_of("PB-33", "optimization")

ABOVE = 0.25
"""Share of the range of learning rates, on its scale, that is "right above" the best: a decade in a space of four."""
DIVERGES = 0.5
"""Share of the points there that are infeasible, from which on stability limits the learning rate: most of them."""
AT_LEAST = 0.25
"""The lower end of that share's interval, so that two points that fail by chance are not a sign."""
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
  """One sign of a problem, in words.

  Attributes:
    name: of the sign.
    seen: what shows it, with numbers.
    trials: that show it.
    is_local: whether it is only in a region of the space without good trials.
  """

  name: str
  seen: str
  trials: tuple[int, ...]
  is_local: bool = False


def find(results: StudyResults) -> list[Finding]:
  """Return the finding that lists all signs of optimization problems (PB-33).

  The signs are what `gradient_norm`, `rising_loss` and `late_noise` see, infeasible points right above the best
  learning rate, and early spikes of the training loss. It is a warning if there is any, and a note if they are only
  in a region without good trials.
  """
  trials = complete(results)
  if not trials:
    return [
      _finding(
        severity="cannot_tell",
        title="Unknown whether optimization has problems: no trial is complete",
        why=f"{many(results.count('infeasible'), 'trial')} infeasible. Without one that trains, a wrong space looks"
        " like an unstable workload.",
        action="Search smaller learning rates until one trial is complete.",
      )
    ]
  seen = [look(results) for look in (_cliff, _spikes, _norms, _rising, _noise)]
  found = [one for one in seen if isinstance(one, Sign)]
  fine = [one for one in seen if isinstance(one, str)]
  if not found and not fine:
    return [
      _finding(
        severity="cannot_tell",
        title="Unknown whether optimization has problems: nothing that would show it was logged",
        why="It shows in infeasible trials right above the best learning rate, in the training loss, in gradient norms,"
        " and in the end of curves with many evaluations.",
        action="Log the training loss and the norm of the gradient (train/loss, grad_norm) at every step.",
      )
    ]
  if not found:
    return [
      _finding(
        severity="ok",
        title="No optimization problem found"
        + (f", but only {len(fine)} of {len(seen)} checks were possible" if len(fine) < len(seen) else ""),
        why=f"Looked at: {'; '.join(fine)}.",
        numbers={"signs": [], "looked_at": len(fine)},
      )
    ]
  grave = [sign for sign in found if not sign.is_local]
  if not grave:
    return [
      _finding(
        severity="note",
        title=f"Optimization has problems only in a region without good trials: {', '.join(s.name for s in found)}",
        why=f"{' '.join(sign.seen for sign in found)} Elsewhere: {'; '.join(fine) or 'nothing else was looked at'}.",
        trials=tuple(sorted({trial for sign in found for trial in sign.trials})),
        numbers={"signs": [sign.name for sign in found]},
        action="Nothing, if the best trials lie far from it. If they lie next to it, more stable training might reach"
        " further (PB-80).",
        plot="curves",
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
  """Return points right above the best learning rate that have no value, or seeds that died (PB-80), as a sign."""
  points = points_of(results)
  best = feasible(points)[0]
  died = {number for number, end in results.endings.items() if end.kind in DEAD}
  fine = []
  for one in results.varied:
    if not is_learning_rate(one) or one.name not in best.values or not isinstance(one.scale, Linear | Log):
      continue
    at = one.scale.unit(best.values[one.name])
    near = [point for point in points if at < unit_of(one, point.values) <= at + ABOVE]
    bad = [point for point in near if not point.retrains]
    shaky = [point for point in near if point.retrains and died & set(point.trials)]
    if not near:
      continue
    low, high = share_interval(len(bad), len(near))
    if len(bad) >= DIVERGES * len(near) and low > AT_LEAST:
      return Sign(
        "instability above the best learning rate",
        f"Of {many(len(near), 'point')} with {one.name} right above that of the best point, {len(bad)} are infeasible"
        f" ({low:.0%} to {high:.0%}, 95% interval): stability limits the learning rate.",
        tuple(sorted(number for point in bad for number in point.trials)),
      )
    fine.append(
      f"{len(near) - len(bad)} of {many(len(near), 'point')} with {one.name} right above that of the best train to"
      " their end" + (f", though at {len(shaky)} of them a seed died" if shaky else "")
    )
  return " and ".join(fine) or None


def _spikes(results: StudyResults) -> Sign | str | None:
  seen = gradient_norm.looked_at(results, "train/loss", EARLY)
  if not seen:
    return None
  hit = gradient_norm.recurrent(seen)
  if not hit or not gradient_norm.is_grave(hit, seen):
    return f"the training loss does not spike early ({gradient_norm.covered(seen)})"
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
    return None if gradient_norm.is_beginning_only(seen) else "gradient norms have no frequent outliers"
  return Sign(
    "outliers of the gradient norm",
    f"Gradient norms have outliers in {len(hit)} of {len(seen)} trials.",
    trial_numbers([one.trial for one in hit]),
  )


def _rising(results: StudyResults) -> Sign | str | None:
  wrong = rising_loss.rising(results)
  looked_at = rising_loss.late_enough(results)
  if wrong:
    seen = rising_loss.judged(results, wrong)
    if seen.is_grave or seen.cause == "region":
      trials = [trial for trial, _ in wrong]
      where = f", {rising_loss.place(seen.region)}" if seen.cause == "region" else ""
      return Sign(
        "rising training loss",
        f"Training loss rises late in {len(wrong)} of {seen.looked_at} trials{where}.",
        trial_numbers(trials),
        is_local=not seen.is_grave,
      )
    return f"the training loss rises late in {len(wrong)} of {seen.looked_at} trials, none of them among the best"
  return f"the training loss does not rise late ({many(len(looked_at), 'trial')})" if looked_at else None


def _noise(results: StudyResults) -> Sign | str | None:
  """Return late noise as a sign if it is known that the draw of validation examples does not make it."""
  seen = late_noise.measured(results)
  if seen is None:
    return None
  if not (late_noise.is_order_chance(results, seen) or late_noise.is_large(results, seen)):
    return "the end is not too noisy"
  if seen.sampling is None:
    return "the end is noisy, but the number of validation examples, which may be the cause, is not known"
  if seen.explained >= late_noise.EXPLAINED:
    return "the end is noisy because of the number of validation examples"
  return Sign(
    NOISY_END,
    f"{results.objective.metric} varies from evaluation to evaluation late in training by more than the number of"
    " validation examples explains.",
    trial_numbers(seen.trials),
  )

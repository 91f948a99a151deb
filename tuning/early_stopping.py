"""The rule by which a study ends trials early, and its decisions: a function of what the trials logged, and of nothing
else.

A trial is compared with the trials of lower index only, at the same step. So a decision depends neither on the number
of workers, nor on the order in which trials end, nor on when the decision is made.
"""

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from trialbook.trainer.evaluation_schedule import evaluation_steps

OPEN: Final = "open"
"""The decision on a trial that must wait for itself, or for a trial of lower index."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantileStopping:
  """End a trial early if it is worse than a quantile of the trials of lower index, at the same step.

  Attributes:
    quantile: of the values of the earlier trials, from the best on: 0.5 is their median. The larger it is, the fewer
      trials are ended.
    at: where a trial is compared: shares of the training's steps (floats between 0 and 1), or steps (whole numbers). A
      function has steps only, one for each mapping that it yields. The comparison is at the first evaluation from there
      on.
    after: number of earlier trials that a comparison takes, so the first ones always run to their end.
  """

  quantile: float = 0.5
  at: tuple[float | int, ...] = (0.25, 0.5)
  after: int = 8

  def steps(self, length: int | None) -> tuple[int, ...]:
    """Return the steps from which trials are compared, in order; `length`: steps of a training, None of a function."""
    found = set()
    for one in self.at:
      share = isinstance(one, float)
      assert not share or length is not None, "a share of an unknown number of steps"
      found.add(max(round(one * (length or 0)), 1) if share else int(one))
    return tuple(sorted(found))

  def problems(self, config: Any, varied: Sequence[str]) -> list[str]:
    """Return what is wrong, in sentences.

    Args:
      config: of the study's trainings; None for a function.
      varied: paths of the fields that the study's hyperparameters set.
    """
    found = []
    if not _is_number(self.quantile) or not 0 < self.quantile < 1:
      found.append(f"quantile = {self.quantile!r}: should be a number between 0 and 1; 0.5 is the median")
    if not isinstance(self.after, int) or isinstance(self.after, bool) or self.after < 1:
      found.append(f"after = {self.after!r}: should be a whole number of at least 1")
    if not isinstance(self.at, tuple | list) or not self.at:
      return [*found, f"at = {self.at!r}: should be a tuple of shares of the steps, for example (0.25, 0.5)"]
    for one in self.at:
      if not _is_number(one) or one <= 0 or (isinstance(one, float) and one >= 1):
        found.append(f"at = {one!r}: should be a share of the steps between 0 and 1, or a step (a whole number)")
      elif isinstance(one, float) and config is None:
        found.append(
          f"at = {one!r}: how many values a function yields is not known before it runs; write a number of them instead"
          " of a share, for example at=(10,)"
        )
    if config is None:
      return found
    fixed = [path for path in varied if path in ("max_train_steps", "evaluation.every_steps")]
    found += [f"{path} is varied, but trials are compared at the same step; fix it" for path in fixed]
    if found:
      return found
    boundaries = evaluation_steps(config)
    for step in self.steps(config.max_train_steps):
      if not any(step <= boundary < config.max_train_steps for boundary in boundaries):
        found.append(
          f"no evaluation is between step {step} and the last step, {config.max_train_steps}; choose an earlier step,"
          f" or a smaller evaluation.every_steps (now {config.evaluation.every_steps})"
        )
    return found

  def as_json(self) -> dict[str, Any]:
    return {"quantile": float(self.quantile), "at": list(self.at), "after": self.after}

  @classmethod
  def from_json(cls, stored: Mapping[str, Any]) -> "QuantileStopping":
    """Return the rule of a study's record. Raise KeyError or TypeError if there is none in it."""
    return cls(quantile=stored["quantile"], at=tuple(stored["at"]), after=stored["after"])

  def describe(self, length: int | None) -> str:
    """Return the rule as a sentence; `length` as in `steps`."""
    steps = " or ".join(f"{step:,}" for step in self.steps(length))
    limit = "the median" if self.quantile == 0.5 else f"{self.quantile:.0%}"
    first = f"; the first {self.after} run to their end" if self.after > 1 else ""
    where = f"at its first evaluation from step {steps} on"
    return f"ends a trial {where} if it is worse there than {limit} of the trials before it{first}"


@dataclasses.dataclass(frozen=True)
class Standing:
  """A trial as the rule sees it.

  Attributes:
    costs: at each of the rule's steps, smaller is better. Infinite: it counts as worse than any other. NaN: it does not
      count. None: not known yet.
    reached: number of steps at which it may be ended: those that it reached itself.
  """

  costs: tuple[float | None, ...]
  reached: int


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The decision to end a trial.

  Attributes:
    at: position among the rule's steps.
    limit: the largest cost there that lets a trial go on.
    among: number of earlier trials that it was compared with.
  """

  at: int
  limit: float
  among: int


def verdicts(
  rule: QuantileStopping, standings: Sequence[Standing], since: int = 0
) -> list[Verdict | Literal["open"] | None]:
  """Return the decision on each trial.

  A trial that was ended at an earlier step counts as worse at the later ones, so the quantile is always one of all
  earlier trials and not of those that were left.

  Args:
    rule: of the study.
    standings: of its trials, by index, without gaps.
    since: index of the first trial under the rule.

  Returns:
    For each trial, the decision to end it, None if it runs to its end, or OPEN if that is not known yet.
  """
  steps = len(standings[0].costs) if standings else 0
  earlier: list[list[float]] = [[] for _ in range(steps)]
  is_open = [False] * steps
  found: list[Verdict | Literal["open"] | None] = []
  for index, standing in enumerate(standings):
    verdict: Verdict | Literal["open"] | None = None
    for at, cost in enumerate(standing.costs):
      known: float | None = cost
      if isinstance(verdict, Verdict):
        known = math.inf
      elif verdict == OPEN:
        known = None  # Whether it is still there is not known.
      elif cost is None:
        verdict = OPEN
      elif index >= max(since, rule.after) and at < standing.reached and math.isfinite(cost):
        limit = None if is_open[at] else _limit(earlier[at], rule)
        if is_open[at]:
          verdict = OPEN
        elif limit is not None and cost > limit:
          verdict = Verdict(at, limit, len(earlier[at]))
      is_open[at] = is_open[at] or known is None
      if known is not None and not math.isnan(known):
        # This trial is not compared with itself.
        bisect.insort(earlier[at], known)
    found.append(verdict)
  return found


def _limit(costs: Sequence[float], rule: QuantileStopping) -> float | None:
  """Return the quantile of sorted costs; None if they are too few.

  It is one of the costs, the larger one of two neighbours, so a trial that is as good as another is not ended, and the
  decision does not depend on the scale of the metric.
  """
  if len(costs) < rule.after:
    return None
  return costs[math.ceil(rule.quantile * (len(costs) - 1))]


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

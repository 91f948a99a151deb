"""A changed config against the baseline: two trainings, compared by their best evaluations (PB-20, PB-82)."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from trialbook.settings import leaves
from trialbook.trainer import Config
from trialbook.tuning.procedures.instability import Behaviour, behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.results import Trial

RESOLVED = 2.0
"""Standard errors of a share of the validation examples by which two trainings differ if it is not by chance."""
SEEDS = 3
"""Seeds with which training must be stable: if it breaks with half of all seeds, it passes one time in eight."""
FLOOR = 1e-12
"""Share of a value below which a difference is a rounding error."""


@dataclasses.dataclass(frozen=True)
class Against:
  """A comparison of two trainings.

  Attributes:
    baseline: the training of the config as it is.
    candidate: that of the changed one.
    metric: that decides.
    gain: by how much the candidate's best evaluation is better; infinite if the baseline has none; None if the
      candidate has none.
    resolution: the gain that the number of validation examples can resolve; None if unknown.
  """

  baseline: Trial
  candidate: Trial
  metric: str
  gain: float | None
  resolution: float | None

  @property
  def is_better(self) -> bool:
    """Return whether the candidate is better than the baseline."""
    return self.gain is not None and self.gain > FLOOR * abs(self.baseline.objective or 0.0)

  @property
  def text(self) -> str:
    """Return the comparison as a sentence."""
    one, other = self.baseline, self.candidate
    if other.objective is None:
      return f"The changed config has no value of {self.metric}: {other.reason or other.state}."
    if one.objective is None:
      return (
        f"The changed config reaches {self.metric} of {other.objective:.4g} at step {other.step or 0:,}. The baseline"
        f" has no value: {one.reason or one.state}."
      )
    verb = "is better than" if self.is_better else "is not better than"
    return (
      f"Best {self.metric}: {other.objective:.4g} at step {other.step or 0:,} with the change, which {verb}"
      f" {one.objective:.4g} at step {one.step or 0:,} without."
    )

  @property
  def caveat(self) -> str:
    """Return what one training of each cannot say."""
    small = (
      f" The gain is smaller than {self.resolution:.2g}, which is what so many validation examples can resolve."
      if self.resolution is not None and self.gain is not None and self.gain < self.resolution
      else ""
    )
    return f"Each was trained once, with the same seed.{small}"


def changed(baseline: Config, candidate: Config) -> dict[str, tuple[Any, Any]]:
  """Return the fields that differ: path -> (value of the baseline, of the candidate)."""
  before, after = ({path: value for path, _, _, value in leaves(config)} for config in (baseline, candidate))
  return {
    path: (before.get(path), after.get(path))
    for path in dict.fromkeys([*before, *after])
    if before.get(path) != after.get(path)
  }


def confirmation(folder: pathlib.Path) -> str:
  """Return what to do with the recommendation of a procedure, in whose folder it is, as a sentence."""
  candidate, beside = folder / "recommended" / "config.json", folder.parent / f"{folder.name}_adopt"
  command = f"trialbook tune adopt --candidate={candidate} --config=BASELINE --dir={beside}"
  return f"Confirm it with fresh seeds of it and of the config that you gave (BASELINE): `{command}`."


def compare(lab: Lab, name: str, candidate: Config, goal: str, probe: Mapping[str, Any]) -> Against:
  """Train the lab's config and a changed one, as a study of two trials, and compare them by retrospective selection.

  Args:
    lab: with the baseline.
    name: of the study.
    candidate: the changed config.
    goal: of the study, in words.
    probe: changes of both.
  """
  baseline = lab.config.resolved()
  paths = changed(baseline, candidate)
  points: list[Mapping[str, Any]] = [{path: values[side] for path, values in paths.items()} for side in (0, 1)]
  results = lab.points(name, goal, points, config=baseline, changes=probe)
  return _against(results.objective.metric, results.objective.sign, *results.trials)


def other_seeds(
  lab: Lab, name: str, candidate: Config, length: int, reference: Trial | None, probe: Mapping[str, Any]
) -> list[Behaviour]:
  """Train a changed config with other seeds than its own, and return how these trainings went.

  Args:
    lab: where they run.
    name: of the study.
    candidate: the changed config.
    length: of a training, in steps.
    reference: a stable training.
    probe: changes of all.
  """
  seeds = [candidate.seed + more for more in range(1, SEEDS)]
  goal = "Is training stable with other seeds as well?"
  results = lab.sweep(name, goal, "seed", seeds, config=candidate, changes=probe)
  return [behaviour(trial, length, reference, same_batches=False) for trial in results.trials]


def _against(metric: str, sign: int, baseline: Trial, candidate: Trial) -> Against:
  if candidate.objective is None:
    gain = None
  elif baseline.objective is None:
    gain = math.inf
  else:
    gain = sign * (baseline.objective - candidate.objective)
  return Against(baseline, candidate, metric, gain, _resolution(metric, baseline, candidate))


def _resolution(metric: str, baseline: Trial, candidate: Trial) -> float | None:
  """Return `RESOLVED` standard errors of the difference of two shares of the same number of validation examples."""
  split, _, name = metric.rpartition("/")
  examples = candidate.log.examples.get(split)
  if name not in ("error", "accuracy") or not examples or baseline.objective is None or candidate.objective is None:
    return None
  share = (baseline.objective + candidate.objective) / 2
  return RESOLVED * math.sqrt(2 * share * (1 - share) / examples) if 0 < share < 1 else None

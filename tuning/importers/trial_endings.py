"""States of imported trials: what their curves show overrules what was recorded of them.

A program that returned NaN may call its trial finished, failed or pruned, and a job that was taken away leaves a table
in which its trial looks complete.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from trialbook.tuning.endings import early_ends
from trialbook.tuning.importers.source import SourceTrial
from trialbook.tuning.records import State
from trialbook.tuning.study import Objective

Curves = Mapping[str, Sequence[tuple[int, float]]]

NAMED = 5
"""Trials that a note names."""


def states(
  objective: Objective, trials: Sequence[SourceTrial], curves: Sequence[Curves]
) -> tuple[list[tuple[State, str | None]], list[str]]:
  """Return the state of each trial and its reason, and notes about states that differ from what was recorded.

  The first of these rules that fits:

  1. running and pending trials, and those whose state is certain, keep it;
  2. infeasible if the objective's metric or the training loss is not finite at its end, as a training of ours would
     have ended there (PB-21);
  3. what was recorded, unless that is "complete";
  4. failed if it logged nothing;
  5. stopped or pruned if it ended before the others, see `endings.early_ends`;
  6. complete.

  Args:
    objective: by which trials are ranked.
    trials: of a source.
    curves: of each, by our names of metrics, in order of steps.
  """
  found: list[tuple[State, str | None]] = []
  overruled: dict[int, State] = {}
  for number, (trial, own) in enumerate(zip(trials, curves, strict=True)):
    recorded = trial.state
    diverged = not_finite_at_end(objective, own)
    if recorded in ("running", "pending") or (recorded is not None and trial.certain):
      found.append((recorded, trial.reason))
    elif diverged is not None:
      if recorded not in (None, "infeasible"):
        overruled[number] = recorded
      found.append(("infeasible", diverged if trial.reason is None else f"{diverged} ({trial.reason})"))
    elif recorded not in (None, "complete"):
      found.append((recorded, trial.reason))
    elif not own:
      reason = "it logged nothing" if recorded is None else "it is recorded as complete, but it logged nothing"
      found.append(("failed", trial.reason or reason))
    else:
      found.append(("complete", trial.reason))
  ended = _early(objective, trials, curves, found)
  found = [ended.get(number, state) for number, state in enumerate(found)]
  return found, [*_about_divergence(trials, overruled), *_about_lengths(trials, ended)]


def not_finite_at_end(objective: Objective, curves: Curves) -> str | None:
  """Return that the objective's metric or the training loss is not finite at its end, in words; None if both are."""
  for metric in dict.fromkeys([objective.metric, *_training_losses(curves)]):
    points = curves.get(metric, [])
    if points and not math.isfinite(points[-1][1]):
      step = next(step for step, value in points if not math.isfinite(value))
      if len(points) == 1:
        return f"{metric} is {points[-1][1]}"
      return f"{metric} is not finite, for the first time at step {step}"
  return None


def _training_losses(curves: Curves) -> list[str]:
  plain = [name for name in ("train/loss", "train_subset/loss") if name in curves]
  if plain:
    return plain
  return [name for name in curves if name.startswith(("train/", "train_subset/")) and name.endswith("loss")]


def _early(
  objective: Objective,
  trials: Sequence[SourceTrial],
  curves: Sequence[Curves],
  found: Sequence[tuple[State, str | None]],
) -> dict[int, tuple[State, str | None]]:
  """Return the state and the reason of complete trials that ended before the others, by number."""
  complete = [number for number, (state, _) in enumerate(found) if state == "complete"]
  ends = early_ends(objective, [curves[number] for number in complete], [trials[number].values for number in complete])
  ended: dict[int, tuple[State, str | None]] = {}
  for index, end in ends.items():
    number = complete[index]
    if not (trials[number].certain or trials[number].any_length) and end.kind in ("cut_short", "pruned"):
      ended[number] = ("pruned" if end.kind == "pruned" else "stopped", end.text)
  return ended


def _about_divergence(trials: Sequence[SourceTrial], overruled: Mapping[int, State]) -> list[str]:
  if not overruled:
    return []
  counts = ", ".join(f"{count} as {state}" for state, count in Counter(overruled.values()).items())
  names = _named([trials[number].source for number in overruled])
  recorded = f"{_trials(len(overruled))} infeasible, although recorded otherwise ({counts})"
  return [f"{recorded}: the objective or the training loss is not finite at the end of {names}."]


def _about_lengths(trials: Sequence[SourceTrial], ended: Mapping[int, tuple[State, str | None]]) -> list[str]:
  notes = []
  for state, what in (("stopped", "cut short"), ("pruned", "ended early by a rule")):
    those = [number for number, (its, _) in ended.items() if its == state]
    if those:
      notes.append(
        f"{_trials(len(those))} {state} ({what}), because others are much longer:"
        f" {_named([trials[number].source for number in those])}."
      )
  return notes


def _trials(count: int) -> str:
  return "1 trial is" if count == 1 else f"{count} trials are"


def _named(names: Sequence[str]) -> str:
  more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
  return f"{', '.join(names[:NAMED])}{more}"

"""The conclusion on steps to a target: the curve, where it leaves perfect scaling, and what each size costs (PB-06)."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from trialbook.progress import duration
from trialbook.tuning.procedures import drawing
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.critical_batch_size import (
  LEAVES,
  LEVEL,
  CriticalBatchSize,
  PerfectScaling,
  fit,
  perfect_scaling,
)
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.step_measurement import sized
from trialbook.tuning.procedures.target_steps import Reached
from trialbook.tuning.results import StudyResults

TIE = 0.1
"""Two training times that differ by less than this share are equal: steps and timings are not known better."""


def concluded(lab: Lab, found: Sequence[Reached], target: float, budget: int, virtual: int | None) -> Conclusion:
  """Return what follows from the steps at some batch sizes, in order."""
  objective = lab.ranked_by
  reached = {one.batch_size: one for one in found if one.steps}
  goal = f"{objective.metric} {'≤' if objective.mode == 'min' else '≥'} {target:.4g}"
  numbers: dict[str, Any] = {
    "metric": objective.metric,
    "target": target,
    "budget": budget,
    "virtual_batch_size": virtual,
    "steps": {one.batch_size: one.steps for one in found},
    "seconds": {one.batch_size: one.seconds for one in found},
    "device_seconds": {one.batch_size: one.device_seconds for one in found},
  }
  curve = {size: float(one.steps or 0) for size, one in reached.items()}
  scaling = perfect_scaling(curve) if curve else None
  made = {"procedure": "steps-to-target", "id": "PB-06", "table": _table(found, scaling)}
  if any(one.steps == 0 for one in found):
    return Conclusion(
      **made,
      verdict=f"The target, {goal}, is met before the first step. Nothing follows.",
      numbers=numbers,
      actions=["Give a target that only a trained model reaches (--target)."],
    )
  if len(reached) < 2 or scaling is None:
    return Conclusion(**made, **_not_reached(found, reached, goal, budget), numbers=numbers)
  critical = _critical(reached)
  numbers |= {"perfect_until": scaling.until, "perfect_examples": scaling.examples, "undertuned": scaling.worse}
  if critical is not None:
    numbers |= {"critical_batch_size": critical.value, "low": critical.low, "high": critical.high}
  best = _cheapest(list(reached.values()))
  changes = None
  if best is not None and not best.at_edge:
    own = {} if virtual is None else {"model.virtual_batch_size": virtual}
    wanted = {**own, **sized(lab.config, best.batch_size), **best.changes}
    present = lab.config.model_dump()
    changes = {path: value for path, value in wanted.items() if _at(present, path) != value}
    numbers["batch_size"] = best.batch_size
  return Conclusion(
    **made,
    verdict=_verdict(curve, scaling.until, critical, goal),
    evidence=_evidence(found, reached, scaling, critical, best, virtual),
    changes=changes,
    numbers=numbers,
    actions=_actions(found, scaling, best, budget),
    plots={"steps_to_target": _picture(reached, scaling, critical), **_costs(reached)},
  )


def nothing(lab: Lab, results: StudyResults, size: int, budget: int) -> Conclusion:
  """Return the conclusion if no target follows from the trainings of the smallest size."""
  trained = sum(trial.state == "complete" for trial in results.trials)
  return Conclusion(
    procedure="steps-to-target",
    id="PB-06",
    verdict=f"No target follows: of {len(results.trials)} trials with a batch size of {size:,} and {budget:,} steps,"
    f" {trained} trained to their end, and were better than the untrained model and than chance.",
    numbers={"budget": budget, "feasible": trained, "trials": len(results.trials)},
    actions=[
      "Look at why the others failed (trialbook tune report on the study in this folder).",
      "Search with more steps (--budget) or more trials (--trials), or give the target (--target).",
      "If no trial trains, look for a bug: trialbook train --debug.",
    ],
  )


def _not_reached(found: Sequence[Reached], reached: dict[int, Reached], goal: str, budget: int) -> dict[str, Any]:
  count = f"only a batch size of {next(iter(reached)):,} reaches" if reached else "no batch size reaches"
  of = ", ".join(f"{one.batch_size:,} ({one.feasible} of {one.trials} trials feasible)" for one in found)
  return {
    "verdict": f"There is no curve: {count} {goal} in {budget:,} steps reliably.",
    "evidence": [f"Batch sizes: {of}."],
    "actions": [
      f"Search with more steps: --budget={2 * budget}.",
      "Search with more trials (--trials), or choose a target that is easier to reach (--target).",
    ],
  }


def _critical(reached: dict[int, Reached]) -> CriticalBatchSize | None:
  if len(reached) < 3:
    return None
  steps = {
    size: [float(one.budget if each is None else each) for each in one.of_seeds] or [float(one.searched or 0)]
    for size, one in reached.items()
  }
  spread = math.sqrt(math.fsum(one.spread**2 for one in reached.values()) / len(reached))
  return fit(steps, max(one.resolution / (one.steps or 1) for one in reached.values()), spread)


def _cheapest(reached: Sequence[Reached]) -> Reached | None:
  """Return the smallest size whose training time is within `TIE` of the least; None if no time is known."""
  timed = [one for one in reached if one.seconds is not None]
  if not timed:
    return None
  least = min(one.seconds or 0.0 for one in timed)
  return next(one for one in timed if (one.seconds or 0.0) <= (1 + TIE) * least)


def _verdict(curve: dict[int, float], scaling: int, critical: CriticalBatchSize | None, goal: str) -> str:
  smallest, largest = min(curve), max(curve)
  if scaling == largest:
    told = f"Scaling is perfect from {smallest:,} to {largest:,}: each doubling halves the steps to {goal}."
  elif scaling == smallest:
    told = f"Scaling to {goal} is not perfect anywhere from {smallest:,} to {largest:,}."
  else:
    told = f"Scaling to {goal} is perfect from {smallest:,} up to {scaling:,}."
  saved = f"From {smallest:,} to {largest:,}, steps fall from {curve[smallest]:,.0f} to {curve[largest]:,.0f}."
  if critical is None:
    return f"{told} {saved}"
  if critical.is_inside:
    interval = f"{LEVEL:.0%} interval {critical.low:,.0f} to {_many(critical.high)}"
    return f"{told} The critical batch size is {critical.value:,.0f} ({interval}). {saved}"
  where = f"above {largest:,}" if critical.value > largest else f"below {smallest:,}"
  return f"{told} The critical batch size is {where}, outside of the sizes that were measured. {saved}"


def _evidence(
  found: Sequence[Reached],
  reached: dict[int, Reached],
  scaling: PerfectScaling,
  critical: CriticalBatchSize | None,
  best: Reached | None,
  virtual: int | None,
) -> list[str]:
  first = next(iter(reached.values()))
  tuned = ", ".join(path.removeprefix("optimizer.") for path in first.changes)
  evidence = [
    f"At each size the optimizer was tuned again ({tuned}; {first.trials} trials), at a constant learning rate.",
    f"The steps are the median of {_retrains(len(first.of_seeds))} of the best point, with other seeds.",
    f"The small sizes take {scaling.examples:,.0f} examples; up to {LEAVES} times as many count as perfect scaling.",
  ]
  if critical is not None:
    evidence.append(
      f"The fit is S(B) = {critical.least_steps:,.0f} (1 + {critical.value:,.0f} / B). At the critical size, steps and"
      " examples are twice the least."
    )
  if virtual is not None:
    evidence.append(f"Batch normalization had virtual batches of {virtual} at all sizes.")
  if best is not None and best.seconds is not None:
    evidence.append(
      f"Batch size {best.batch_size:,} takes {duration(best.seconds)} of training ({best.device_seconds:.3g}"
      f" device-seconds). It is the smallest size within {TIE:.0%} of the least time."
    )
  if scaling.worse:
    evidence.append(
      f"{_listed(scaling.worse).capitalize()} took more examples than a larger size did: its search was less lucky, and"
      " found too many steps."
    )
  edges = [one.batch_size for one in reached.values() if one.at_edge]
  if edges:
    evidence.append(f"For {_listed(edges)}, the best learning rate is at an edge of the search. Fewer steps may do.")
  if left := [one.batch_size for one in found if one.batch_size not in reached]:
    evidence.append(f"The target was not reached reliably with {_listed(left)}.")
  return evidence


def _actions(found: Sequence[Reached], scaling: PerfectScaling, best: Reached | None, budget: int) -> list[str]:
  actions = []
  if best is None:
    actions.append("The speed of the trainings is not known, so no size is recommended; compare the steps.")
  elif best.at_edge:
    actions.append(
      f"The best learning rate of batch size {best.batch_size:,} is at an edge of the search, so none is recommended."
      " Search more widely around it."
    )
  else:
    actions += [
      "The recommended values were tuned at a constant learning rate. With a schedule, tune the learning rate again.",
      "Tune the regularization again at the new size: larger batches may want stronger regularization.",
    ]
  if scaling.worse:
    actions.append("Search with more trials (--trials, in another --dir), so that all sizes are tuned as well.")
  if any(one.steps is None for one in found):
    actions.append(f"For the sizes that did not reach the target, search with more steps: --budget={2 * budget}.")
  return actions


def _table(found: Sequence[Reached], scaling: PerfectScaling | None) -> list[dict[str, Any]]:
  rows = []
  for one in found:
    steps = one.steps
    examples = None if steps is None else steps * one.batch_size
    rows.append(
      {
        "batch size": one.batch_size,
        "steps": steps,
        "of seeds": ", ".join("-" if each is None else f"{each:,}" for each in one.of_seeds),
        "examples": examples,
        "of perfect scaling": examples / scaling.examples if examples and scaling else None,
        "seconds": one.seconds,
        "device-seconds": one.device_seconds,
        "feasible": f"{one.feasible} of {one.trials}",
        "best point": ", ".join(f"{path.rpartition('.')[2]} {_short(value)}" for path, value in one.changes.items()),
      }
    )
  return rows


def _picture(
  reached: dict[int, Reached], scaling: PerfectScaling, critical: CriticalBatchSize | None
) -> dict[str, Any]:
  points = [{"size": size, "steps": one.steps, "perfect": scaling.examples / size} for size, one in reached.items()]
  x = alt.X("size:Q", title="batch size", scale=alt.Scale(type="log", base=2))

  def y(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title="steps to the target", scale=alt.Scale(type="log"))

  base = alt.Chart(drawing.rows(points))
  layers = [
    base.mark_line(strokeDash=[4, 3], color="#8a93a3").encode(x=x, y=y("perfect")),
    base.mark_point(filled=True, size=60).encode(x=x, y=y("steps")),
  ]
  if critical is None:
    layers.append(base.mark_line().encode(x=x, y=y("steps")))
  else:
    ends = math.log2(min(reached)), math.log2(max(reached))
    sizes = [2 ** (ends[0] + (ends[1] - ends[0]) * part / 40) for part in range(41)]
    fitted = [{"size": size, "fit": critical.steps(size)} for size in sizes]
    layers.append(alt.Chart(drawing.rows(fitted)).mark_line().encode(x=x, y=y("fit")))
  return drawing.specification(*layers, title="Steps to the target. Dashed: perfect scaling")


def _costs(reached: dict[int, Reached]) -> dict[str, Any]:
  costs = {"time": {size: one.seconds for size, one in reached.items()}}
  if any(one.devices > 1 for one in reached.values()):
    costs["device-seconds"] = {size: one.device_seconds for size, one in reached.items()}
  points = [
    {"size": size, "seconds": value, "cost": name}
    for name, values in costs.items()
    for size, value in values.items()
    if value is not None
  ]
  if not points:
    return {}
  chart = (
    alt.Chart(drawing.rows(points))
    .mark_line(point=True)
    .encode(
      x=alt.X("size:Q", title="batch size", scale=alt.Scale(type="log", base=2)),
      y=alt.Y("seconds:Q", title="seconds to the target", scale=alt.Scale(type="log")),
      color=alt.Color("cost:N", title=None),
      strokeDash=alt.StrokeDash("cost:N", title=None),
    )
  )
  return {"costs": drawing.specification(chart, title="Training time to the target")}


def _at(tree: Any, path: str) -> Any:
  for name in path.split("."):
    tree = tree.get(name) if isinstance(tree, dict) else None
  return tree


def _many(value: float) -> str:
  return f"{value:,.0f}"


def _retrains(count: int) -> str:
  return f"{count} retrain{'' if count == 1 else 's'}"


def _listed(sizes: Sequence[int]) -> str:
  return f"batch size{'s' if len(sizes) > 1 else ''} {', '.join(f'{size:,}' for size in sizes)}"


def _short(value: Any) -> str:
  return f"{value:.3g}" if isinstance(value, float) else str(value)

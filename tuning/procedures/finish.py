"""The end of a tuning (PB-43): search around the best, train the best again, and look at the test set once.

The playbook: after exploration, Bayesian optimization in a refined space, which knows infeasible points, finds the best
configuration; the test set is for the end. Each look at it is recorded beside the folder, by dataset, so that a second
one is seen for what it is: selection on the test set.
"""

import dataclasses
import datetime
import importlib.util
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook import files
from trialbook.errors import UserError
from trialbook.paths import as_path
from trialbook.trainer import Config
from trialbook.trainer.workdir.results import read_result
from trialbook.tuning.findings.statistics.expansion import places_of
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, is_numeric, points_of, unit_of, value_at
from trialbook.tuning.procedures.adopt import MOST_SEEDS, changed
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.study_source import spaces_of
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.search.bayesian import BayesianOptimization
from trialbook.tuning.search.grid import Grid
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf

BEST, LEAST_BEST = 1 / 8, 4
"""Share of the points around which the space is refined, and their least number."""
AROUND = 0.1
"""Share of a scale that is kept on each side of these points: the best may lie beside them."""
LEAST_WIDTH = 0.25
"""Least share of a scale that is left: points this close are known to a few percent of the scale only."""
TRIALS_PER_DIMENSION = 8
"""Trials of the refined search for each hyperparameter, without a number of one's own."""
LEAST_TRIALS = 8
SEEDS = 5
"""Seeds of the final trainings: their standard deviation is then known to a factor of 3."""


def run(
  lab: Lab,
  *,
  study: str | pathlib.Path,
  trials: int | None = None,
  search: str = "bayesian",
  seeds: int = SEEDS,
  looks: str | pathlib.Path | None = None,
) -> Conclusion:
  """Search around the best of a study, train its best again with several seeds, and evaluate these on the test set.

  Args:
    lab: where that runs; its config is not used but the study's.
    study: folder of the exploration.
    trials: of the refined search; None: `TRIALS_PER_DIMENSION` for each hyperparameter.
    search: "bayesian", which needs the extra `bayes`, or "halton".
    seeds: of the final trainings.
    looks: file that records looks at the test set; None: `test_looks.jsonl` beside the lab's folder.
  """
  explored = read_results(as_path(study))
  if explored.study.config is None:
    raise UserError(f"{study}: only a study of trainings can be finished")
  points = feasible(points_of(explored))
  if not points:
    raise UserError(f"{study}: no trial has a value, so there is no best point to search around")
  if search not in ("bayesian", "halton"):
    raise UserError(f"--search={search}: should be bayesian or halton")
  if search == "bayesian" and (importlib.util.find_spec("optuna") is None or importlib.util.find_spec("torch") is None):
    raise UserError("--search=bayesian needs optuna and torch: pip install 'trialbook[bayes]', or use --search=halton")
  space = refined(explored, points)
  count = trials or max(TRIALS_PER_DIMENSION * len(space), LEAST_TRIALS)
  lab = dataclasses.replace(lab, config=explored.study.config, objective=explored.objective)
  candidates = [(points[0], explored)]
  if space:
    spaces = spaces_of(dataclasses.replace(one, role="nuisance") for one in space)
    near = lab.study(
      "refined",
      f"What is the best point near trial {points[0].trials[0]} of {explored.study.name}?",
      spaces["nuisance"],
      search=BayesianOptimization(seed=0) if search == "bayesian" else Halton(seed=1),
      trials=count,
      changes=_outside(explored, points[0], space),
    )
    if own := feasible(points_of(near)):
      candidates.append((own[0], near))
  best, origin = min(candidates, key=lambda one: one[0].cost)
  trial = next(trial for trial in origin.trials if trial.trial == best.trials[0])
  assert origin.study.config is not None
  config = origin.study.config.override({path: value for path, value in trial.changes.items() if path != "seed"})
  # The look is recorded before it is made.
  path = lab.folder.parent / "test_looks.jsonl" if looks is None else as_path(looks)
  number = _record_look(path, lab, config.dataset.model_dump(mode="json"))
  final = lab.study(
    "final",
    "How good is the best configuration, from seed to seed, and on the test set?",
    {"seed": Integer(config.seed + 1, config.seed + MOST_SEEDS)},
    search=Grid(per_dimension=MOST_SEEDS),
    trials=max(seeds, lab.known_trials("final")),
    config=config,
    changes=final_changes(config),
  )
  changes = {path: new for path, (_, new) in changed(lab.config, config).items()}
  return lab.conclude(_conclusion(lab, explored, final, best, origin, changes, number))


def final_changes(config: Config) -> dict[str, Any]:
  """Return the changes of the final trainings: each evaluates its selected checkpoint on the test set."""
  # Without checkpoints none is selected, and there is no model to export.
  saves = max(config.checkpointing.every_evaluations, 1)
  return {"evaluation.test": True, "checkpointing.every_evaluations": saves}


def refined(results: StudyResults, points: Sequence[TriedPoint]) -> list[Hyperparameter]:
  """Return the hyperparameters with scales that hold the best points and some of what is around them.

  Those with one value left are not among them. Hyperparameters under a value of another one are kept if the best point
  has them.
  """
  top = points[: max(LEAST_BEST, math.ceil(BEST * len(points)))]
  found = []
  for one in results.varied:
    if one.role == "fixed" or one.name not in points[0].values:
      continue
    scale = one.scale
    if not is_numeric(one):
      # Under another value other hyperparameters exist, and the best point's is the one to refine.
      has_children = any(other.parent is not None and other.parent[0] == one.name for other in results.space.values())
      values = [points[0].values[one.name]] if has_children else [point.values.get(one.name) for point in top]
      assert isinstance(scale, OneOf)
      kept = [value for value in scale.values if any(value == other for other in values)]
      if len(kept) > 1:
        found.append(dataclasses.replace(one, scale=OneOf(kept)))
      continue
    units = [unit for point in top if math.isfinite(unit := unit_of(one, point.values))]
    low, high = max(min(units) - AROUND, 0.0), min(max(units) + AROUND, 1.0)
    missing = LEAST_WIDTH - (high - low)
    if missing > 0:
      low, high = max(low - missing / 2, 0.0), min(high + missing / 2, 1.0)
    if isinstance(scale, Discrete):
      kept = [value for value in scale.values if low <= scale.unit(value) <= high]
      if len(kept) > 1:
        found.append(dataclasses.replace(one, scale=Discrete(tuple(kept))))
    elif isinstance(scale, Integer):
      first, last = round(value_at(one, low) + 0.5), round(value_at(one, high) - 0.5)
      if last > first and places_of(one) > 1:
        found.append(dataclasses.replace(one, scale=dataclasses.replace(scale, min=first, max=last)))
    else:
      new = dataclasses.replace(scale, min=_short(value_at(one, low)), max=_short(value_at(one, high)))  # pyright: ignore
      found.append(dataclasses.replace(one, scale=new))
  names = {one.name for one in found}
  # What is under a value that is fixed now is under nothing.
  return [
    one if one.parent is None or one.parent[0] in names else dataclasses.replace(one, parent=None) for one in found
  ]


def _short(value: float) -> float:
  return float(f"{value:.4g}")


def _outside(results: StudyResults, best: TriedPoint, space: Sequence[Hyperparameter]) -> dict[str, Any]:
  """Return what the best point sets of the hyperparameters that are not searched any more."""
  names = {one.name for one in space}
  changes: dict[str, Any] = {}
  for one in results.space.values():
    if one.name in best.values and one.name not in names and one.path != "seed":
      changes |= one.changes(best.values[one.name])
  return changes


def _record_look(path: pathlib.Path, lab: Lab, dataset: Any) -> int:
  """Record a look at a dataset's test set, and return how many there have been, this one included."""
  known = files.read_json_lines(path) if path.exists() else []
  mine = {"dataset": dataset, "by": str(lab.folder.resolve())}
  same = [one for one in known if one.get("dataset") == dataset]
  if any(one.get("by") == mine["by"] for one in same):
    return [one.get("by") for one in same].index(mine["by"]) + 1
  line = mine | {"looked": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, "".join(json.dumps(files.jsonable(one)) + "\n" for one in [*known, line]))
  return len(same) + 1


def _conclusion(
  lab: Lab,
  explored: StudyResults,
  final: StudyResults,
  best: TriedPoint,
  origin: StudyResults,
  changes: Mapping[str, Any],
  number: int,
) -> Conclusion:
  metric = lab.ranked_by.metric
  name = metric.rpartition("/")[2]
  rows, tests = [], []
  for trial in final.trials:
    test = None
    if trial.objective is not None:
      metrics = read_result(trial.folder).best or {}
      test = metrics.get(f"test/{name}")
    rows.append({"seed": trial.values["seed"], metric: trial.objective, f"test/{name}": test, "state": trial.state})
    tests += [] if test is None else [float(test)]
  values = [trial.objective for trial in final.trials if trial.objective is not None]
  first = feasible(points_of(explored))[0]
  sign = lab.ranked_by.sign
  numbers: dict[str, Any] = {
    "look": number,
    "explored": sign * first.cost,
    "best": sign * best.cost,
    "seeds": len(values),
  }
  if not values:
    return Conclusion(
      procedure="finish",
      id="PB-43",
      verdict="No final training has a value: the best point cannot be trained again.",
      numbers=numbers,
      table=rows,
      actions=["Read the logs of the final trainings, and run `trialbook tune stability` on the configuration."],
    )
  said = _spread(values)
  numbers |= {"mean": statistics.fmean(values), "test": statistics.fmean(tests) if tests else None}
  evidence = [
    f"The best point is trial {best.trials[0]} of {origin.study.name}: {metric} {sign * best.cost:.4g}.",
    f"The best of the exploration had {sign * first.cost:.4g}.",
    f"Trained again with {len(values)} fresh seeds, {metric} is {said}.",
  ]
  if number > 1:
    evidence.append(
      f"This is look {number} at this test set. If an earlier look influenced a choice, this value is too good."
    )
  test = f"test/{name} {_spread(tests)}" if tests else "no value on a test set, which the dataset does not have,"
  return Conclusion(
    procedure="finish",
    id="PB-43",
    verdict=f"The final configuration has {test} over {len(values)} seeds.",
    evidence=evidence,
    changes=changes,
    numbers=numbers,
    table=rows,
    actions=[f"The trained models are in {lab.folder / 'final' / 'trials'}; `trialbook export` exports one."],
  )


def _spread(values: Sequence[float]) -> str:
  if len(values) < 2:
    return f"{values[0]:.4g}"
  return f"{statistics.fmean(values):.4g} (standard deviation {statistics.stdev(values):.2g})"


LATER = "The best point is then trained again with several seeds, and these are evaluated on the test set."
"""What may be run after the first study."""

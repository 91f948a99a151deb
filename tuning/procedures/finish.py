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

from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import UserError
from trialbook.paths import as_path
from trialbook.record import Kind, stored
from trialbook.trainer import Config
from trialbook.trainer.workdir.results import read_result
from trialbook.tuning.findings.statistics.expansion import places_of
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, is_numeric, points_of, unit_of, value_at
from trialbook.tuning.procedures.choosing import CONTENDERS, Chosen, choose, contenders_of
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.config_changes import recommended
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.study_source import spaces_of
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.search.bayesian import BayesianOptimization
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
  search_seed: int = 1,
  contenders: int = CONTENDERS,
  seeds: int = SEEDS,
  looks: str | pathlib.Path | None = None,
  fold_validation: bool = False,
) -> Conclusion:
  """Search around the best of a study, train its best again with several seeds, and evaluate these on the test set.

  Args:
    lab: where that runs; its config is not used but the study's.
    study: folder of the exploration.
    trials: of the refined search, 0 for none; None: `TRIALS_PER_DIMENSION` for each hyperparameter.
    search: "bayesian", which needs the extra `bayes`, or "halton".
    search_seed: of the refined search.
    contenders: number of best points of both searches of which fresh seeds choose the final one; 1: the best value
      that a single training had chooses.
    seeds: of the final trainings.
    looks: file that records looks at the test set; None: `test_looks.jsonl` beside the lab's folder.
    fold_validation: whether the best is then trained on training and validation examples together, for the number of
      steps that the retrains selected. Only if nothing will be tuned on this data again, since no validation set is
      left (PB-43).
  """
  explored = read_results(as_path(study))
  if explored.study.config is None:
    raise UserError(f"{study}: only a study of trainings can be finished")
  points = feasible(points_of(explored))
  if not points:
    raise UserError(f"{study}: no trial has a value, so there is no best point to search around")
  if search not in ("bayesian", "halton"):
    raise UserError(f"--search={search}: should be bayesian or halton")
  if search_seed < 0:
    raise UserError(f"--search_seed={search_seed}: the seed of a search should be a whole number from 0 on")
  if search == "bayesian" and (importlib.util.find_spec("optuna") is None or importlib.util.find_spec("torch") is None):
    raise UserError("--search=bayesian needs optuna and torch: pip install 'trialbook[bayes]', or use --search=halton")
  space = refined(explored, points)
  count = max(TRIALS_PER_DIMENSION * len(space), LEAST_TRIALS) if trials is None else trials
  lab = dataclasses.replace(lab, config=explored.study.config, objective=explored.objective)
  known = contenders_of(explored)
  if space and count:
    spaces = spaces_of(dataclasses.replace(one, role="nuisance") for one in space)
    near = lab.study(
      "refined",
      f"What is the best point near trial {points[0].trials[0]} of {explored.study.name}?",
      spaces["nuisance"],
      search=BayesianOptimization(seed=search_seed) if search == "bayesian" else Halton(seed=search_seed),
      trials=count,
      changes=_outside(explored, points[0], space),
    )
    known += contenders_of(near)
  chosen = choose(lab, known, contenders)
  chosen.evidence.append(f"The best of the exploration had {explored.objective.sign * points[0].cost:.4g}.")
  chosen.numbers["explored"] = explored.objective.sign * points[0].cost
  return lab.conclude(_finished(lab, chosen, seeds, looks, fold_validation))


def evaluate(lab: Lab, config: Config, *, seeds: int = SEEDS) -> Conclusion:
  """Train a configuration that is final already with several seeds, and evaluate these on the test set; see `run`."""
  return lab.conclude(_finished(lab, Chosen(config, ["The configuration was final already."], {}), seeds))


def _finished(
  lab: Lab, chosen: Chosen, seeds: int, looks: str | pathlib.Path | None = None, fold_validation: bool = False
) -> Conclusion:
  """Run the final trainings, and return what follows."""
  config = chosen.config
  # A look is recorded before it is made.
  path = lab.folder.parent / "test_looks.jsonl" if looks is None else as_path(looks)
  dataset = config.dataset.model_dump(mode="json")
  number = _record_look(path, lab.folder, dataset)
  final = _trained(
    lab, "final", "How good is the best configuration, from seed to seed, and on the test set?", config, seeds
  )
  changes = recommended(lab.config, config)
  found = _conclusion(lab, final, chosen, changes, number)
  if not fold_validation or found.changes is None:
    return found
  last = folded(config, [trial.step for trial in final.trials if trial.objective is not None and trial.step])
  again = _record_look(path, lab.folder / "folded", dataset)
  goal = "How good is it on the test set, trained on training and validation examples together?"
  return _with_folded(lab, found, _trained(lab, "folded", goal, last, seeds), last, again)


def folded(config: Config, steps: Sequence[int]) -> Config:
  """Return the config of the last training of all: on training and validation examples together (PB-43).

  It has no validation set, which could select a step, so it ends at the one that the retrains selected.

  Args:
    config: of the retrains.
    steps: the best step of each of them.
  """
  whole = config.resolved()  # The schedule is that of the retrains, not one that is squeezed into fewer steps.
  selected = round(statistics.median(steps)) if steps else config.max_train_steps
  last = max(selected, whole.schedule.warmup_steps, 1)
  return whole.override({"fold_validation": True, "max_train_steps": last, "evaluation.every_steps": last})


def _trained(lab: Lab, name: str, goal: str, config: Config, seeds: int) -> StudyResults:
  """Return trainings of a config with fresh seeds, evaluated on the test set."""
  return lab.retrained(name, goal, config, config.seed + 1, seeds, final_changes(config))


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


@stored
class Look(TypedDict):
  """A line of `test_looks.jsonl`: a look at a test set."""

  dataset: Any
  by: str
  looked: str


LOOKS = Kind(
  Look, "Restore the file from a copy; without it, earlier looks at the test set are not counted", version=None
)


def _record_look(path: pathlib.Path, by: pathlib.Path, dataset: Any) -> int:
  """Record a look at a dataset's test set, and return how many there have been, this one included."""
  known = LOOKS.lines(path)
  mine = {"dataset": dataset, "by": str(by.resolve())}
  same = [one["by"] for one in known if one["dataset"] == dataset]
  if mine["by"] in same:
    return same.index(mine["by"]) + 1
  line = mine | {"looked": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, "".join(json.dumps(files.jsonable(one)) + "\n" for one in [*known, line]))
  return len(same) + 1


def _conclusion(lab: Lab, final: StudyResults, chosen: Chosen, changes: Mapping[str, Any], number: int) -> Conclusion:
  metric = lab.ranked_by.metric
  rows, tests = _tested(final, metric)
  values = [trial.objective for trial in final.trials if trial.objective is not None]
  numbers: dict[str, Any] = {"look": number, **chosen.numbers, "seeds": len(values)}
  if not values:
    return Conclusion(
      procedure="finish",
      id="PB-43",
      verdict="No final training has a value: the best point cannot be trained again.",
      numbers=numbers,
      table=rows,
      actions=["Read the logs of the final trainings, and run `trialbook tune stability` on the configuration."],
    )
  numbers |= {"mean": statistics.fmean(values), "test": statistics.fmean(tests) if tests else None}
  evidence = [
    *chosen.evidence,
    f"Trained again with {_seeds(len(values), 'fresh ')}, {metric} is {_spread(values)}.",
  ]
  if number > 1:
    evidence.append(
      f"This is look {number} at this test set. If an earlier look influenced a choice, this value is too good."
    )
  test = (
    f"test/{metric.rpartition('/')[2]} {_spread(tests)}"
    if tests
    else "no value on a test set, which the dataset does not have,"
  )
  return Conclusion(
    procedure="finish",
    id="PB-43",
    verdict=f"The final configuration has {test} over {_seeds(len(values))}.",
    evidence=evidence,
    changes=changes,
    numbers=numbers,
    table=rows,
    actions=[f"The trained models are in {lab.folder / 'final' / 'trials'}; `trialbook export` exports one."],
  )


def _with_folded(lab: Lab, found: Conclusion, results: StudyResults, config: Config, number: int) -> Conclusion:
  """Return the conclusion with what trainings on all examples that are not test examples have shown."""
  metric = lab.ranked_by.metric
  rows, tests = _tested(results, metric)
  told = (
    f"Then training and validation examples were folded together, and it was trained on them for"
    f" {config.max_train_steps:,} steps, the median of those that the retrains selected:"
  )
  if not tests:
    return dataclasses.replace(
      found,
      evidence=[*found.evidence, f"{told} none of these trainings has a value on the test set."],
      actions=[*found.actions, f"Read the logs of the trainings in {lab.folder / 'folded'}."],
    )
  name = metric.rpartition("/")[2]
  return dataclasses.replace(
    found,
    evidence=[
      *found.evidence,
      (
        f"{told} test/{name} {_spread(tests)}. This is look {number} at this test set. It chose nothing, as the folding"
        " was asked for before."
      ),
      "No validation set is left. Do not tune on this data again, nor compare this model on validation examples.",
    ],
    changes=recommended(lab.config, config),
    numbers={**found.numbers, "folded_test": statistics.fmean(tests), "folded_steps": config.max_train_steps},
    # What is measured on validation examples that it was trained on says nothing.
    table=[*({"trained on": "training", **row} for row in found.table)]
    + [{"trained on": "training and validation", **row, metric: None} for row in rows],
    actions=[f"The trained models are in {lab.folder / 'folded' / 'trials'}; `trialbook export` exports one."],
  )


def _tested(results: StudyResults, metric: str) -> tuple[list[dict[str, Any]], list[float]]:
  """Return a row for each final training, and the values on the test set."""
  name = metric.rpartition("/")[2]
  rows: list[dict[str, Any]] = []
  for trial in results.trials:
    metrics = (read_result(trial.folder).best or {}) if trial.objective is not None else {}
    rows.append(
      {
        "seed": trial.values["seed"],
        metric: trial.objective,
        f"test/{name}": metrics.get(f"test/{name}"),
        "state": trial.state,
      }
    )
  return rows, [float(row[f"test/{name}"]) for row in rows if row[f"test/{name}"] is not None]


def _seeds(count: int, what: str = "") -> str:
  return f"{count} {what}seed" if count == 1 else f"{count} {what}seeds"


def _spread(values: Sequence[float]) -> str:
  if len(values) < 2:
    return f"{values[0]:.4g}"
  return f"{statistics.fmean(values):.4g} (standard deviation {statistics.stdev(values):.2g})"


LATER = "The best point is then trained again with several seeds, and these are evaluated on the test set."
"""What may be run after the first study."""

"""The autopilot's rounds of exploration: each a study whose findings say what the next one searches.

A round is a folder with `study.py`, which a person may edit before it begins, and the study that was run from it. Where
findings ask for more points of the same space, the study of the round is extended, so that all its points count.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.settings import find
from trialbook.trainer import Config
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.procedures.autopilot_flight import EXPLORATION, LEAST_TRIALS, Flight
from trialbook.tuning.procedures.next_step import NextStep, next_step
from trialbook.tuning.procedures.study_source import write_study_file
from trialbook.tuning.results import StudyResults
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.ready_spaces import space_of, under
from trialbook.tuning.space.scales import Linear, Log, Space
from trialbook.tuning.study import Study
from trialbook.tuning.study_files import load_study

MOST_ROUNDS = 6
"""Most rounds of exploration: a space that is moved more often was chosen badly."""
FIRST_ROUND = 0.5
"""Share of the exploration's budget that the first round gets: half is left for what it teaches."""
FEW = 3
"""Fewest trials by which a study is extended: fewer would hardly change what is found."""
STRENGTHS: Space = {
  "optimizer.weight_decay": Log(1e-6, 1e-2),
  "task.label_smoothing": Linear(0.0, 0.2),
  "model.dropout_rate": Linear(0.0, 0.5),
}
"""Strengths of regularization that are searched where the config has the field and turns it on."""


def first_space(config: Config) -> dict[str, Any]:
  """Return the space of the first round: of the optimizer, and of the regularization that the config turns on."""
  space = dict(under("optimizer", space_of(config.optimizer.name)))
  for path, scale in STRENGTHS.items():
    found = find(config, path)
    if found is not None and (path == "optimizer.weight_decay" or found[1]):
      space[path] = scale
  return space


def round_folder(flight: Flight, number: int) -> pathlib.Path:
  """Return the folder of a round."""
  return flight.lab.folder / f"3_round_{number}"


def explore(
  flight: Flight, seed: int, stabilize: Callable[[Flight, int], None] | None
) -> tuple[pathlib.Path, StudyResults] | None:
  """Run rounds of search until one is settled or the budget of exploration ends.

  Args:
    flight: with the config and the budget.
    seed: of the first round's search; each further round has the next one.
    stabilize: changes the config where findings ask for stable training first, once; None: nothing does.

  Returns:
    The study with the best point, and its folder; None if no trial has a value.
  """
  rounds: list[tuple[pathlib.Path, StudyResults]] = []
  study = Study(
    name="round_1",
    goal="What is the best configuration in the first space?",
    objective=flight.lab.ranked_by,
    config=flight.config,
    nuisance=first_space(flight.config),
    trials=max(int(FIRST_ROUND * flight.left(EXPLORATION) / flight.config.max_train_steps), LEAST_TRIALS),
    search=Halton(seed=seed),
    cores_per_trial=flight.lab.cores_per_trial,
  )
  why: Sequence[str] = ["The first round searches a wide space of the optimizer's hyperparameters."]
  for number in range(1, MOST_ROUNDS + 1):
    folder = round_folder(flight, number)
    results, after = _round(flight, number, study, why)
    rounds.append((folder / "study", results))
    # What an earlier call has begun, or a person has written, goes on.
    is_written = (round_folder(flight, number + 1) / "study.py").exists()
    ends = number == MOST_ROUNDS or after.kind == "fix"
    is_over = after.kind in ("adopt", "unsure")
    ends = ends or (not is_written and (is_over or _affordable(flight, after.study) < LEAST_TRIALS))
    _log(flight, number, results, after, _after(flight, after, ends, number))
    if ends:
      break
    if after.kind == "stability" and stabilize is not None and results.best is not None:
      flight.config = flight.config.override(dict(results.best.changes))
      stabilize(flight, number)
      stabilize = None
    study, why = _next(flight, number, seed + number, results, after), after.reasons
  valued = [(folder, results, points[0].cost) for folder, results in rounds if (points := feasible(points_of(results)))]
  if not valued:
    return None
  folder, results, _ = min(valued, key=lambda one: one[2])
  return folder, results


def _round(flight: Flight, number: int, study: Study, why: Sequence[str]) -> tuple[StudyResults, NextStep]:
  """Run a round, with the points that its findings ask for besides, and return what to do after it."""
  folder, stage = round_folder(flight, number), f"round {number}"
  flight.begin(stage)
  study = _as_edited(study, folder, why)
  while True:
    counts = flight.plan["rounds"].get(stage, [])
    if counts and study.trials is not None:
      study = dataclasses.replace(study, trials=max(counts[-1], study.trials))
    results = flight.lab.runner(study, folder / "study", workers=flight.lab.workers, progress=flight.lab.progress)
    cost = flight.budget.charge([results])
    after = next_step(results)
    flight.costs[stage] = cost
    if after.kind != "extend" or after.trials is None or study.trials is None:
      return results, after
    affordable = flight.left(EXPLORATION) // _steps(study, flight)
    trials = min(after.trials, study.trials + affordable)
    if trials < study.trials + FEW:
      return results, after
    flight.extend(stage, study.trials, trials)
    more = f"It is extended from {study.trials} to {trials} trials, so that all points of this space count."
    _log(flight, number, results, after, more)


def _next(flight: Flight, number: int, seed: int, results: StudyResults, after: NextStep) -> Study:
  """Return the study of the next round."""
  affordable = max(_affordable(flight, after.study), LEAST_TRIALS)
  if after.study is not None:
    study = after.study
    trials = min(affordable, study.trials or affordable)
  else:
    # The same space again, with the config that is stable now, or where the study cannot be extended.
    study, trials = load_round(round_folder(flight, number) / "study.py"), min(affordable, results.study.trials)
    study = dataclasses.replace(study, config=flight.config)
  return dataclasses.replace(study, name=f"round_{number + 1}", trials=trials, search=Halton(seed=seed))


def _log(flight: Flight, number: int, results: StudyResults, after: NextStep, consequence: str) -> None:
  stage = f"round {number}"
  counts = flight.plan["rounds"].get(stage, [])
  first = f" ({counts[0]} at first)" if counts and counts[0] < len(results.trials) else ""
  decision = f"{len(results.trials)} trials{first}. The best has {_best(results)}."
  flight.log(stage, decision, after.reasons, flight.costs[stage], consequence, round_folder(flight, number))


def _after(flight: Flight, after: NextStep, ends: bool, number: int) -> str:
  """Return what follows a round, in words."""
  if after.kind == "fix":
    return "No search mends this, so exploration ends."
  if ends and number == MOST_ROUNDS:
    return f"Exploration ends after {MOST_ROUNDS} rounds, the most that there are."
  if ends and after.kind == "unsure":
    return (
      "Exploration ends, because no finding asks for another search, though most questions about the curves are open."
    )
  if ends and after.kind == "adopt":
    return "Exploration ends, because no finding asks for another search."
  if ends:
    affordable = _affordable(flight, after.study)
    return f"Exploration ends: the budget pays for {affordable} more trials, and a round has {LEAST_TRIALS} at least."
  if after.kind == "stability":
    return "Training has to be stable first, if the budget pays for it. Then the same space is searched again."
  if after.kind == "search":
    return f"Round {number + 1} searches with these changes."
  return f"Round {number + 1} follows."


def _affordable(flight: Flight, study: Study | None) -> int:
  """Return the trials of a study that what is left for exploration pays for."""
  return flight.left(EXPLORATION) // _steps(study, flight)


def _steps(study: Study | None, flight: Flight) -> int:
  return flight.config.max_train_steps if study is None or study.config is None else study.config.max_train_steps


def _as_edited(study: Study, folder: pathlib.Path, why: Sequence[str]) -> Study:
  """Write the study file of a round; one that is there is taken as it is, since a person may have edited it."""
  if not (folder / "study.py").exists():
    write_study_file(study, folder, why)
  return load_round(folder / "study.py")


def load_round(path: pathlib.Path) -> Study:
  """Return the study of a file. Raise UserError if it has another thing."""
  loaded = load_study(path)
  if not isinstance(loaded, Study):
    raise UserError(f"{path}: get_study() should return a Study, not a Round")
  return loaded


def _best(results: StudyResults) -> str:
  points = feasible(points_of(results))
  if not points:
    return "no value"
  value = results.objective.sign * points[0].cost
  return f"{results.objective.metric} {value:.4g} (trial {points[0].trials[0]})"

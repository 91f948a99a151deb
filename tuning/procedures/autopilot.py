"""The whole playbook unattended, within a budget: baseline, batch size, steps, rounds of search, adoption, the end.

Each stage is a procedure or a study in a folder of its own, and decides by its results alone. So the same call resumes:
what has ended is read, and what is missing is run. A person may stop it, edit the study file of a round that has not
begun, and go on. The test set is seen in the last stage only.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from trialbook import escaping, files
from trialbook.errors import UserError
from trialbook.settings import find
from trialbook.trainer import Config
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.procedures import adopt, baseline, batch_size, finish, max_steps, stability
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.next_step import next_step
from trialbook.tuning.procedures.study_source import write_study_file
from trialbook.tuning.results import StudyResults
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.ready_spaces import OPTIMIZER_SPACES, under
from trialbook.tuning.space.scales import Linear, Log, Space
from trialbook.tuning.study import Study
from trialbook.tuning.study_files import load_study

EXPLORATION, ADOPTION = 0.6, 0.8
"""Shares of the budget by which exploration and adoption end: what exploration finds decides the most, and what is left
is for the refined search and the final trainings."""
MOST_ROUNDS = 6
"""Most rounds of exploration: a space that is moved more often was chosen badly."""
LEAST_TRIALS = 6
"""Fewest trials of a round: fewer say nothing of a space."""
FIRST_ROUND = 0.5
"""Share of the exploration's budget that the first round gets: half is left for what it teaches."""
MOST_SEEDS, LEAST_SEEDS = 12, 3
"""Seeds of each side for the adoption, and of the final trainings."""
STRENGTHS: Space = {
  "optimizer.weight_decay": Log(1e-6, 1e-2),
  "task.label_smoothing": Linear(0.0, 0.2),
  "model.dropout_rate": Linear(0.0, 0.5),
}
"""Strengths of regularization that are searched where the config has the field and turns it on."""


@dataclasses.dataclass(frozen=True)
class Entry:
  """A decision in the logbook: the stage, what was decided, why, and the steps that it cost."""

  stage: str
  decision: str
  evidence: Sequence[str]
  steps: int


@dataclasses.dataclass
class _Flight:
  """The state of a call: the config so far, the steps spent, and the logbook."""

  lab: Lab
  config: Config
  budget: int | None
  spent: int = 0
  entries: list[Entry] = dataclasses.field(default_factory=list)

  def stage(self, name: str) -> Lab:
    """Return the lab of a stage."""
    return dataclasses.replace(self.lab, folder=self.lab.folder / name, config=self.config, results={})

  def log(self, stage: str, decision: str, evidence: Sequence[str], steps: int) -> None:
    """Add a decision, and write the logbook."""
    self.spent += steps
    self.entries.append(Entry(stage, decision, tuple(evidence), steps))
    self.lab.folder.mkdir(parents=True, exist_ok=True)
    files.write_text(self.lab.folder / "logbook.md", logbook(self.entries, self.budget))

  def left(self, share: float = 1.0) -> int:
    """Return the steps that are left of a share of the budget."""
    assert self.budget is not None
    return max(int(share * self.budget) - self.spent, 0)


def run(
  lab: Lab,
  *,
  steps: int | None = None,
  hours: float | None = None,
  skip: str = "",
  search: str = "halton",
) -> Conclusion:
  """Tune a config by the whole playbook within a budget.

  Args:
    lab: with the initial config.
    steps: training steps in all.
    hours: of training on all workers together, instead; it becomes steps by the speed of the baseline.
    skip: stages that are left out, separated by commas: "batch-size", "max-steps", "stability", "adopt".
    search: of the refined search, see `finish.run`.
  """
  if (steps is None) == (hours is None):
    raise UserError("say what it may cost: --steps=N, or --hours=H")
  skipped = {name for name in skip.split(",") if name}
  if unknown := skipped - {"batch-size", "max-steps", "stability", "adopt"}:
    raise UserError(f"--skip={skip}: {', '.join(sorted(unknown))} is no stage that can be left out")
  flight = _Flight(lab, lab.config, steps)
  first = _baseline(flight, hours)
  if first is not None:
    return lab.conclude(first)
  if "batch-size" not in skipped:
    _use(flight, "batch-size", batch_size.run(flight.stage("1_batch_size")), flight.stage("1_batch_size"))
  if "max-steps" not in skipped:
    of = flight.stage("2_max_steps")
    _use(flight, "max-steps", max_steps.run(of), of)
  if flight.left(EXPLORATION) < LEAST_TRIALS * flight.config.max_train_steps:
    return lab.conclude(_too_small(flight))
  best = _explore(flight, "stability" not in skipped)
  if best is None:
    return lab.conclude(_nothing(flight))
  study, results = best
  if "adopt" not in skipped:
    _adopt(flight, study, results)
  return lab.conclude(_finish(flight, study, results, search))


def _baseline(flight: _Flight, hours: float | None) -> Conclusion | None:
  """Run the baseline; return a conclusion if nothing can be built on it."""
  of = flight.stage("0_baseline")
  found = baseline.run(of)
  if flight.budget is None:
    seconds = sum(trial.training_seconds for results in of.results.values() for trial in results.trials)
    each = seconds / max(of.steps, 1)
    flight.budget = int((hours or 0.0) * 3600 * flight.lab.workers / each) if each > 0 else 0
  flight.log("baseline", found.verdict, found.evidence, of.steps)
  if found.changes is None:
    return Conclusion(
      procedure="autopilot",
      id="PB-07",
      verdict=f"Stopped at the baseline: {found.verdict}",
      evidence=found.evidence,
      numbers={"budget": flight.budget, "spent": flight.spent},
      actions=found.actions,
    )
  return None


def _use(flight: _Flight, stage: str, found: Conclusion, of: Lab) -> None:
  """Take over what a procedure recommends, and log it."""
  if found.changes:
    flight.config = flight.config.override(dict(found.changes))
  flight.log(stage, found.verdict, found.evidence, of.steps)


def first_space(config: Config) -> dict[str, Any]:
  """Return the space of the first round: of the optimizer, and of the regularization that the config turns on."""
  space = dict(under("optimizer", OPTIMIZER_SPACES.get(config.optimizer.name, {"learning_rate": Log(1e-5, 1.0)})))
  for path, scale in STRENGTHS.items():
    found = find(config, path)
    if found is not None and (path == "optimizer.weight_decay" or found[1]):
      space[path] = scale
  return space


def _explore(flight: _Flight, may_stabilize: bool) -> tuple[pathlib.Path, StudyResults] | None:
  """Run rounds of search until one is settled or the budget of exploration ends; return the round with the best
  point."""
  rounds: list[tuple[pathlib.Path, StudyResults]] = []
  whole = flight.left(EXPLORATION)
  study = Study(
    name="round_1",
    goal="What is the best configuration in the first space?",
    objective=flight.lab.ranked_by,
    config=flight.config,
    nuisance=first_space(flight.config),
    trials=max(int(FIRST_ROUND * whole / flight.config.max_train_steps), LEAST_TRIALS),
    search=Halton(seed=0),
    cores_per_trial=flight.lab.cores_per_trial,
  )
  why = ["The first round searches a wide space of the optimizer's hyperparameters."]
  for number in range(1, MOST_ROUNDS + 1):
    folder = flight.lab.folder / f"3_round_{number}"
    study = _as_edited(study, folder, why)
    results = flight.lab.runner(study, folder / "study", workers=flight.lab.workers, progress=flight.lab.progress)
    rounds.append((folder / "study", results))
    after = next_step(results)
    decision = f"{after.kind}: {results.study.name} has the best {_best(results)}"
    flight.log(f"round {number}", decision, after.reasons, sum(trial.last_step for trial in results.trials))
    if after.kind == "fix":
      break
    if after.kind == "stability" and may_stabilize and results.best is not None:
      may_stabilize = False
      flight.config = flight.config.override(dict(results.best.changes))
      of = flight.stage(f"3_round_{number}_stability")
      _use(flight, "stability", stability.run(of), of)
      after = dataclasses.replace(after, kind="extend")
    affordable = flight.left(EXPLORATION) // _steps(after.study, flight)
    if after.kind == "adopt" or affordable < LEAST_TRIALS:
      break
    if after.study is not None:
      study, why = (
        dataclasses.replace(after.study, trials=min(affordable, study.trials or affordable)),
        [*after.reasons],
      )
    else:
      # More points of the same space: those of another quasi-random sequence fill what is between.
      asked = (after.trials or 0) - results.study.trials
      study = dataclasses.replace(
        study, search=Halton(seed=number), trials=min(affordable, max(asked, LEAST_TRIALS)), config=flight.config
      )
      why = [*after.reasons]
    study = dataclasses.replace(study, name=f"round_{number + 1}")
  valued = [(folder, results, points[0].cost) for folder, results in rounds if (points := feasible(points_of(results)))]
  if not valued:
    return None
  folder, results, _ = min(valued, key=lambda one: one[2])
  return folder, results


def _steps(study: Study | None, flight: _Flight) -> int:
  return flight.config.max_train_steps if study is None or study.config is None else study.config.max_train_steps


def _as_edited(study: Study, folder: pathlib.Path, why: Sequence[str]) -> Study:
  """Write the study file of a round; one that is there is taken as it is, since a person may have edited it."""
  if not (folder / "study.py").exists():
    write_study_file(study, folder, why)
  loaded = load_study(folder / "study.py")
  if not isinstance(loaded, Study):
    raise UserError(f"{folder / 'study.py'}: get_study() should return a Study, not a Round")
  return loaded


def _best(results: StudyResults) -> str:
  points = feasible(points_of(results))
  if not points:
    return "value: none"
  return f"{results.objective.metric}: {results.objective.sign * points[0].cost:.4g} (trial {points[0].trials[0]})"


def _adopt(flight: _Flight, study: pathlib.Path, results: StudyResults) -> None:
  """Decide between the best point and the initial config."""
  each = max((results.study.config or flight.config).max_train_steps, flight.lab.config.max_train_steps)
  seeds = min(flight.left(ADOPTION) // (2 * each), MOST_SEEDS)
  if seeds < LEAST_SEEDS:
    flight.log("adopt", "left out: the budget does not allow three seeds of each side", (), 0)
    return
  of = dataclasses.replace(flight.stage("4_adopt"), config=flight.lab.config)
  found = adopt.run(of, study=study, seeds=seeds, record=flight.lab.folder / "baseline")
  flight.log("adopt", found.verdict, found.evidence, of.steps)


def _finish(flight: _Flight, study: pathlib.Path, results: StudyResults, search: str) -> Conclusion:
  config = results.study.config
  assert config is not None
  seeds = LEAST_SEEDS
  trials = flight.left() // config.max_train_steps - seeds
  of = flight.stage("5_finish")
  found = finish.run(of, study=study, search=search, trials=max(trials, 1), seeds=seeds)
  flight.log("finish", found.verdict, found.evidence, of.steps)
  final = config.override(dict(found.changes)) if found.changes else config
  changes = {path: new for path, (_, new) in adopt.changed(flight.lab.config, final).items()}
  return Conclusion(
    procedure="autopilot",
    id="PB-43",
    verdict=found.verdict,
    evidence=[f"{entry.stage}: {entry.decision}" for entry in flight.entries],
    changes=changes if found.changes is not None else None,
    numbers={**found.numbers, "budget": flight.budget, "spent": flight.spent},
    table=found.table,
    actions=[*found.actions, f"Each decision with its evidence is in {flight.lab.folder / 'logbook.md'}."],
  )


def _too_small(flight: _Flight) -> Conclusion:
  needed = math.ceil((flight.spent + LEAST_TRIALS * flight.config.max_train_steps) / EXPLORATION)
  return Conclusion(
    procedure="autopilot",
    id="PB-16",
    verdict=f"A budget of {flight.budget:,} steps is too small: exploration needs {LEAST_TRIALS} trials of"
    f" {flight.config.max_train_steps:,} steps.",
    numbers={"budget": flight.budget, "spent": flight.spent, "needed": needed},
    actions=[f"Give at least --steps={needed}, or train for fewer steps (max_train_steps)."],
  )


def _nothing(flight: _Flight) -> Conclusion:
  last = flight.entries[-1]
  return Conclusion(
    procedure="autopilot",
    id="PB-21",
    verdict="No trial of the exploration has a value, so nothing is recommended.",
    evidence=[f"{entry.stage}: {entry.decision}" for entry in flight.entries],
    numbers={"budget": flight.budget, "spent": flight.spent},
    actions=list(last.evidence) or ["Read the logs of the trials."],
  )


def logbook(entries: Sequence[Entry], budget: int | None) -> str:
  """Return the logbook as text: a section for each decision, with its evidence and what it cost."""
  lines = ["# Logbook", ""]
  spent = 0
  for number, entry in enumerate(entries, start=1):
    spent += entry.steps
    lines += [f"## {number}. {entry.stage}", "", escaping.markdown(entry.decision), ""]
    lines += [f"- {escaping.markdown(sentence)}" for sentence in entry.evidence]
    of = f" of {budget:,}" if budget is not None else ""
    lines += ["", f"Cost: {entry.steps:,} steps; {spent:,}{of} so far.", ""]
  return "\n".join(lines)


LATER = "Later stages depend on results: batch size, number of steps, rounds of search, adoption, and the final search."
"""What may be run after the first study."""

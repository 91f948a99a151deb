"""Does the playbook pay? The autopilot beside other ways to spend the same training steps, by the final test metric.

  python -m benchmarks.playbook [--seeds=N] [--jobs=FOLDER]

The rule is in docs/measured_procedures.md. Trainings run in this process, one after the other. With a folder, what has
been run is kept there, and the same command resumes.
"""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import math
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.stats

from trialbook import files
from trialbook.input_pipeline import Digits
from trialbook.input_pipeline.datasets.plugin import PluginDataset
from trialbook.input_pipeline.datasets.table import Table
from trialbook.models import MlpConfig
from trialbook.trainer import Config, Evaluation, Programs
from trialbook.trainer import run as train
from trialbook.trainer.optimizers import Nesterov
from trialbook.trainer.schedules import Cosine
from trialbook.trainer.workdir.results import read_result
from trialbook.tuning.curves import read_log
from trialbook.tuning.execution.coordinator import run_study
from trialbook.tuning.objective import value_of
from trialbook.tuning.procedures import autopilot
from trialbook.tuning.procedures.autopilot_rounds import first_space
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.results import StudyResults
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.search.uniform import Uniform
from trialbook.tuning.space.binding import flatten
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Study

# What runs a study's trials in this process is with the tests, as no user wants it.
sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "tuning"))

TRAININGS = 40
"""Budget of each way, in trainings of the initial configuration's length."""
FINAL_SEEDS = autopilot.LEAST_SEEDS
"""Trainings of the adopted configuration with fresh seeds, which are evaluated on the test set; of the budget."""
RATE = "optimizer.learning_rate"
CONFIDENCE = 0.95
EVALUATED = 250
"""Training examples that are evaluated as well."""


@dataclasses.dataclass(frozen=True)
class Problem:
  """A problem: its initial configuration, the metric of the validation and of the test set, which is minimized, and the
  field that draws other validation examples."""

  name: str
  config: Config
  metric: str
  split: str


def small(name: str, dataset: Digits | Table | PluginDataset, width: int, batch_size: int, metric: str) -> Problem:
  """Return a problem of a perceptron with one hidden layer, with the initial configuration that all have."""
  config = Config(
    dataset=dataset,
    model=MlpConfig(widths=(width,)),
    optimizer=Nesterov(learning_rate=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Cosine(warmup_steps=10),
    max_train_steps=120,
    batch_size=batch_size,
    evaluation=Evaluation(every_steps=20, train_examples=EVALUATED, predictions=0),
  )
  return Problem(name, config, metric, f"dataset.{'kwargs.' if isinstance(dataset, PluginDataset) else ''}split_seed")


PROBLEMS = (
  small("digits", Digits(), 64, 64, "error"),
  small("table", Table(table="breast_cancer"), 32, 32, "loss"),
  small("affairs", PluginDataset(name="benchmarks.affairs:build", kwargs={"split_seed": 0}), 32, 64, "loss"),
)


@dataclasses.dataclass(frozen=True)
class Job:
  """One way to tune one problem with one seed, in a folder, with the programs that all share."""

  problem: Problem
  seed: int
  folder: pathlib.Path
  programs: Programs

  @property
  def config(self) -> Config:
    """Return the initial configuration: with validation examples and seeds of its own."""
    off = {"export": False, "logging.tensorboard": False, "selection.metric": f"validation/{self.problem.metric}"}
    return self.problem.config.override({self.problem.split: self.seed, "seed": 1000 * self.seed, **off})

  def trained(self, number: int, changes: Mapping[str, Any], test: bool = False) -> tuple[float | None, float | None]:
    """Train the configuration with changes; return the best value on the validation set and that on the test set.

    None: the training diverged.
    """
    folder = self.folder / f"{'final' if test else 'trial'}_{number}"
    shutil.rmtree(folder, ignore_errors=True)
    # Only what is evaluated on the test set needs a checkpoint.
    every = {"evaluation.test": True} if test else {"checkpointing.every_evaluations": 0}
    result = train(self.config.override({**changes, **every}), folder, programs=self.programs)
    if result.status != "complete":
      return None, None
    points = read_log(folder).curves[f"validation/{self.problem.metric}"]
    worth = value_of(self.ranked_by, points)
    best = read_result(folder).best or {}
    return (None if worth is None else worth[1]), best.get(f"test/{self.problem.metric}")

  @functools.cached_property
  def ranked_by(self) -> Any:
    """Return the objective."""
    return Lab(folder=self.folder, config=self.config).ranked_by

  @functools.cached_property
  def space(self) -> list[Hyperparameter]:
    """Return the space of all searches: the default one of the autopilot's first round."""
    found, problems = flatten(self.config, {"nuisance": first_space(self.config)})
    assert not problems, problems
    return found

  def changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of the config of a point."""
    return dict(itertools.chain.from_iterable(one.changes(values[one.name]).items() for one in self.space))


Ask = Callable[[int, list[tuple[dict[str, Any], float | None]]], dict[str, Any]]
"""Returns the changes of trial `number`, by the results of those before it: (changes, value or None)."""


def searched(job: Job, ask: Ask) -> float:
  """Spend the budget on a search; return the mean test metric of its best point over fresh seeds."""
  results: list[tuple[dict[str, Any], float | None]] = []
  for number in range(TRAININGS - FINAL_SEEDS):
    changes = ask(number, results)
    results.append((changes, job.trained(number, changes)[0]))
  best, _ = min(((changes, value) for changes, value in results if value is not None), key=lambda one: one[1])
  return final(job, best)


def final(job: Job, changes: Mapping[str, Any]) -> float:
  """Return the mean test metric of a configuration over fresh seeds; NaN if one of its trainings diverged."""
  seeds = range(job.config.seed + 1, job.config.seed + 1 + FINAL_SEEDS)
  tests = [job.trained(seed, {**changes, "seed": seed}, test=True)[1] for seed in seeds]
  return statistics.fmean(math.nan if one is None else one for one in tests)


def quasi_random(job: Job, search: Halton | Uniform) -> float:
  """Search by points that do not depend on results."""
  points = search.points(job.space, 0, TRAININGS)
  return searched(job, lambda number, _: job.changes(points[number]))


def learning_rates(job: Job) -> float:
  """Sweep the learning rate of the default configuration over its whole range, evenly on its scale."""
  [rate] = [one for one in job.space if one.path == RATE]
  scale: Any = rate.scale
  count = TRAININGS - FINAL_SEEDS
  return searched(job, lambda number, _: {RATE: scale.at((number + 0.5) / count)})


def optuna(job: Job, name: str) -> float:
  """Search by a sampler of Optuna with its own defaults. A training that diverged is told the worst value so far."""
  import optuna as library

  library.logging.set_verbosity(library.logging.ERROR)
  samplers: Any = library.samplers
  sampler = samplers.TPESampler(seed=job.seed) if name == "TPE" else samplers.GPSampler(seed=job.seed)
  study, asked = library.create_study(sampler=sampler), []

  def ask(number: int, results: list[tuple[dict[str, Any], float | None]]) -> dict[str, Any]:
    if asked:
      value = results[-1][1]
      known = [one for _, one in results if one is not None]
      study.tell(asked[-1], value if value is not None else max(known, default=1.0))
    asked.append(study.ask())
    # In the unit interval of each scale, which is what `log=True` does for a logarithmic one.
    return job.changes({one.name: one.scale.at(asked[-1].suggest_float(one.name, 0.0, 1.0)) for one in job.space})  # pyright: ignore

  return searched(job, ask)


def piloted(job: Job) -> float:
  """Let the autopilot spend the budget; return the mean test metric of its final trainings."""
  from in_process import InProcess  # pyright: ignore[reportMissingImports]

  class Shared(InProcess):
    """Shares the compiled programs of all jobs."""

    def __init__(self, study: pathlib.Path, **more: Any):
      super().__init__(study, **more)
      self._programs = job.programs

  def runner(study: Study, folder: pathlib.Path, **_: Any) -> StudyResults:
    return run_study(study, folder, executor=lambda _, at, events: Shared(at, events=events))

  lab = Lab(folder=job.folder, config=job.config, runner=runner)
  found = autopilot.run(lab, steps=TRAININGS * job.config.max_train_steps, skip="batch-size")
  test = found.numbers.get("test")
  return math.nan if test is None else float(test)


WAYS: Mapping[str, Callable[[Job], float]] = {
  "autopilot": piloted,
  "learning-rate sweep": learning_rates,
  "uniform random": lambda job: quasi_random(job, Uniform(seed=job.seed)),
  "Halton": lambda job: quasi_random(job, Halton(seed=job.seed)),
  "Optuna TPE": lambda job: optuna(job, "TPE"),
  "Optuna GP": lambda job: optuna(job, "GP"),
}
NEEDS = {"Optuna TPE": ("optuna",), "Optuna GP": ("optuna", "torch"), "affairs": ("statsmodels",)}
"""Packages that a way or a problem needs."""


def measured(problem: Problem, way: str, seed: int, root: pathlib.Path, programs: Programs) -> float:
  """Return the final test metric of a way, which is kept in the root."""
  path = root / "found.json"
  key = f"{problem.name} | {way} | {seed}"
  known: dict[str, float] = files.read_json(path) or {}
  if key not in known:
    started = time.perf_counter()
    folder = root / f"{problem.name}_{way.replace(' ', '_')}_{seed}"
    value = WAYS[way](Job(problem, seed, folder, programs))
    known[key] = value
    files.write_json(path, known)
    print(f"{key}: {value:.4g}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
  return known[key]


def interval(differences: list[float]) -> str:
  """Return the mean of paired differences with its interval by Student's t."""
  mean = statistics.fmean(differences)
  if len(differences) < 2:
    return f"{mean:+.4f}"
  error = statistics.stdev(differences) / math.sqrt(len(differences))
  half = float(scipy.stats.t.isf((1 - CONFIDENCE) / 2, len(differences) - 1)) * error
  return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def row(problem: str, way: str, values: Mapping[tuple[str, str], list[float]]) -> str:
  """Return a row of the table; the differences are paired by seed."""
  mine, theirs = values[problem, "autopilot"], values[problem, way]
  gain, wins = "", ""
  if way != "autopilot":
    differences = [other - own for own, other in zip(mine, theirs, strict=True)]
    gain, wins = interval(differences), f"{sum(one > 0 for one in differences)} of {len(differences)}"
  return f"| {problem} | {way} | {np.mean(theirs):.4f} | {np.median(theirs):.4f} | {gain} | {wins} |"


def main() -> None:
  """Print the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--jobs", type=pathlib.Path)
  names = [problem.name for problem in PROBLEMS]
  parser.add_argument("--problems", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
  options = parser.parse_args()
  missing = {name for name, needed in NEEDS.items() if not all(map(importlib.util.find_spec, needed))}
  for name in missing:
    print(f"{name} is left out: it needs {' and '.join(NEEDS[name])}", file=sys.stderr)
  jobs = [
    (problem, way)
    for problem, way in itertools.product(PROBLEMS, WAYS)
    if problem.name in options.problems and not missing & {problem.name, way}
  ]
  with tempfile.TemporaryDirectory() as name:
    root = options.jobs or pathlib.Path(name)
    root.mkdir(parents=True, exist_ok=True)
    programs = Programs(capacity=64)
    values: dict[tuple[str, str], list[float]] = {}
    for seed, (problem, way) in itertools.product(range(1, options.seeds + 1), jobs):
      values.setdefault((problem.name, way), []).append(measured(problem, way, seed, root, programs))
  print("| problem | way | test metric, mean | median | autopilot is better by (95% interval) | in seeds |")
  print("|---|---|---:|---:|---:|---:|")
  for problem, way in jobs:
    print(row(problem.name, way, values))


if __name__ == "__main__":
  main()

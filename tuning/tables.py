"""Tables for people: the trials of a study, ranked or planned; the studies below a root; what a trial was."""

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import rich.box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from trialbook.escaping import visible
from trialbook.progress import duration
from trialbook.tuning.execution.trial_states import Cost
from trialbook.tuning.objective import value_of
from trialbook.tuning.plan import Balance, PlannedTrial
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.space.scales import Hyperparameter

_STYLES = {
  "complete": "green",
  "infeasible": "red",
  "failed": "bold red",
  "pruned": "cyan",
  "running": "yellow",
  "stopped": "yellow",
}

FEWEST_DIGITS, MOST_DIGITS = 4, 12
"""Significant digits of a float in a table: four are what a person reads, and twelve what a float can hold for sure."""
_ENDED_SHOWN = 8
_WIDTH = 130


class _Console(Console):
  """A console that only its own control characters control, and not those in a text of others."""

  def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
    """Yield the pieces of what is printed."""
    for segment in super().render(renderable, options):
      yield segment if segment.control else segment._replace(text=visible(segment.text))


def console(stream: IO[str] | None = None) -> Console:
  """Return the console where tables are printed; a file or a pipe has room for long lines."""
  made = _Console(file=stream, highlight=False, markup=False)
  return made if made.is_terminal else _Console(file=stream, highlight=False, markup=False, width=_WIDTH)


def number(value: Any, digits: int = FEWEST_DIGITS) -> str:
  """Return a value as people read it: four significant digits of a float, or as many as asked for."""
  if value is None:
    return ""
  return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def digits(results: StudyResults) -> int:
  """Return the significant digits that show how trials differ in the objective, whose zero may be far away: two of the
  distance from the best to the median trial."""
  return digits_of(
    sorted(results.objective.sign * trial.objective for trial in results.trials if trial.objective is not None)
  )


def digits_of(values: Sequence[float]) -> int:
  """Return the significant digits of values in order that show two digits of the distance from the first to the median
  one."""
  if not len(values):
    return FEWEST_DIGITS
  spread = values[len(values) // 2] - values[0]
  largest = max(abs(values[0]), abs(values[-1]))
  if not 0 < spread < largest:
    return FEWEST_DIGITS
  return min(max(math.ceil(math.log10(largest / spread)) + 2, FEWEST_DIGITS), MOST_DIGITS)


def ranked(results: StudyResults, limit: int | None = None) -> Table:
  """Return the trials with a value, the best first and retrains of one point together, and then the others."""
  others = [trial for trial in results.trials if trial.objective is None]
  trials = [*results.by_point, *others]
  of_points, shown = means(results), digits(results)
  mean = ["mean of retrains"] if of_points else []
  table = empty("trial", "state", results.objective.metric, *mean, "at step", "hyperparameters", "seconds")
  for place, trial in enumerate(trials[:limit]):
    values = values_text(trial.values, results.study.hyperparameters)
    row = [trial.trial, trial.state, trial.objective, *([of_points.get(trial.trial)] if of_points else [])]
    cells = [Text(number(cell, shown)) for cell in (*row, trial.step, values, f"{trial.seconds:.1f}")]
    cells[1].stylize(_STYLES.get(trial.state, ""))
    table.add_row(*cells, style="bold" if place == 0 and trial.objective is not None else "")
  if limit is not None and len(trials) > limit:
    table.caption = f"and {len(trials) - limit} more: {results.folder / 'trials.csv'}"
  return table


def means(results: StudyResults) -> dict[int, float]:
  """Return the mean of the retrains of its point for each trial with a value; {} if no point has several."""
  groups = [[trial for trial in trials if trial.objective is not None] for trials in results.points]
  if all(len(group) < 2 for group in groups):
    return {}
  return {
    trial.trial: math.fsum(one.objective or 0.0 for one in group) / len(group) for group in groups for trial in group
  }


def values_text(values: Mapping[str, Any], hyperparameters: Mapping[str, Mapping[str, Any]]) -> str:
  """Return a trial's values in a line, each under the last part of its name if that separates it from the others."""
  short = {name: _short(name, hyperparameters) for name in values}
  names = list(short.values())
  parts = []
  for name, value in values.items():
    if hyperparameters.get(name, {}).get("sets") == "name":
      parts.append(str(value))  # An optimizer's or a model's name says by itself what it is.
    else:
      shown = f"{value:.3g}" if isinstance(value, float) else str(value)
      parts.append(f"{short[name] if names.count(short[name]) == 1 else name}={shown}")
  return " ".join(parts)


def _short(name: str, hyperparameters: Mapping[str, Mapping[str, Any]]) -> str:
  if hyperparameters.get(name, {}).get("sets") == "presence":
    return name
  return name.rpartition(".")[2]


def planned(trials: Sequence[PlannedTrial], hyperparameters: Sequence[Hyperparameter]) -> Table:
  """Return the trials before they are run, with the program that each uses."""
  groups = list(dict.fromkeys(trial.group for trial in trials if trial.refusal is None))
  known = {one.name: one.as_json() for one in hyperparameters}
  table = empty("trial", "program", "hyperparameters")
  for trial in trials:
    program = "refused" if trial.refusal is not None else groups.index(trial.group)
    table.add_row(str(trial.trial), str(program), values_text(trial.values, known))
  return table


def balance(of: Balance, trials: Sequence[PlannedTrial], hyperparameters: Sequence[Hyperparameter]) -> list[str]:
  """Return how wide and how dense a study is (PB-16), in lines."""
  groups = {trial.group for trial in trials if trial.refusal is None}
  by_role = {role: [one.name for one in hyperparameters if one.role == role] for role in ("scientific", "nuisance")}
  lines = [f"{role}: {', '.join(names) or 'none'}" for role, names in by_role.items()]
  each = f", {of.trials / of.combinations:.3g} for each of {of.combinations} settings" if of.combinations > 1 else ""
  width = f"{of.dimensions:.3g} {'hyperparameter' if of.dimensions == 1 else 'hyperparameters'} to tune"
  density = f": as dense as a grid of {of.points:.2g} values per hyperparameter" if of.dimensions else ""
  lines.append(f"{of.trials} trials{each}; {width if of.dimensions else 'nothing to tune'}{density}")
  if of.repeats:
    count = f"{of.repeats} of {of.trials} trials {'repeats' if of.repeats == 1 else 'repeat'}"
    space = f": the space has {of.possible:,.0f} combinations" if math.isfinite(of.possible) else ""
    lines.append(f"{count} the values and so the result of an earlier one{space}")
  if groups - {""}:  # Of functions nothing is compiled.
    lines.append(f"{len(groups)} programs to compile" if len(groups) != 1 else "1 program to compile")
  if refused := [trial for trial in trials if trial.refusal is not None]:
    lines.append(f"{len(refused)} trials are refused by the config, the first one: {refused[0].refusal}")
  return lines


def estimate(cost: Cost, steps: int, evaluations: int, trials: int, programs: int, workers: int) -> str:
  """Return how long a study takes, estimated from a few steps."""
  each = steps * cost.step_seconds + evaluations * cost.evaluation_seconds
  seconds = (trials * each + programs * cost.compilation_seconds) / min(workers, max(trials, 1))
  with_workers = f"{workers} {'worker' if workers == 1 else 'workers'}"
  return f"Estimated time: about {duration(seconds)} with {with_workers} ({duration(each)} a trial, plus start-up)"


def running(results: StudyResults) -> Table:
  """Return the trials that are running, with how far they are, and the last ones that ended."""
  record = results.study
  steps = None if record.config is None else record.config.max_train_steps
  table = empty("trial", "state", "step", f"best {results.objective.metric}", "time left")
  shown = [trial for trial in results.trials if trial.state in ("running", "stopped")]
  ended = [trial for trial in results.trials if trial not in shown and trial.state != "pending"]
  for trial in [*ended[-_ENDED_SHOWN:], *shown]:
    best = value_of(results.objective, trial.curves.get(results.objective.metric, []))
    step = max((points[-1][0] for points in trial.curves.values()), default=0)
    left = ""
    if trial.state == "running" and steps and step and trial.started:
      left = duration((time.time() - trial.started) / step * (steps - step))
    shown_step = f"{step:,}" if steps is None else f"{step:,}/{steps:,}"
    table.add_row(str(trial.trial), trial.state, shown_step, number(best[1]) if best else "", left)
  return table


def states(results: StudyResults) -> str:
  """Return how many trials are in which state."""
  names = ("complete", "infeasible", "failed", "pruned", "running", "stopped", "pending")
  counts = [f"{count} {name}" for name in names if (count := results.count(name))]
  return ", ".join(counts) or "no trials"


def command(trial: Trial) -> str | None:
  """Return the command that trains a trial again by hand; None if it is not a training."""
  config = trial.folder / "config.json"
  if not config.exists():
    return None
  return f"trialbook train --config={shlex.quote(str(config))} --workdir=runs/again"


def show_results(results: StudyResults, limit: int | None, console: Console) -> None:
  """Print the ranked trials, up to a limit, and where everything is."""
  console.print(f"{results.study.name}: {results.study.goal}")
  console.print(ranked(results, limit))
  console.print(states(results))
  show_best(results, console)
  console.print(f"  {results.folder / 'trials.csv'}  all trials", soft_wrap=True)
  console.print(f"  {results.folder.parent / 'studies.md'}  all studies there", soft_wrap=True)


def show_best(results: StudyResults, console: Console) -> None:
  """Print the best trial, and its command."""
  best = results.best
  if best is None:
    console.print("no trial has a value yet")
    return
  mean = means(results).get(best.trial)
  of_point = f"; the mean of its point's retrains is {number(mean)}" if mean is not None else ""
  value = number(best.objective)
  console.print(f"best: trial {best.trial}, {results.objective.metric} {value} at step {best.step}{of_point}")
  if line := command(best):
    console.print(f"  {line}", soft_wrap=True)


def show(results: StudyResults, trial: Trial, console: Console) -> None:
  """Print everything about one trial."""
  console.print(
    f"{results.study.name}, trial {trial.trial}: {trial.state}" + (f": {trial.reason}" if trial.reason else "")
  )
  if trial.objective is not None:
    console.print(f"{results.objective.metric} {number(trial.objective)} at step {trial.step}")
  table = empty("hyperparameter", "value")
  for name, value in trial.values.items():
    table.add_row(name, number(value))
  console.print(table)
  if changed := command(trial):
    console.print(f"again: {changed}", soft_wrap=True)
  console.print(f"workdir: {trial.folder}", soft_wrap=True)


def empty(*columns: str) -> Table:
  """Return a table without rows; columns of words are left-aligned, those of numbers right-aligned."""
  table = Table(box=rich.box.SIMPLE_HEAD)
  for column in columns:
    left = column in ("state", "hyperparameter", "hyperparameters", "study", "folder")
    table.add_column(
      Text(column), justify="left" if left else "right", overflow="fold", no_wrap=column != "hyperparameters"
    )
  return table

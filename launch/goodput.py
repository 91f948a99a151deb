"""What the wall time of a run went into, over all the processes that worked on it.

The names are those of Google's ml-goodput-measurement: goodput is the time of training steps that were kept, badput is
all else.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook import files
from trialbook.errors import ConfigError
from trialbook.launch.records import read_restarted
from trialbook.trainer.records import Process, read_run

GOODPUT = "productive_training"
BADPUT = {
  "program_startup": "start-up, compilation and reading of checkpoints",
  "data_loading": "waiting for data",
  "checkpoint_save": "waiting for checkpoints",
  "evaluation": "evaluations",
  "wasted_progress_from_disruption": "steps that were lost and made again",
  "infrastructure_recovery_from_disruption": "from the last sign of a process to the start of the next",
  "other": "anything else",
}
"""Kind of badput -> what it is."""
_PARTS = {
  "program_startup": ("start_up", "compilation"),
  "data_loading": ("wait_for_data",),
  "checkpoint_save": ("checkpoint",),
  "evaluation": ("evaluation",),
}
_TRAINING = ("dispatch", "wait_for_device")


def goodput(workdir: pathlib.Path) -> dict[str, Any]:
  """Return what a run's seconds went into, as `goodput.json` has it.

  A process that was killed has told its times at its last checkpoint. What it did after that was lost, and counts as
  recovery.

  Returns:
    wall: seconds from the first start, of the launcher if there was one, to the last sign of a process.
    processes: how many worked on the run.
    ends: how many of them ended in which way, by status; "running" is what a process left that was killed.
    seconds: those of `GOODPUT` and of each of `BADPUT`; their sum is `wall`.
    goodput: the share of productive training.

  Raises:
    ConfigError: if there is no run.
    UserError: if its record, or that of its launcher, cannot be read.
  """
  record = read_run(workdir)
  if record is None:
    raise ConfigError(f"{workdir} holds no run (it has no run.json)")
  processes: list[Process] = [*record.get("earlier", []), record]
  seconds = dict.fromkeys((GOODPUT, *BADPUT), 0.0)
  for process, following in zip(processes, [*processes[1:], None], strict=True):
    begin, end = _span(process)
    parts = _parts(process, following)
    parts["other"] = max(end - begin - sum(parts.values()), 0.0)
    if following is not None:
      parts["infrastructure_recovery_from_disruption"] = max(_span(following)[0] - end, 0.0)
    for name, value in parts.items():
      seconds[name] += value
  statuses = [process["status"] for process in processes]
  begin, end = _span(processes[0])[0], _span(processes[-1])[1]
  launched = min(restarted["started"], begin) if (restarted := read_restarted(workdir)) else begin
  # Processes that ended before they opened the workdir have left no record.
  seconds["program_startup"] += begin - launched
  wall = end - launched
  return {
    "format": files.FORMAT,
    "wall": round(wall, 3),
    "processes": len(processes),
    "ends": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
    "seconds": {name: round(value, 3) for name, value in seconds.items()},
    "goodput": round(seconds[GOODPUT] / wall, 4) if wall else 0.0,
  }


def table(found: Mapping[str, Any]) -> list[str]:
  """Return lines that show what `goodput` returned to a person."""
  seconds, wall = found["seconds"], found["wall"] or 1.0
  rows = [(GOODPUT, "training steps that were kept"), *BADPUT.items()]
  width = max(len(name) for name, _ in rows)
  lines = [f"{name:<{width}}  {seconds[name]:>12,.1f} s  {seconds[name] / wall:>6.1%}  {what}" for name, what in rows]
  ends = ", ".join(f"{count:,} {status}" for status, count in found["ends"].items())
  total = f"{'wall time':<{width}}  {found['wall']:>12,.1f} s          processes: {ends}"
  return [*lines, total]


def _span(process: Process) -> tuple[float, float]:
  """Return when a process began, and the last that is known of it, in seconds since the epoch."""
  end = process.get("finished", process.get("seen", process["started"]))
  # Its times count from its first line of ours, and `started` is when it opened the workdir.
  return min(process["started"], end - process.get("times", {}).get("total", 0.0)), end


def _parts(process: Process, following: Process | None) -> dict[str, float]:
  times = process.get("times", {})
  parts = {name: sum(times.get(one, 0.0) for one in ones) for name, ones in _PARTS.items()}
  training = sum(times.get(name, 0.0) for name in _TRAINING)
  first, last = process.get("restored_step") or 0, process["step"] or 0
  kept = last if following is None else min(following.get("restored_step") or 0, last)
  share = max(kept - first, 0) / (last - first) if last > first else 1.0
  return parts | {GOODPUT: training * share, "wasted_progress_from_disruption": training * (1 - share)}


def write(workdir: pathlib.Path) -> Sequence[str]:
  """Write `goodput.json` into a workdir, and return the lines of `table`. Raises as `goodput`."""
  found = goodput(workdir)
  files.write_json(workdir / "goodput.json", found)
  return table(found)

"""The result of a run, read from its records: the same for a run that just ended and for one of last year."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from trialbook import errors, files
from trialbook.errors import ConfigError
from trialbook.trainer.records import BEST, Best, Run, check_ends, read_best, read_metrics, read_run, values_of
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.trainer.workdir.selection import History


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
  """The result of a run.

  Attributes:
    workdir: where everything lies.
    status: "complete", "infeasible", "pruned" (a rule of its study ended it early), or "preempted"; "running", "failed"
      or "stopped" for a run that did not come to an end otherwise.
    reason: of an infeasible run: what was not finite, and at which step; of a pruned or preempted one: why.
    step: number of updates applied.
    metrics: the last evaluation of each split, and the last step's metrics.
    best_step: the step of the selected checkpoint (without checkpoints: of the best evaluation).
    best: the evaluation of that step, and what was evaluated of it after the run (test, when asked).
    checkpoint: the selected checkpoint; None without checkpoints.
    note: what must be said beside `best`, if anything.
    notice: what must be said beside every number (synthetic data), if anything.
    seconds: wall time of the last process that worked on the run; None if it was killed.
  """

  workdir: pathlib.Path
  status: str
  reason: str | None
  step: int
  metrics: Mapping[str, Any]
  best_step: int | None
  best: Mapping[str, Any]
  checkpoint: pathlib.Path | None
  note: str | None
  notice: str | None
  seconds: float | None

  @property
  def exit_code(self) -> int:
    """Return the exit code of the command."""
    return errors.exit_code(self.status)


def read_result(workdir: pathlib.Path) -> RunResult:
  """Return the result of the run in `workdir`. Raises ConfigError if none can be read."""
  config = stored_config(workdir)
  record, best = read_run(workdir), read_best(workdir)
  lines = read_metrics(workdir)
  history = History.of(lines, config.selection)
  if record is not None and record["status"] == "complete":
    check_ends(workdir, lines, record["step"] or 0)
  last = values_of(lines[-1]) if lines else {}
  best_step = None if best is None else best["step"]
  final = {} if best is None else values_of(best["final"])
  evaluated = _selected(workdir, history, best)
  checkpoint = None if best is None else best["checkpoint"]
  # Without a checkpoint, what was evaluated after the run is of its last state.
  last_final, best_final = ({}, final) if checkpoint else (final, {})
  return RunResult(
    workdir=workdir,
    status="running" if record is None else record["status"],
    reason=None if record is None else record.get("reason"),
    step=0 if record is None else record["step"] or 0,
    metrics=last | history.latest | last_final,
    best_step=best_step,
    best={**evaluated, **best_final},
    checkpoint=workdir / checkpoint if checkpoint else None,
    note=None if best is None else best["note"],
    notice=None if record is None else record.get("notice"),
    seconds=None if record is None else _seconds(record),
  )


def _seconds(record: Run) -> float | None:
  """Return how long the last process of a run took, by a clock that nobody sets; None if it was killed."""
  if "finished" not in record:
    return None
  return record.get("times", {}).get("total", max(record["finished"] - record["started"], 0.0))


def _selected(workdir: pathlib.Path, history: History, best: Best | None) -> Mapping[str, Any]:
  """Return the evaluation that `best.json` names. Raise ConfigError if `metrics.jsonl` has another or none there."""
  if best is None or best["step"] is None:
    return {}
  evaluated = history.evaluations.get(best["step"], {})
  if evaluated.get(history.metric) != files.number(best["value"]):
    problem = f"{history.metric} at step {best['step']} is {best['value']}"
    other = f"and metrics.jsonl has {evaluated.get(history.metric)} there"
    raise ConfigError(BEST.error(workdir / "best.json", [f"{problem}, {other}"]).problems)
  return evaluated

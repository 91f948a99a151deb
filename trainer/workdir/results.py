"""The result of a run, read from its records: the same for a run that just ended and for one of last year."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from trialbook import errors, files
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
  record, best = (files.read_json(workdir / name) or {} for name in ("run.json", "best.json"))
  lines = files.read_json_lines(workdir / "metrics.jsonl")
  history = History.read(workdir / "metrics.jsonl", config.selection)
  last = {name: files.number(value) for name, value in (lines[-1] if lines else {}).items() if name != "step"}
  best_step = best.get("step")
  final = {name: files.number(value) for name, value in best.get("final", {}).items()}
  evaluated = history.evaluations.get(best_step, {}) if best_step is not None else {}
  # Without a checkpoint, what was evaluated after the run is of its last state.
  last_final, best_final = ({}, final) if best.get("checkpoint") else (final, {})
  return RunResult(
    workdir=workdir,
    status=record.get("status", "running"),
    reason=record.get("reason"),
    step=record.get("step", 0),
    metrics=last | history.latest | last_final,
    best_step=best_step,
    best={**evaluated, **best_final},
    checkpoint=workdir / best["checkpoint"] if best.get("checkpoint") else None,
    note=best.get("note"),
    notice=record.get("notice"),
    seconds=record["finished"] - record["started"] if "finished" in record else None,
  )

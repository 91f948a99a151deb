"""`run.json`: where a run came from and how it ended, over all the processes that worked on it."""

import contextlib
import dataclasses
import pathlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

from trialbook import files
from trialbook.errors import InfeasibleError, PreemptedError, PrunedError, UserError, said
from trialbook.input_pipeline import Dataset
from trialbook.store_client import StoreLostError
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.config import Config
from trialbook.trainer.evaluation_schedule import checkpoint_due
from trialbook.trainer.metric_recorder import Recorder
from trialbook.trainer.program import Program
from trialbook.trainer.records import Run, read_fork, read_metrics, read_run
from trialbook.trainer.workdir import provenance, step_lines
from trialbook.trainer.workdir.existing_run import differences, fingerprints, stored_config
from trialbook.trainer.workdir.selection import History


class RunRecord:
  """The record of the process that works on a run now; earlier ones are kept in `earlier`.

  Args:
    folder: the workdir.
    config: resolved.
    dataset: the run's.
    input_range: the smallest and the largest number among training inputs, see `Prepared`; None: not finite.
    program: the program, if it was made for this run.
    place: the workdir once it is open.

  Attributes:
    id: of the run, which its checkpoints have too; once it has begun.
    step: number of updates applied so far.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    config: Config,
    dataset: Dataset,
    input_range: tuple[float, float] | None,
    program: Program | None,
    place: files.Place | None = None,
  ):
    self._folder, self._config, self._started = folder, config, time.time()
    self.step, self.id, self._place = 0, "", place
    self._record: dict[str, Any] = {
      "format": files.FORMAT,
      "status": "running",
      "reason": None,
      "step": 0,
      "seed": config.seed,
      "notice": dataset.info.notice,
      "dataset": dataclasses.asdict(dataset.info),
      "fingerprints": fingerprints(config, dataset),
      "input_range": input_range,
      "started": self._started,
      "compilations": dict(program.compilations) if program else {},
      "compilation_cache_hits": program.cache_hits if program else 0,
      "compilation_seconds": round(program.seconds, 3) if program else 0.0,
      **provenance.describe(),
    }

  def begin(self, restored_step: int | None) -> str:
    """Write `config.json` and `run.json`, and cut `metrics.jsonl` back to the restored step.

    Returns:
      How this process starts, as a line for a person.

    Raises:
      UserError: if the records say that there were checkpoints, and there is none; or the other way round.
    """
    metrics = self._folder / "metrics.jsonl"
    earlier = read_run(self._folder)
    before = self._config if earlier is None else stored_config(self._folder)
    lines = read_metrics(self._folder)
    history = History.of(lines, self._config.selection)
    if restored_step is None:
      # A save waits for the one before it, so with three of them due one must have been committed.
      if sum(checkpoint_due(before, step) for step in history.evaluations) > 2:
        raise UserError(
          f"{self._folder} has the records of a run up to step {max(history.evaluations)}, but no checkpoint;"
          " remove the workdir to start from the beginning"
        )
    elif restored_step > (lines[-1]["step"] if lines else -1):
      raise UserError(
        f"{metrics} ends before step {restored_step}, that of the newest checkpoint;"
        " remove the workdir to start from the beginning"
      )
    elif restored_step > self._config.max_train_steps:
      raise UserError(
        f"{self._folder} has been trained to step {restored_step}, beyond max_train_steps ="
        f" {self._config.max_train_steps}; increase it, or choose another --workdir"
      )
    if metrics.exists():
      step_lines.cut_lines(self._folder, -1 if restored_step is None else restored_step)
    if earlier is not None:
      changed = differences(before, self._config, kinds=("host",), layout=True)
      self._record["changed"] = {path: list(values) for path, values in changed.items()}
      # A diff may be long, and stands here if it is as it is now.
      left_out = ("earlier", *(["git"] if earlier.get("git") == self._record["git"] else []))
      own = {name: value for name, value in earlier.items() if name not in left_out}
      self._record["earlier"] = [*earlier.get("earlier", []), own]
    self.id = self._identity(earlier, restored_step)
    self._record |= {"id": self.id, "restored_step": restored_step, "step": restored_step or 0}
    self.step = restored_step or 0
    config = {"format": files.FORMAT, **self._config.model_dump(mode="json")}
    files.write_json(self._folder / "config.json", config)
    self._write()
    if restored_step is not None:
      return f"continues from the checkpoint of step {restored_step:,}"
    return "starts from the beginning" + ("" if earlier is None else ": no checkpoint had been committed")

  def _identity(self, earlier: Run | None, restored_step: int | None) -> str:
    """Return the run's id: the recorded one, that of its checkpoint if the record is lost, or a new one."""
    known = None if earlier is None else earlier.get("id")
    if known is None and restored_step is not None and read_fork(self._folder) is None:
      known = storage.run_of(self._folder / "checkpoints" / str(restored_step))
    return known or uuid.uuid4().hex

  def preempted_steps(self, config: Config) -> set[int]:
    """Return where processes before this one were stopped and saved, without a checkpoint being due."""
    record = read_run(self._folder)
    earlier = [] if record is None else record.get("earlier", [])
    steps = {entry["step"] or 0 for entry in earlier if entry["status"] == "preempted"}
    return {step for step in steps if not checkpoint_due(config, step)}

  def progress(self, recorder: Recorder) -> None:
    """Record the step and the times so far: of a process that is killed, this is all that is known."""
    times = {"times": recorder.times(), "first_step": recorder.first_step_time, "seen": time.time()}
    self._record |= {"step": self.step, **times}
    self._write()

  @contextlib.contextmanager
  def ending(self, recorder: Recorder, *, writes: bool) -> Iterator[None]:
    """Record how what is inside ended.

    An infeasible, pruned or preempted run ends here; any other error is raised again.
    """
    status, reason = "failed", None
    try:
      yield
      status = "complete"
    except InfeasibleError as error:
      status, reason, self.step = "infeasible", str(error), error.step
    except PrunedError as error:
      status, reason = "pruned", str(error)
    except PreemptedError as error:
      status, reason = "preempted", str(error)
    except KeyboardInterrupt:
      status = "stopped"
      raise
    except BaseException as error:
      reason = said(error)
      raise
    finally:
      self._record |= {
        "status": status,
        "reason": reason,
        "step": self.step,
        "first_step": recorder.first_step_time,
        "finished": time.time(),
        "times": recorder.times(),
      }
      # On a full disk, or in a lost store, the failure cannot be recorded; the failure itself is what must be told.
      with contextlib.suppress(OSError, StoreLostError) if status == "failed" else contextlib.nullcontext():
        if writes:
          self._write()

  def _write(self) -> None:
    if self._place is not None:
      self._place.check()
    files.write_json(self._folder / "run.json", self._record)

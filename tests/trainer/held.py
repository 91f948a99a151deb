"""Trainings that wait where a test says, so that a signal meets them there, however fast the machine is.

The file of an experiment, or of a study, calls `install(folder)`. Its process, and those that are forked from it, then
wait at the place that the test has named by `Hold(folder).at(...)`, until it names another one, or SIGTERM has come.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from trialbook.trainer import metric_recorder, program, start_or_resume, train
from trialbook.trainer.checkpoints.storage import Saver
from trialbook.trainer.hosts.shutdown_guard import Guard

PHASES = (
  "starting",
  "restoring",
  "compiling",
  "step",
  "evaluating",
  "saving",  # What is written behind the training has begun.
  "committing",  # All is written, and the checkpoint has no name yet.
  "telling",  # It is named, but not yet in best.json.
  "removing",  # A checkpoint that is not kept has lost its name.
  "selecting",  # After the last step.
)
EXPERIMENT = """
import sys
sys.path.insert(0, {tests!r})
import held, tiny

held.install({folder!r})

def get_config():
  return tiny.{model}(**{changes!r})
"""


def write_experiment(folder: pathlib.Path, model: str, changes: Mapping[str, Any]) -> pathlib.Path:
  """Write the file of an experiment with a config of `tiny`, whose runs `Hold(folder)` holds; return its path."""
  path, tests = folder / "experiment.py", str(pathlib.Path(__file__).parent)
  path.write_text(EXPERIMENT.format(tests=tests, folder=str(folder), model=model, changes=dict(changes)))
  return path


class Hold:
  """Where the trainings of a folder wait."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  def at(self, phase: str, step: int = 0, host: int | None = None, then: str = "wait") -> None:
    """Hold every process (or one host) at its first `phase` at or after `step`.

    With then="raise", fail there instead.
    """
    assert phase in PHASES
    self.release()
    place = {"phase": phase, "step": step, "host": host, "then": then, "number": time.monotonic_ns()}
    (self._folder / ".hold").write_text(json.dumps(place))
    (self._folder / ".hold").rename(self._folder / "hold")

  def release(self) -> None:
    """Hold nobody any more."""
    (self._folder / "hold").unlink(missing_ok=True)

  def waiting(self) -> dict[int, int]:
    """Return the ids of the processes that have come to the place, and the step of each."""
    # A process that has just read the place before this one may still come to that.
    if not (place := _read(self._folder / "hold")):
      return {}
    names = [path.name.split(".") for path in self._folder.glob(f"waits.{place['number']}.*")]
    return {int(process): int(step) for _, _, process, step in names}


def install(folder: str) -> None:
  """Make this process wait at the places of its trainings."""
  here, step, is_evaluating = pathlib.Path(folder), 0, False

  def place(phase: str, over: Callable[[], bool] = lambda: False) -> None:
    wanted = _read(here / "hold")
    host = int(os.environ.get("TRIALBOOK_HOST_INDEX", "0"))
    if not wanted or wanted["phase"] != phase or wanted["step"] > step or wanted["host"] not in (None, host):
      return
    (here / f"waits.{wanted['number']}.{os.getpid()}.{step}").touch()
    if wanted["then"] == "raise":
      raise ZeroDivisionError("a planted bug")
    while _read(here / "hold") == wanted and not over():
      time.sleep(0.002)

  def first(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
      place(phase)
      return call(*arguments, **named)

    return wrapped

  def poll(self: Guard, call: Callable[[Guard], bool] = Guard.poll) -> bool:
    place("evaluating" if is_evaluating else "step", lambda: self.cause is not None)
    return call(self)

  def evaluate(*arguments: Any, call: Callable[..., Any] = train.evaluate, **named: Any) -> Any:
    nonlocal is_evaluating
    is_evaluating = True
    try:
      return call(*arguments, **named)
    finally:
      is_evaluating = False

  def record(self: Any, number: int, *values: Any, call: Callable[..., None] = metric_recorder.Recorder.step) -> None:
    nonlocal step
    step = number
    call(self, number, *values)

  def restore(*arguments: Any, call: Callable[..., Any] = start_or_resume.restore_newest) -> Any:
    nonlocal step
    step = 0
    place("restoring")
    return call(*arguments)

  def begin(self: Saver, *arguments: Any, call: Callable[..., None] = Saver._begin) -> None:
    call(self, *arguments)
    place("saving")

  def audit(event: str, arguments: tuple) -> None:
    if event == "os.rename":
      source, target = map(os.fsdecode, arguments[:2])
      if ".orbax-checkpoint-tmp" in source:
        place("committing")
      elif target.endswith("best.json"):
        place("telling")
    elif event == "shutil.rmtree" and os.fsdecode(arguments[0]).endswith(".removed"):
      place("removing")

  changed: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (Guard, "poll", poll),
    (train, "evaluate", evaluate),
    (start_or_resume, "restore_newest", restore),
    (train, "evaluate_selected", first("selecting", train.evaluate_selected)),
    (metric_recorder.Recorder, "step", record),
    (program.Program, "compile", first("compiling", program.Program.compile)),
    (Saver, "_begin", begin),
  )
  for owner, name, call in changed:
    setattr(owner, name, call)
  sys.addaudithook(audit)
  place("starting")


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return None

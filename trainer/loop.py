"""The training loop: steps are dispatched, and nothing waits for the device."""

import dataclasses
from collections.abc import Iterator, Mapping

from jaxtyping import Array

from trialbook.trainer.hosts.shutdown_guard import Guard
from trialbook.trainer.metric_recorder import Recorder
from trialbook.trainer.program import Program
from trialbook.trainer.progress import RunProgress
from trialbook.trainer.timing import Times, Tracer
from trialbook.trainer.train_step import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """The objects that the steps of a run need beside its state.

  Attributes:
    program: compiled.
    settings: traced settings on the devices.
    batches: gives (step, batch), from the first step on.
    recorder: receives the metrics.
    line: shows the progress.
    guard: asked before each step whether to continue.
    times: receives the time of dispatching.
    tracer: traces some of the steps.
  """

  program: Program
  settings: Mapping[str, Array]
  batches: Iterator[tuple[int, Mapping[str, Array]]]
  recorder: Recorder
  line: RunProgress
  guard: Guard = dataclasses.field(default_factory=Guard)
  times: Times = dataclasses.field(default_factory=Times)
  tracer: Tracer = dataclasses.field(default_factory=Tracer)


def advance(loop: Loop, state: State, start: int, stop: int) -> tuple[int, State]:
  """Dispatch the steps from `start` to `stop`, waiting for the device only to stay a few steps ahead of it.

  Returns:
    `stop`, or the earlier step at which all hosts agreed to stop, and the state there.
  """
  train_step, settings, recorder = loop.program.train_step, loop.settings, loop.recorder
  loop.tracer.at(start, state)
  for step in range(start + 1, stop + 1):
    if loop.guard.poll():
      return step - 1, state
    _, batch = next(loop.batches)
    with loop.times.of("dispatch"):
      state, metrics = train_step(state, settings, batch)
    recorder.step(step, metrics)
    loop.line.step(step, recorder.describe)
    loop.tracer.at(step, state)
  return stop, state

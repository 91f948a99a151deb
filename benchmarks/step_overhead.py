"""The overhead of our loop over a bare Python loop around the same compiled step, and the cost of the metrics in it.

  python -m benchmarks.step_overhead

Both loops get the same batches, which lie on the device already. They take turns in one process; a row is the
median over pairs of the ratio of their rates.
"""

import itertools
import pathlib
import statistics
import tempfile

import jax

from benchmarks.measured_loop import NeverWaiting, Setup, in_turns, median_ratio, setup
from trialbook.models import MlpConfig, ResNetConfig
from trialbook.trainer import Config
from trialbook.trainer.loop import Loop, advance
from trialbook.trainer.metric_recorder import Recorder
from trialbook.trainer.optimizers import Momentum
from trialbook.trainer.progress import RunProgress

CASES = {
  "MLP, 270k parameters": (MlpConfig(widths=(400, 400, 200)), 128, 1000),
  "ResNet, digits": (ResNetConfig(stage_sizes=(1, 1), width=16), 64, 150),
}


def main() -> None:
  """Print the table."""
  print("| model | batch | ours, steps/s | bare, steps/s | ours / bare | step with metrics / without, steps/s |")
  print("|---|---|---|---|---|---|")
  for name, (model, batch_size, steps) in CASES.items():
    config = Config(model=model, optimizer=Momentum(learning_rate=0.01), batch_size=batch_size)
    measured = setup(config)
    ours, bare = compare_loops(measured, steps)
    without = Bare(setup(config, with_metrics=False), steps)
    price = median_ratio(in_turns(Bare(measured, steps), without))
    print(
      f"| {name} | {batch_size} | {statistics.median(ours):,.0f} | {statistics.median(bare):,.0f}"
      f" | {median_ratio((ours, bare)):.3f} | {price:.3f} |",
      flush=True,
    )


def compare_loops(measured: Setup, steps: int) -> tuple[list[float], list[float]]:
  """Return the rates of the trainer's loop with logging at its default, and of a loop that only calls the step."""
  program, settings = measured.program, measured.settings
  with tempfile.TemporaryDirectory() as workdir:
    recorder = Recorder(pathlib.Path(workdir), program.metric_names, measured.config, 1, NeverWaiting())
    state, done = program.init(settings), 0

    def ours() -> int:
      nonlocal state, done
      line = RunProgress(steps, enabled=True)
      loop = Loop(program=program, settings=settings, batches=measured.source(), recorder=recorder, line=line)
      _, state = advance(loop, state, done, done + steps)
      done += steps
      recorder.drain()
      jax.block_until_ready(state)
      return steps

    rates = in_turns(ours, Bare(measured, steps))
    recorder.close()
  return rates


class Bare:
  """A loop that only calls the step; each call makes the given number of steps, from the state where the last one
  ended."""

  def __init__(self, measured: Setup, steps: int):
    self._measured, self._steps = measured, steps
    self._state = measured.program.init(measured.settings)

  def __call__(self) -> int:
    train_step, settings, state = self._measured.program.train_step, self._measured.settings, self._state
    source = itertools.cycle(self._measured.batches)
    for _ in range(self._steps):
      state, _ = train_step(state, settings, next(source))
    self._state = jax.block_until_ready(state)
    return self._steps


if __name__ == "__main__":
  main()

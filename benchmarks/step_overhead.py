"""What our loop costs beside a bare Python loop around the same compiled step, and what the metrics cost in it.

  python -m benchmarks.step_overhead

Both loops get the same batches, which lie on the device already. They take turns in one process, and the
first of a pair changes from pair to pair; a row is the median over pairs of the ratio of their rates.
"""

import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from input_pipeline import load
from models import MlpConfig, ResNetConfig
from trainer import Config, sharding
from trainer.metrics import Recorder
from trainer.network import Network
from trainer.optimizers import Momentum
from trainer.program import Program, program_settings
from trainer.progress import Progress
from trainer.train import advance
from trainer.train_step import Steps
from trialbook.settings import without_traced_numbers

PAIRS = 15
CASES = {
  "MLP, 270k parameters": (MlpConfig(widths=(400, 400, 200)), 128, 1000),
  "ResNet, digits": (ResNetConfig(stage_sizes=(1, 1), width=16), 64, 150),
}


class NeverWaiting:
  """Stands for the source of batches where the batches are there already."""

  wait_seconds = 0.0


def main() -> None:
  """Prints the table."""
  print("| model | batch | ours, steps/s | bare, steps/s | ours / bare | step with metrics / without, steps/s |")
  print("|---|---|---|---|---|---|")
  for name, (model, batch_size, steps) in CASES.items():
    config = Config(model=model, optimizer=Momentum(learning_rate=0.01), batch_size=batch_size).resolved()
    with tempfile.TemporaryDirectory() as workdir:
      ours, bare = compare_loops(config, steps, pathlib.Path(workdir))
    with_metrics, without = compare(with_and_without_metrics(config, steps))
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    price = statistics.median(a / b for a, b in zip(with_metrics, without, strict=True))
    print(
      f"| {name} | {batch_size} | {statistics.median(ours):,.0f} | {statistics.median(bare):,.0f}"
      f" | {ratio:.3f} | {price:.3f} |"
    )


def compare(sides: tuple[Callable[[], int], Callable[[], int]]) -> tuple[list[float], list[float]]:
  """Rates in steps/s of two sides that take turns; each call returns how many steps it made."""
  rates: tuple[list[float], list[float]] = ([], [])
  for side in sides:
    side()
  for pair in range(PAIRS):
    for index in (0, 1) if pair % 2 == 0 else (1, 0):
      started = time.perf_counter()
      steps = sides[index]()
      rates[index].append(steps / (time.perf_counter() - started))
  return rates


def compare_loops(config: Config, steps: int, workdir: pathlib.Path) -> tuple[list[float], list[float]]:
  """Rates of the trainer's loop with logging at its default, and of a loop that only calls the step."""
  program, settings, batches = _setup(config, with_metrics=True)
  recorder = Recorder(workdir, program.metric_names, config, 1, NeverWaiting())
  state = [program.init(settings), program.init(settings)]
  done = [0]

  def ours() -> int:
    line = Progress(steps, enabled=True)
    source = itertools.cycle(enumerate(batches))
    state[0] = advance(program, state[0], settings, source, done[0], done[0] + steps, recorder, line)
    done[0] += steps
    recorder.drain()
    jax.block_until_ready(state[0])
    return steps

  rates = compare((ours, lambda: _bare(program, state, 1, settings, batches, steps)))
  recorder.close()
  return rates


def with_and_without_metrics(config: Config, steps: int) -> tuple[Callable[[], int], Callable[[], int]]:
  """Bare loops around the step with its metrics, and around one that computes the loss alone."""
  sides = []
  for with_metrics in (True, False):
    program, settings, batches = _setup(config, with_metrics=with_metrics)
    state = [program.init(settings)]
    sides.append(lambda p=program, s=state, h=settings, b=batches: _bare(p, s, 0, h, b, steps))
  return sides[0], sides[1]


def _bare(program: Program, states: list[Any], index: int, settings: Any, batches: list[Any], steps: int) -> int:
  train_step, state = program.train_step, states[index]
  source = itertools.cycle(batches)
  for _ in range(steps):
    state, _ = train_step(state, settings, next(source))
  states[index] = jax.block_until_ready(state)
  return steps


def _setup(config: Config, *, with_metrics: bool) -> tuple[Program, Any, list[Any]]:
  dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
  task, mesh = config.task.build(), sharding.make_mesh()
  network = Network(
    config=without_traced_numbers(config), info=dataset.info, num_outputs=task.num_outputs(dataset.info)
  )
  program = Program(Steps(network=network, task=task, with_metrics=with_metrics), config, dataset.info, mesh)
  settings = jax.device_put(program_settings(config), sharding.replicated(mesh))
  batches = [jax.device_put(dataset.train_batch(step), sharding.batch(mesh)) for step in range(8)]
  return program, settings, batches


if __name__ == "__main__":
  main()

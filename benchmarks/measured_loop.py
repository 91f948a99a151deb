"""The parts that benchmarks of the loop share: a program with its settings, batches on the device, sources that never
wait."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from trialbook.input_pipeline import Dataset, load
from trialbook.trainer import Config, sharding
from trialbook.trainer.program import Program
from trialbook.trainer.train_step import make_steps, program_settings

PAIRS = 15


class NeverWaiting:
  """Stands for the source of batches where the batches are there already."""

  wait_seconds = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """A compiled program and what it is called with.

  Attributes:
    config: resolved.
    program: compiled.
    settings: on the devices.
    dataset: in memory.
    batches: eight training batches on the devices.
  """

  config: Config
  program: Program
  settings: Any
  dataset: Dataset
  batches: list[Any]

  def source(self) -> Iterator[tuple[int, Any]]:
    """Yield the batches, again and again."""
    return enumerate(itertools.cycle(self.batches))


def setup(config: Config, *, with_metrics: bool = True) -> Setup:
  """Compile the program of a config, and put a few batches on the devices."""
  config = config.resolved()
  dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
  task, mesh = config.task.build(config.dataset), sharding.make_mesh()
  steps = dataclasses.replace(make_steps(config, task, dataset.info), with_metrics=with_metrics)
  program = Program(steps, config, mesh)
  program.compile()
  return Setup(
    config=config,
    program=program,
    settings=jax.device_put(program_settings(config), sharding.replicated(mesh)),
    dataset=dataset,
    batches=[jax.device_put(dataset.train_batch(step), sharding.batch(mesh)) for step in range(8)],
  )


def in_turns(first: Callable[[], int], second: Callable[[], int]) -> tuple[list[float], list[float]]:
  """Return rates, in what each call returns per second, of two sides that take turns; who begins changes each time."""
  sides, rates = (first, second), ([], [])
  for side in sides:
    side()
  for pair in range(PAIRS):
    for index in (0, 1) if pair % 2 == 0 else (1, 0):
      started = time.perf_counter()
      done = sides[index]()
      rates[index].append(done / (time.perf_counter() - started))
  return rates


def median_ratio(rates: tuple[list[float], list[float]]) -> float:
  """Return the median over pairs of first / second."""
  return statistics.median(a / b for a, b in zip(*rates, strict=True))

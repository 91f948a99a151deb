"""The cost of checkpoints to the training, and the speed of evaluation compared with it.

  python -m benchmarks.checkpoint

The digits ResNet of the default experiment. Blocked time is what the loop spends in `save` (waiting for the save
before it included) at the default interval. Because the save continues behind the training and takes cores from it
where the devices are the CPU itself, a run with checkpoints is also timed in turns with one without.
"""

import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax

from benchmarks.measured_loop import NeverWaiting, Setup, in_turns, median_ratio, setup
from trialbook.trainer import load_config
from trialbook.trainer.checkpoints.storage import Saver, restore, saved_steps
from trialbook.trainer.config_files import DEFAULT
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.loop import Loop, advance
from trialbook.trainer.metric_recorder import Recorder
from trialbook.trainer.progress import RunProgress

SAVES = 20


def main() -> None:
  """Print the table."""
  measured = setup(load_config(DEFAULT))
  with tempfile.TemporaryDirectory() as folder:
    rows = {**saving(measured, pathlib.Path(folder)), **evaluating(measured)}
  print("| measured | value |\n|---|---|")
  for name, value in rows.items():
    print(f"| {name} | {value} |")


def saving(measured: Setup, folder: pathlib.Path) -> dict[str, str]:
  """Return the blocked time, its share of the wall time, the cost of the whole, and the time to restore."""
  program, interval = measured.program, measured.config.evaluation.every_steps
  recorder = Recorder(folder, program.metric_names, measured.config, 1, NeverWaiting())
  state: Any = program.init(measured.settings)
  blocked, steps_done = [], 0

  with Saver(folder / "checkpoints", lambda steps: steps[-2:], lambda steps: None) as saver:

    def section(save: bool) -> int:
      """Run one interval: steps, an evaluation, and perhaps a save."""
      nonlocal state, steps_done
      line = RunProgress(interval, enabled=False)
      source, stop = measured.source(), steps_done + interval
      loop = Loop(program=program, settings=measured.settings, batches=source, recorder=recorder, line=line)
      _, state = advance(loop, state, steps_done, stop)
      steps_done = stop
      recorder.drain()
      weights = evaluated_weights(measured.config, state)
      evaluate(program, weights, measured.settings, measured.dataset, "validation", measured.config)
      if save:
        started = time.perf_counter()
        saver.save(steps_done, state)
        blocked.append(time.perf_counter() - started)
      return 1

    section(save=True)
    blocked.clear()
    started = time.perf_counter()
    for _ in range(SAVES):
      section(save=True)
    wall = time.perf_counter() - started
    share, blocked_per_save = sum(blocked) / wall, statistics.median(blocked)
    saver.wait()

    started = time.perf_counter()
    for _ in range(3):
      section(save=False)
    step_seconds = (time.perf_counter() - started) / (3 * interval)

    def three_saved() -> int:
      done = sum(section(save=True) for _ in range(3))
      saver.wait()
      return done

    whole = median_ratio(in_turns(three_saved, lambda: sum(section(save=False) for _ in range(3))))
  recorder.close()

  newest = folder / "checkpoints" / str(saved_steps(folder / "checkpoints")[-1])
  restoring = []
  for _ in range(5):
    started = time.perf_counter()
    jax.block_until_ready(restore(newest, program.state_template))
    restoring.append(time.perf_counter() - started)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
  return {
    f"blocked per save of {size:.1f} MB, ms": f"{1e3 * blocked_per_save:.1f}",
    "blocked per save, in step times": f"{blocked_per_save / step_seconds:.2f}",
    f"blocked share of the wall time, a save every {interval} steps": f"{share:.2%}",
    "rate with checkpoints / without, the save behind the training included": f"{whole:.3f}",
    "restore with checksums, s": f"{statistics.median(restoring):.2f}",
  }


def evaluating(measured: Setup) -> dict[str, str]:
  """Return the examples/s of evaluation over those of training, in turns."""
  program, config = measured.program, measured.config
  state: Any = program.init(measured.settings)
  weights = evaluated_weights(config, jax.tree.map(lambda leaf: leaf.copy(), state))

  def train() -> int:
    nonlocal state
    for _, batch in zip(range(40), (batch for _, batch in measured.source()), strict=False):
      state, _ = program.train_step(state, measured.settings, batch)
    jax.block_until_ready(state)
    return 40 * config.batch_size

  def evaluate_once() -> int:
    values = evaluate(program, weights, measured.settings, measured.dataset, "train_subset", config)
    return values["train_subset/examples"]

  config = measured.config.override({"evaluation.train_examples": 1297}).resolved()
  ratio = median_ratio(in_turns(evaluate_once, train))
  return {"evaluation examples/s over training examples/s": f"{ratio:.2f}"}


if __name__ == "__main__":
  main()

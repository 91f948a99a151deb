"""The eight AlgoPerf workloads at their published sizes, compiled by shapes alone: parameters, memory, time to compile.

  python -m benchmarks.algoperf [NAME ...]

Nothing of that size is allocated: the data are a handful of examples, and a program is compiled for shapes.
"""

import importlib
import math
import sys
import time

import jax

from trialbook.input_pipeline import load
from trialbook.trainer import Config, Programs, sharding
from trialbook.trainer.checkpoints.array_names import flatten

WORKLOADS = (
  "criteo1tb",
  "fastmri",
  "imagenet_resnet",
  "imagenet_vit",
  "librispeech_conformer",
  "librispeech_deepspeech",
  "ogbg",
  "wmt",
)


def published(name: str) -> Config:
  """Return the config of a workload at its published size."""
  module = importlib.import_module(f"trialbook.experiments.algoperf.{name}")
  return Config(compilation_cache=None).override(module.published()).resolved()


def main(names: list[str]) -> None:
  """Print a row of a table for each workload."""
  jax.config.update("jax_enable_compilation_cache", False)
  print("| workload | batch | parameters | state, GB | temporaries of a step, GB | traced, s | compiled, s |")
  print("|---|---|---|---|---|---|---|")
  for name in names or WORKLOADS:
    config = published(name)
    dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    program = Programs().get(config, config.task.build(config.dataset), dataset.info, mesh)
    traced, started = program.seconds, time.perf_counter()
    program.compile()
    compiled = time.perf_counter() - started
    state = flatten(program.state_template)
    parameters = sum(math.prod(x.shape) for path, x in state.items() if path.startswith("params/"))
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in state.values()) / 1e9
    memory = program.train_step.memory_analysis()
    temporaries = memory.temp_size_in_bytes / 1e9 if memory else math.nan
    row = [name, f"{config.batch_size:,}", f"{parameters:,}", f"{size:.2f}", f"{temporaries:.1f}"]
    print("|", " | ".join([*row, f"{traced:.0f}", f"{compiled:.0f}"]), "|", flush=True)


if __name__ == "__main__":
  main(sys.argv[1:])

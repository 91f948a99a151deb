"""Evaluates a checkpoint of a run.

  python -m trainer.evaluate WORKDIR [--step=best|last|NUMBER] [--split=validation|test|train_subset]

Prints one JSON object: the step, and the metrics of the split. Exit codes as for `python -m trainer`.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import jax
from absl import logging

from input_pipeline import load
from trainer import exits, sharding, workdirs
from trainer.checkpoints import find_step
from trainer.compilation_cache import enable_compilation_cache
from trainer.evaluation import TRAIN_SUBSET, evaluate, evaluated_weights
from trainer.overrides import UserError
from trainer.program import Programs, program_settings
from trainer.records import jsonable
from trainer.trained import restore_weights
from trainer.workdirs import stored_config
from trialbook.paths import as_path


def evaluate_checkpoint(workdir: pathlib.Path, step: str | int, split: str) -> dict[str, Any]:
  """The metrics of one split at one checkpoint, computed as the run itself does. Raises UserError, DataError."""
  config = stored_config(workdir)
  number = find_step(workdir, step)
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size)
  for problem in workdirs.data_differences(workdir, config, dataset):
    logging.warning("the data are not those that the run was trained on: %s", problem)
  enable_compilation_cache(config.compilation_cache)
  # Here may be other devices than those of the run; how the parameters lie does not change what they are.
  fits = jax.device_count() % config.mesh.fsdp == 0
  mesh = sharding.make_mesh(config.mesh if fits else sharding.MeshSettings())
  sharding.check_divisible(config, mesh, training=False)
  program = Programs().get(config, config.task.build(config.dataset), dataset.info, mesh, training=False)
  program.compile()
  weights = restore_weights(workdir, number, evaluated_weights(config, program.state_template))
  settings = sharding.put_replicated(mesh, program_settings(config))
  return {"step": number, **evaluate(program, weights, settings, dataset, split, config)}


def main() -> int:
  """Runs the command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m trainer.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("workdir", type=as_path)
  parser.add_argument("--step", default="best")
  parser.add_argument("--split", default="validation", choices=["validation", "test", TRAIN_SUBSET])
  arguments = parser.parse_args()
  try:
    values = evaluate_checkpoint(arguments.workdir, arguments.step, arguments.split)
  except (UserError, ValueError) as error:
    sys.stderr.write(f"trainer.evaluate: {error}\n")
    return exits.USER_MISTAKE
  sys.stdout.write(json.dumps(jsonable(values), allow_nan=False) + "\n")
  return exits.DONE


if __name__ == "__main__":
  sys.exit(main())

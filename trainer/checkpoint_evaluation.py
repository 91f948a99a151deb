"""Evaluation of a checkpoint of a run.

  trialbook evaluate WORKDIR [--step=best|last|NUMBER] [--split=SPLIT]

Prints one JSON object: the step, and the metrics of the split. Exit codes as for `trialbook train`.
"""

import pathlib
from typing import Any

import jax
from absl import logging

from trialbook.errors import UserError
from trialbook.input_pipeline import load
from trialbook.trainer import checks, sharding
from trialbook.trainer.checkpoints.storage import find_step
from trialbook.trainer.compilation_cache import enable_compilation_cache
from trialbook.trainer.config import MeshSettings
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.evaluation_schedule import TRAIN_SUBSET
from trialbook.trainer.loading import restore_weights
from trialbook.trainer.program import Programs
from trialbook.trainer.train_step import program_settings
from trialbook.trainer.workdir import existing_run
from trialbook.trainer.workdir.existing_run import stored_config


def evaluate_checkpoint(workdir: pathlib.Path, step: str | int, split: str) -> dict[str, Any]:
  """Return the metrics of one split at one checkpoint, computed as the run does. Raises UserError, DataError."""
  config = stored_config(workdir)
  number = find_step(workdir, step)
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size, fold_validation=config.fold_validation)
  for problem in existing_run.data_differences(workdir, config, dataset):
    logging.warning("the data differ from those that the run was trained on: %s", problem)
  enable_compilation_cache(config.compilation_cache)
  # Here may be other devices than those of the run; how the parameters lie does not change what they are.
  fits = jax.device_count() % (config.mesh.fsdp * config.mesh.tensor) == 0
  mesh = sharding.make_mesh(config.mesh if fits else MeshSettings())
  checks.check_divisible(config, mesh, training=False)
  if split != TRAIN_SUBSET and split not in dataset.info.examples:
    raise UserError(f"there is no split {split!r}; dataset {dataset.info.name} has {', '.join(dataset.info.examples)}")
  program = Programs().get(config, config.task.build(config.dataset), dataset.info, mesh, training=False)
  dataset.keep(program.task.dataset_paths)
  program.compile()
  weights = restore_weights(workdir, number, evaluated_weights(config, program.state_template))
  settings = sharding.put_replicated(mesh, program_settings(config))
  return {"step": number, **evaluate(program, weights, settings, dataset, split, config)}

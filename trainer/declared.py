"""A config's data and task without the data: by what the dataset declares, or by the record of a run made elsewhere."""

import dataclasses
import pathlib

from trialbook import models
from trialbook.errors import ConfigError, DataError, UserError
from trialbook.input_pipeline import Info, load
from trialbook.trainer import config as configs
from trialbook.trainer import optimization_plugins
from trialbook.trainer.bound_task import BoundTask, bind
from trialbook.trainer.config import Config
from trialbook.trainer.loading import recorded_info


def declared(config: Config, info_from: pathlib.Path | None = None) -> tuple[Info, BoundTask]:
  """Return the facts of a config's dataset, and its task for them.

  A dataset that declares nothing is read.

  Args:
    config: of the run.
    info_from: workdir of a run whose `run.json` has the facts; None: the dataset has them.

  Raises:
    ConfigError: with all problems of config, model, task and data.
  """
  problems = [
    *configs.problems(config),
    *models.problems(config.model),
    *optimization_plugins.problems(config.optimizer, config.schedule),
  ]
  task = info = None
  try:
    task = config.task.build(config.dataset)
  except ValueError as error:
    problems += str(error).splitlines()
  try:
    info = _info(config) if info_from is None else recorded_info(info_from)
  except UserError as error:
    problems += error.problems
  if not problems and task is not None and info is not None:
    try:
      return info, bind(task, info, config.task.name)
    except UserError as error:
      problems += error.problems
  raise ConfigError(problems)


def _info(config: Config) -> Info:
  declares = getattr(config.dataset, "declared", None)
  if declares is not None:
    info, augmentation = declares(), config.dataset.augmentation
    mixes = augmentation is not None and augmentation.mixes
    return dataclasses.replace(info, mixes_labels=mixes and "labels" in info.spec)
  try:
    with load(config.dataset, seed=config.seed, batch_size=config.batch_size) as dataset:
      return dataset.info
  except DataError as error:
    hint = (
      "if the data are elsewhere, --info_from=DIR takes their shapes from the run.json of a run that was made there;"
      " or name a dataset of zeros in the same shapes (docs/pods.md)"
    )
    *others, last = str(error).splitlines()
    raise ConfigError([*others, f"{last}; {hint}"]) from None

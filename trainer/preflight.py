"""Checks of all that can be wrong, before a device is used or a file is written. Problems are reported together."""

import dataclasses
import pathlib

import numpy as np
from jax.sharding import Mesh

from trialbook import models
from trialbook.errors import ConfigError, DataError, OtherDataError, UserError
from trialbook.input_pipeline import Dataset, Info, load
from trialbook.input_pipeline.source import Batch
from trialbook.models import PluginConfig, TransformerConfig
from trialbook.trainer import config as configs
from trialbook.trainer import custom_metrics, export, metric_writers
from trialbook.trainer.checkpoints import warm_start
from trialbook.trainer.config import Config
from trialbook.trainer.hosts.joining import Hosts
from trialbook.trainer.tasks import Task, training_batch
from trialbook.trainer.workdir import existing_run, forking

ALONE = Hosts()
SAMPLE, SAMPLE_BYTES = 10_000, 2**26
"""Maximum number and size of the examples from which the range of the inputs is computed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
  """The checked parts of a run.

  Attributes:
    config: with every derived number explicit.
    task: the config's.
    dataset: the config's, in memory.
    input_range: the smallest and the largest number among the inputs of the first training batch and, of a training set
      in memory, of `SAMPLE` examples at most; None: not finite.
  """

  config: Config
  task: Task
  dataset: Dataset
  input_range: tuple[float, float] | None


def prepare(
  config: Config,
  workdir: pathlib.Path,
  fork: pathlib.Path | None = None,
  here: Hosts = ALONE,
  data_of: pathlib.Path | None = None,
) -> Prepared:
  """Check a config together with its model, task, data and workdirs, and load what is needed for that.

  Args:
    config: of the run.
    workdir: of the run.
    fork: workdir of the run that it is forked from.
    here: the hosts of the job.
    data_of: workdir of a run whose data this one's must be.

  Raises:
    ConfigError: with all the problems that were found; OtherDataError if the data are one of them.
  """
  found = _examine(config, workdir, fork, here, data_of)
  if isinstance(found, ConfigError):
    raise found
  return found


def problems(config: Config, workdir: pathlib.Path, fork: pathlib.Path | None = None, here: Hosts = ALONE) -> list[str]:
  """Return what `prepare` would refuse."""
  found = _examine(config, workdir, fork, here, None)
  if isinstance(found, ConfigError):
    return found.problems
  found.dataset.close()
  return []


def check_divisible(config: Config, mesh: Mesh, *, training: bool = True) -> None:
  """Raise ConfigError if batches, of training and evaluation or of evaluation only, do not divide by the devices."""
  parts = config.gradient_accumulation
  among = f"{mesh.size} devices"
  sizes = [("evaluation.batch_size", config.evaluation.batch_size, mesh.size, among)]
  if training:
    among += f" and {parts} parts (gradient_accumulation)" if parts > 1 else ""
    sizes.insert(0, ("batch_size", config.batch_size, mesh.size * parts, among))
  problems = []
  for path, size, unit, among in sizes:
    if size % unit:
      below = size - size % unit
      nearest = f"{below} and {below + unit} can" if below else f"the smallest that can is {unit}"
      problems.append(f"{path} = {size} cannot be split over {among}; {nearest}")
  if problems:
    raise ConfigError(problems)


def warnings(config: Config, dataset: Dataset) -> list[str]:
  """Return warnings about what is allowed and probably not meant."""
  found, info = [*configs.warnings(config), *dataset.warnings], dataset.info
  fingerprints = existing_run.fingerprints(config, dataset)
  found += [
    f"dataset {info.name}, {split}: an example differs each time it is read, so a resume is not exact and does not"
    " notice changed data. Derive random numbers from the example's index, or use dataset.augmentation."
    for split in info.examples
    if split not in fingerprints and (split != "test" or config.evaluation.test)
  ]
  # A model of the user's may read rows of symbols.
  symbols = isinstance(config.model, TransformerConfig) or (
    isinstance(config.model, PluginConfig) and len(info.input_shape) == 1
  )
  if info.input_dtype == "int32" and info.normalization is None and not symbols:
    found.append(
      f"dataset {info.name}: inputs are integers and reach the model unscaled. Give floats, or"
      " trialbook.input_pipeline.Data(normalization=(means, deviations)). Only uint8 is normalized by default."
    )
  return found


def _examine(
  config: Config, workdir: pathlib.Path, fork: pathlib.Path | None, here: Hosts, data_of: pathlib.Path | None
) -> Prepared | ConfigError:
  problems = [
    *configs.problems(config),
    *models.problems(config.model),
    *existing_run.problems(workdir, config.resolved()),
  ]
  if fork is not None:
    problems += forking.problems(fork, workdir, config.max_train_steps)
  if config.warm_start is not None and not (workdir / "config.json").exists():
    try:
      warm_start.find(config.warm_start)
    except ConfigError as error:
      problems += error.problems
  problems += export.problems(config)
  for load_named in (custom_metrics.load, metric_writers.load):
    problems += load_named(config)[1]
  task = dataset = None
  try:
    task = config.task.build(config.dataset)
  except ValueError as error:
    problems.append(str(error))
  try:
    dataset = load(
      config.dataset,
      seed=config.seed,
      batch_size=config.batch_size,
      host_index=here.index,
      host_count=here.count,
    )
  except DataError as error:
    problems += str(error).splitlines()
  batch, other_data = None, []
  if dataset is not None:
    available = dataset.info.examples["train"]
    if config.batch_size > available:
      problems.append(
        f"batch_size = {config.batch_size} is larger than the training set of {dataset.info.name}: {available} examples"
      )
    if config.evaluation.test and "test" not in dataset.info.examples:
      problems.append(f"evaluation.test = True, but dataset {dataset.info.name!r} has no test split; set it to false")
    try:
      # Read here in any case: a broken example is a problem like the others.
      existing_run.fingerprints(config, dataset)
      if data_of is not None:
        other_data = existing_run.data_differences(data_of, config, dataset)
        problems += other_data
      existing_run.check_data(workdir, config, dataset)
    except OtherDataError as error:
      other_data = error.differences
      problems += error.problems
    except (DataError, UserError) as error:
      problems += str(error).splitlines()
    if task is not None:
      try:
        task.num_outputs(dataset.info)
        batch = dataset.train_batch(0)
        problems += _batch_problems(task, dataset.info, batch)
      except ValueError as error:
        problems.append(str(error))
      except UserError as error:
        problems += error.problems
  if problems or task is None or dataset is None or batch is None:
    if dataset is not None:
      dataset.close()
    problems = list(dict.fromkeys(problems))
    return OtherDataError(problems, other_data) if other_data else ConfigError(problems)
  inputs = [batch["inputs"]]
  if dataset.in_memory:
    count = max(1, min(SAMPLE, SAMPLE_BYTES // inputs[0][0].nbytes))
    inputs.append(dataset.fixed_examples("train", count)[1]["inputs"])
  ends = float(min(one.min() for one in inputs)), float(max(one.max() for one in inputs))
  input_range = ends if np.isfinite(ends).all() else None
  return Prepared(config=config.resolved(), task=task, dataset=dataset, input_range=input_range)


def _batch_problems(task: Task, info: Info, batch: Batch) -> list[str]:
  """Return where a training batch of the dataset is not what the task will be compiled for."""
  examples = len(next(iter(batch.values())))
  evaluated = {key: value for key, value in batch.items() if key not in ("mixed_labels", "mixing")}
  found = []
  for wanted, given in (
    (training_batch(task, info, examples), batch),
    (task.initial_batch(info, examples), evaluated),
  ):
    for key, spec in wanted.items():
      if key not in given:
        found.append(f"the task needs {key!r}; dataset {info.name!r} gives {', '.join(given)}")
      elif (given[key].shape, given[key].dtype) != (spec.shape, spec.dtype):
        got = f"{given[key].dtype}{list(given[key].shape)}"
        found.append(f"{key!r}: the task needs {spec.dtype}{list(spec.shape)}, dataset gives {got}")
    if missing := [key for key in given if key not in wanted]:
      member = "initial_batch" if any(key in evaluated for key in missing) else "training_batch"
      found.append(
        f"dataset {info.name!r} gives {', '.join(map(repr, missing))}, but the task's {member} does not name"
        " it. Name each key of a batch, even if the task does not use it"
      )
  return list(dict.fromkeys(found))

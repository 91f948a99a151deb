"""Checks of all that can be wrong, before a device is used or a file is written. Problems are reported together."""

import dataclasses
import pathlib

import numpy as np
from jax.sharding import Mesh

from trialbook import models
from trialbook.errors import ConfigError, DataError, OtherDataError, UserError
from trialbook.input_pipeline import Dataset, Slices, load
from trialbook.input_pipeline.source import Batch
from trialbook.models import PluginConfig, TransformerConfig
from trialbook.trainer import config as configs
from trialbook.trainer import custom_metrics, export, metric_writers, optimization_plugins, sharding
from trialbook.trainer.bound_task import BoundTask, bind
from trialbook.trainer.checkpoints import warm_start
from trialbook.trainer.config import Config
from trialbook.trainer.hosts.joining import Hosts
from trialbook.trainer.workdir import existing_run, forking

ALONE = Hosts()
SAMPLE, SAMPLE_BYTES = 10_000, 2**26
"""Maximum number and size of the examples from which the range of the inputs is computed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
  """The checked parts of a run.

  Attributes:
    config: with every derived number explicit.
    task: the config's, for the dataset.
    dataset: the config's; its batches have what the task needs.
    input_range: the smallest and the largest number among the inputs of the first training batch and, of a training set
      in memory, of `SAMPLE` examples at most; None: not finite, or inputs are not one array.
  """

  config: Config
  task: BoundTask
  dataset: Dataset
  input_range: tuple[float, float] | None


def prepare(
  config: Config,
  workdir: pathlib.Path,
  fork: pathlib.Path | None = None,
  here: Hosts = ALONE,
  data_of: pathlib.Path | None = None,
  slices: Slices | None = None,
) -> Prepared:
  """Check a config together with its model, task, data and workdirs, and load what is needed for that.

  Args:
    config: of the run.
    workdir: of the run.
    fork: workdir of the run that it is forked from.
    here: the hosts of the job.
    data_of: workdir of a run whose data this one's must be.
    slices: of each batch that this host reads; None: as `load` has it.

  Raises:
    ConfigError: with all the problems that were found; OtherDataError if the data are one of them.
  """
  found = _examine(config, workdir, fork, here, data_of, slices)
  if isinstance(found, ConfigError):
    raise found
  return found


def problems(config: Config, workdir: pathlib.Path, fork: pathlib.Path | None = None, here: Hosts = ALONE) -> list[str]:
  """Return what `prepare` would refuse."""
  found = _examine(config, workdir, fork, here, None, None)
  if isinstance(found, ConfigError):
    return found.problems
  found.dataset.close()
  return []


def check_divisible(config: Config, mesh: Mesh, *, training: bool = True) -> None:
  """Raise ConfigError if batches, of training and evaluation or of evaluation only, do not divide by the devices."""
  parts, replicas = config.gradient_accumulation, sharding.replicas(mesh)
  among = f"{mesh.size} devices"
  among = among if replicas == mesh.size else f"{replicas} groups of {mesh.size // replicas} devices (mesh.tensor)"
  sizes = [("evaluation.batch_size", config.evaluation.batch_size, replicas, among)]
  if training:
    among += f" and {parts} parts (gradient_accumulation)" if parts > 1 else ""
    sizes.insert(0, ("batch_size", config.batch_size, replicas * parts, among))
  problems = []
  for path, size, unit, among in sizes:
    if size % unit:
      below = size - size % unit
      nearest = f"{below} and {below + unit} can" if below else f"the smallest that can is {unit}"
      problems.append(f"{path} = {size} cannot be split over {among}; {nearest}")
  if problems:
    raise ConfigError(problems)


def check_by_files(config: Config, mesh: Mesh) -> None:
  """Raise ConfigError if hosts would read other examples for the same slice of a batch."""
  if getattr(config.dataset, "sharding", "global") == "files" and sharding.hosts_share_slices(mesh):
    raise ConfigError(
      f"dataset.sharding = files gives each host its own examples, but mesh.tensor = {config.mesh.tensor} connects"
      " devices of several hosts, which need the same ones; set dataset.sharding to global"
    )


def warnings(config: Config, dataset: Dataset, task: BoundTask) -> list[str]:
  """Return warnings about what is allowed and probably not meant."""
  found, info = [*configs.warnings(config), *dataset.warnings], dataset.info
  fingerprints = existing_run.fingerprints(config, dataset)
  found += [
    f"dataset {info.name}, {split}: an example differs each time it is read, so a resume is not exact and does not"
    " notice changed data. Derive random numbers from the example's index, or use dataset.augmentation."
    for split in info.examples
    if split not in fingerprints and (config.evaluation.test or split not in info.splits("test"))
  ]
  if task.unused:
    reasons = {path: why for path, why in info.left_out.items() if path in task.unused}
    told = [f"{path!r} ({reasons[path]})" if path in reasons else repr(path) for path in task.unused]
    found.append(f"dataset {info.name}: the {task.name} task does not use {', '.join(told)}: left out of the batches")
  # A model of the user's may read rows of symbols.
  symbols = isinstance(config.model, TransformerConfig) or (
    isinstance(config.model, PluginConfig) and len(info.input_shape or ()) == 1
  )
  if info.input_dtype in ("int32", "uint32") and info.normalization is None and not symbols:
    found.append(
      f"dataset {info.name}: inputs are integers and reach the model unscaled. Give floats, or"
      " trialbook.input_pipeline.Data(normalization=(means, deviations)). Only uint8 is normalized by default."
    )
  return found


def _examine(
  config: Config,
  workdir: pathlib.Path,
  fork: pathlib.Path | None,
  here: Hosts,
  data_of: pathlib.Path | None,
  slices: Slices | None,
) -> Prepared | ConfigError:
  problems = [
    *configs.problems(config),
    *models.problems(config.model),
    *optimization_plugins.problems(config.optimizer, config.schedule),
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
  task = dataset = bound = None
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
      slices=slices,
      fold_validation=config.fold_validation,
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
    if config.evaluation.test and not dataset.info.splits("test"):
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
        bound = bind(task, dataset.info, config.task.name)
        dataset.keep(bound.dataset_paths)
        batch = dataset.train_batch(0)
      except UserError as error:
        problems += error.problems
      except ValueError as error:
        problems += str(error).splitlines()
  if problems or bound is None or dataset is None or batch is None:
    if dataset is not None:
      dataset.close()
    problems = list(dict.fromkeys(problems))
    return OtherDataError(problems, other_data) if other_data else ConfigError(problems)
  return Prepared(config=config.resolved(), task=bound, dataset=dataset, input_range=_input_range(dataset, batch))


def _input_range(dataset: Dataset, batch: Batch) -> tuple[float, float] | None:
  if "inputs" not in batch:
    return None
  inputs = [batch["inputs"]]
  if dataset.in_memory:
    count = max(1, min(SAMPLE, SAMPLE_BYTES // inputs[0][0].nbytes))
    inputs.append(dataset.fixed_examples("train", count)[1]["inputs"])
  ends = float(min(one.min() for one in inputs)), float(max(one.max() for one in inputs))
  return ends if np.isfinite(ends).all() else None

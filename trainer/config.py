"""The configuration of one run: a typed tree in which every field says whether it is static, traced or host."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from trialbook import metric_names
from trialbook.input_pipeline import DatasetConfig, Digits
from trialbook.models import ModelConfig, ResNetConfig, transformer_block
from trialbook.models.public_names import Naming
from trialbook.models.transformer_block import BlockConfig
from trialbook.paths import PathError, as_path
from trialbook.settings import Complement, FilePath, Host, Settings, Static, Traced, leaves
from trialbook.trainer import overrides, schedules
from trialbook.trainer.optimizers import Nesterov, OptimizerConfig, evaluates_others
from trialbook.trainer.schedules import Cosine, ScheduleConfig
from trialbook.trainer.tasks import Classification, TaskConfig


class Averaging(Settings):
  """Polyak averaging: an exponential moving average of parameters and statistics, one update a step, in float32.

  Attributes:
    decay: the weight of each update before is `decay` times that of the one after; the initial parameters have
      no weight (the average is corrected for its start, as Adam's moments are).
    evaluate: which of the two evaluations see.
  """

  decay: Complement[float] = Field(default=0.99, ge=0, lt=1)
  evaluate: Host[Literal["average", "current"]] = "average"


class Precision(Settings):
  """Dtypes of parameters and computations. Losses, statistics of normalization, and norms are float32 always.

  So is whatever accumulates: the optimizer's state, averages, sums of gradients and metrics.

  Attributes:
    compute_dtype: activations, and the copies of the parameters that meet them.
    param_dtype: the parameters that are kept, updated and saved. bfloat16 rounds them at every update, and so loses
      small updates; float32 beside a `compute_dtype` of bfloat16 is usual.
    matmul_precision: how float32 operands are multiplied; TPUs would otherwise use bfloat16 ("default").
  """

  compute_dtype: Static[Literal["float32", "bfloat16"]] = "float32"
  param_dtype: Static[Literal["float32", "bfloat16"]] = "float32"
  matmul_precision: Static[Literal["float32", "tensorfloat32", "bfloat16", "default"]] = "float32"


class MeshSettings(Settings):
  """Division of the devices among the axes of the mesh; those that no other axis takes go to `data`.

  Attributes:
    fsdp: devices over which parameters and optimizer state are split; 1: every device has all of them. A batch is split
      over `data` and `fsdp`.
    tensor: devices that share the work on each example, by the model's `sharding_rules`: of a transformer its heads,
      features of hidden layers, and vocabulary. It divides these.
  """

  fsdp: Static[int] = Field(default=1, ge=1)
  tensor: Static[int] = Field(default=1, ge=1)


class ParameterGroup(Settings):
  """Settings of the parameters whose names match a pattern; of several matching groups, the first counts.

  Attributes:
    parameters: pattern over names such as `blocks/0/conv/kernel`: `*` is any text, slashes included.
    frozen: whether they keep their initial values, exactly: no gradient, no decay. (Batch statistics are not
      parameters: they move, unless `frozen_statistics` says otherwise.)
    learning_rate_multiplier: of the learning rate, and so of the decoupled weight decay: the update is multiplied after
      the optimizer's rule. The logged `learning_rate` is that of the other parameters.
    depth_decay: the multiplier of each layer, in units of that of the layer after it; the last has the group's. The
      layers are those of a stack, or the first number in a name, such as `blocks/3/conv/kernel`. None: all have the
      same.
  """

  parameters: Static[str] = Field(min_length=1)
  frozen: Static[bool] = False
  learning_rate_multiplier: Traced[float] = Field(default=1.0, ge=0)
  depth_decay: Traced[float | None] = Field(default=None, gt=0)


class WarmStart(Settings):
  """The source of the initial values of some parameters and other variables (batch statistics).

  Where the checkpoint of a run holds averaged parameters, those are taken. The optimizer starts afresh, at step 0.

  Attributes:
    source: workdir of another run, or a checkpoint's folder; or weights of others: a file (safetensors, npz, msgpack of
      flax, a state dict of torch), the `.index.json` of several, or a folder of Orbax.
    step: "best", "last" or a number; for a workdir.
    include: patterns over names such as `blocks/0/conv/kernel`; what fits one is taken.
    exclude: what fits one of these is not, such as `output/*` for another number of classes.
    naming: whose names the arrays have, for weights of others: those of the model, or of a library that has the same
      model.
    names: regular expressions and their replacements, applied one after the other to each name in the file, after those
      of `naming`; see `trialbook.trainer.checkpoints.renaming`.
    axes: the order of axes of kernels; "torch" has outputs first. None: as `naming` has it, or else "flax".
    transposes: by pattern over names of the model, the order of an array's axes, in place of what `axes` says.
    reshape: patterns of arrays whose numbers may be in another shape in the file.
    optional: patterns of arrays that may be missing in the file, and are drawn then.
    cast: whether floats of another dtype are converted.
  """

  source: Static[FilePath[str]]
  step: Static[str] = "best"
  include: Static[tuple[str, ...]] = Field(default=("*",), min_length=1)
  exclude: Static[tuple[str, ...]] = ()
  naming: Static[Naming] = "own"
  names: Static[tuple[tuple[str, str], ...]] = ()
  axes: Static[Literal["flax", "torch"] | None] = None
  transposes: Static[dict[str, tuple[NonNegativeInt, ...]]] = Field(default_factory=dict)
  reshape: Static[tuple[str, ...]] = ()
  optional: Static[tuple[str, ...]] = ()
  cast: Static[bool] = False


class Evaluation(Settings):
  """Periodic evaluation at regular step intervals (PB-66), and before the first and after the last step.

  Attributes:
    every_steps: the interval in steps.
    batch_size: examples in an evaluation batch over all devices; the last one is padded with zero weights.
    train_examples: size of the fixed subset of the training set that is evaluated as `train_subset`; 0: none.
    test: whether the selected checkpoint is evaluated on the test split too, once, at the end (PB-43).
    validation_examples: periodic evaluations see a fixed part of the validation set of this size, with each class's
      share of it (PB-68); None: all of it. The selected checkpoint is evaluated on all at the end.
    predictions: of how many fixed validation examples each evaluation saves the outputs (PB-67); 0: none.
    metrics: functions "module:function" of a whole split, called with its outputs [N, ...] and a mapping of what
      else its batches have, such as labels [N]; each returns a number, which is named as the function.
  """

  every_steps: Host[int] = Field(default=200, ge=1)
  batch_size: Static[int] = Field(default=512, ge=1)
  train_examples: Host[int] = Field(default=512, ge=0)
  test: Host[bool] = False
  validation_examples: Host[int | None] = Field(default=None, ge=1)
  predictions: Static[int] = Field(default=16, ge=0)
  metrics: Static[tuple[str, ...]] = ()


class Selection(Settings):
  """The metric and direction that decide which checkpoint is the best (PB-20).

  Attributes:
    metric: None is the task's own, `validation/error` for classification, else `validation/loss`.
    mode: whether the smallest or the largest value is the best one; None: the direction that the metric's name implies
      (`trialbook.metric_names`). Required if the name implies none.
  """

  metric: Host[str | None] = None
  mode: Host[metric_names.Mode | None] = None


class Checkpointing(Settings):
  """When checkpoints are saved, and how many are kept (PB-69).

  Attributes:
    every_evaluations: evaluations from one checkpoint to the next; the last evaluation has one too. 0: no checkpoints.
    every_steps: steps from one checkpoint to the next, beside those of evaluations; None: no others.
    every_seconds: after which the state is saved too, so that a machine that vanishes takes little training with it;
      None: never. If steps become slower, it is later, by half of the rest of the time at the old rate. Of the states
      that are saved between evaluations only the newest stays.
    keep_latest: how many of the latest stay; with 2, the loss of one that was damaged does no harm.
    keep_best: how many of the best by `selection.metric` stay.
  """

  every_evaluations: Host[int] = Field(default=1, ge=0)
  every_steps: Host[int | None] = Field(default=None, ge=1)
  every_seconds: Host[float | None] = Field(default=900.0, gt=0)
  keep_latest: Host[int] = Field(default=2, ge=1)
  keep_best: Host[int] = Field(default=1, ge=1)


class Logging(Settings):
  """Every step has a line in `metrics.jsonl`; they are written in blocks.

  Attributes:
    every_steps: steps in a block; TensorBoard gets the mean over each block.
    tensorboard: whether event files are written.
    writers: entry points (group `trialbook.writers`) of packages that get the same numbers; see
      `trialbook.trainer.metric_writers.Writer`.
  """

  every_steps: Host[int] = Field(default=100, ge=1)
  tensorboard: Host[bool] = True
  writers: Host[tuple[str, ...]] = ()


class Job(Settings):
  """The hosts of a job, and its time limits: beyond one, the job exits with 75, to be tried again.

  Attributes:
    hosts: how many there must be; None: as many as there are.
    startup_seconds: for all hosts to come; for compilation there is no limit.
    heartbeat_seconds: after which a machine that is silent counts as lost; the end of a process is seen at once.
    step_seconds: for one training step, its data included; None: 600 with other hosts, no limit without, since
      no other host waits and a debugger may.
    evaluation_seconds: for one batch of an evaluation; None as before.
    checkpoint_seconds: for one checkpoint to be committed; None: 1800 with other hosts, no limit without.
  """

  hosts: Host[int | None] = Field(default=None, ge=1)
  startup_seconds: Host[float] = Field(default=900.0, gt=0)
  heartbeat_seconds: Host[float] = Field(default=100.0, ge=1)
  step_seconds: Host[float | None] = Field(default=None, gt=0)
  evaluation_seconds: Host[float | None] = Field(default=None, gt=0)
  checkpoint_seconds: Host[float | None] = Field(default=None, gt=0)


class Config(Settings):
  """One run.

  Attributes:
    max_train_steps: number of updates, fixed in advance (PB-61).
    batch_size: examples in a training batch over all devices.
    seed: of everything random in the run: initialization, order of the data, augmentation, dropout.
    gradient_accumulation: number of parts in which a batch is taken, one after the other (PB-08). The gradient is the
      same, with less memory and no throughput gained. Batch norm normalizes each part, and dropout draws for each; so
      does a loss that compares examples, and a model that changes its variables in a call does so for each.
    clip_norm: the gradient is scaled down to this global L2 norm where it is larger; None: never.
    parameter_groups: parameters with a learning rate of their own, or frozen, by name.
    frozen_statistics: patterns over names of layers such as `stem/norm`: their batch statistics stay as they are, and
      they normalize by these in training too.
    warm_start: where initial parameters come from; None: all are drawn.
    fold_validation: whether validation examples are trained on too, for the last training of all (PB-43). What is then
      measured on them is no validation.
    export: whether the selected checkpoint is exported at the end (PB-67), see `trialbook.trainer.export`.
    compilation_cache: folder of the persistent compilation cache; None: not turned on. A process keeps the one
      that it had first, and jax's own setting (`JAX_COMPILATION_CACHE_DIR`) goes before all.
  """

  dataset: DatasetConfig = Digits()
  task: TaskConfig = Classification()
  model: ModelConfig = ResNetConfig()
  optimizer: OptimizerConfig = Nesterov()
  schedule: ScheduleConfig = Cosine()
  max_train_steps: Host[int] = Field(default=1000, ge=1, lt=2**31)
  batch_size: Static[int] = Field(default=128, ge=1)
  seed: Traced[int] = Field(default=0, ge=0, lt=2**32)
  gradient_accumulation: Static[int] = Field(default=1, ge=1)
  clip_norm: Traced[float | None] = Field(default=None, gt=0)
  averaging: Averaging | None = None
  parameter_groups: tuple[ParameterGroup, ...] = ()
  frozen_statistics: Static[tuple[str, ...]] = ()
  warm_start: WarmStart | None = None
  precision: Precision = Precision()
  mesh: MeshSettings = MeshSettings()
  evaluation: Evaluation = Evaluation()
  selection: Selection = Selection()
  checkpointing: Checkpointing = Checkpointing()
  logging: Logging = Logging()
  job: Job = Job()
  fold_validation: Static[bool] = False
  export: Host[bool] = True
  compilation_cache: Host[FilePath[str | None]] = "~/.cache/trialbook/compilation"

  def override(self, changes: Mapping[str, Any]) -> "Config":
    """Return a copy with `changes`, dotted path -> value; see `trialbook.trainer.overrides.override`.

    `selection.mode` belongs to `selection.metric`: another metric resets it.

    Raises:
      ConfigError: with all problems at once.
    """
    if changes.get("selection.metric", self.selection.metric) != self.selection.metric:
      changes = {"selection.mode": None, **changes}
    return overrides.override(self, changes, problems)

  def resolved(self) -> "Config":
    """Return a copy in which every number that follows from others is explicit (decay to the end of the run)."""
    metric = self.selection.metric or self.task.objective(self.dataset)
    mode = self.selection.mode or metric_names.better(metric)
    return self.model_copy(
      update={
        "schedule": schedules.resolve(self.schedule, self.max_train_steps),
        "selection": Selection(metric=metric, mode=mode),
      }
    )


def prepend_warmup(config: Config, steps: int) -> Config:
  """Lengthen a run by the playbook's warmup (PB-82): `steps` of linear warmup, then the unchanged schedule.

  Raises:
    ValueError: if the schedule has a warmup already.
  """
  schedule, max_train_steps = schedules.prepend_warmup(config.resolved().schedule, config.max_train_steps, steps)
  return config.model_copy(update={"schedule": schedule, "max_train_steps": max_train_steps})


def problems(config: Config) -> list[str]:
  """Return the contradictions between fields that are each valid. Touches no device and no file."""
  found = [*schedules.problems(config.schedule, config.max_train_steps)]
  for path, _, field, value in leaves(config):
    if "path" in field.metadata and value is not None:
      try:
        as_path(value)
      except PathError as error:
        found.append(f"{path} = {value!r}: {error}")
  if evaluates_others(config.optimizer):
    found += _problems_of_evaluated_params(config)
  if isinstance(config.model, BlockConfig):
    found += transformer_block.tensor_problems(config.model, config.mesh.tensor)
  if config.selection.metric is not None and "/" not in config.selection.metric:
    found.append(
      f"selection.metric = {config.selection.metric!r}: a metric is named split/name, for example validation/error"
    )
  if config.checkpointing.every_evaluations == 0 and config.checkpointing.every_steps is not None:
    found.append(
      f"checkpointing.every_steps = {config.checkpointing.every_steps}, but checkpointing.every_evaluations = 0 turns"
      " checkpoints off; set that to 1 or more"
    )
  return found


def _problems_of_evaluated_params(config: Config) -> list[str]:
  """Return what does not go together with an optimizer that has other parameters for evaluations."""
  found = [
    f"parameter_groups.{index}: multiplies updates after the optimizer's rule, from whose own state"
    f" optimizer.evaluated_params computes parameters; give rates by name in the optimizer (optax.multi_transform)"
    for index, group in enumerate(config.parameter_groups)
    if not group.frozen
  ]
  if config.averaging is not None and config.averaging.evaluate == "current":
    found.append(
      "averaging.evaluate = 'current': the average is of what optimizer.evaluated_params returns, and nothing else of"
      " that is kept; set averaging to None"
    )
  return found


def warnings(config: Config) -> list[str]:
  """Return warnings about settings that are allowed but probably not intended."""
  found = []
  if config.evaluation.batch_size < config.batch_size:
    found.append(
      f"evaluation.batch_size = {config.evaluation.batch_size} is smaller than batch_size = {config.batch_size}."
      " Evaluation keeps no gradients, so a larger batch fits and is faster."
    )
  selection = config.resolved().selection
  if wrong := metric_names.contradiction(str(selection.metric), selection.mode):
    found.append(f"selection.mode = {selection.mode!r}: {wrong}; leave selection.mode unset to follow the name")
  if config.precision.param_dtype == "bfloat16":
    found.append(
      "precision.param_dtype = bfloat16 rounds the parameters at every update: updates below about 0.2% of a parameter"
      " are lost. Use param_dtype=float32 with compute_dtype=bfloat16."
    )
  return found

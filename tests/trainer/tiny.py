"""The smallest configs that still exercise everything; tests share them, and so their compiled programs."""

import pathlib
import warnings
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from json_lines import read_json_lines

from trialbook.input_pipeline import Augmentation, Digits
from trialbook.models import MlpConfig, ResNetConfig
from trialbook.trainer import Averaging, Config, Evaluation
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.optimizers import Adam, Nesterov
from trialbook.trainer.schedules import Cosine
from trialbook.trainer.tasks import Classification


def mlp(**changes: Any) -> Config:
  """A small MLP on digits; a step takes well under a millisecond."""
  config = Config(
    dataset=Digits(),
    model=MlpConfig(widths=(32,)),
    optimizer=Nesterov(learning_rate=0.1),
    max_train_steps=20,
    batch_size=32,
    evaluation=Evaluation(every_steps=10, batch_size=256, train_examples=64),
    export=False,
    compilation_cache=None,
  )
  return config.override({path.replace("__", "."): value for path, value in changes.items()})


def resnet(**changes: Any) -> Config:
  """A ResNet of one block with every traced strength present."""
  config = Config(
    dataset=Digits(augmentation=Augmentation(crop_padding=1, flip_probability=0.1)),
    task=Classification(label_smoothing=0.1),
    model=ResNetConfig(stage_sizes=(1,), width=8, dropout_rate=0.1),
    optimizer=Adam(learning_rate=0.003, weight_decay=1e-4),
    schedule=Cosine(warmup_steps=2),
    clip_norm=1.0,
    averaging=Averaging(decay=0.9),
    max_train_steps=6,
    batch_size=16,
    evaluation=Evaluation(every_steps=3, batch_size=250, train_examples=50),
    export=False,
    compilation_cache=None,
  )
  return config.override({path.replace("__", "."): value for path, value in changes.items()})


CLOCK = {"examples_per_second", "data_wait_fraction"}
"""Fields of `metrics.jsonl` that tell the time."""


def numbers(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of `metrics.jsonl` without what tells the time."""
  lines = read_json_lines(workdir / "metrics.jsonl")
  return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def state_of(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of the newest checkpoint, read by Orbax alone."""
  newest = storage.saved_steps(workdir / "checkpoints")[-1]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return read_arrays(workdir / "checkpoints" / str(newest))


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a checkpoint, read by Orbax alone."""
  names = storage.describe(path)
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
    path.resolve(),
    args=ocp.args.PyTreeRestore(restore_args=dict.fromkeys(names, ocp.RestoreArgs(restore_type=np.ndarray))),
  )

"""AlgoPerf's ImageNet ResNet workload: a ResNet-50 that classifies images, scored by its error.

The data are coloured patterns in place of ImageNet. Sizes and definitions follow Dahl et al. (2023), "Benchmarking
Neural Network Training Algorithms", arXiv:2306.07179, and their repository github.com/mlcommons/algorithmic-efficiency.
The model is trialbook's `resnet`, which pads symmetrically where the published one pads as little as possible, on the
right and below first.
"""

from typing import Any

import numpy as np

from trialbook import Config, Data

GRID = 4
"""Number of tiles along a side of a pattern."""


def data(examples: int = 256, validation_examples: int = 100, size: int = 32, classes: int = 10) -> Data:
  """Return images uint8 [n, size, size, 3] with the pattern of their class and noise, and labels [n].

  `size` is a multiple of GRID. Training sees some classes only if there are fewer examples than classes.
  """
  rng = np.random.default_rng(0)
  patterns = rng.integers(0, 128, (classes, GRID, GRID, 3), dtype=np.uint8)

  def split(n: int) -> dict[str, np.ndarray]:
    labels = rng.permutation(n) % classes
    pattern = patterns[labels].repeat(size // GRID, axis=1).repeat(size // GRID, axis=2)
    noise = rng.integers(0, 128, pattern.shape, dtype=np.uint8)
    return {"inputs": pattern + noise, "labels": labels.astype(np.int32)}

  return Data(splits={"train": split(examples), "validation": split(validation_examples)}, num_classes=classes)


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {
    "dataset.name": "trialbook.experiments.algoperf.imagenet_resnet:data",
    "model.name": "resnet",
    "model.stem": "imagenet",
    "model.block": "bottleneck",
    "model.stage_sizes": [1, 1],
    "model.width": 8,
    "task.name": "classification",
    "task.label_smoothing": 0.1,
    "optimizer.name": "nesterov",
    "optimizer.learning_rate": 0.1,
    "optimizer.weight_decay": 1e-4,
    "schedule.name": "linear",
    "schedule.warmup_steps": 5,
    "max_train_steps": 60,
    "batch_size": 32,
    "evaluation.batch_size": 32,
  }


def published() -> dict[str, Any]:
  """Return overrides of the published size: 25,557,032 parameters, images of 224 × 224, 1000 classes.

  Batches have 1024 images, for 186,666 steps. The data are still patterns. Published training images are random crops
  of random sizes, flipped at random; here they are flipped only.
  """
  return {
    **config(),
    "dataset.kwargs.examples": 1024,
    "dataset.kwargs.size": 224,
    "dataset.kwargs.classes": 1000,
    "dataset.augmentation.flip_probability": 0.5,
    "model.stage_sizes": [3, 4, 6, 3],
    "model.width": 64,
    "optimizer.learning_rate": 1.0,
    "schedule.warmup_steps": 9_333,
    "max_train_steps": 186_666,
    "batch_size": 1024,
    "evaluation.batch_size": 1024,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())

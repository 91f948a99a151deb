"""What a dataset is once it is in memory: its arrays and the facts about them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
  """The facts of a dataset. They depend only on the static fields of its config.

  Attributes:
    name: the name in the config.
    input_shape: shape of one input, without the batch axis; images are (height, width, channels).
    input_dtype: "uint8" for images as stored, else "float32".
    num_classes: number of classes, or None for regression.
    num_targets: length of a target vector, or None for classification.
    examples: number of examples of each split.
    normalization: (mean, standard deviation) of the inputs, one number per channel, in units of the stored
      inputs, from the train split only; None where the inputs need none. The compiled step applies it. The
      deviation of a constant channel is given as 1.
    notice: what every output about this dataset must say, or an empty string.
  """

  name: str
  input_shape: tuple[int, ...]
  input_dtype: str
  num_classes: int | None
  num_targets: int | None
  examples: Mapping[str, int] = dataclasses.field(hash=False)
  normalization: tuple[tuple[float, ...], tuple[float, ...]] | None
  notice: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """Whole splits in memory: `arrays["train"]` is {"inputs": [n, ...], "labels": int32 [n]} for
  classification, or "targets": float32 [n, num_targets] in place of the labels for regression."""

  info: Info
  arrays: Mapping[str, Mapping[str, np.ndarray]]


def classification(
  name: str,
  inputs: Mapping[str, np.ndarray],
  labels: Mapping[str, np.ndarray],
  num_classes: int,
  notice: str = "",
) -> Source:
  """A source from the inputs [n, ...] and integer labels [n] of each split."""
  arrays = {split: {"inputs": inputs[split], "labels": labels[split].astype(np.int32)} for split in SPLITS}
  return Source(info=_info(name, inputs, notice, num_classes=num_classes), arrays=arrays)


def regression(
  name: str, inputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], notice: str = ""
) -> Source:
  """A source from the inputs [n, ...] and targets [n, num_targets] of each split."""
  arrays = {split: {"inputs": inputs[split], "targets": targets[split].astype(np.float32)} for split in SPLITS}
  return Source(info=_info(name, inputs, notice, num_targets=targets["train"].shape[1]), arrays=arrays)


def _info(
  name: str,
  inputs: Mapping[str, np.ndarray],
  notice: str,
  num_classes: int | None = None,
  num_targets: int | None = None,
) -> Info:
  train = inputs["train"]
  return Info(
    name=name,
    input_shape=train.shape[1:],
    input_dtype=str(train.dtype),
    num_classes=num_classes,
    num_targets=num_targets,
    examples={split: len(inputs[split]) for split in SPLITS},
    normalization=byte_statistics(train) if train.dtype == np.uint8 else None,
    notice=notice,
  )


def byte_statistics(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each channel (the last axis) of uint8 inputs.

  They come from a histogram, so they are exact to float64, the same on every machine, and cheap.
  """
  channels = inputs.shape[-1]
  histogram = np.zeros((channels, 256), np.int64)
  for start in range(0, len(inputs), 1000):
    chunk = inputs[start : start + 1000]
    for channel in range(channels):
      histogram[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
  values = np.arange(256.0)
  count = histogram.sum(axis=1)
  mean = histogram @ values / count
  variance = np.array([row @ (values - center) ** 2 for row, center in zip(histogram, mean, strict=True)]) / count
  deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
  return tuple(mean.tolist()), tuple(deviation.tolist())

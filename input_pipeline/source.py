"""A dataset once it can be read: its splits and the facts about them."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

SPLITS = ("train", "validation", "test")

Batch = dict[str, np.ndarray]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
  """The facts of a dataset. They depend only on the static fields of its config, and on its files.

  Attributes:
    name: the name in the config.
    input_shape: shape of one input, without the batch axis; images are (height, width, channels).
    input_dtype: "uint8" for images as stored, "int32" for text, else "float32".
    num_classes: number of classes, or None for regression.
    num_targets: length of a target vector, or None for classification.
    examples: number of examples of each split.
    normalization: (mean, standard deviation) of the inputs, one number per channel (index of the last axis), in
      units of the stored inputs, from the train split only; None where the inputs need none. The compiled step
      applies it. The deviation of a constant channel is given as 1.
    notice: what every output about this dataset must say, or an empty string.
    label_shape: shape of one example's labels: () for a class per example, (length,) for one per position, as in
      text; () for regression, too.
    mixes_labels: whether training batches also have "mixed_labels" and "mixing"; see `Augmentation.mixup_alpha`.
  """

  name: str
  input_shape: tuple[int, ...]
  input_dtype: str
  num_classes: int | None
  num_targets: int | None
  examples: Mapping[str, int] = dataclasses.field(hash=False)
  normalization: Normalization | None
  notice: str = ""
  label_shape: tuple[int, ...] = ()
  mixes_labels: bool = False


class Split(Protocol):
  """Examples that can be read at random."""

  def __len__(self) -> int:
    """Return the number of examples."""
    ...

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at indices int64 [n], in that order: new arrays [n, ...], "inputs" and "labels" or "targets".

    Called from several threads.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A split in memory: {"inputs": [n, ...], "labels": int32 [n, ...]}, or "targets": float32 [n, num_targets]."""

  arrays: Mapping[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.arrays["inputs"])

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at these indices."""
    return {key: array.take(indices, axis=0) for key, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """The splits of a dataset, in memory (`Arrays`) or read as they are needed. "train" and "validation" are there.

  Attributes:
    info: the facts.
    splits: by name.
    warnings: what is allowed and probably not meant, for a person to read.
  """

  info: Info
  splits: Mapping[str, Split]
  warnings: tuple[str, ...] = ()

  @property
  def arrays(self) -> dict[str, Mapping[str, np.ndarray]]:
    """Return the arrays of the splits that are in memory."""
    return {name: split.arrays for name, split in self.splits.items() if isinstance(split, Arrays)}


def classification(
  name: str,
  inputs: Mapping[str, np.ndarray],
  labels: Mapping[str, np.ndarray],
  num_classes: int,
  notice: str = "",
  normalization: Normalization | None = None,
) -> Source:
  """Return a source from the inputs [n, ...] and integer labels [n] of each split; bytes are normalized unasked."""
  splits = {split: Arrays({"inputs": inputs[split], "labels": labels[split].astype(np.int32)}) for split in inputs}
  return Source(info=_info(name, splits, notice, normalization, num_classes=num_classes), splits=splits)


def regression(
  name: str,
  inputs: Mapping[str, np.ndarray],
  targets: Mapping[str, np.ndarray],
  notice: str = "",
  normalization: Normalization | None = None,
) -> Source:
  """Return a source from the inputs [n, ...] and targets [n, num_targets] of each split; bytes are normalized
  unasked."""
  splits = {split: Arrays({"inputs": inputs[split], "targets": targets[split].astype(np.float32)}) for split in inputs}
  info = _info(name, splits, notice, normalization, num_targets=targets["train"].shape[1])
  return Source(info=info, splits=splits)


def _info(
  name: str,
  splits: Mapping[str, Arrays],
  notice: str,
  normalization: Normalization | None,
  num_classes: int | None = None,
  num_targets: int | None = None,
) -> Info:
  train = splits["train"].arrays["inputs"]
  if normalization is None and train.dtype == np.uint8:
    normalization = byte_statistics(train)
  return Info(
    name=name,
    input_shape=train.shape[1:],
    input_dtype=str(train.dtype),
    num_classes=num_classes,
    num_targets=num_targets,
    examples={split: len(examples) for split, examples in splits.items()},
    normalization=normalization,
    notice=notice,
  )


def byte_statistics(inputs: np.ndarray) -> Normalization:
  """Return mean and standard deviation of each channel (the last axis) of uint8 inputs.

  They come from a histogram, so they are exact to float64, the same on every machine, and cheap.
  """
  histogram = np.zeros((inputs.shape[-1], 256), np.int64)
  for start in range(0, len(inputs), 1000):
    add_to_histogram(histogram, inputs[start : start + 1000])
  return histogram_statistics(histogram)


def add_to_histogram(histogram: np.ndarray, inputs: np.ndarray) -> None:
  """Count the values of uint8 inputs [..., channels] into the histogram, int64 [channels, 256]."""
  for channel in range(len(histogram)):
    histogram[channel] += np.bincount(inputs[..., channel].ravel(), minlength=256)


def histogram_statistics(histogram: np.ndarray) -> Normalization:
  """Return mean and standard deviation of each channel whose values were counted, int64 [channels, 256]."""
  values = np.arange(256.0)
  count = histogram.sum(axis=1)
  mean = histogram @ values / count
  variance = np.array([row @ (values - center) ** 2 for row, center in zip(histogram, mean, strict=True)]) / count
  deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
  return tuple(mean.tolist()), tuple(deviation.tolist())

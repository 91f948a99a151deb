"""A dataset once it can be read: its splits and the facts about them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from trialbook.settings import flat as flat_with

SPLITS = ("train", "validation", "test")
"""Usual splits. There may be more for validation and testing, named `validation_NAME` and `test_NAME`."""
EXAMPLE, IS_EXAMPLE = "example", "is_example"
"""Keys that an evaluation batch has beside the dataset's: a number for each example, and false for padding."""

Batch = dict[str, np.ndarray]
"""Arrays [B, ...] by key; an array in a nested mapping is named by its path, such as `inputs/image`."""
ArraySpec = tuple[tuple[int, ...], str]
"""Shape and dtype of an array of one example."""
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
  """The facts of a dataset. They depend only on the static fields of its config, and on its files.

  Attributes:
    name: the name in the config.
    input_shape: shape of one input, without the batch axis; images are (height, width, channels). None if inputs are
      not one array.
    input_dtype: "uint8" for images as stored, "int32" for text, "uint32" for large ids, else "float32". None if inputs
      are not one array.
    num_classes: number of classes, or None if there are no labels.
    num_targets: size of the last axis of the targets, or None if there are none.
    examples: number of examples of each split.
    normalization: (mean, standard deviation) of the inputs, one number per channel (index of the last axis), in
      units of the stored inputs, from the train split only; None where the inputs need none. If inputs are a mapping,
      the same by path (`inputs/image`) for those that need one. The compiled step applies it. The deviation of a
      constant channel is given as 1.
    notice: what every output about this dataset must say, or an empty string.
    label_shape: shape of one example's labels: () for a class per example, (length,) for one per position, as in
      text; () if there are none.
    mixes_labels: whether training batches also have "mixed_labels" and "mixing"; see `Augmentation.mixup_alpha`.
    ignore_label: label that counts in no loss and no metric; None: all count.
    spec: shape and dtype of all arrays of one example, by key; those in a nested mapping by path.
    left_out: why a key of the dataset is in no batch, by key.
  """

  name: str
  input_shape: tuple[int, ...] | None
  input_dtype: str | None
  num_classes: int | None
  num_targets: int | None
  examples: Mapping[str, int] = dataclasses.field(hash=False)
  normalization: Normalization | Mapping[str, Normalization] | None = dataclasses.field(hash=False)
  notice: str = ""
  label_shape: tuple[int, ...] = ()
  mixes_labels: bool = False
  ignore_label: int | None = None
  spec: Mapping[str, ArraySpec] = dataclasses.field(default_factory=dict, hash=False)
  left_out: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

  def __post_init__(self):
    if not self.spec and self.input_shape is not None and self.input_dtype is not None:
      # Of records that earlier versions wrote, too.
      spec: dict[str, ArraySpec] = {"inputs": (self.input_shape, self.input_dtype)}
      if self.num_classes is not None:
        spec["labels"] = (self.label_shape, "int32")
      elif self.num_targets is not None:
        spec["targets"] = ((self.num_targets,), "float32")
      object.__setattr__(self, "spec", spec)

  @property
  def training_spec(self) -> Mapping[str, ArraySpec]:
    """Return what training batches have beside `spec`."""
    if not self.mixes_labels:
      return {}
    return {"mixed_labels": self.spec["labels"], "mixing": ((), "float32")}

  @property
  def normalizations(self) -> Mapping[str, Normalization]:
    """Return the normalization of each array of the inputs that has one, by path."""
    if self.normalization is None:
      return {}
    return self.normalization if isinstance(self.normalization, Mapping) else {"inputs": self.normalization}

  def splits(self, kind: str) -> list[str]:
    """Return the names of the splits for "validation" or "test", the unnamed one first."""
    return [split for split in self.examples if split == kind or split.startswith(f"{kind}_")]


def paths_below(keys: Iterable[str], spec: Iterable[str]) -> list[str]:
  """Return the paths of `spec`, in its order, that are one of the keys or lie below one."""
  wanted = set(keys)
  return [path for path in spec if any(path == key or path.startswith(f"{key}/") for key in wanted)]


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Return the values of a nested mapping by path: {"inputs": {"image": x}} is {"inputs/image": x}."""
  return flat_with(tree, separator="/")


def nested(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Return the nested mapping of values by path; undoes `flat`."""
  found: dict[str, Any] = {}
  for path, value in batch.items():
    *above, key = path.split("/")
    place = found
    for name in above:
      place = place.setdefault(name, {})
    place[key] = value
  return found


class Split(Protocol):
  """Examples that can be read at random.

  There may be a method `only(paths)`, which returns the split with these arrays alone, so that others are not decoded.
  """

  def __len__(self) -> int:
    """Return the number of examples."""
    ...

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at indices int64 [n], in that order: new arrays [n, ...] by key.

    Called from several threads.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Arrays:
  """A split in memory: arrays [n, ...] by path."""

  arrays: Mapping[str, np.ndarray]

  def __len__(self) -> int:
    return len(next(iter(self.arrays.values())))

  def only(self, paths: Iterable[str]) -> "Arrays":
    """Return the split with these arrays alone."""
    return Arrays({path: self.arrays[path] for path in paths})

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

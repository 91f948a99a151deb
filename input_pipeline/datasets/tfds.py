"""Datasets of TensorFlow Datasets (TFDS), read without TensorFlow.

Only its record of what a dataset consists of is used, and its decoders for features that are neither raw bytes nor
classes. Records are read from ArrayRecord files; where a dataset was prepared as tfrecord files,
`trialbook data prepare` writes ArrayRecord files beside them.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from trialbook.errors import DataError, said
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.checked_source import checked
from trialbook.input_pipeline.datasets.record_files import Part, RecordFiles
from trialbook.input_pipeline.source import Batch, Source
from trialbook.paths import as_local_path
from trialbook.settings import FilePath, Host, Settings, Static

NAME = r"^tfds:[a-z]\w*(/[\w.-]+)?(:\d+\.\d+\.\d+)?$"
_READ_AT_ONCE = 4096


class Tfds(Settings):
  """A prepared dataset of TFDS: `tfds:NAME`, `tfds:NAME/CONFIG` or `tfds:NAME:VERSION` (the newest by default).

  Split strings are those of TFDS, such as "train[:90%]". An example's index is its place in the files, so order and
  batches are fixed by the seed as for every other dataset.
  """

  name: Static[str] = Field(pattern=NAME)
  data_dir: Host[FilePath[str | None]] = None
  """Directory of TFDS's datasets; by default $TFDS_DATA_DIR, or else ~/tensorflow_datasets."""
  train: Static[str] = "train"
  validation: Static[str] = "validation"
  test: Static[str | None] = "test"
  """None: there is none."""
  input_feature: Static[str | None] = None
  """None: what the dataset names as its supervised input, or else "image"."""
  label_feature: Static[str | None] = None
  """None: what the dataset names as its supervised output, or else "label". Classes, or numbers to predict."""
  in_memory: Static[bool | Literal["auto"]] = "auto"
  """If true, everything is decoded once, at the start; auto: if it takes no more than `memory_bytes`."""
  memory_bytes: Static[int] = Field(default=2**32, ge=0)
  workers: Host[int] = Field(default=0, ge=0)
  """Processes that decode what is not in memory; 0: the training process does. The batches are the same."""
  sharding: Static[Literal["global", "files"]] = "global"
  """The same as `ArrayRecord.sharding`."""
  augmentation: Augmentation | None = None

  def read(self) -> Source:
    """Open the prepared files. Raise `DataError`, without looking at the network, if they are not there."""
    folder = find(self.name.removeprefix("tfds:"), self.data_dir)
    if folder is None:
      raise DataError(f"dataset {self.name} in {root(self.data_dir)}: not prepared; run\n{self._how_to_prepare()}")
    try:
      builder = library().builder_from_directory(folder)
    except Exception as error:  # Whatever TFDS and protobuf raise where a file is missing or damaged.
      told = str(error).strip().splitlines()[:1] or [""]
      raise DataError(
        f"dataset {self.name} in {folder}: TFDS cannot open it: {type(error).__name__}: {told[0]};"
        f" remove it and run\n{self._how_to_prepare()}"
      ) from error
    problems: list[str] = []
    names, num_classes = self._features(builder.info, problems)
    splits: dict[str, Examples] = {}
    for split, spec in (("train", self.train), ("validation", self.validation), ("test", self.test)):
      if spec is None:
        continue
      try:
        instructions = builder.info.splits[spec].file_instructions
      except (KeyError, ValueError) as error:
        problems.append(f"dataset.{split} = {spec!r}: {str(error).splitlines()[-1]}")
        if spec == split:
          known = ", ".join(builder.info.splits)
          parts = 'dataset.train="train[:90%]" and dataset.validation="train[90%:]"'
          problems[-1] = (
            f"there is no split {spec!r}, only {known}; set {'dataset.test to None' if split == 'test' else parts}"
          )
        continue
      splits[split] = Examples(RecordFiles(self._parts(instructions, problems)), builder.info.features, names)
    if problems:
      raise DataError("\n".join(f"dataset {self.name} in {folder}: {problem}" for problem in dict.fromkeys(problems)))
    where = f"dataset {self.name} in {folder}"
    source = checked(
      where,
      self.name,
      {split: examples.decoded() for split, examples in splits.items()} if self._fits(splits) else splits,
      num_classes=num_classes,
    )
    unread = sorted(set(builder.info.features) - set(names.values()))
    if not unread:
      return source
    told = f"{where}: unused features: {', '.join(unread)}; choose with dataset.input_feature and dataset.label_feature"
    return dataclasses.replace(source, warnings=(*source.warnings, told))

  def _how_to_prepare(self) -> str:
    return f"  trialbook data prepare {self.name}" + (f" --data_dir={self.data_dir}" if self.data_dir else "")

  def _features(self, info: Any, problems: list[str]) -> tuple[dict[str, str], int | None]:
    """Return the feature by the key of a batch that it becomes, and the number of classes."""
    # It may also name nested structures of features.
    supervised = info.supervised_keys
    if not supervised or len(supervised) != 2 or not all(isinstance(key, str) for key in supervised):
      supervised = ("image", "label")
    inputs, label = self.input_feature or supervised[0], self.label_feature or supervised[1]
    for field, name in (("input_feature", inputs), ("label_feature", label)):
      if name not in info.features:
        problems.append(f"dataset.{field}: there is no feature {name!r}; there are {', '.join(sorted(info.features))}")
    if label not in info.features:
      return {}, None
    classes = getattr(info.features[label], "num_classes", None)
    if classes is None and np.dtype(info.features[label].np_dtype).kind in "iu":
      problems.append(
        f"dataset.label_feature: {label!r} holds integers, but TFDS does not say how many classes; choose a feature of"
        " classes or of floats, or write the examples with trialbook.input_pipeline.write_array_record(num_classes=...)"
      )
    return {"inputs": inputs, "targets" if classes is None else "labels": label}, classes

  def _parts(self, instructions: Any, problems: list[str]) -> list[Part]:
    parts = []
    for one in instructions:
      path = pathlib.Path(as_array_record(one.filename))
      if not path.exists():
        same = path == pathlib.Path(one.filename)
        problem = f"{path.name} is missing" if same else "is prepared as tfrecord files only"
        problems.append(f"{problem}; run\n{self._how_to_prepare()}")
      count = one.examples_in_shard - one.skip if one.take == -1 else one.take
      parts.append(Part(path=path, first=one.skip, count=count))
    return parts

  def _fits(self, splits: Mapping[str, "Examples"]) -> bool:
    if self.in_memory != "auto":
      return self.in_memory
    size = 0
    for examples in splits.values():
      first = examples.read(np.zeros(1, np.int64)) if len(examples) else {}
      size += len(examples) * sum(array.nbytes for array in first.values())
    return size <= self.memory_bytes


class Examples:
  """A split in files of TFDS, of which only the features that are wanted are decoded.

  Attributes:
    files: the records.
  """

  def __init__(self, files: RecordFiles, features: Any, names: Mapping[str, str]):
    self.files = files
    self._names = {key: name for key, name in names.items() if name in features}
    self._features = features
    self._wanted = library().features.FeaturesDict({name: features[name] for name in self._names.values()})
    self._raw = all(_is_raw_bytes(features[name]) or _is_class(features[name]) for name in self._names.values())

  def __len__(self) -> int:
    return len(self.files)

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at these indices."""
    records = self.files.read(indices)
    try:
      return self._decode_raw(records) if self._raw else self._decode(records)
    except ImportError as error:
      raise DataError(
        f"decoding needs a package; run pip install {'pillow' if 'PIL' in str(error) else error.name}"
      ) from error

  def decoded(self) -> dict[str, np.ndarray]:
    """Return all examples."""
    starts = range(0, len(self), _READ_AT_ONCE)
    chunks = [self.read(np.arange(start, min(start + _READ_AT_ONCE, len(self)))) for start in starts]
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in self._names} if chunks else {}

  def _decode(self, records: list[bytes]) -> Batch:
    examples = [self._wanted.deserialize_example_np(record) for record in records]
    return {key: np.stack([np.asarray(example[name]) for example in examples]) for key, name in self._names.items()}

  def _decode_raw(self, records: list[bytes]) -> Batch:
    """Return the same as `_decode`, ten times faster, for bytes and classes."""
    from tensorflow_datasets.proto import tf_example_pb2

    parsed = [
      tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore[reportAttributeAccessIssue]
      for record in records
    ]
    batch = {}
    for key, name in self._names.items():
      if _is_class(self._features[name]):
        batch[key] = np.array([feature[name].int64_list.value[0] for feature in parsed])
      else:
        shape, dtype = self._features[name].shape, self._features[name].np_dtype
        raw = b"".join(feature[name].bytes_list.value[0] for feature in parsed)
        batch[key] = np.frombuffer(raw, dtype).reshape(len(records), *shape).copy()
    return batch


def _is_class(feature: Any) -> bool:
  return isinstance(feature, library().features.ClassLabel)


def _is_raw_bytes(feature: Any) -> bool:
  features = library().features
  encoding = getattr(getattr(feature, "_encoding", None), "value", None)
  return type(feature) is features.Tensor and encoding == "bytes" and None not in feature.shape


def root(data_dir: str | None) -> pathlib.Path:
  """Return the directory of TFDS's datasets. Raises PathError."""
  return as_local_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def find(name: str, data_dir: str | None) -> pathlib.Path | None:
  """Return the directory of a prepared dataset NAME[/CONFIG][:VERSION], or None. Nothing but the directory is looked
  at.

  Raises:
    DataError: it has several configs, and none is named.
  """
  path, _, version = name.partition(":")
  folder = root(data_dir) / path

  def versions(place: pathlib.Path) -> list[pathlib.Path]:
    found = [about.parent for about in place.glob("*/dataset_info.json") if re.fullmatch(r"[\d.]+", about.parent.name)]
    found = [one for one in found if not version or one.name == version]
    return sorted(found, key=lambda one: [int(number) for number in one.name.split(".")])

  if here := versions(folder):
    return here[-1]
  configs = {place.name: versions(place) for place in sorted(folder.glob("*")) if place.is_dir() and versions(place)}
  if len(configs) > 1:
    raise DataError(
      f"dataset tfds:{path} has several configs in {folder}; choose one, such as tfds:{path}/{next(iter(configs))}"
    )
  return next(iter(configs.values()))[-1] if configs else None


def as_array_record(filename: str | os.PathLike) -> str:
  """Return the name of the ArrayRecord file that stands in for a file of a dataset."""
  head, tail = os.path.split(os.fspath(filename))
  return os.path.join(head, tail.replace(".tfrecord", ".array_record", 1))


def library() -> Any:
  """Return TFDS itself, whose import takes half a second. Raise DataError if it is not installed."""
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise DataError(f"datasets tfds:NAME need a package ({error}); run pip install 'trialbook[data]'") from error
  return tensorflow_datasets


def shard_counts(folder: pathlib.Path) -> dict[str, int]:
  """Return the number of records of each file of a prepared dataset, by file name. Raise DataError for a broken
  record."""
  path = folder / "dataset_info.json"
  try:
    about = json.loads(path.read_text())
    kind = about.get("fileFormat", "tfrecord")
    counts = {}
    for split in about["splits"]:
      template = split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
      lengths = [int(length) for length in split.get("shardLengths", ())]
      for index, length in enumerate(lengths):
        values = {"DATASET": about["name"], "SPLIT": split["name"], "FILEFORMAT": kind}
        values |= {"SHARD_INDEX": f"{index:05d}", "NUM_SHARDS": f"{len(lengths):05d}"}
        values["SHARD_X_OF_Y"] = f"{index:05d}-of-{len(lengths):05d}"
        counts[template.format(**values)] = length
    return counts
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise DataError(f"{path}: cannot be read: {said(error)}") from error

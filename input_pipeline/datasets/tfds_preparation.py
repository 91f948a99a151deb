"""Preparing datasets of TFDS as ArrayRecord files, without TensorFlow."""

import contextlib
import os
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from trialbook import files
from trialbook.errors import DataError
from trialbook.input_pipeline.datasets import tfds
from trialbook.input_pipeline.datasets.digits import Digits
from trialbook.input_pipeline.datasets.fashion_mnist import FashionMnist
from trialbook.input_pipeline.datasets.record_files import array_record_module, count_records
from trialbook.input_pipeline.source import Source

# Datasets that are written from what this package reads itself, by their names at TFDS.
OWN = {"digits": Digits, "fashion_mnist": FashionMnist}
_HEADER, _FOOTER = struct.Struct("<QI"), 4


def prepare(name: str, found_in: pathlib.Path | None, data_dir: str | None) -> pathlib.Path:
  """Make `tfds:NAME` readable; what is prepared already stays as it is.

  Files in tfrecord format get ArrayRecord files beside them. `digits` and `fashion_mnist` are written from what
  `dataset.name=digits` and `fashion_mnist` read, with the same splits in the same order. Everything else is for TFDS
  to download, and so needs a network.

  Args:
    name: NAME[/CONFIG][:VERSION].
    found_in: of fashion_mnist, the data directory of the prepared `fashion_mnist`; None: the default one.
    data_dir: directory of TFDS's datasets; None: the default one.

  Returns:
    The directory of the dataset.

  Raises:
    DataError: it cannot be prepared; the message says why.
  """
  folder = tfds.find(name, data_dir)
  if folder is None and name.partition(":")[0] in OWN:
    config = (
      Digits() if name.startswith("digits") else FashionMnist(data_dir=None if found_in is None else str(found_in))
    )
    try:
      _build(name.partition(":")[0], config.read(), tfds.root(data_dir))
    except OSError as error:
      raise DataError(f"prepare tfds:{name}: cannot write into {tfds.root(data_dir)}: {error}") from error
  elif folder is None:
    _download(name, tfds.root(data_dir))
  folder = folder or tfds.find(name, data_dir)
  if folder is None:
    raise DataError(f"prepare tfds:{name}: nothing was written to {tfds.root(data_dir)}")
  _rewrite_folder(folder)
  return folder


def _download(name: str, root: pathlib.Path) -> None:
  library = tfds.library()
  library.disable_progress_bar()
  try:
    builder = library.builder(name, data_dir=root, file_format="array_record")
    builder.download_and_prepare()
  # Whatever a dataset's own code, the network or the disk raises; an absent package above all.
  except Exception as error:
    needs = ""
    if isinstance(error, ImportError) and "tensorflow" in str(error):
      needs = ". This dataset is written by TensorFlow: prepare it where that is installed, and copy the directory"
    told = str(error).strip().splitlines()[:1] or [""]
    raise DataError(f"prepare tfds:{name}: TFDS failed: {type(error).__name__}: {told[0]}{needs}") from error


def _build(name: str, source: Source, root: pathlib.Path) -> None:
  """Write a source in memory as a dataset of TFDS, each example at its own index."""
  library = tfds.library()
  library.disable_progress_bar()
  shape, classes, arrays = source.info.input_shape, source.info.num_classes, source.arrays

  class Written(library.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
    """TFDS's way to write a dataset."""

    VERSION = library.core.Version("1.0.0")

    def _info(self) -> Any:
      # Not `Image`, which cannot be encoded without TensorFlow.
      image = library.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
      features = {"image": image, "label": library.features.ClassLabel(num_classes=classes)}
      return library.core.DatasetInfo(
        builder=self,
        features=library.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      return {split: self._generate_examples(split) for split in arrays}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
      images, labels = arrays[split]["inputs"], arrays[split]["labels"]
      for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"image": image, "label": int(label)}

  Written.name = name
  Written(data_dir=str(root), file_format="array_record").download_and_prepare()


def _rewrite_folder(folder: pathlib.Path) -> None:
  for filename, count in tfds.shard_counts(folder).items():
    target = pathlib.Path(tfds.as_array_record(folder / filename))
    if target.exists():
      continue
    if ".tfrecord" not in filename:
      raise DataError(f"{folder / filename}: is neither a tfrecord nor an ArrayRecord file")
    rewrite(folder / filename, target)
    if (found := count_records(target)) != count:
      target.unlink()
      raise DataError(f"{folder / filename}: has {found} records, dataset_info.json says {count}")


def rewrite(path: pathlib.Path, target: pathlib.Path) -> None:
  """Write the records of a tfrecord file as an ArrayRecord file, which appears whole or not at all.

  Raises:
    DataError: the file is broken, with the place.
  """
  try:
    with (
      files.replacing_path(target) as partial,
      contextlib.closing(array_record_module().ArrayRecordWriter(str(partial), "group_size:1")) as writer,
    ):
      for record in tfrecords(path):
        writer.write(record)
  except OSError as error:
    raise DataError(f"{path}: cannot be rewritten to {target}: {error}") from error


def tfrecords(path: pathlib.Path) -> Iterator[bytes]:
  """Yield the records of a tfrecord file: each is its length (8 bytes) with a checksum (4), the record, a checksum (4).

  The checksums are not verified; a length that does not fit shows at the end of the file.
  """
  size = path.stat().st_size
  with open(path, "rb") as file:
    number, place = 0, 0
    while place < size:
      header = file.read(_HEADER.size)
      length = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else size
      end = place + _HEADER.size + length + _FOOTER
      if end > size:
        raise DataError(f"{path}, record {number} at byte {place:,}: is broken or cut off; the file has {size:,} bytes")
      yield file.read(length)
      file.seek(_FOOTER, os.SEEK_CUR)
      number, place = number + 1, end

"""python -m benchmarks.input: training examples per second from memory and from files, ours beside grain's.

Both give shuffled batches of 128 from the same arrays, as large as Fashion-MNIST (60,000 uint8 images
28x28x1), with and without augmentation (crop with padding 4, flip with probability 1/2). Grain works record
by record, as its users write it:
`MapDataset.source(...).seed().shuffle().repeat().random_map(...).batch(128).to_iter_dataset()`, with its
default read options (16 threads, a buffer of 500), with 1 and 0 threads, and with 2 worker processes. Then the
same examples from the same ArrayRecord files, unaugmented: ours read by batch, in this process and by 2 workers;
grain's record by record, as its `ArrayRecordDataSource` gives them, decoded by `np.frombuffer`, too. All take turns,
so that a busy machine disturbs them alike; ratios are formed within a turn, and their median is reported.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Nothing here computes on a device; libraries that start jax must not look for one.
os.environ["JAX_PLATFORMS"] = "cpu"

import grain
import numpy as np
from absl import flags

from trialbook import input_pipeline
from trialbook.input_pipeline import ArrayRecord, Augmentation, Synthetic

BATCH_SIZE = 128
# Worker processes need about so long until all of them deliver.
WARM_UP_SECONDS = 1.0
PADDING = 4
FLIP_PROBABILITY = 0.5
DATA = Synthetic(
  input_shape=(28, 28, 1), input_dtype="uint8", train_examples=60_000, validation_examples=1, test_examples=1
)
AUGMENTATION = Augmentation(crop_padding=PADDING, flip_probability=FLIP_PROBABILITY)

OURS = "input_pipeline"
# (threads, worker processes); None is what grain does when it is not told.
GRAIN_SETTINGS: dict[str, tuple[int | None, int]] = {
  "grain, default settings (16 threads)": (None, 0),
  "grain, 1 thread": (1, 0),
  "grain, 0 threads": (0, 0),
  "grain, 2 worker processes": (1, 2),
}

FILES = f"{OURS}, ArrayRecord"
FILES_WORKERS = f"{OURS}, ArrayRecord, 2 workers"
GRAIN_FILES = {
  "grain, ArrayRecord, default settings (16 threads)": (None, 0),
  "grain, ArrayRecord, 0 threads": (0, 0),
  "grain, ArrayRecord, 2 worker processes": (1, 2),
}


class Records:
  """A grain source: one record at a time from arrays in memory."""

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self._arrays = arrays

  def __len__(self) -> int:
    return len(self._arrays["inputs"])

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {key: array[index] for key, array in self._arrays.items()}


def augment_record(record: dict[str, np.ndarray], generator: np.random.Generator) -> dict[str, np.ndarray]:
  """Crop and flip one record, as in `trialbook.input_pipeline.augmentation`, with grain's generator."""
  image = record["inputs"]
  height, width, channels = image.shape
  padded = np.zeros((height + 2 * PADDING, width + 2 * PADDING, channels), image.dtype)
  padded[PADDING : PADDING + height, PADDING : PADDING + width] = image
  top, left = generator.integers(0, 2 * PADDING + 1, 2)
  image = padded[top : top + height, left : left + width]
  if generator.random() < FLIP_PROBABILITY:
    image = image[:, ::-1]
  return {**record, "inputs": image}


def grain_batches(arrays: Mapping[str, np.ndarray], augmented: bool, threads: int | None, workers: int) -> Iterator:
  """Return an endless grain iterator."""
  records = grain.MapDataset.source(Records(arrays)).seed(0).shuffle().repeat(None)
  if augmented:
    records = records.random_map(augment_record)
  options = grain.ReadOptions() if threads is None else grain.ReadOptions(num_threads=threads)
  batches = records.batch(BATCH_SIZE).to_iter_dataset(options)
  if workers:
    batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  return iter(batches)


@dataclasses.dataclass(frozen=True)
class Decode:
  """A record of `trialbook.input_pipeline.write_array_record` as a dict of arrays."""

  fields: np.dtype

  def __call__(self, record: bytes) -> dict[str, np.ndarray]:
    row = np.frombuffer(record, self.fields)[0]
    return {name: row[name] for name in self.fields.names or ()}


def grain_file_batches(folder: pathlib.Path, threads: int | None, workers: int) -> Iterator:
  """Return an endless grain iterator over the train files."""
  about = json.loads((folder / "dataset.json").read_text())
  fields = np.dtype([(name, dtype, tuple(shape)) for name, dtype, shape in about["fields"]])
  source: Any = grain.sources.ArrayRecordDataSource([str(folder / name) for name, _ in about["splits"]["train"]])
  records = grain.MapDataset.source(source).seed(0).shuffle().repeat(None).map(Decode(fields))
  options = grain.ReadOptions() if threads is None else grain.ReadOptions(num_threads=threads)
  batches = records.batch(BATCH_SIZE).to_iter_dataset(options)
  if workers:
    batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  return iter(batches)


class OurBatches:
  """An endless iterator over `train_batch`, in this thread."""

  def __init__(self, config: input_pipeline.AnyDataset):
    self._dataset = input_pipeline.load(config, seed=0, batch_size=BATCH_SIZE)
    self._steps = itertools.count()

  def __iter__(self) -> Iterator:
    return self

  def __next__(self) -> input_pipeline.Batch:
    return self._dataset.train_batch(next(self._steps))

  def close(self) -> None:
    """End the worker processes, if there are any."""
    self._dataset.close()


def examples_per_second(start: Callable[[], Iterator], seconds: float) -> float:
  """Return the throughput of a new iterator over about `seconds`, after a second of warm-up."""
  batches = start()
  _consume(batches, WARM_UP_SECONDS)
  count, elapsed = _consume(batches, seconds)
  if hasattr(batches, "close"):
    batches.close()  # type: ignore[attr-defined]
  return count * BATCH_SIZE / elapsed


def _consume(batches: Iterator, seconds: float) -> tuple[int, float]:
  count, elapsed = 0, 0.0
  begin = time.perf_counter()
  while elapsed < seconds:
    assert next(batches)["inputs"].shape == (BATCH_SIZE, 28, 28, 1)
    count += 1
    elapsed = time.perf_counter() - begin
  return count, elapsed


def main() -> None:
  """Measure, and print a Markdown table."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description="Input speed beside grain's.")
  parser.add_argument("--turns", type=int, default=5, help="how often each is measured")
  parser.add_argument("--seconds", type=float, default=2.0, help="how long each time")
  options = parser.parse_args()
  # Grain's worker processes read absl flags, which nobody parsed here.
  flags.FLAGS.mark_as_parsed()

  arrays = DATA.read().arrays["train"]
  print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ", end="")
  print(f"NumPy {np.__version__}, grain {grain.__version__}; {options.turns} turns of {options.seconds} s\n")
  print("| augmentation | loader | examples/s | ours is faster by | in the worst turn |")
  print("|---|---|---:|---:|---:|")
  for augmented in (False, True):
    config = DATA.model_copy(update={"augmentation": AUGMENTATION if augmented else None})
    loaders: dict[str, Callable[[], Iterator]] = {OURS: functools.partial(OurBatches, config)}
    for name, (threads, workers) in GRAIN_SETTINGS.items():
      loaders[name] = functools.partial(grain_batches, arrays, augmented, threads, workers)
    compare("crop, flip" if augmented else "none", loaders, options.turns, options.seconds)
  with tempfile.TemporaryDirectory() as folder:
    path = input_pipeline.write_array_record(
      pathlib.Path(folder, "data"), DATA.read().arrays, num_classes=DATA.num_outputs, records_per_file=10_000
    )
    files = ArrayRecord(path=str(path))
    with_workers = files.model_copy(update={"workers": 2})
    loaders = {FILES: functools.partial(OurBatches, files), FILES_WORKERS: functools.partial(OurBatches, with_workers)}
    for name, (threads, workers) in GRAIN_FILES.items():
      loaders[name] = functools.partial(grain_file_batches, path, threads, workers)
    compare("none", loaders, options.turns, options.seconds)


def compare(augmentation: str, loaders: Mapping[str, Callable[[], Iterator]], turns: int, seconds: float) -> None:
  """Print a row for each loader; the first one is ours, which the others are compared with."""
  measured = [{name: examples_per_second(start, seconds) for name, start in loaders.items()} for _ in range(turns)]
  ours = next(iter(loaders))
  for name in loaders:
    ratios = [turn[ours] / turn[name] for turn in measured]
    compared = "| |" if name == ours else f"{statistics.median(ratios):.1f}x | {min(ratios):.1f}x |"
    speed = statistics.median(turn[name] for turn in measured)
    print(f"| {augmentation} | {name} | {speed:,.0f} | {compared}", flush=True)


if __name__ == "__main__":
  main()

"""python -m benchmarks.images: JPEGs decoded per second, from a folder and from Parquet, ours beside grain and torch.

All give shuffled batches of 64 of the same JPEGs, scaled until they cover 224 x 224 and cropped around their centre by
Pillow. Ours reads by batch, in this process with a thread for each core, and with worker processes. Grain works record
by record, with its default threads, with one for each core, and with worker processes. A torch DataLoader, where torch
is installed, works in this process and with worker processes, and collates NumPy arrays. All take turns, so that a busy
machine disturbs them alike.
"""

import argparse
import io
import itertools
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

# Nothing here computes on a device; libraries that start jax must not look for one.
os.environ["JAX_PLATFORMS"] = "cpu"

import grain
import numpy as np
import pyarrow
import pyarrow.parquet
from absl import flags
from PIL import Image

from trialbook.input_pipeline import ImageFolder, Parquet, load
from trialbook.input_pipeline.images import decoded

BATCH_SIZE, SIZE = 64, (224, 224)
STORED = (375, 500)
"""Height and width of the JPEGs, as most of ImageNet's are."""
CORES = len(os.sched_getaffinity(0))
NORMALIZATION = ((127.0,) * 3, (64.0,) * 3)


def write_images(folder: pathlib.Path, count: int) -> None:
  """Write JPEGs in folders of ten classes, and the same bytes as Parquet."""
  rng = np.random.default_rng(0)
  height, width = STORED
  for split, size in {"train": count, "validation": 10}.items():
    rows = []
    for index in range(size):
      # Noise of a few sizes has about the bytes of a photograph.
      coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
      pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
      pixels = np.clip(pixels + rng.integers(-8, 9, pixels.shape), 0, 255).astype(np.uint8)
      Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG", quality=90)
      place = folder / "images" / split / f"class_{index % 10}"
      place.mkdir(parents=True, exist_ok=True)
      (place / f"{index}.jpg").write_bytes(file.getvalue())
      rows.append({"bytes": file.getvalue(), "path": None})
    table = pyarrow.table({"image": rows, "label": np.arange(size) % 10})
    pyarrow.parquet.write_table(table, folder / f"{split}.parquet", row_group_size=100)


class Files:
  """Image files one at a time, for grain and for torch."""

  def __init__(self, folder: pathlib.Path):
    self.paths = sorted((folder / "images" / "train").rglob("*.jpg"))

  def __len__(self) -> int:
    return len(self.paths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    path = self.paths[index]
    return {"inputs": decoded(path, SIZE, 3), "labels": int(path.parent.name.removeprefix("class_"))}


class TableRows:
  """Encoded images of a Parquet file one at a time, for grain and for torch."""

  def __init__(self, folder: pathlib.Path):
    rows = pyarrow.parquet.read_table(folder / "train.parquet").to_pylist()
    self.rows = [(row["image"]["bytes"], row["label"]) for row in rows]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    encoded, label = self.rows[index]
    return {"inputs": decoded(encoded, SIZE, 3), "labels": label}


def ours(config: Any) -> Iterator[Any]:
  with load(config, seed=0, batch_size=BATCH_SIZE) as dataset:
    for step in itertools.count():
      yield dataset.train_batch(step)


def by_grain(source: Any, threads: int | None, workers: int) -> Iterator[Any]:
  batches = grain.MapDataset.source(source).seed(0).shuffle().repeat().batch(BATCH_SIZE)
  options = (
    None if threads is None else grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, 1) * 2)
  )
  stream = batches.to_iter_dataset(options)
  if workers:
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  yield from stream


def collated(examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
  return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def by_torch(source: Any, workers: int) -> Iterator[Any]:
  import torch.utils.data  # pyright: ignore[reportMissingImports]

  options = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
  loader = torch.utils.data.DataLoader(
    source, BATCH_SIZE, shuffle=True, drop_last=True, collate_fn=collated, num_workers=workers, **options
  )
  while True:
    yield from loader


def loaders(folder: pathlib.Path) -> dict[str, dict[str, Callable[[], Iterator[Any]]]]:
  """Return by place of the images and by loader what begins an endless stream of batches."""
  images = ImageFolder(path=str(folder / "images"), size=SIZE, normalization=NORMALIZATION)
  columns = {"image": "inputs", "label": "labels"}
  parquet = Parquet(path=str(folder), columns=columns, size=SIZE, normalization=NORMALIZATION)

  def all_of(config: Any, source: Any) -> dict[str, Callable[[], Iterator[Any]]]:
    found: dict[str, Callable[[], Iterator[Any]]] = {
      "trialbook": lambda: ours(config),
      f"trialbook, {CORES} workers": lambda: ours(config.model_copy(update={"workers": CORES})),
      "grain, default settings (16 threads)": lambda: by_grain(source, None, 0),
      f"grain, {CORES} threads": lambda: by_grain(source, CORES, 0),
      f"grain, {CORES} worker processes": lambda: by_grain(source, 1, CORES),
    }
    try:
      import torch  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except ImportError:
      return found
    return found | {
      "torch DataLoader": lambda: by_torch(source, 0),
      f"torch DataLoader, {CORES} worker processes": lambda: by_torch(source, CORES),
    }

  return {"folder": all_of(images, Files(folder)), "Parquet": all_of(parquet, TableRows(folder))}


def rate(stream: Iterator[Any], seconds: float) -> float:
  """Return the examples per second that a stream, which is running, gives."""
  count, started = 0, time.perf_counter()
  while (passed := time.perf_counter() - started) < seconds:
    count += len(next(stream)["inputs"])
  return count / passed


def main() -> None:
  """Measure, and print a table."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--seconds", type=float, default=2.0, help="of each loader in each turn")
  parser.add_argument("--images", type=int, default=1000)
  options = parser.parse_args()
  # Grain's workers read absl's flags.
  flags.FLAGS(sys.argv[:1])
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_images(folder, options.images)
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(options.turns):
      for place, each in loaders(folder).items():
        for loader, begin in each.items():
          stream = begin()
          # Until all workers deliver, and what was made ahead is gone.
          for _ in range(2 * CORES + 2):
            next(stream)
          rates.setdefault((place, loader), []).append(rate(stream, options.seconds))
          getattr(stream, "close", lambda: None)()
  print(f"{platform.machine()}, {CORES} cores, Python {platform.python_version()}, grain {grain.__version__}")
  print(f"{options.turns} turns of {options.seconds} s; {options.images} JPEGs of {STORED[1]} x {STORED[0]}\n")
  print("| images in | loader | examples/s (median) | lowest | highest |\n|---|---|---:|---:|---:|")
  for (place, loader), found in rates.items():
    print(f"| {place} | {loader} | {statistics.median(found):,.0f} | {min(found):,.0f} | {max(found):,.0f} |")


if __name__ == "__main__":
  main()

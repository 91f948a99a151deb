"""The same examples in every form in which people have data; and data of several sizes."""

import pathlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
from flax import nnx
from PIL import Image

from trialbook import Mean
from trialbook.input_pipeline import (
  Data,
  ImageFolder,
  Pad,
  Parquet,
  PluginDataset,
  Tokens,
  packed_graphs,
  packed_text,
)

SIZES = {"train": 24, "validation": 12}
CLASSES = 4


def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(SIZES[split])
  return rng.normal(size=(SIZES[split], 3)).astype(np.float32), np.arange(SIZES[split]) % CLASSES


class Pairs:
  """As `torch.utils.data.Dataset` is used: one tuple for each place."""

  def __init__(self, split: str):
    self.inputs, self.labels = arrays(split)

  def __len__(self) -> int:
    return len(self.inputs)

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    return self.inputs[index], int(self.labels[index])


class Table:
  """As `datasets.Dataset` is: rows under the names of columns, and the classes in `features`."""

  def __init__(self, split: str):
    self.inputs, self.labels = arrays(split)
    self.features = {"x": None, "label": types.SimpleNamespace(num_classes=CLASSES)}

  def __len__(self) -> int:
    return len(self.inputs)

  def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
    return [{"x": self.inputs[index].tolist(), "label": int(self.labels[index])} for index in indices]

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self.__getitems__([index])[0]


def pairs() -> Data:
  return Data(splits={split: Pairs(split) for split in SIZES}, num_classes=CLASSES)


def table() -> Data:
  return Data(splits={split: Table(split) for split in SIZES}, keys={"x": "inputs", "label": "labels"})


def in_memory() -> dict[str, Any]:
  return {split: arrays(split) for split in SIZES}


def streams() -> Data:
  def stream(split: str) -> Iterator[tuple[np.ndarray, int]]:
    yield from (Pairs(split)[index] for index in range(SIZES[split]))

  return Data(splits={split: stream(split) for split in SIZES}, num_classes=CLASSES)


def lengths(split: str) -> list[int]:
  return np.random.default_rng(SIZES[split]).integers(2, 8, SIZES[split]).tolist()


def sentences(split: str) -> list[np.ndarray]:
  rng = np.random.default_rng(SIZES[split])
  return [rng.integers(1, 9, length) for length in lengths(split)]


def ragged() -> Data:
  """Sentences of different lengths, for a language model."""

  def rows(split: str) -> list[dict[str, np.ndarray]]:
    return [{"inputs": one[:-1], "labels": one[1:]} for one in sentences(split)]

  pad = Pad(keys=("inputs", "labels"), length=8)
  return Data(splits={split: rows(split) for split in SIZES}, num_classes=9, pad=(pad,))


def packed() -> Data:
  return Data(splits={split: packed_text(sentences(split), 10) for split in SIZES}, num_classes=9)


def graph(index: int) -> dict[str, Any]:
  """A ring with 2 to 5 nodes; its target is the sum of its nodes."""
  rng = np.random.default_rng(index)
  count = 2 + index % 4
  nodes = rng.normal(size=(count, 3)).astype(np.float32)
  edges = [(node, (node + 1) % count) for node in range(count)]
  return {
    "nodes": nodes,
    "edges": edges,
    "edge_features": np.ones((count, 1), np.float32),
    "targets": nodes.sum(axis=1)[:1],
  }


def graphs() -> Data:
  splits = {
    split: packed_graphs([graph(index) for index in range(4 * size)], nodes=12, edges=12, graphs=5)
    for split, size in SIZES.items()
  }
  return Data(splits=splits)


def parquet(folder: pathlib.Path) -> Parquet:
  """Lists of numbers and classes, in two files for training."""
  folder.mkdir(exist_ok=True)
  for split in SIZES:
    inputs, labels = arrays(split)
    half = len(inputs) // 2
    for number, part in enumerate((slice(0, half), slice(half, None))):
      columns = pyarrow.table({"x": list(inputs[part]), "label": labels[part], "name": ["a"] * half})
      pyarrow.parquet.write_table(columns, folder / f"{split}-{number}.parquet", row_group_size=5)
  return Parquet(path=str(folder), columns={"x": "inputs", "label": "labels"})


def picture(index: int) -> Image.Image:
  """A picture of one brightness, which a file as JPEG or PNG and a change of its size keep."""
  return Image.new("RGB", (10 + index % 3, 9), (10 * (index % 20), 50, 200))


def parquet_images(folder: pathlib.Path) -> Parquet:
  """Encoded images as the Hugging Face Hub has them."""
  import io

  folder.mkdir(exist_ok=True)
  for split, size in SIZES.items():
    encoded = []
    for index in range(size):
      picture(index).save(file := io.BytesIO(), "PNG")
      encoded.append({"bytes": file.getvalue(), "path": f"{index}.png"})
    columns = pyarrow.table({"image": encoded, "label": np.arange(size) % CLASSES})
    pyarrow.parquet.write_table(columns, folder / f"{split}.parquet")
  return Parquet(path=str(folder), columns={"image": "inputs", "label": "labels"}, size=(8, 8))


def image_folder(folder: pathlib.Path) -> ImageFolder:
  for split, size in SIZES.items():
    for index in range(size):
      (place := folder / split / f"class_{index % CLASSES}").mkdir(parents=True, exist_ok=True)
      picture(index).save(place / f"{index:03}.{('jpg', 'png')[index % 2]}")
  return ImageFolder(path=str(folder), size=(8, 8))


def tokens(folder: pathlib.Path) -> Tokens:
  folder.mkdir(exist_ok=True)
  (np.arange(2000) % 9).astype("<u2").tofile(folder / "tokens.bin")
  return Tokens(path=str(folder / "tokens.bin"), vocabulary=9, length=8)


FUNCTIONS = ("pairs", "table", "in_memory", "ragged", "packed", "graphs")
FILES = {
  "parquet": parquet,
  "parquet_images": parquet_images,
  "image_folder": image_folder,
  "tokens": tokens,
}
FORMS: Sequence[str] = (*FUNCTIONS, *FILES)


def config(form: str, folder: pathlib.Path) -> Any:
  """The config of a dataset in a form, whose files are made in a folder."""
  return FILES[form](folder) if form in FILES else PluginDataset(name=f"forms:{form}")


def settings(form: str) -> dict[str, Any]:
  """What a run needs to train on it."""
  if form in ("ragged", "packed", "tokens"):
    model = {"model.name": "transformer", "model.width": 8, "model.depth": 1, "model.heads": 2}
    return model | {"task.name": "language_model", "optimizer.learning_rate": 0.01}
  if form == "graphs":
    return {"model.name": "forms:GraphNet", "task.name": "forms:GraphTask", "optimizer.learning_rate": 0.01}
  return {"model.name": "mlp", "model.widths": (8,)}


class GraphNet(nnx.Module):
  """One step of messages along the edges, and a sum over the nodes of each graph; for a row of graphs."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.message = nnx.Linear(4, 8, rngs=rngs)
    self.output = nnx.Linear(11, 1, rngs=rngs)

  def __call__(self, row: dict[str, jax.Array]) -> jax.Array:
    def of_row(nodes: Any, edges: Any, edge_features: Any, graph: Any, is_graph: Any) -> jax.Array:
      sent = nnx.relu(self.message(jnp.concatenate([nodes[edges[:, 0]], edge_features], axis=1)))
      received = jnp.zeros((nodes.shape[0], 8)).at[edges[:, 1]].add(sent)
      outputs = self.output(jnp.concatenate([nodes, received], axis=1))
      return jnp.zeros((is_graph.shape[0], 1)).at[graph].add(outputs)

    return jax.vmap(of_row)(*(row[key] for key in ("nodes", "edges", "edge_features", "graph", "is_graph")))


class GraphTask:
  def keys(self, info: Any) -> list[str]:
    return ["nodes", "edges", "edge_features", "graph", "is_graph", "targets"]

  def model_inputs(self, batch: Any) -> Any:
    return {key: batch[key] for key in self.keys(None)[:-1]}

  def loss(self, outputs: Any, batch: Any) -> Any:
    errors = jnp.square(outputs - batch["targets"])[..., 0]
    weights = batch["is_graph"].astype(jnp.float32)
    return Mean(errors * weights, weights)

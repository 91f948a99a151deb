"""Examples of several sizes packed into rows of one size, so that little of a batch is padding.

Which examples share a row follows from their sizes and their order alone. A row is an example like any other: the order
of rows depends on (seed, epoch), and a resume and any number of hosts see the same batches. With one row for each
replica, a batch has a fixed budget for each.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.errors import DataError

_OPEN_ROWS = 64
"""Rows that still take examples; the fullest is closed if there are more, so that packing takes linear time."""

Collate = Callable[[Sequence[Any]], Mapping[str, Any]]


class Packed:
  """A split of rows, each made from several examples by a function.

  Args:
    examples: an object with `__len__` and `__getitem__`.
    sizes: of each example, by name, such as {"nodes": [...], "edges": [...]}.
    budget: of a row, by the same names.
    collate: makes a row, a mapping of arrays that have the same shapes in each row, from a list of examples.

  Raises:
    DataError: an example is larger than a row, or the sizes do not belong to the examples.
  """

  def __init__(
    self,
    examples: Any,
    *,
    sizes: Mapping[str, Sequence[int] | np.ndarray],
    budget: Mapping[str, int],
    collate: Collate,
  ):
    if sizes.keys() != budget.keys():
      raise DataError(f"sizes are of {', '.join(sizes)}, but the budget is of {', '.join(budget)}")
    for name, each in sizes.items():
      if len(each) != len(examples):
        raise DataError(f"there are {len(each)} sizes ({name}) of {len(examples)} examples")
    if small := [name for name, count in budget.items() if count < 1]:
      raise DataError(f"a row has no room for {small[0]}: its budget is {budget[small[0]]}")
    table = np.stack([np.asarray(sizes[name], np.int64) for name in budget], axis=1)
    largest = np.array([budget[name] for name in budget])
    if len(wrong := np.argwhere(table > largest)):
      index, which = wrong[0]
      name = list(budget)[which]
      raise DataError(f"example {index} has {table[index, which]} {name}, more than the {largest[which]} of a row")
    self.examples, self.collate = examples, collate
    self.rows = _packed(table, largest)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> Mapping[str, Any]:
    """Return a row."""
    return self.collate([self.examples[example] for example in self.rows[index]])


def _packed(sizes: np.ndarray, budget: np.ndarray) -> list[list[int]]:
  """Return the examples of each row: each example goes into the oldest open row that has room for it."""
  rows: list[list[int]] = []
  numbers, left = np.zeros(0, np.int64), np.zeros((0, len(budget)), np.int64)
  for index, size in enumerate(sizes):
    fitting = np.flatnonzero((left >= size).all(axis=1))
    if len(fitting):
      place = fitting[0]
    else:
      if len(numbers) == _OPEN_ROWS:
        fullest = np.argmin((left / budget).min(axis=1))
        numbers, left = np.delete(numbers, fullest), np.delete(left, fullest, axis=0)
      place = len(numbers)
      numbers, left = np.append(numbers, len(rows)), np.vstack([left, budget])
      rows.append([])
    rows[numbers[place]].append(index)
    left[place] -= size
  return rows


def packed_text(documents: Sequence[Sequence[int] | np.ndarray], length: int, *, cut: bool = True) -> Packed:
  """Return a split for a language model: documents, one after the other, in rows of `length` tokens.

  A row has "inputs" and "labels" (the next token of the same document), int32 [length]; "mask", true where there is a
  label; "segments", int32: 1 for the first document of a row and so on, 0 where there is none; and "positions", counted
  within a document.

  Args:
    documents: whole numbers [n] of each, n > 1.
    length: of a row.
    cut: whether a document that is longer than a row is continued in others; otherwise it is an error.
  """
  if short := [index for index, document in enumerate(documents) if len(document) < 2]:
    raise DataError(
      f"document {short[0]} has {len(documents[short[0]])} tokens; it needs two, one to predict the other"
    )
  parts: list[tuple[int, int, int]] = []
  for index, document in enumerate(documents):
    # A label is the next token, so parts share one.
    step = length if cut else len(document)
    starts = range(0, len(document) - 1, step)
    parts += [(index, start, min(start + step + 1, len(document))) for start in starts]

  def collate(chosen: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    row = {key: np.zeros(length, np.int32) for key in ("inputs", "labels", "segments", "positions")}
    start = 0
    for segment, tokens in enumerate(chosen, 1):
      place = slice(start, start + len(tokens) - 1)
      row["inputs"][place], row["labels"][place] = tokens[:-1], tokens[1:]
      row["segments"][place], row["positions"][place] = segment, np.arange(len(tokens) - 1)
      start = place.stop
    return row | {"mask": row["segments"] > 0}

  sizes = [stop - start - 1 for _, start, stop in parts]
  return Packed(_Parts(documents, parts), sizes={"tokens": sizes}, budget={"tokens": length}, collate=collate)


class _Parts:
  """Parts (document, first, one past the last) of documents."""

  def __init__(self, documents: Sequence[Any], parts: list[tuple[int, int, int]]):
    self._documents, self._parts = documents, parts

  def __len__(self) -> int:
    return len(self._parts)

  def __getitem__(self, index: int) -> np.ndarray:
    document, first, stop = self._parts[index]
    return np.asarray(self._documents[document][first:stop])


def packed_graphs(examples: Any, *, nodes: int, edges: int, graphs: int) -> Packed:
  """Return a split of rows with a fixed number of nodes, edges and graphs; the last node and graph are padding.

  An example is a mapping with "nodes" [n, ...], "edges" [e, 2] (from, to) and, if there are any, "edge_features"
  [e, ...]; all its other arrays belong to the graph. In a row, "graph" int32 [nodes] is the number of each node's
  graph, edges count the nodes of the row, and padding edges join the last node with itself. Arrays of graphs are
  [graphs, ...], and "is_graph" bool [graphs] says which there are.

  Args:
    examples: an object with `__len__` and `__getitem__`; all examples are read once, for their sizes.
    nodes: of a row, with one or more that are padding.
    edges: of a row.
    graphs: of a row, with one that is padding.
  """
  counted = [examples[index] for index in range(len(examples))]
  sizes = {
    "nodes": [len(example["nodes"]) for example in counted],
    "edges": [len(example["edges"]) for example in counted],
    "graphs": [1] * len(counted),
  }

  def filled(parts: list[np.ndarray], length: int, value: int = 0) -> np.ndarray:
    array = np.concatenate(parts)
    rest = np.full((length - len(array), *array.shape[1:]), value, array.dtype)
    return np.concatenate([array, rest])

  def collate(chosen: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    counts = [len(example["nodes"]) for example in chosen]
    firsts = np.cumsum([0, *counts[:-1]])
    pairs = [
      np.asarray(one["edges"], np.int32).reshape(-1, 2) + first for one, first in zip(chosen, firsts, strict=True)
    ]
    row = {
      "nodes": filled([np.asarray(example["nodes"]) for example in chosen], nodes),
      "edges": filled(pairs, edges, nodes - 1).astype(np.int32),
      "graph": filled([np.repeat(np.arange(len(chosen)), counts)], nodes, graphs - 1).astype(np.int32),
      "is_graph": np.arange(graphs) < len(chosen),
    }
    for key in chosen[0].keys() - {"nodes", "edges"}:
      parts = [np.asarray(example[key]) for example in chosen]
      parts = parts if key == "edge_features" else [part[None] for part in parts]
      row[key] = filled(parts, edges if key == "edge_features" else graphs)
    return row

  budget = {"nodes": nodes - 1, "edges": edges, "graphs": graphs - 1}
  return Packed(examples, sizes=sizes, budget=budget, collate=collate)

"""What models are on pods: their memory, collectives and least times, by the compiler of TPUs, for docs/pods.md.

  python -m benchmarks.pods [WORD ...]

Needs the extra [tpu] and no TPU. Compiling takes minutes for a row. With words, only the rows are compiled of which all
words are in the first columns, such as `ResNet-50 v6e:16x16`; the others stay as the page has them. Each row is written
to the page when it is measured, with date and commit, and at the end all tables are printed.
"""

import dataclasses
import datetime
import pathlib
import sys
from collections.abc import Callable, Sequence

from benchmarks.evidence import commit
from trialbook.errors import UserError
from trialbook.launch.preflight.chips import GIB, parse_topology
from trialbook.launch.preflight.records import Report
from trialbook.launch.preflight.request import Request, compiled

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "pods.md"
MODELS = {
  "ResNet-50, 64 images a chip": ("resnet50", 64),
  "transformer, 1.2 billion, 4096 tokens a chip": ("transformer_1b", 4),
  "transformer, 6.7 billion, 2048 tokens a chip": ("transformer_7b", 1),
}
"""Name -> (file in experiments/, examples a chip)."""
PODS = (("v5e:16x16", 1), ("v6e:16x16", 1), ("v5p:4x4x8", 1), ("v5e:16x16", 2))
"""Topologies, and how many slices of each."""
Cells = tuple[str, ...]
SIZES = ("v5e:4x4", "v5e:8x8", "v5e:16x16")
"""Slices on which one model is compared."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A row of a table.

  Attributes:
    key: its first columns.
    request: what is compiled.
    cells: its further columns, of the report.
  """

  key: Cells
  request: Request
  cells: Callable[[Report], Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of the page: its header, without the last column, and its rows."""

  header: Cells
  rows: tuple[Row, ...]


def request(model: str, topology: str, slices: int = 1, *more: str) -> Request:
  """Return what is compiled of a model: a fixed number of examples a chip, and the state over all chips of a slice."""
  name, per_chip = MODELS[model]
  chips = parse_topology(topology, slices).chips
  sizes = [f"batch_size={chips * per_chip}", f"evaluation.batch_size={chips * per_chip}"]
  split = [] if name == "resnet50" else [f"mesh.fsdp={chips // slices}"]
  return Request(config=f"experiments/{name}.py", topology=topology, slices=slices, assignments=[*sizes, *split, *more])


def tables() -> list[Table]:
  """Return the tables, with nothing measured yet."""
  return [
    Table(
      header=(
        *("model", "topology", "state, GiB a chip", "temporaries", "all", "of", "verdict", "TFLOPs a chip"),
        *("collectives a step", "GiB", "largest gathered", "step at least, ms", "compute", "memory", "interconnect"),
        *("between slices", "utilisation at most", "compiling, s"),
      ),
      rows=tuple(
        Row(
          key=(model, topology if slices == 1 else f"{slices} × {topology}"),
          request=request(model, topology, slices),
          cells=_on_a_pod,
        )
        for model in MODELS
        for topology, slices in PODS
      ),
    ),
    Table(
      header=("model", "topology", "chips", "state, GiB a chip", "all", "links between neighbours", "compiling, s"),
      rows=tuple(
        Row(key=(model, topology), request=request(model, topology), cells=_by_size)
        for model in MODELS
        if not model.startswith("ResNet")
        for topology in SIZES
      ),
    ),
    Table(
      header=(
        "batch normalization of ResNet-50 on v5e:4x4",
        "all-reduces a step",
        "in the forward pass",
        "arrays",
        "MiB",
      ),
      rows=tuple(
        Row(
          key=(name,),
          request=request(next(iter(MODELS)), "v5e:4x4", 1, f"model.virtual_batch_size={size}"),
          cells=_reductions,
        )
        for name, size in (("64 images share statistics (ghost)", "64"), ("the global batch (synchronized)", "None"))
      ),
    ),
  ]


def _on_a_pod(report: Report) -> list[str]:
  memory, bounds, step = report["memory"], report["bounds"], report["functions"].get("train_step")
  sizes = [_gib(memory["state"]), _gib(memory["temporaries"]), _gib(memory["peak"]), _gib(memory["limit"] or 0)]
  if bounds is None or step is None:
    return [*sizes, report["verdict"], *[""] * 10, f"{report['compile_seconds']:.0f}"]
  groups = step["collectives"]
  gathers = [group for group in groups if group["kind"] == "all-gather"]
  largest = max(gathers, key=lambda group: group["largest"])["shape"] if gathers else "none"
  return [
    *sizes,
    report["verdict"],
    f"{step['flops'] / 1e12:.3g}",
    f"{sum(group['executions'] for group in groups):,}",
    f"{sum(group['bytes'] for group in groups) / GIB:.3g}",
    largest,
    *(_ms(bounds[name]) for name in ("step", "compute", "memory", "ici", "dcn")),
    f"{bounds['utilisation']:.0%}" if bounds["utilisation"] is not None else "",
    f"{report['compile_seconds']:.0f}",
  ]


def _by_size(report: Report) -> list[str]:
  hops = ", ".join(f"{axis} {count}" for axis, count in report["hops"].items() if count is not None)
  memory = report["memory"]
  return [
    str(report["chips"]),
    f"{memory['state'] / GIB:.3f}",
    _gib(memory["peak"]),
    hops,
    f"{report['compile_seconds']:.0f}",
  ]


def _reductions(report: Report) -> list[str]:
  groups = [group for group in report["functions"]["train_step"]["collectives"] if group["kind"] == "all-reduce"]
  forward = sum(group["executions"] for group in groups if group["place"].startswith("forward"))
  return [
    str(sum(group["executions"] for group in groups)),
    str(forward),
    str(sum(group["arrays"] for group in groups)),
    f"{sum(group['bytes'] for group in groups) / 2**20:.1f}",
  ]


def merged(page: str, header: Cells, keys: Sequence[Cells], key: Cells, cells: Sequence[str]) -> str:
  """Return a page in which one row of a table is replaced or added.

  Args:
    page: its text.
    header: of the table, without the last column, which says when a row was measured.
    keys: first columns of all rows that the table may have, in order; others are removed.
    key: of the row.
    cells: the further columns of the row.

  Raises:
    ValueError: the page has no table of this header.
  """
  first = _line((*header, "measured"))
  if first not in page:
    raise ValueError(f"the page has no table {first}")
  start = page.index(first) + len(first)
  lines = page[start:].splitlines(keepends=True)
  count = next((index for index, line in enumerate(lines) if not line.startswith("|")), len(lines))
  known = {tuple(_cells(line)[: len(key)]): line for line in lines[1:count]}
  known[key] = _line((*key, *cells))
  rows = [known[one] for one in keys if one in known]
  return page[:start] + lines[0] + "".join(rows) + "".join(lines[count:])


def printed(page: str, header: Cells) -> str:
  """Return the table of a page that has this header."""
  return page[page.index(_line((*header, "measured"))) :].partition("\n\n")[0] + "\n"


def _line(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |\n"


def _cells(line: str) -> list[str]:
  return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _gib(amount: int) -> str:
  return f"{amount / GIB:.2f}"


def _ms(seconds: float | None) -> str:
  return "unknown" if seconds is None else f"{seconds * 1000:.3g}"


def main(words: Sequence[str]) -> int:
  """Compile the rows that contain all words, and print the tables of the page."""
  when, failed = f"{datetime.date.today()}, {commit()}", 0
  for table in tables():
    for row in table.rows:
      if not all(word in " ".join(row.key) for word in words):
        continue
      print(" ".join(row.key), file=sys.stderr, flush=True)
      try:
        cells = row.cells(compiled(row.request))
      except UserError as error:
        print("\n".join(error.problems), file=sys.stderr, flush=True)
        failed += 1
        continue
      keys = [one.key for one in table.rows]
      PAGE.write_text(merged(PAGE.read_text(), table.header, keys, row.key, [*cells, when]))
  for table in tables():
    print(printed(PAGE.read_text(), table.header))
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

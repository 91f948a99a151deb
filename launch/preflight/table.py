"""A preflight as text for a terminal."""

from collections.abc import Iterable, Sequence

from trialbook.launch.preflight.chips import CHIPS, GIB
from trialbook.launch.preflight.records import Report

MOST_COLLECTIVES = 12
"""Rows of the table of collectives; the record has all of them."""


def lines(report: Report) -> list[str]:
  """Return the report of one config."""
  found = [
    f"{report['verdict'].upper()}: {report['config']} on {report['topology']}"
    + (f": {report['reason']}" if report["reason"] else ""),
    *("".join(f"  --set {path}={value}" for path, value in report["changes"].items()).splitlines()),
    "",
    *aligned(facts(report)),
    "",
    f"memory of a chip, GiB{'' if report['memory']['known'] else ' (temporaries of a GPU are not known without one)'}",
    *aligned(memory_rows(report)),
  ]
  if report["largest_allocations"]:
    found += ["", "largest allocations, by the compiler", *(f"  {one}" for one in report["largest_allocations"])]
  if bounds := bound_rows(report):
    found += ["", "least time of a train step, ms", *aligned(bounds)]
  if report["functions"]:
    rows = collective_rows(report)
    shown = f", the largest {MOST_COLLECTIVES} of {len(rows) - 1}" if len(rows) - 1 > MOST_COLLECTIVES else ""
    found += ["", f"collectives of a train step{shown}", *aligned(rows[: MOST_COLLECTIVES + 1])]
  for title, texts in (("warnings", report["warnings"]), ("notes", report["notes"])):
    if texts:
      found += ["", title, *(f"  - {text}" for text in texts)]
  return found


def facts(report: Report) -> list[tuple[str, ...]]:
  """Return what was compiled, as rows of name and value."""
  chip = CHIPS[report["chip"]]
  mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())
  hops = ", ".join(f"{axis} {hops}" for axis, hops in report["hops"].items() if hops is not None)
  save, host = report["save"], report["host"]
  return [
    ("chips", f"{report['chips']:,} on {report['hosts']:,} {'host' if report['hosts'] == 1 else 'hosts'}"),
    ("mesh", mesh + (f"; links between neighbours: {hops}" if hops else "")),
    ("parameters", f"{report['parameters']:,}"),
    ("batch size", f"{report['batch_size']:,} ({report['batch_size'] / report['chips']:g} a chip)"),
    (
      "a save",
      (
        f"{save['bytes'] / 1e9:.3g} GB of the fullest host, {save['seconds']:.3g} s at an assumed"
        f" {save['bytes_per_second'] / 1e9:g} GB/s; the grace period is {save['grace_seconds']:g} s"
      ),
    ),
    (
      "host memory",
      f"{(host['batches'] + host['save']) / GIB:.3g} GiB for batches and a save"
      + (f", of {host['limit'] / GIB:.0f} GiB" if host["limit"] else ""),
    ),
    ("compiled in", f"{report['trace_seconds']:.1f} s of tracing and {report['compile_seconds']:.1f} s of compiling"),
    ("compiler", ", ".join(f"{name} {version}" for name, version in report["compiler"].items())),
    ("figures of the chip", chip.source),
  ]


def memory_rows(report: Report) -> list[tuple[str, ...]]:
  """Return the memory of a chip, as rows of name and GiB."""
  memory = report["memory"]
  parts = ("arguments", "temporaries", "outputs", "code", "batches", "save")
  names = {"batches": "batches made ahead", "save": "copy while saving", "code": "program"}
  rows = [(names.get(part, part), _gib(memory[part])) for part in parts]
  padding = f"  ({_gib(memory['padding'])} of it padding)" if memory["padding"] else ""
  rows[0] = ("arguments", _gib(memory["arguments"]) + padding)
  return [*rows, ("all", _gib(memory["peak"]) + (f" of {_gib(memory['limit'])}" if memory["limit"] else ""))]


def bound_rows(report: Report) -> list[tuple[str, ...]]:
  """Return the bounds of a step, as rows of what bounds it, milliseconds and the amount."""
  bounds, step = report["bounds"], report["functions"].get("train_step")
  if bounds is None or step is None:
    return []
  inside, between = (
    sum(group["bytes"] for group in step["collectives"] if group["network"] == network) for network in ("ici", "dcn")
  )
  rows = [
    ("compute", _ms(bounds["compute"]), f"{step['flops'] / 1e12:.3g} TFLOPs a chip"),
    (
      "memory",
      _ms(bounds["memory"]),
      f"{step['traffic'] / GIB:.3g} GiB a chip; {bounds['intensity']:.3g} FLOPs a byte",
    ),
    ("interconnect", _ms(bounds["ici"]), f"collectives of {inside / GIB:.3g} GiB a chip"),
  ]
  if between:
    rows.append(("between slices", _ms(bounds["dcn"]), f"collectives of {between / GIB:.3g} GiB a chip"))
  if bounds["step"] and bounds["utilisation"] and bounds["examples_per_second"]:
    rows.append(
      (
        "all",
        _ms(bounds["step"]),
        f"{bounds['utilisation']:.0%} of the peak FLOP/s, {bounds['examples_per_second']:,.0f} examples/s, at most",
      )
    )
  return rows


def collective_rows(report: Report) -> list[tuple[str, ...]]:
  """Return the collectives of a train step with a header, the largest first."""
  header = ("kind", "axis", "runs", "MiB a step", "arrays", "largest", "in a loop", "network", "place")
  return [
    header,
    *(
      (
        group["kind"],
        group["axis"],
        f"{group['executions']:,}",
        f"{group['bytes'] / 2**20:,.2f}",
        f"{group['arrays']:,}",
        group["shape"],
        "yes" if group["in_loop"] else "",
        group["network"],
        group["place"],
      )
      for group in report["functions"]["train_step"]["collectives"]
    ),
  ]


def side_by_side(reports: Sequence[Report], names: Sequence[str]) -> list[tuple[str, ...]]:
  """Return a table of several reports: a row for each quantity, a column for each report."""
  rows: list[tuple[str, ...]] = [("", *names)]
  one = [summary(report) for report in reports]
  return rows + [(name, *(column[name] for column in one)) for name in one[0]]


def summary(report: Report) -> dict[str, str]:
  """Return the numbers by which configs are compared."""
  memory, bounds, step = report["memory"], report["bounds"], report["functions"].get("train_step")
  groups = step["collectives"] if step else []
  gathered = max(
    (group for group in groups if group["kind"] == "all-gather"), key=lambda group: group["largest"], default=None
  )
  return {
    "verdict": report["verdict"],
    "chips": f"{report['chips']:,}",
    "mesh": ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items()),
    "parameters": f"{report['parameters']:,}",
    "batch size": f"{report['batch_size']:,}",
    "state, GiB a chip": _gib(memory["state"]),
    "temporaries, GiB a chip": _gib(memory["temporaries"]),
    "all, GiB a chip": _gib(memory["peak"]),
    "TFLOPs a chip": f"{step['flops'] / 1e12:.3g}" if step else "",
    "collectives, runs a step": f"{sum(group['executions'] for group in groups):,}" if step else "",
    "collectives, GiB a step": f"{sum(group['bytes'] for group in groups) / GIB:.3g}" if step else "",
    "largest gathered array": "none" if step and gathered is None else gathered["shape"] if gathered else "",
    "compute, ms": _ms(bounds["compute"]) if bounds else "",
    "memory, ms": _ms(bounds["memory"]) if bounds else "",
    "interconnect, ms": _ms(bounds["ici"]) if bounds else "",
    "between slices, ms": _ms(bounds["dcn"]) if bounds else "",
    "step at least, ms": _ms(bounds["step"]) if bounds else "",
    "examples/s at most": f"{bounds['examples_per_second']:,.0f}" if bounds and bounds["examples_per_second"] else "",
    "compiling, s": f"{report['compile_seconds']:.0f}",
    "warnings": str(len(report["warnings"])),
  }


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
  """Return rows as lines, indented, with columns below each other."""
  rows = list(rows)
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
  return [
    "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
  ]


def _gib(amount: int) -> str:
  return f"{amount / GIB:.2f}"


def _ms(seconds: float | None) -> str:
  return "unknown" if seconds is None else f"{seconds * 1000:.3g}"

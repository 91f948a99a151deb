"""The work of `trialbook launch preflight`, once its flags are parsed."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence

from trialbook import errors, files
from trialbook.errors import UserError
from trialbook.launch.preflight import table
from trialbook.launch.preflight.chips import parse_topology
from trialbook.launch.preflight.meshes import possible_meshes
from trialbook.launch.preflight.records import Report
from trialbook.launch.preflight.request import CompilerEndedError, Request, check_compiler, compiled
from trialbook.settings import Settings
from trialbook.trainer.batch_size_search import Tried, largest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
  """What the flags ask for.

  Attributes:
    request: the config on its topology.
    compare: file of another config; None: there is none.
    find_batch_size: whether the largest batch size that fits is searched for.
    sweep_mesh: whether all meshes are compiled.
    json, html: files that are written; None: not.
  """

  request: Request
  compare: str | None = None
  find_batch_size: bool = False
  sweep_mesh: bool = False
  json: pathlib.Path | None = None
  html: pathlib.Path | None = None


def preflight(wanted: Wanted, compile_one: Callable[[Request], Report] = compiled) -> int:
  """Compile, print the report and write it; return the exit code.

  It is 3 if what was asked for does not fit, and 1 if the compiler crashed.

  Raises:
    UserError: with the problems of the arguments, the config or the mesh.
  """
  check_compiler(parse_topology(wanted.request.topology, wanted.request.slices))
  for flag, path in (("--json", wanted.json), ("--html", wanted.html)):
    if path is not None and not path.parent.is_dir():
      raise UserError(f"{flag}={path}: there is no folder {path.parent}")
  try:
    return _preflight(wanted, compile_one)
  except CompilerEndedError as error:
    print(error, file=sys.stderr)
    return errors.BUG


def _preflight(wanted: Wanted, compile_one: Callable[[Request], Report]) -> int:
  if wanted.find_batch_size:
    reports, found = _find_batch_size(wanted.request, compile_one)
  elif wanted.sweep_mesh:
    reports, found = _sweep_mesh(wanted.request, compile_one)
  else:
    requests = [wanted.request]
    if wanted.compare is not None:
      requests.append(dataclasses.replace(wanted.request, config=wanted.compare))
    reports = [compile_one(request) for request in requests]
    found = "fits" if all(report["verdict"] != "does not fit" for report in reports) else ""
  columns = table.side_by_side(reports, _names(reports)) if len(reports) > 1 else []
  shown = reports if wanted.compare is None and len(reports) == 1 else []
  for report in shown:
    print("\n".join(table.lines(report)))
  if columns:
    print("\n".join(table.aligned(columns)))
    for report, name in zip(reports, columns[0][1:], strict=True):
      if report["warnings"]:
        print("\n".join(["", f"warnings of {name}", *(f"  - {text}" for text in report["warnings"])]))
  if wanted.find_batch_size or wanted.sweep_mesh:
    print(f"\n{found or 'nothing fits'}")
  if wanted.json is not None:
    files.write_json(wanted.json, reports[0] if len(reports) == 1 else {"format": files.FORMAT, "reports": reports})
  if wanted.html is not None:
    # It takes a while to import.
    from trialbook.launch.preflight.page import page

    files.write_text(wanted.html, page(reports, columns))
  return errors.DONE if found else errors.INFEASIBLE


def _names(reports: Sequence[Report]) -> list[str]:
  """Return what differs between reports: their files, or else their meshes or batch sizes."""
  files_ = [report["config"] for report in reports]
  if len(set(files_)) > 1:
    return files_
  meshes = [", ".join(f"{axis} {size}" for axis, size in report["mesh"].items()) for report in reports]
  return meshes if len(set(meshes)) > 1 else [f"batch size {report['batch_size']:,}" for report in reports]


def _find_batch_size(request: Request, compile_one: Callable[[Request], Report]) -> tuple[list[Report], str]:
  """Return the reports of the sizes that were compiled, in their order, and a sentence; "" if none fits."""
  first = compile_one(request)
  if not first["memory"]["known"] or first["memory"]["limit"] is None:
    why = first["reason"] if first["verdict"] == "not known" else "temporaries are not known"
    raise UserError(f"--find_batch_size: {why}, so no batch size can be said to fit")
  unit = first["batch_unit"]
  made = {first["batch_size"] // unit: first}

  def compile_size(units: int) -> Tried:
    if units not in made:
      made[units] = compile_one(dataclasses.replace(request, batch_units=units))
    report = made[units]
    memory = report["memory"]
    return Tried(report["verdict"] == "fits", memory["peak"], memory["limit"] or 0)

  fits, refused = largest(compile_size, first["batch_size"] // unit)
  reports = [report for _, report in sorted(made.items())]
  if not fits:
    return reports, ""
  return reports, (
    f"the largest batch size that fits is {fits * unit:,} ({fits * unit / first['chips']:g} a chip); with"
    f" {refused * unit:,}, {made[refused]['reason']}"
  )


def _sweep_mesh(request: Request, compile_one: Callable[[Request], Report]) -> tuple[list[Report], str]:
  """Return the reports of all meshes, the fastest first, and a sentence; "" if none fits."""
  from trialbook.trainer.config import MeshSettings

  topology = parse_topology(request.topology, request.slices)
  reports: list[Report] = []
  refused: list[str] = []
  for sizes in possible_meshes(topology.chips // topology.slices, _axes(MeshSettings)):
    changes = {f"mesh.{axis}": size for axis, size in sizes.items()}
    try:
      reports.append(compile_one(dataclasses.replace(request, changes={**request.changes, **changes})))
    except (UserError, CompilerEndedError) as error:
      problem = error.problems[0] if isinstance(error, UserError) else str(error).splitlines()[0]
      refused.append(f"{', '.join(f'{path} = {size}' for path, size in changes.items())}: {problem}")
  if not reports:
    raise UserError(refused)
  if refused:
    print("\n".join(["not compiled", *(f"  - {text}" for text in refused), ""]))

  def order(report: Report) -> tuple[int, float, int]:
    bounds = report["bounds"]
    step = bounds["step"] if bounds else None
    rank = ("fits", "not known", "does not fit").index(report["verdict"])
    return rank, step or float("inf"), report["memory"]["peak"]

  reports.sort(key=order)
  best = reports[0]
  if best["verdict"] == "does not fit":
    return reports, ""
  mesh = " ".join(f"--set {path}={value}" for path, value in best["changes"].items() if path.startswith("mesh."))
  which = "that fit" if best["verdict"] == "fits" else "(whether they fit is not known)"
  return reports, f"the least bound of a step among the meshes {which}: {mesh}"


def _axes(mesh: type[Settings]) -> list[str]:
  """Return the axes of the mesh that are given sizes."""
  return [name for name, field in mesh.model_fields.items() if field.default == 1]

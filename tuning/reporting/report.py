"""A study in, its report out."""

import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

from trialbook import files
from trialbook.errors import ConfigError
from trialbook.naming import nearest
from trialbook.object_store import StorePath
from trialbook.paths import as_path
from trialbook.tuning.comparing import read_any
from trialbook.tuning.findings import Finding, findings
from trialbook.tuning.reporting import FORMATS, Format, successive
from trialbook.tuning.reporting.answer import answer, retrains_of
from trialbook.tuning.reporting.plain import plain
from trialbook.tuning.reporting.provenance import caveats, is_running, provenance, states
from trialbook.tuning.results import StudyResults


def report(
  study: str | pathlib.Path | StudyResults, output: str | pathlib.Path | None = None, *, format: Format = "html"
) -> pathlib.Path:
  """Write the report of a study, finished or not, and return where.

  Args:
    study: its folder, or a round's, or results by any objective.
    output: a file, made or replaced; "-": standard output; for "png" and "svg" a folder. None: `report.html`, `.md` or
      `.json` in the study's folder, or `plots/` there.
    format: "html": the page; "md": its text; "json": its findings; "png", "svg": its plots.

  Raises:
    UserError: if there is no study, or it cannot be read.
    ConfigError: if the output cannot be written there.
  """
  results = study if isinstance(study, StudyResults) else read_any(study)
  if format not in FORMATS:
    raise ConfigError(f"format {format!r}{nearest(format, FORMATS)}")
  default = results.folder / ("plots" if format in ("png", "svg") else f"report.{format}")
  path = default if output is None else as_path(output)
  _check(path, is_folder=format in ("png", "svg"))
  if format in ("png", "svg"):
    from trialbook.tuning.reporting.pictures import write_pictures

    write_pictures(results, path, format)
    return path
  seen = findings(results)
  # What no encoding has, such as half of a surrogate pair in a folder's name, must not cost the report.
  text = text_of(results, format, seen).encode(errors="replace").decode()
  if str(path) == "-":
    sys.stdout.write(text)
    return path
  files.write_text(path, text)
  if path == default:
    successive.write_record(results, seen)
  return path


def text_of(results: StudyResults, format: Literal["html", "md", "json"], seen: Sequence[Finding] | None = None) -> str:
  """Return the report of a study in one of the formats that are text; `seen` are its findings, if they are known."""
  banner = _banner(results)
  seen = findings(results) if seen is None else seen
  if format == "html":
    # It takes a second to import what draws, which the other formats do without.
    from trialbook.tuning.reporting.html import html
    from trialbook.tuning.reporting.page_data import objectives_of, page_data

    return html(page_data(results, objectives_of(results), seen), banner)
  if format == "md":
    from trialbook.tuning.reporting.markdown import markdown

    return markdown(results, seen, banner)
  return json.dumps(_json(results, seen, banner), indent=2, allow_nan=False) + "\n"


def _json(results: StudyResults, seen: Sequence[Finding], banner: str | None) -> dict[str, Any]:
  return {
    "format": 1,
    "study": {"name": results.study.name, "goal": results.study.goal, "folder": str(results.folder)},
    "objective": {
      "metric": results.objective.metric,
      "mode": results.objective.mode,
      "value": results.objective.value,
    },
    "complete": banner is None,
    "answer": answer(results, seen),
    "since": successive.changes(results, seen),
    "best": _best(results),
    "states": states(results),
    "warnings": caveats(results),
    "findings": [plain(one.as_json()) for one in seen],
    "provenance": dict(provenance(results)),
  }


def _best(results: StudyResults) -> dict[str, Any] | None:
  """Return the best retrain of the best point, with the mean of that point's retrains."""
  best = results.best
  if best is None:
    return None
  retrains = retrains_of(results, best)
  mean = math.fsum(trial.objective or 0.0 for trial in retrains) / len(retrains)
  return plain(
    {
      "trial": best.trial,
      "objective": best.objective,
      "mean": mean,
      "retrains": [trial.trial for trial in retrains],
      "step": best.step,
      "values": best.values,
    }
  )


def _banner(results: StudyResults) -> str | None:
  """Return that the study has not ended, which a reader must know first; None if it has."""
  ended = sum(results.count(state) for state in ("complete", "infeasible", "failed", "pruned"))
  planned = max(results.study.trials, len(results.trials))
  if results.study.source is not None:
    ended += results.count("stopped")  # Where it was made, a rule ended it.
  if ended >= planned:
    return None
  if results.study.source is not None:
    working = "Imported before its end"
  else:
    working = "Running" if is_running(results) else "Not running (rerun the same command to resume)"
  return f"{working}: {ended} of {planned} trials have ended. Results are preliminary."


def _check(path: pathlib.Path, *, is_folder: bool) -> None:
  """Raise an error, before the work, if there cannot be such a file."""
  if str(path) == "-":
    if is_folder:
      raise ConfigError("pictures are files: name a folder")
    return
  if path.exists() and path.is_dir() != is_folder:
    raise ConfigError(f"{path} is a {'file; name a folder' if is_folder else 'folder; name a file'}")
  if not is_folder and path.exists() and not path.is_file():
    raise ConfigError(f"{path} is not a regular file; name another one, or - for standard output")
  if not is_folder and not isinstance(path, StorePath) and not path.parent.is_dir():
    raise ConfigError(f"{path}: there is no folder {path.parent}")

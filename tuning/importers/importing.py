"""The import of a source into study folders: the one function of this package."""

import dataclasses
import importlib
import pathlib
import shlex
from collections.abc import Mapping

from trialbook.errors import UserError
from trialbook.metric_names import Mode
from trialbook.naming import nearest
from trialbook.paths import as_local_path
from trialbook.tuning.importers import KINDS, metric_names, writing
from trialbook.tuning.importers.conversion import convert
from trialbook.tuning.importers.declarations import declared_in
from trialbook.tuning.importers.source import Options, SourceStudy


def import_study(
  kind: str,
  source: str | pathlib.Path,
  directory: str | pathlib.Path,
  *,
  rename: Mapping[str, str] | None = None,
  objective: str | None = None,
  mode: Mode | None = None,
  name: str | None = None,
  goal: str | None = None,
  study: str | None = None,
  space: str | pathlib.Path | None = None,
  command: str | None = None,
) -> list[pathlib.Path]:
  """Import what a source holds; each study of a source of several gets a folder inside `directory`.

  Trials are numbered from 0 in the source's order; what each is called there is in its `trial.json`, `summary.source`.
  Of a metric that was logged twice at one step the later value counts. Step 0 is the state before the first update.

  Args:
    kind: "algoperf", "optuna" or "csv", see the modules.
    source: where it is.
    directory: absent, empty, or an earlier import of the same source, which is replaced.
    rename: metric as the source calls it -> as the study is to call it; well-known names are known, see
      `metric_names.ours`. What was renamed is in `study.json`, `search.renamed`.
    objective: metric to rank by, in either name, instead of the source's own.
    mode: which direction of it is better, where that is not known.
    name: of the study.
    goal: in words.
    study: the only one that is wanted of an Optuna storage.
    space: a JSON file with the `hyperparameters` of a `study.json`: roles, scales and bounds that the source does not
      know.
    command: that repeats the import; None: it is made up.

  Returns:
    the studies' folders.

  Raises:
    UserError: with all that is wrong; nothing was written.
  """
  if kind not in KINDS:
    raise UserError(f"unknown kind of source {kind!r}{nearest(kind, KINDS)}")
  if mode not in (None, "min", "max"):
    raise UserError(f"mode = {mode!r}: should be 'min' or 'max'")
  if study is not None and kind != "optuna":
    raise UserError(f"study = {study!r}: only an Optuna storage has studies of several names")
  options = Options(
    rename=rename or {},
    objective=objective,
    mode=mode,
    name=name,
    goal=goal,
    study=study,
    space=None if space is None else str(space),
  )
  reader = importlib.import_module(f"trialbook.tuning.importers.{KINDS[kind]}")
  studies: list[SourceStudy] = reader.read(str(source), options)
  if space is not None and kind != "csv":  # A column's type depends on what is declared, so tables read it themselves.
    studies = declared_in(as_local_path(space), studies)
  logged = {metric for one in studies for trial in one.trials for metric in trial.curves}
  problems = metric_names.unknown(options.rename, logged)
  converted = []
  studies = _apart(studies)
  command = command or _command(kind, source, directory, options)
  for one in studies:
    try:
      converted.append(convert(one, options, command))
    except UserError as error:
      problems += [f"{one.place}: {problem}" if one.place else problem for problem in error.problems]
  if problems:
    raise UserError(problems)
  return writing.write(as_local_path(directory), converted)


def _apart(studies: list[SourceStudy]) -> list[SourceStudy]:
  """Return the studies; if two would have the same folder, the later one gets a numbered one."""
  taken: set[str] = set()
  found = []
  for study in studies:
    place, count = study.place, 1
    while place.lower() in taken:
      count += 1
      place = f"{study.place}_{count}"
    taken.add(place.lower())
    found.append(dataclasses.replace(study, place=place))
  return found


def _command(kind: str, source: str | pathlib.Path, directory: str | pathlib.Path, options: Options) -> str:
  flags = [f"--rename={metric}={name}" for metric, name in options.rename.items()]
  for flag in ("objective", "mode", "name", "goal", "study", "space"):
    if (value := getattr(options, flag)) is not None:
      flags.append(f"--{flag}={value}")
  return shlex.join(["trialbook", "tune", "import", kind, str(source), str(directory), *flags])

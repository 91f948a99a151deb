"""Damaged records: every command that reads one names the file and exits with 2, or shows what it would have shown."""

import collections
import io
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
from csv_studies import bowl, imported
from damages import ROOT, Damage, Opened, damages, of_bytes
from in_process import run_in_process
from in_process_command import run_command
from time_limit import within
from tiny import numbers

from trialbook import errors
from trialbook.trainer import Programs
from trialbook.tuning import Round, Study, run_round, run_study
from trialbook.tuning.study_files import load_study

FUNCTION = """
from trialbook import Halton, Linear, Minimize, OneOf, Study

def get_study():
  return Study(
    name="bowls", goal="Which bowl is deeper?", objective=Minimize("loss"), function="bowl:bowl",
    scientific={"shape": OneOf(["wide", "narrow"])}, nuisance={"x": Linear(-1.0, 1.0)}, search=Halton(seed=0), trials=6,
  )
"""
ROUND = """
from trialbook import Halton, Linear, Minimize, OneOf, Round, Study

def get_study():
  studies = tuple(
    Study(
      name=shape, goal="Which bowl is deeper?", objective=Minimize("loss"), function="bowl:bowl", trials=2,
      scientific={"shape": OneOf([shape])}, nuisance={"x": Linear(-1.0, 1.0)}, search=Halton(seed=0),
    )
    for shape in ("wide", "narrow")
  )
  return Round(name="shapes", goal="Which bowl is deeper?", studies=studies)
"""
FORMATS = (["--format=md"], ["--format=json"])


def of_runs() -> Iterator[tuple[str, ...]]:
  """The commands that read a run."""
  for run in ("complete", "fork", "stopped"):
    workdir = f"runs/{run}"
    yield "profile", workdir
    yield "evaluate", workdir, "--step=last"
    yield "export", workdir, "--step=last"
    yield "train", f"--config={workdir}/config.json", f"--workdir={workdir}"
  for source in ("complete", "stopped"):
    changes = ("--set", "max_train_steps=25")
    yield "train", "--config=config.json", f"--fork=runs/{source}", *changes, "--workdir=runs/new"


def of_studies() -> Iterator[tuple[str, ...]]:
  """The commands that read a study or a round."""
  for study in ("trainings", "function", "imported"):
    folder = f"runs/{study}"
    yield "tune", "best", folder
    yield "tune", "status", folder
    yield "tune", "show", folder, "1"
    yield "tune", "trial", folder, "1"
    yield from (("tune", "report", folder, "--output=-", *how) for how in FORMATS)
  for command in ("best", "status"):
    yield "tune", command, "runs/round"
  yield "tune", "compare", "runs/round/wide", "runs/round/narrow"
  yield "tune", "report", "runs/round", "--output=-", "--format=md"
  yield "tune", "run", "--study=bowls.py", "--dir=runs/function"
  yield "tune", "run", "--study=bowls.py", "--dir=runs/other/bowls"
  yield "tune", "run", "--study=shapes.py", "--dir=runs/round"
  yield "tune", "best", "runs/trainings", "--objective=validation/loss"
  yield "tune", "list", "runs"
  yield "tune", "index", "runs"


class Records:
  """The records, in a folder where each command finds them as they were, but for one damage."""

  def __init__(self, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    self._intact, self.folder, self._capsys = folder / "intact", folder / "here", capsys
    shutil.copytree(ROOT / "runs", self._intact / "runs")
    # Records of the present version say where a log ends.
    for study in ("function", "round", "imported"):
      shutil.rmtree(self._intact / "runs" / study)
    shutil.copy(self._intact / "runs/complete/config.json", self._intact / "config.json")
    (self._intact / "bowls.py").write_text(FUNCTION)
    (self._intact / "shapes.py").write_text(ROUND)
    made = {name: load_study(self._intact / name) for name in ("bowls.py", "shapes.py")}
    run_study(cast(Study, made["bowls.py"]), self._intact / "runs/function", executor=run_in_process)
    run_round(cast(Round, made["shapes.py"]), self._intact / "runs/round", executor=run_in_process)
    rows = [{"rate": rate, "kind": kind} for rate, kind in ((0.01, "a"), (0.1, "b"), (0.02, "a"), (0.2, "b"))]
    imported(
      self._intact / "runs/imported", rows, {n: {"validation/error": bowl(row["rate"])} for n, row in enumerate(rows)}
    )
    shutil.copytree(self._intact, self.folder)
    self._stamps = self._stamped()
    self._log = io.StringIO()
    logging.getLogger("absl").addHandler(logging.StreamHandler(self._log))
    self._opened = Opened()

  def run(self, command: Sequence[str], damage: Damage | None = None) -> tuple[int, str, str]:
    """Return the exit code and what a command prints."""
    if damage is not None:
      damage.apply(self.folder / damage.path)
    try:
      self._log.seek(0)
      self._log.truncate()
      code, output, said = run_command(self._capsys, *command)
      said += self._log.getvalue()
      # These print times.
      if command[0] == "profile":
        output = ""
      if command[0] == "train" and code == errors.DONE:
        output = str(numbers(pathlib.Path(command[-1].partition("=")[2])))
      return code, output, said
    finally:
      self._restore()

  def _stamped(self) -> dict[str, tuple[int, int]]:
    """Return a stamp of each file by its path, which a change of the file changes."""
    found = {}
    for folder, _, names in os.walk(self.folder / "runs"):
      for name in names:
        status = os.stat(path := os.path.join(folder, name))
        found[path] = (status.st_mtime_ns, status.st_ino)
    return found

  def _restore(self) -> None:
    """Bring back what a damage or a command has changed."""
    now = self._stamped()
    for path in [path for path in {*now, *self._stamps} if now.get(path) != self._stamps.get(path)]:
      if os.path.lexists(path):
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
      if path in self._stamps:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy(self._intact / os.path.relpath(path, self.folder), path)
        status = os.stat(path)
        self._stamps[path] = (status.st_mtime_ns, status.st_ino)
    for folder, _, _ in os.walk(self.folder / "runs", topdown=False):
      if not (self._intact / os.path.relpath(folder, self.folder)).is_dir():
        shutil.rmtree(folder)

  def read_by(self, command: Sequence[str]) -> tuple[tuple[int, str, str], set[pathlib.PurePath]]:
    """Return what a command prints, and the records that it reads, while nothing is damaged."""
    found, paths = self._opened.during(lambda: self.run(command))
    return found, {path for path in self.paths() if str((self.folder / path).resolve()) in paths}

  def paths(self) -> list[pathlib.PurePath]:
    """Return the records, from the folder."""
    found = sorted((self._intact / "runs").rglob("*.json*"))
    return [path.relative_to(self._intact) for path in found if "logs" not in path.parts]

  def checkpoints(self, command: Sequence[str]) -> list[pathlib.PurePath]:
    """Return the files of the checkpoints of the runs that a command names; what opens them is no code of ours."""
    found = [path for path in sorted((self._intact / "runs").glob("*/checkpoints/**/*")) if path.is_file()]
    words = " ".join(command)
    return [
      path.relative_to(self._intact) for path in found if f"runs/{path.relative_to(self._intact).parts[1]}" in words
    ]

  def damages(self, path: pathlib.PurePath) -> Iterator[Damage]:
    return (of_bytes if "checkpoints" in path.parts else damages)(self._intact, self._intact / path)


@pytest.fixture
def records(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], programs: Programs
) -> Records:
  monkeypatch.syspath_prepend(str(ROOT))
  made = Records(tmp_path, capsys)
  monkeypatch.chdir(made.folder)
  for module in ("start_or_resume", "checkpoint_evaluation"):
    monkeypatch.setattr(f"trialbook.trainer.{module}.Programs", lambda: programs)
  # To lower a model takes a second, and reads nothing.
  monkeypatch.setattr("trialbook.trainer.export.export_model", lambda folder, *_: folder)
  return made


def wrong(records: Records, command: Sequence[str], intact: tuple[int, str, str], damage: Damage) -> str | None:
  """Return what is wrong with how a command takes a damage; None if nothing is."""
  try:
    with within(60):
      code, output, said = records.run(command, damage)
  except BaseException as error:
    return f"{type(error).__name__}: {str(error)[:300]}"
  if code == errors.USER_MISTAKE and (code, output, said) != intact:
    return None if named(damage) in said else f"does not name the file: {said[-300:]}"
  if code not in (intact[0], errors.INFEASIBLE):
    return f"exits with {code}: {said[-300:]}"
  if damage.shows and (code, output) != intact[:2] and named(damage) not in said:
    return f"shows another result: {output[-300:]}"
  return None


def named(damage: Damage) -> str:
  """Return what a message about a damage names: the file, or the checkpoint."""
  parts = damage.path.parts
  return "/".join(parts[2:4]) if "checkpoints" in parts else damage.path.name


def walk(records: Records, commands: Iterator[tuple[str, ...]], every: int) -> tuple[int, int, list[str]]:
  """Return how many damages were read how often, and what was wrong; only each `every`-th damage is tried."""
  problems, tried, count = [], collections.Counter[str](), 0
  for command in commands:
    intact, paths = records.read_by(command)
    # Records of equal kind in one folder are read alike.
    kinds = {(path.parts[1], path.name, "trials" in path.parts): path for path in sorted(paths)}
    read = [*kinds.values(), *(records.checkpoints(command) if command[0] != "tune" else ())]
    for damage in (one for path in read for one in records.damages(path)):
      count += 1
      if count % every:
        continue
      tried[str(damage)] += 1
      if (problem := wrong(records, command, intact, damage)) is not None:
        problems.append(f"{' '.join(command)} | {damage} | {problem}")
  return len(tried), tried.total(), problems


@pytest.mark.slow
def test_some_damages_of_studies(records: Records):
  different, _, problems = walk(records, of_studies(), every=97)
  assert different > 40
  assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_some_damages_of_runs(records: Records):
  different, _, problems = walk(records, of_runs(), every=401)
  assert different > 5
  assert not problems, "\n".join(problems)


@pytest.mark.evidence
@pytest.mark.parametrize("commands", [of_runs, of_studies])
def test_hundreds_of_damages(records: Records, commands):
  different, tried, problems = walk(records, commands(), every=5)
  sys.stderr.write(f"\n{commands.__name__}: {different} damages, {tried} readings, {len(problems)} problems\n")
  assert different >= 500
  assert not problems, "\n".join(problems)

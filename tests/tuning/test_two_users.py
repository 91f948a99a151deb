"""Another user of a machine reads what is there for all, and is told by name what it may not read or write."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from damages import ROOT as OLD
from forked import ROOT
from quadratics import study

from trialbook.tuning import run_study

pytestmark = [
  pytest.mark.long,
  pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user"),
]
NOBODY = 65534


@pytest.fixture
def shared() -> Iterator[pathlib.Path]:
  """A folder that everybody reaches; that of the tests is its owner's alone."""
  try:
    subprocess.run([sys.executable, "-c", ""], cwd="/", user=NOBODY, group=NOBODY, extra_groups=[], check=True)
  except (OSError, subprocess.SubprocessError):
    pytest.skip("the interpreter lies where other users cannot reach it")
  folder = pathlib.Path("/tmp") / f"trialbook-two-users-{os.getpid()}"
  folder.mkdir()
  yield folder
  shutil.rmtree(folder)


def as_nobody(*arguments: object, home: str = "/nonexistent") -> tuple[int, str, str]:
  """Return exit code and output of `trialbook ARGUMENTS`, run by a user with no rights and no home."""
  environment = {"PATH": os.environ["PATH"], "HOME": home, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  found = subprocess.run(
    [sys.executable, "-m", "trialbook", *map(str, arguments)],
    cwd="/",
    user=NOBODY,
    group=NOBODY,
    extra_groups=[],
    env=environment,
    capture_output=True,
    text=True,
    timeout=240,
  )
  assert "Traceback" not in found.stderr, found.stderr
  return found.returncode, found.stdout, found.stderr


def test_records_of_another_user_are_read_and_not_written(shared: pathlib.Path):
  shutil.copytree(OLD / "runs", shared / "runs")
  runs = shared / "runs"
  for command in (["best"], ["status"], ["show"], ["report", "--output=-", "--format=md"]):
    name, *flags = command
    code, output, told = as_nobody("tune", name, runs / "trainings", *(["1"] if name == "show" else []), *flags)
    assert (code, bool(output)) == (0, True), told
  code, _, told = as_nobody("tune", "list", runs)
  assert code == 0, told
  code, _, told = as_nobody("tune", "report", runs / "trainings")
  assert (code, "report.html" in told, "Permission denied" in told) == (2, True, True), told
  code, output, told = as_nobody("evaluate", runs / "complete", "--step=last")
  assert code == 0, told
  code, _, told = as_nobody("train", f"--config={runs}/complete/config.json", f"--workdir={runs}/complete")
  assert (code, str(runs / "complete") in told, "ermission" in told or "writ" in told) == (2, True, True), told
  code, _, told = as_nobody("train", f"--config={runs}/complete/config.json", f"--workdir={runs}/new")
  assert (code, str(runs) in told) == (2, True), told


def test_what_others_keep_to_themselves_is_named_and_hides_nothing_else(shared: pathlib.Path):
  shutil.copytree(OLD / "runs", shared / "runs")
  (shared / "runs/trainings/study.json").chmod(0o600)
  (shared / "runs/round").chmod(0o700)
  code, output, told = as_nobody("tune", "list", shared / "runs")
  assert code == 0, told
  assert "function" in output
  assert "trainings is left out" in told
  assert "Permission denied" in told
  code, _, told = as_nobody("tune", "best", shared / "runs/trainings")
  assert (code, "trainings/study.json" in told) == (2, True), told


def test_a_user_without_a_home_trains_beside_files_of_others_in_one_folder(shared: pathlib.Path):
  # As /tmp is: everybody writes there, and nobody removes what is of others.
  shared.chmod(0o1777)
  run_study(study(), shared / "mine")
  (shared / "bait").write_text("of root alone")
  (shared / "bait").chmod(0o600)
  config = OLD / "runs/complete/config.json"
  shutil.copy(config, shared / "config.json")
  (shared / "config.json").chmod(0o644)
  code, _, told = as_nobody("train", f"--config={shared}/config.json", f"--workdir={shared}/theirs")
  assert code == 0, told
  assert (shared / "theirs/run.json").stat().st_uid == NOBODY
  code, output, told = as_nobody("tune", "list", shared)
  assert code == 0, told
  assert "mine" in output


def test_links_that_another_user_has_laid_are_not_followed(shared: pathlib.Path):
  (shared / "bait").write_text("of root alone")
  shared.chmod(0o1777)
  for name in ("studies.csv", "studies.md", f".studies.csv.new.{os.getpid()}", f".studies.md.new.{os.getpid()}"):
    os.symlink(shared / "bait", shared / name)
    os.lchown(shared / name, NOBODY, NOBODY)
  run_study(study(), shared / "mine")
  assert (shared / "bait").read_text() == "of root alone"
  assert not (shared / "studies.csv").is_symlink()

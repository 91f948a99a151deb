"""Damaged records of procedures, jobs and hosts: what reads one names the file, or concludes what it would have
concluded."""

import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from damages import Damage, damages
from test_procedure_autopilot import CONFIG, training
from test_procedure_batch_size import Device
from time_limit import within

from trialbook import files
from trialbook.errors import UserError
from trialbook.launch.job_exit import read_causes
from trialbook.trainer.hosts.host_log import write_exit
from trialbook.tuning.procedures import autopilot, batch_size
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.records import read_jobs

RECORDS = (
  "plan.json",
  "1_batch_size/conclusion.json",
  "1_batch_size/measurements.jsonl",
  "recorded_baseline/adoptions.jsonl",
  "test_looks.jsonl",
)
"""The records that a call of the autopilot reads again, from its folder."""


def fly(folder: pathlib.Path) -> Conclusion:
  """Call the autopilot with a simulation."""
  lab = Lab(folder=folder / "autopilot", config=CONFIG, runner=training())
  return autopilot.run(lab, steps=40_000, search="halton", skip="max-steps,stability")


def measure(folder: pathlib.Path) -> Conclusion:
  """Search for a batch size."""
  lab = Lab(folder=folder / "autopilot/1_batch_size", config=CONFIG)
  return batch_size.run(lab, measure=Device(256))


def wrong(
  read: Callable[[pathlib.Path], Any], folder: pathlib.Path, intact: Any, damage: Damage, *, ignores: bool = False
) -> str | None:
  """Return what is wrong with how a reader takes a damage; `ignores`: it may read as if there was no record."""
  try:
    with within(60):
      found = read(folder)
  except UserError as error:
    return None if damage.path.name in str(error) else f"does not name the file: {error}"
  except BaseException as error:
    return f"{type(error).__name__}: {str(error)[:300]}"
  if damage.shows and not ignores and found != intact:
    return f"reads something else: {str(found)[:300]}"
  return None


def walk(
  read: Callable[[pathlib.Path], Any], folder: pathlib.Path, names: tuple[str, ...], every: int, **more: bool
) -> tuple[int, list[str]]:
  """Return how many damages of records were tried, each `every`-th, and what was wrong."""
  root, problems, tried = folder.with_name("here"), [], 0
  shutil.copytree(folder, root)
  intact = read(root)
  all_damages: Iterator[Damage] = (one for name in names for one in damages(folder, folder / name))
  for number, damage in enumerate(all_damages):
    if number % every:
      continue
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(folder, root)
    damage.apply(root / damage.path)
    tried += 1
    if (problem := wrong(read, root, intact, damage, **more)) is not None:
      problems.append(f"{read.__name__} | {damage} | {problem}")
  return tried, problems


def flown(folder: pathlib.Path) -> pathlib.Path:
  """Return a folder in which the autopilot has flown."""
  measure(folder)
  fly(folder)
  return folder


AUTOPILOT = tuple(f"autopilot/{name}" for name in RECORDS)


@pytest.mark.parametrize("read", [fly, measure])
def test_some_damages_of_procedures(tmp_path: pathlib.Path, read: Callable[[pathlib.Path], Any]):
  names = AUTOPILOT if read is fly else AUTOPILOT[2:3]
  tried, problems = walk(read, flown(tmp_path / "intact"), names, every=41 if read is fly else 7)
  assert tried > 3
  assert not problems, "\n".join(problems)


@pytest.mark.evidence
@pytest.mark.parametrize("read", [fly, measure])
def test_all_damages_of_procedures(tmp_path: pathlib.Path, read: Callable[[pathlib.Path], Any]):
  names = AUTOPILOT if read is fly else AUTOPILOT[2:3]
  tried, problems = walk(read, flown(tmp_path / "intact"), names, every=1)
  sys.stderr.write(f"\n{read.__name__}: {tried} damages, {len(problems)} problems\n")
  assert tried > 50
  assert not problems, "\n".join(problems)


def test_damages_of_the_list_of_jobs(tmp_path: pathlib.Path):
  folder = tmp_path / "intact"
  folder.mkdir()
  files.write_json(folder / "slurm.json", {"format": files.FORMAT, "jobs": {"0": "12_0", "1": "12_1"}})
  tried, problems = walk(read_jobs, folder, ("slurm.json",), every=1)
  assert tried > 20
  assert not problems, "\n".join(problems)


def test_a_damaged_record_of_an_exit_is_as_good_as_none(tmp_path: pathlib.Path):
  folder = tmp_path / "intact"
  folder.mkdir()
  write_exit(folder / "host_0.exit.json", 75, "host 1 was lost", 1, preempted=False)

  def causes(folder: pathlib.Path) -> Any:
    return read_causes(folder, 1, {})

  assert causes(folder)[0].text == "host 1 was lost"
  tried, problems = walk(causes, folder, ("host_0.exit.json",), every=1, ignores=True)
  assert tried > 20
  assert not problems, "\n".join(problems)

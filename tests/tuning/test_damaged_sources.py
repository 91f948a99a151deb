"""Damaged sources of imports: an import names the file and exits with 2, or makes a study that all commands read."""

import pathlib
import shutil
import sqlite3
import sys
from collections.abc import Iterator

import optuna
import pytest
from csv_studies import bowl, imported
from damages import Damage, damages, of_bytes, of_text
from in_process_command import run_command
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_import_algoperf import write_trial
from time_limit import within

from trialbook import errors

optuna.logging.set_verbosity(optuna.logging.ERROR)

STATEMENTS = (
  "drop table trial_values",
  "drop table study_directions",
  "delete from version_info",
  "update version_info set schema_version = 99",
  "delete from studies",
  "update trials set state = 'GONE' where trial_id = 2",
  "update trials set number = null",
  "update trials set datetime_start = 'yesterday'",
  "update trial_values set value = 'x'",
  "update trial_values set value = null",
  "update trial_params set distribution_json = '{' where trial_id = 2",
  "update trial_params set distribution_json = '[]'",
  "update trial_params set param_value = 1e300 where trial_id = 2",
  "delete from trial_params where trial_id = 2",
  "update trial_intermediate_values set step = 'x' where step = 0",
  "update trial_intermediate_values set step = -1 where step = 0",
  "update studies set study_name = ''",
  "update study_directions set direction = 'UP'",
)
"""Damages of a database that is still one."""


def objective(trial: optuna.Trial) -> float:
  rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
  kind = trial.suggest_categorical("kind", ["a", "b"])
  for step in range(3):
    trial.report(rate + 1 / (step + 1), step)
  return rate + 1 / 3 if kind == "a" else rate


def make(kind: str, folder: pathlib.Path) -> str:
  """Make a source of a kind in a folder, and return its name there."""
  folder.mkdir()
  if kind in ("database", "journal"):
    path = folder / "optuna.storage"
    storage = f"sqlite:///{path}" if kind == "database" else JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="tune", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=6)
    return "optuna.storage"
  if kind == "algoperf":
    row = "{},5,9,0,0.2,0.9,0.2,0.9,3554,{}\n"
    for number in range(1, 4):
      rows = "".join(row.format(step, 0.1 * number + step / 1000) for step in (1, 100, 200))
      point = {"learning_rate": 10.0**-number, "nesterov": True, "warmup": number}
      write_trial(
        folder / f"logs/study_0/fastmri_jax/trial_{number}", point, rows, "100,0.5,0.7,,,,,,\n0,1,0.8,,,,,,\n"
      )
    return "logs"
  rows = [{"rate": rate, "kind": kind} for rate, kind in ((0.01, "a"), (0.1, "b"), (0.02, "a"), (0.2, "b"))]
  declared = {
    "name": "rates",
    "goal": "Which?",
    "hyperparameters": {"rate": {"scale": "log", "min": 0.001, "max": 1.0}},
  }
  curves = {number: {"validation/error": bowl(row["rate"], 4)} for number, row in enumerate(rows)}
  imported(folder / "made", rows, curves, declared)
  (folder / ".made_tables").rename(folder / "tables")
  shutil.rmtree(folder / "made")
  return "tables"


KINDS = {"tables": "csv", "algoperf": "algoperf", "journal": "optuna", "database": "optuna"}


def all_damages(kind: str, root: pathlib.Path) -> Iterator[Damage]:
  """Yield the damages of each file of a source."""
  for path in sorted(path for path in root.rglob("*") if path.is_file() and "trial_3" not in path.parts):
    if kind == "database":
      yield from of_bytes(root, path, count=60)
    elif path.suffix == ".json":
      yield from damages(root, path)
    else:
      yield from of_text(root, path)


def problem(source: str, kind: str, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> str | None:
  """Return what is wrong with how an import takes a source, and commands what it made; None if nothing is."""
  try:
    with within(60):
      code, _, told = run_command(capsys, "tune", "import", KINDS[kind], folder / source, folder / "study")
    if code == errors.USER_MISTAKE:
      return None if source in told else f"does not name the file: {told[-300:]}"
    if code != errors.DONE:
      return f"exits with {code}: {told[-300:]}"
    for command in (["best"], ["report", "--output=-", "--format=md"]):
      code, _, told = run_command(capsys, "tune", command[0], folder / "study", *command[1:])
      if code != errors.DONE:
        return f"{command[0]} exits with {code}: {told[-300:]}"
  except BaseException as error:
    return f"{type(error).__name__}: {str(error)[:300]}"
  return None


def walk(kind: str, root: pathlib.Path, capsys: pytest.CaptureFixture[str], every: int = 1) -> tuple[int, list[str]]:
  """Return how many damages of a source were tried, each `every`-th, and what was wrong."""
  source = make(kind, root / "intact")
  tried, problems = 0, []
  for damage in [*all_damages(kind, root / "intact")][::every]:
    shutil.rmtree(root / "here", ignore_errors=True)
    shutil.copytree(root / "intact", root / "here")
    damage.apply(root / "here" / damage.path)
    tried += 1
    if (wrong := problem(source, kind, root / "here", capsys)) is not None:
      problems.append(f"{kind} | {damage} | {wrong}")
  return tried, problems


@pytest.mark.parametrize("kind", KINDS)
def test_some_damages_of_sources(kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  tried, problems = walk(kind, tmp_path, capsys, every=17)
  assert tried > 3
  assert not problems, "\n".join(problems)


def test_a_database_whose_rows_are_damaged(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  source = make("database", tmp_path / "intact")
  problems = []
  for statement in STATEMENTS:
    shutil.rmtree(tmp_path / "here", ignore_errors=True)
    shutil.copytree(tmp_path / "intact", tmp_path / "here")
    connection = sqlite3.connect(tmp_path / "here" / source)
    with connection:
      connection.execute("pragma ignore_check_constraints = on")
      connection.execute(statement)
    connection.close()
    if (wrong := problem(source, "database", tmp_path / "here", capsys)) is not None:
      problems.append(f"{statement} | {wrong}")
  assert not problems, "\n".join(problems)


@pytest.mark.evidence
@pytest.mark.parametrize("kind", KINDS)
def test_all_damages_of_sources(kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  tried, problems = walk(kind, tmp_path, capsys)
  sys.stderr.write(f"\n{kind}: {tried} damages, {len(problems)} problems\n")
  assert tried > 50
  assert not problems, "\n".join(problems)

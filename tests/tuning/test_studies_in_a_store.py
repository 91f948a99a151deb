"""A study in a real object store: two workers, a killed coordinator, a second coordinator, and its report."""

import json
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import store_server
from store_commands import Commands

pytestmark = pytest.mark.evidence

STUDY = """
import config
from trialbook.tuning import Halton, Log, Minimize, Study


def get_study():
  return Study(
    name="rates",
    goal="Which learning rate is best?",
    config=config.get_config().override({"export": False}),
    objective=Minimize("validation/error"),
    nuisance={"optimizer.learning_rate": Log(1e-4, 1e-1)},
    trials=6,
    search=Halton(seed=0),
  )
"""

FUNCTION = """
from trialbook.tuning import Grid, Linear, Minimize, Study


def parabola(x):
  for step in range(5):
    yield {"loss": (x - 0.3) ** 2 + 1 / (step + 1)}


def get_study():
  return Study(
    name="parabola",
    goal="Where is the minimum?",
    function="function:parabola",
    objective=Minimize("loss"),
    nuisance={"x": Linear(0.0, 1.0)},
    search=Grid(4),
  )
"""


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> Iterator[Commands]:
  with store_server.serve(tmp_path / "store") as store:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "study.py").write_text(STUDY)
    (tmp_path / "here" / "function.py").write_text(FUNCTION)
    yield Commands(store, tmp_path / "here")


def trials(folder: pathlib.Path) -> list[dict[str, Any]]:
  return [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/trial.json"))]


def results(folder: pathlib.Path) -> list[tuple[Any, ...]]:
  return [(one["state"], one["values"], one["summary"].get("objective")) for one in trials(folder)]


def test_a_study_with_two_workers_is_killed_and_resumed_and_its_report_is_written(commands: Commands):
  run = ("tune", "run", "--study=study.py", "--workers=2")
  code, _, err = commands.run(*run, "--dir=local")
  assert code == 0, err
  process = commands.start(*run, "--dir=gs://bucket/studies/rates")
  there = commands.bucket / "studies" / "rates"
  commands.wait_for(lambda: any(one["state"] == "complete" for one in trials(there)), process)
  code, _, err = commands.run(*run, "--dir=gs://bucket/studies/rates")
  assert code == 2
  assert f"is in use by process {process.pid} on " in err
  process.send_signal(signal.SIGKILL)
  process.communicate()
  code, _, err = commands.run("tune", "status", "gs://bucket/studies/rates")
  assert code == 0, err
  code, _, err = commands.run(*run, "--dir=gs://bucket/studies/rates", seconds=400)
  assert code == 0, err
  assert results(there) == results(commands.folder / "local")
  assert (there / "trials.csv").read_text().count("\n") == 7
  assert (there / "logs" / "worker_0.log").exists()
  assert (commands.bucket / "studies" / "studies.md").is_file()
  for command in (
    ("tune", "report", "gs://bucket/studies/rates"),
    ("tune", "report", "gs://bucket/studies/rates", "--format=svg"),
    ("tune", "report", "gs://bucket/studies/rates", "--output=gs://bucket/pages/rates.html"),
    ("tune", "best", "gs://bucket/studies/rates"),
    ("tune", "list", "gs://bucket/studies"),
    ("tune", "index", "gs://bucket/studies"),
    ("tune", "compare", "gs://bucket/studies/rates", "local"),
  ):
    code, _, err = commands.run(*command)
    assert code == (2 if "compare" in command else 0), err
  assert "<html" in (there / "report.html").read_text()
  assert (commands.bucket / "pages" / "rates.html").is_file()
  assert list((there / "plots").glob("*.svg"))


def test_a_study_of_a_function_lies_in_a_store(commands: Commands):
  code, _, err = commands.run("tune", "run", "--study=function.py", "--dir=gs://bucket/parabola", "--workers=2")
  assert code == 0, err
  assert [state for state, *_ in results(commands.bucket / "parabola")] == ["complete"] * 4
  assert len((commands.bucket / "parabola" / "trials" / "0000" / "metrics.jsonl").read_text().splitlines()) == 5

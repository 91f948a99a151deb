"""Studies that tests read and do not change (each takes seconds, mostly for its worker to start), and study files."""

import pathlib
import textwrap

import csv_studies
import pytest
import quadratics
from in_process import InProcess

from trialbook.tuning import StudyResults, run_study
from trialbook.tuning.execution import coordinator, planned_study


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> pathlib.Path:
  """A folder for studies."""
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def curve_study(root) -> StudyResults:
  """`quadratics.study`, run in a folder of `root`."""
  return run_study(quadratics.study(), root / "curves")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> pathlib.Path:
  """The folder of a study whose every text is an attack."""
  return csv_studies.hostile(tmp_path_factory.mktemp("hostile") / "study")


@pytest.fixture
def no_workers(monkeypatch):
  """Commands run trials in this process; what workers do is in test_runner.py."""
  monkeypatch.setattr(coordinator, "LocalWorkers", InProcess)
  monkeypatch.setattr(planned_study, "LocalWorkers", InProcess)


@pytest.fixture
def write(tmp_path):
  """Writes a study file, and returns its path."""

  def write(text: str, name: str = "study.py") -> str:
    (tmp_path / name).write_text(textwrap.dedent(text))
    return str(tmp_path / name)

  return write


@pytest.fixture
def curves(write):
  """A study file of `quadratics.study`, changed as its `changes` say."""
  return lambda changes="": write(
    f"import quadratics\nfrom trialbook.tuning import *\ndef get_study():\n  return quadratics.study({changes})\n"
  )

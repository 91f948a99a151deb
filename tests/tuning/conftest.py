"""Studies that tests read and do not change: each takes seconds, mostly for its worker to start."""

import pathlib

import pytest
import quadratics

from tuning import StudyResults, run_study


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> pathlib.Path:
  """A folder for studies."""
  return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def curve_study(root) -> StudyResults:
  """`quadratics.study`, run in a folder of `root`."""
  return run_study(quadratics.study(), root / "curves")

"""`trialbook new`: what it writes is right as it is, and nothing that was there is lost."""

import io
import os
import pathlib
import subprocess
import sys
import tarfile
import time
import venv

import pytest

from trialbook import load_config, load_study
from trialbook.__main__ import main
from trialbook.errors import UserError
from trialbook.new_project import TEMPLATE, create
from trialbook.trainer import checks
from trialbook.tuning.execution.planned_study import prepare
from trialbook.tuning.study import Study

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = {"README.md", "config.py", "my_data.py", "my_model.py", "my_task.py", "study.py", "test_project.py"}


def test_it_writes_a_project_whose_config_and_study_are_right(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  folder = tmp_path / "digits-2"
  assert main(["new", str(folder)]) == 0
  assert f"cd {folder}" in capsys.readouterr().out
  assert (
    {path.name for path in folder.iterdir()} == FILES == {path.name for path in TEMPLATE.iterdir() if path.is_file()}
  )
  assert (folder / "README.md").read_text().startswith("# digits-2\n")
  assert not [path for path in folder.iterdir() if "my_project" in path.read_text()]
  monkeypatch.syspath_prepend(folder)
  monkeypatch.chdir(folder)
  assert checks.problems(load_config(folder / "config.py"), tmp_path / "run") == []
  study = load_study(folder / "study.py")
  assert isinstance(study, Study)
  assert (study.name, prepare(study).trials) == ("digits-2", 8)


def test_an_empty_folder_is_filled(tmp_path: pathlib.Path):
  (tmp_path / "new").mkdir()
  create(tmp_path / "new")
  assert {path.name for path in (tmp_path / "new").iterdir()} == FILES


def test_what_is_there_is_left_alone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.tex").write_text("all of it")
  (tmp_path / "file").write_text("")
  for name in ("mine", "file"):
    assert main(["new", str(tmp_path / name)]) == 2
    assert "there is something of this name already; name a new folder" in capsys.readouterr().err
  assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ['"quoted"', "a b", "ünï", "-flag", "new\nline"])
def test_a_name_that_python_and_shells_would_trip_over_is_refused(tmp_path: pathlib.Path, name: str):
  with pytest.raises(UserError, match="the name of a project has letters"):
    create(tmp_path / name)
  assert not list(tmp_path.iterdir())


@pytest.mark.evidence
def test_from_pip_install_to_a_trained_model_of_ones_own_takes_less_than_three_minutes(tmp_path: pathlib.Path):
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(tmp_path)}
  # From a copy: a build leaves files in the checkout.
  archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
  with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
    packed.extractall(tmp_path / "checkout", filter="tar")
  venv.create(tmp_path / "venv", with_pip=True)
  binaries = tmp_path / "venv" / "bin"
  started = time.perf_counter()
  for command, folder in (
    ([binaries / "python", "-m", "pip", "install", "--quiet", str(tmp_path / "checkout")], tmp_path),
    ([binaries / "trialbook", "new", "my_project"], tmp_path),
    ([binaries / "trialbook", "train", "--config=config.py", "--workdir=runs/first"], tmp_path / "my_project"),
  ):
    done = subprocess.run(
      list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
  seconds = time.perf_counter() - started
  sys.stderr.write(f"from pip install to a trained model: {seconds:.0f} s\n")
  assert (tmp_path / "my_project" / "runs" / "first" / "best.json").exists()
  assert seconds < 180

"""The files of a run hold what their places say: a line or a checkpoint in the place of another is noticed."""

import json
import pathlib
import resource
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest
from tiny import mlp, numbers

from trialbook.errors import GoneError, UserError
from trialbook.trainer import Programs, read_result, run
from trialbook.trainer.checkpoints import storage


class StoppedError(Exception):
  """Ends a run as a kill would."""


def stop_at(step: int) -> Callable[[int, Any], None]:
  def judge(now: int, values: Any) -> None:
    if now == step:
      raise StoppedError

  return judge


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> pathlib.Path:
  """A complete run, and two that were stopped at step 20, of which the second has another seed."""
  folder = tmp_path_factory.mktemp("runs")
  run(mlp(max_train_steps=30), folder / "complete", programs=programs)
  for name, seed in (("stopped", 0), ("other", 1)):
    with pytest.raises(StoppedError):
      run(mlp(max_train_steps=30, seed=seed), folder / name, programs=programs, judge=stop_at(20))
  return folder


@pytest.fixture
def stopped(runs: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  return shutil.copytree(runs / "stopped", tmp_path / "stopped")


def delete(lines: list[str]) -> list[str]:
  return [*lines[:5], *lines[6:]]


def double(lines: list[str]) -> list[str]:
  return [*lines[:5], *lines[4:]]


def swap(lines: list[str]) -> list[str]:
  return [*lines[:5], lines[6], lines[5], *lines[7:]]


def shorten(lines: list[str]) -> list[str]:
  return lines[:8]


@pytest.mark.parametrize("change", [delete, double, swap, shorten])
def test_a_log_whose_lines_were_changed_is_refused(stopped: pathlib.Path, programs: Programs, change):
  path = stopped / "metrics.jsonl"
  path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
  before = path.read_bytes()
  with pytest.raises(UserError, match=r"metrics\.jsonl"):
    run(mlp(max_train_steps=30), stopped, programs=programs)
  assert path.read_bytes() == before


@pytest.mark.parametrize("change", [delete, double, swap, shorten])
def test_no_result_is_read_from_a_log_whose_lines_were_changed(runs: pathlib.Path, tmp_path: pathlib.Path, change):
  workdir = shutil.copytree(runs / "complete", tmp_path / "complete")
  path = workdir / "metrics.jsonl"
  path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
  with pytest.raises(UserError, match=r"metrics\.jsonl"):
    read_result(workdir)


def test_a_copied_checkpoint_is_set_aside(stopped: pathlib.Path, runs: pathlib.Path, programs: Programs):
  folder = stopped / "checkpoints"
  (newest,) = storage.saved_steps(folder)[-1:]
  shutil.copytree(folder / str(newest), folder / str(newest + 5))
  with pytest.raises(storage.DamagedCheckpointError, match="copied or renamed"):
    storage.describe(folder / str(newest + 5))
  assert run(mlp(max_train_steps=30), stopped, programs=programs).status == "complete"
  assert (folder / f"{newest + 5}.damaged").is_dir()
  assert numbers(stopped) == numbers(runs / "complete")


def test_a_checkpoint_of_another_run_is_refused(stopped: pathlib.Path, runs: pathlib.Path, programs: Programs):
  for step in storage.saved_steps(stopped / "checkpoints"):
    shutil.rmtree(stopped / "checkpoints" / str(step))
    shutil.copytree(runs / "other/checkpoints" / str(step), stopped / "checkpoints" / str(step))
  with pytest.raises(UserError, match="saved by another run"):
    run(mlp(max_train_steps=30), stopped, programs=programs)


def test_a_checkpoint_keeps_its_run_without_the_runs_record(stopped: pathlib.Path, programs: Programs):
  identity = json.loads((stopped / "run.json").read_text())["id"]
  (stopped / "run.json").unlink()
  assert run(mlp(max_train_steps=30), stopped, programs=programs).status == "complete"
  assert json.loads((stopped / "run.json").read_text())["id"] == identity


def test_a_fork_holds_checkpoints_of_both_runs(stopped: pathlib.Path, tmp_path: pathlib.Path, programs: Programs):
  longer = mlp(max_train_steps=40)
  with pytest.raises(StoppedError):
    run(longer, tmp_path / "fork", fork=stopped, programs=programs, judge=stop_at(30))
  ids = {json.loads((path / "run.json").read_text())["id"] for path in (stopped, tmp_path / "fork")}
  assert len(ids) == 2
  assert run(longer, tmp_path / "fork", programs=programs).status == "complete"


@pytest.mark.parametrize("name", ["²", "055", "٣", "1" * 5000])
def test_only_the_names_of_steps_are_checkpoints(tmp_path: pathlib.Path, name: str):
  (tmp_path / "20").mkdir()
  if len(name) < 255:
    (tmp_path / name).mkdir()
  assert storage.step_of(name) is None
  assert storage.saved_steps(tmp_path) == [20]


@pytest.mark.parametrize("what", ["moved", "deleted", "replaced"])
def test_a_workdir_that_is_gone_ends_the_run_and_is_not_made_again(
  tmp_path: pathlib.Path, programs: Programs, what: str
):
  workdir = tmp_path / "run"

  def judge(step: int, values: Any) -> None:
    if step == 10:
      # Orbax would finish the first save, which is under way, where the folder was.
      while not (workdir / "best.json").exists():
        time.sleep(0.01)
      workdir.rename(tmp_path / "elsewhere")
      if what == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
      if what == "replaced":
        workdir.mkdir()

  with pytest.raises(GoneError, match="run: the folder is gone"):
    run(mlp(max_train_steps=30), workdir, programs=programs, judge=judge)
  assert workdir.exists() == (what == "replaced")
  assert what != "replaced" or not list(workdir.iterdir())


def test_limits_of_the_process_are_told_before_a_save(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], limits[which]))
  limits = {resource.RLIMIT_FSIZE: 10_000, resource.RLIMIT_NOFILE: 1000}
  with pytest.raises(UserError, match=r"File too large: .* limit is 0\.01 MB; .*ulimit -f"):
    run(mlp(), tmp_path / "size", programs=programs)
  limits = {resource.RLIMIT_FSIZE: resource.RLIM_INFINITY, resource.RLIMIT_NOFILE: 5}
  with pytest.raises(UserError, match=r"Too many open files: .* of 5 are open; .*ulimit -n"):
    run(mlp(), tmp_path / "number", programs=programs)

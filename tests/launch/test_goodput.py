"""The seconds of a run are divided by what they went into, whatever ended its processes."""

import json
import pathlib
from typing import Any

import pytest

from trialbook.errors import ConfigError, UserError
from trialbook.launch.goodput import BADPUT, GOODPUT, goodput, table, write


def process(status: str, started: float, restored: int, step: int, times: dict[str, float] | None, **more: Any) -> dict:
  known = {} if times is None else {"times": times}
  return {"format": 1, "status": status, "started": started, "restored_step": restored, "step": step, **known, **more}


def written(folder: pathlib.Path, *processes: dict) -> pathlib.Path:
  *earlier, last = processes
  (folder / "run.json").write_text(json.dumps({**last, "earlier": earlier}))
  return folder


def test_an_undisturbed_run_is_divided_by_its_times(tmp_path: pathlib.Path):
  times = {"start_up": 5.0, "compilation": 10.0, "wait_for_data": 3.0, "dispatch": 1.0, "wait_for_device": 69.0}
  times |= {"evaluation": 6.0, "checkpoint": 4.0, "total": 100.0}
  found = goodput(written(tmp_path, process("complete", 1012.0, 0, 500, times, finished=1100.0)))
  assert (found["wall"], found["goodput"], found["ends"]) == (100.0, 0.7, {"complete": 1})
  parts = {GOODPUT: 70.0, "program_startup": 15.0, "data_loading": 3.0, "checkpoint_save": 4.0, "evaluation": 6.0}
  assert found["seconds"] == {**dict.fromkeys(BADPUT, 0.0), **parts, "other": 2.0}


def test_steps_that_were_lost_and_the_time_between_processes_are_badput(tmp_path: pathlib.Path):
  training = {"dispatch": 0.0, "wait_for_device": 40.0, "total": 40.0}
  found = goodput(
    written(
      tmp_path,
      # Killed after step 100, of which 75 were committed: a quarter of its training is made again.
      process("running", 1000.0, 0, 100, training, seen=1040.0),
      # Killed before it could tell anything.
      process("running", 1060.0, 75, 75, None),
      process("preempted", 1090.0, 75, 175, training, finished=1130.0),
      process("complete", 1140.0, 175, 275, training, finished=1180.0),
    )
  )
  seconds = found["seconds"]
  assert seconds[GOODPUT] == 30 + 40 + 40
  assert seconds["wasted_progress_from_disruption"] == 10
  assert seconds["infrastructure_recovery_from_disruption"] == 20 + 30 + 10
  assert sum(seconds.values()) == found["wall"] == 180
  assert found["ends"] == {"running": 2, "preempted": 1, "complete": 1}


def test_the_time_of_processes_that_never_opened_the_workdir_is_start_up(tmp_path: pathlib.Path):
  written(tmp_path, process("complete", 1050.0, 0, 5, {"dispatch": 10.0, "total": 10.0}, finished=1060.0))
  counts = {"preemptions": 2, "failures": 0, "stalled": 0, "first_cause": None}
  (tmp_path / "restarts.json").write_text(json.dumps({"format": 1, "state": "ended", "started": 1000.0, **counts}))
  found = goodput(tmp_path)
  assert (found["wall"], found["seconds"]["program_startup"], found["seconds"][GOODPUT]) == (60.0, 50.0, 10.0)


def test_the_table_and_the_file_have_every_part(tmp_path: pathlib.Path):
  lines = write(written(tmp_path, process("complete", 0.0, 0, 5, {"total": 2.0, "dispatch": 1.0}, finished=2.0)))
  found = json.loads((tmp_path / "goodput.json").read_text())
  assert lines == table(found)
  assert [line.split()[0] for line in lines] == [GOODPUT, *BADPUT, "wall"]
  assert " 50.0%  training steps that were kept" in lines[0]


def test_a_folder_without_a_run_and_a_damaged_record_are_refused(tmp_path: pathlib.Path):
  with pytest.raises(ConfigError, match="holds no run"):
    goodput(tmp_path)
  (tmp_path / "run.json").write_text("null")
  with pytest.raises(UserError, match=r"run\.json cannot be read"):
    goodput(tmp_path)

"""Writers of the user's: packages that are found by their entry points and get what TensorBoard gets."""

import json
import pathlib
import sys
from typing import Any

import jax.numpy as jnp
import pytest
from tiny import mlp
from tiny import numbers as lines_of

from trialbook.errors import ConfigError, UserError
from trialbook.trainer import Config, Programs, metric_writers, run, train
from trialbook.trainer.metric_recorder import Recorder

PACKAGE = """
import json
import threading
import time

class Writer:
  def __init__(self, workdir, config):
    self.path, self.config = workdir / "received.jsonl", config
    self._tell({"opened": config["model"]["name"], "under": config["logging"]["writers"]})

  def _tell(self, value):
    with self.path.open("a") as file:
      file.write(json.dumps(value) + "\\n")

  def write(self, step, values):
    self._tell({"step": step, **values})

  def close(self):
    self._tell({"closed": True})

class Failing(Writer):
  def write(self, step, values):
    if step == 5:
      raise RuntimeError("the disk is gone")
    super().write(step, values)

class Closing(Writer):
  def close(self):
    super().close()
    raise RuntimeError("the network is gone")

class Leaving(Writer):
  def write(self, step, values):
    raise SystemExit("I am out")

class Hanging(Writer):
  def write(self, step, values):
    if step == 5:
      threading.Event().wait()
    super().write(step, values)

class Slow(Writer):
  def write(self, step, values):
    time.sleep(0.3)
    super().write(step, values)

class SlowToStart(Writer):
  def __init__(self, workdir, config):
    time.sleep(0.5)
    super().__init__(workdir, config)

class NoRoom(Writer):
  def __init__(self, workdir, config):
    raise RuntimeError("there is no account")
"""

ENTRY_POINTS = """
[trialbook.writers]
mine = user_writers:Writer
failing = user_writers:Failing
closing = user_writers:Closing
leaving = user_writers:Leaving
hanging = user_writers:Hanging
slow = user_writers:Slow
slow_to_start = user_writers:SlowToStart
no_account = user_writers:NoRoom
broken = user_writers_that_are_not_there:Writer
number = user_writers:NUMBER
[other.group]
theirs = user_writers:Writer
"""


@pytest.fixture(autouse=True)
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """An installed package that declares writers."""
  site = tmp_path / "site"
  information = site / "user_writers-1.0.dist-info"
  information.mkdir(parents=True)
  (site / "user_writers.py").write_text(f"{PACKAGE}\nNUMBER = 3\n")
  (information / "METADATA").write_text("Metadata-Version: 2.1\nName: user-writers\nVersion: 1.0\n")
  (information / "entry_points.txt").write_text(ENTRY_POINTS)
  monkeypatch.syspath_prepend(site)
  monkeypatch.delitem(sys.modules, "user_writers", raising=False)


def config(*writers: str, **changes: Any) -> Config:
  return mlp(logging__every_steps=5, max_train_steps=12, logging__writers=list(writers), **changes)


def received(workdir: pathlib.Path) -> list[dict[str, Any]]:
  return [json.loads(line) for line in (workdir / "received.jsonl").read_text().splitlines()]


def events(workdir: pathlib.Path) -> list[tuple[int, dict[str, float]]]:
  """Steps and scalars of the TensorBoard file."""
  from tensorboardX.proto import event_pb2

  (file,) = workdir.glob("events.*")
  data, found = file.read_bytes(), []
  while data:
    # A record: length (8 bytes), its checksum (4), the event, its checksum (4).
    length = int.from_bytes(data[:8], "little")
    event = event_pb2.Event.FromString(data[12 : 12 + length])  # pyright: ignore[reportAttributeAccessIssue]
    if event.summary.value:
      found.append((event.step, {value.tag: value.simple_value for value in event.summary.value}))
    data = data[16 + length :]
  return found


@pytest.mark.slow
def test_a_writer_gets_the_steps_and_values_that_tensorboard_gets_and_is_closed(
  tmp_path: pathlib.Path, programs: Programs
):
  run(config("mine"), tmp_path / "run", programs=programs)
  opened, *written, closed = received(tmp_path / "run")
  assert opened == {"opened": "mlp", "under": ["mine"]}
  assert closed == {"closed": True}
  # Blocks of five steps, cut short by the evaluations after steps 0, 10 and 12.
  assert [values["step"] for values in written] == [0, 5, 10, 12]
  known = events(tmp_path / "run")
  assert [step for step, _ in known] == [0, 5, 10, 12]
  for values, (_, scalars) in zip(written, known, strict=True):
    numeric = {name: value for name, value in values.items() if isinstance(value, int | float) and name != "step"}
    assert numeric == pytest.approx(scalars, rel=1e-6)
  losses = {line["step"]: line["train/loss"] for line in lines_of(tmp_path / "run") if "train/loss" in line}
  assert written[1]["train/loss"] == pytest.approx(sum(losses[step] for step in range(1, 6)) / 5)
  assert written[2]["validation/loss"] > 0
  assert sum(written[2]["validation/class_examples"]) == written[2]["validation/examples"]


@pytest.mark.slow
def test_it_goes_without_tensorboard_and_a_resume_goes_on_with_what_comes_next(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  made = config("mine", logging__tensorboard=False)

  def stop(*arguments: Any, **named: Any) -> Any:
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(train, "checkpoint_due", lambda config, step: step == 10 and stop())
    with pytest.raises(KeyboardInterrupt):
      run(made, tmp_path / "run", programs=programs)
  assert [line["step"] for line in received(tmp_path / "run") if "step" in line] == [0, 5, 10]
  assert received(tmp_path / "run")[-1] == {"closed": True}
  run(made, tmp_path / "run", programs=programs)
  assert not list((tmp_path / "run").glob("events.*"))
  assert received(tmp_path / "run")[-1] == {"closed": True}
  assert [line["step"] for line in received(tmp_path / "run") if "step" in line][-1] == 12


def test_it_is_closed_after_an_exception_which_is_the_one_that_is_told(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  def fail(*arguments: Any, **named: Any) -> Any:
    raise ZeroDivisionError("a bug")

  monkeypatch.setattr(train, "evaluate", fail)
  # Both are closed, though the one that is first fails at that.
  with pytest.raises(ZeroDivisionError, match="a bug"):
    run(config("closing", "mine"), tmp_path / "run", programs=programs)
  assert received(tmp_path / "run")[2:] == [{"closed": True}] * 2


def test_it_is_closed_where_the_run_is_infeasible(tmp_path: pathlib.Path, programs: Programs):
  result = run(config("mine", optimizer__learning_rate=1e30), tmp_path / "run", programs=programs)
  assert result.status == "infeasible"
  assert received(tmp_path / "run")[-1] == {"closed": True}


def test_a_run_goes_on_without_a_writer_that_fails_and_says_so(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture
):
  result = run(config("failing", "closing", "mine"), tmp_path / "run", programs=programs)
  assert result.status == "complete"
  assert [line["step"] for line in lines_of(tmp_path / "run")] == list(range(13))
  told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
  assert told == [
    "logging.writers: 'failing' failed at step 5 and receives nothing more: RuntimeError('the disk is gone')",
    "logging.writers: 'closing' failed when it was closed: RuntimeError('the network is gone')",
  ]
  steps = [line["step"] for line in received(tmp_path / "run") if "step" in line]
  assert sorted(steps) == [0, 0, 0, 5, 5, 10, 10, 12, 12]
  assert received(tmp_path / "run")[-3:] == [{"closed": True}] * 3


def test_a_writer_that_hangs_or_leaves_delays_nothing_and_is_told(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(metric_writers, "CLOSE_SECONDS", 0.5)
  result = run(config("hanging", "leaving", "mine"), tmp_path / "run", programs=programs)
  assert result.status == "complete"
  assert [line["step"] for line in lines_of(tmp_path / "run")] == list(range(13))
  told = {record.getMessage() for record in caplog.records if record.levelname == "ERROR"}
  assert told == {
    "logging.writers: 'leaving' failed at step 0 and receives nothing more: SystemExit('I am out')",
    (
      "logging.writers: 'hanging' is still busy 0.5 s after the run, and is left behind; it has not written the last 3"
      " of what it was given, and 0 before were skipped"
    ),
  }
  assert sorted(line["step"] for line in received(tmp_path / "run") if "step" in line) == [0, 0, 5, 10, 12]


def test_what_a_slow_writer_cannot_take_is_skipped_and_counted(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(metric_writers, "WAITING", 1)
  longer = config("slow").override({"max_train_steps": 40, "evaluation.every_steps": 40})
  run(longer, tmp_path / "run", programs=programs)
  told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
  assert told[0].startswith(
    "logging.writers: 'slow' is slow or hangs: what does not fit into its queue is skipped, from"
  )
  wrote = [line["step"] for line in received(tmp_path / "run") if "step" in line]
  assert told[1:] == [f"logging.writers: 'slow' was slow: {9 - len(wrote)} of its calls were skipped"]
  assert wrote[0] == 0
  assert received(tmp_path / "run")[-1] == {"closed": True}


def test_a_writer_that_takes_long_to_start_receives_all_once_it_has(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(metric_writers, "START_SECONDS", 0.1)
  run(config("slow_to_start"), tmp_path / "run", programs=programs)
  assert [line["step"] for line in received(tmp_path / "run") if "step" in line] == [0, 5, 10, 12]
  assert "'slow_to_start' has not started after 0.1 s; the run goes on" in caplog.text


@pytest.mark.parametrize(
  ("name", "problem"),
  [
    ("mien", r"no installed package has an entry point 'mien' of trialbook\.writers; did you mean 'mine'"),
    ("theirs", r"no installed package has an entry point 'theirs'"),
    ("broken", r"'broken' cannot be loaded: ModuleNotFoundError: .*user_writers_that_are_not_there"),
    ("number", r"'number': user_writers:NUMBER is a int; it must be a class or a function"),
  ],
)
def test_a_writer_that_is_not_there_is_told_before_anything_is_written(tmp_path: pathlib.Path, name: str, problem: str):
  with pytest.raises(ConfigError, match=problem):
    run(config(name), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_writer_that_cannot_start_is_told_before_the_first_step(tmp_path: pathlib.Path, programs: Programs):
  with pytest.raises(UserError, match=r"logging\.writers: 'no_account'.*RuntimeError: there is no account"):
    run(config("mine", "no_account"), tmp_path / "run", programs=programs)
  assert not lines_of(tmp_path / "run")
  assert received(tmp_path / "run")[-1] == {"closed": True}


def test_only_the_lead_host_writes(tmp_path: pathlib.Path):
  class Batches:
    wait_seconds = 0.0

  made = config("mine")
  for writes in (False, True):
    workdir = tmp_path / f"{writes}"
    workdir.mkdir()
    with Recorder(workdir, ("train/loss", "update_norm"), made, 1, Batches(), writes=writes) as recorder:
      for step in range(1, 6):
        recorder.step(step, jnp.asarray([1.0, 2.0]))
      recorder.evaluation(5, {"validation/loss": 0.5})
  assert not list((tmp_path / "False").iterdir())
  assert [line.get("step") for line in received(tmp_path / "True")] == [None, 5, None]

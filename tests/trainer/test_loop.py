"""The loop dispatches ahead of the device, stops soon, and writes each step once."""

import json
import pathlib
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from json_lines import read_json_lines
from tiny import mlp

from trialbook.errors import InfeasibleError
from trialbook.files import write_json
from trialbook.trainer.loop import Loop, advance
from trialbook.trainer.metric_recorder import AHEAD, Recorder
from trialbook.trainer.progress import RunProgress
from trialbook.trainer.workdir.step_lines import StepLines

NAMES = ("train/loss", "update_norm")


def recorder(workdir: pathlib.Path, every_steps: int = 5, tensorboard: bool = False) -> Recorder:
  config = mlp(logging__every_steps=every_steps, logging__tensorboard=tensorboard)
  return Recorder(workdir, NAMES, config, 1, NeverWaiting())


class NeverWaiting:
  wait_seconds = 0.0


@pytest.mark.slow
def test_a_step_that_is_stuck_on_the_device_does_not_stop_the_next_dispatches(tmp_path: pathlib.Path):
  @jax.jit
  def take_long(x):
    # Matrices, because XLA runs on the CPU what looks cheap, like a loop over a scalar, within the call.
    return jax.lax.fori_loop(0, 100, lambda _, y: jnp.sin(y @ y), jnp.full((600, 600), x))[0, 0]

  @jax.jit
  def train_step(state, settings, batch):
    del settings, batch
    return state + 1, jnp.stack([state, state])

  train_step(jnp.zeros(()), {}, ())
  stuck = take_long.lower(jnp.zeros(())).compile()(jnp.zeros(()))
  was_stuck = []

  def batches():
    for step in range(20):
      if step > AHEAD:
        time.sleep(0.01)  # Those who wait for an array may be woken a moment before it says that it is ready.
      was_stuck.append(not stuck.is_ready())
      yield step, ()

  program = SimpleNamespace(train_step=train_step)
  line = RunProgress(20, enabled=False)
  record = recorder(tmp_path)
  loop = Loop(program=program, settings={}, batches=batches(), recorder=record, line=line)  # pyright: ignore
  advance(loop, stuck, 0, 20)  # pyright: ignore[reportArgumentType]
  record.drain()
  record.close()
  # Not fewer: the loop does not wait for the device. Not more: it stays within a few steps of it.
  assert was_stuck == [True] * (AHEAD + 1) + [False] * (20 - AHEAD - 1)


def test_every_step_has_one_line_and_an_evaluation_is_on_the_line_of_its_step(tmp_path: pathlib.Path):
  record = recorder(tmp_path)
  record.evaluation(0, {"validation/loss": 3.0})
  for step in range(1, 16):
    record.step(step, jnp.asarray([step / 7, 1.0]))
  record.evaluation(15, {"validation/loss": 2.0})
  record.close()
  lines = read_json_lines(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == list(range(16))
  assert [line["step"] for line in lines if "validation/loss" in line] == [0, 15]
  # float32 comes back exactly.
  assert all(np.float32(line["train/loss"]) == np.float32(line["step"] / 7) for line in lines[1:])
  assert [line["step"] for line in lines if "examples_per_second" in line] == [5, 10, 15]


def test_the_first_step_that_is_not_finite_ends_the_run_and_is_on_record(tmp_path: pathlib.Path):
  record = recorder(tmp_path)
  rows = [jnp.asarray([1.0, float("inf") if step >= 8 else 1.0]) for step in range(100)]
  with pytest.raises(InfeasibleError, match="update_norm is inf at step 8") as caught:
    [record.step(step, rows[step]) for step in range(1, 100)]
  assert caught.value.step == 8
  record.close()
  lines = read_json_lines(tmp_path / "metrics.jsonl")
  assert [line["step"] for line in lines] == list(range(1, 9))
  assert lines[-1]["update_norm"] == "Infinity"
  assert float(lines[-1]["update_norm"]) == float("inf")


def test_tensorboard_gets_the_mean_of_each_block_and_each_evaluation(tmp_path: pathlib.Path):
  from tensorboardX.proto import event_pb2

  record = recorder(tmp_path, tensorboard=True)
  for step in range(1, 11):
    record.step(step, jnp.asarray([float(step), 1.0]))
  record.evaluation(10, {"validation/loss": 0.5, "validation/class_correct": [1, 2]})
  record.close()
  (file,) = tmp_path.glob("events.*")
  data, events = file.read_bytes(), []
  while data:
    # A record: length (8 bytes), its checksum (4), the event, its checksum (4).
    length = int.from_bytes(data[:8], "little")
    events.append(event_pb2.Event.FromString(data[12 : 12 + length]))  # pyright: ignore[reportAttributeAccessIssue]
    data = data[16 + length :]
  seen = {(event.step, value.tag): value.simple_value for event in events for value in event.summary.value}
  assert seen[5, "train/loss"] == 3.0
  assert seen[10, "train/loss"] == 8.0
  assert seen[10, "validation/loss"] == 0.5


def test_json_is_valid_and_replaced_whole(tmp_path: pathlib.Path):
  path = tmp_path / "run.json"
  write_json(path, {"a": 1})
  with pytest.raises(TypeError):
    write_json(path, {"a": object()})
  assert json.loads(path.read_text()) == {"a": 1}
  with path.open() as reader:
    write_json(path, {"a": float("nan"), "b": [float("-inf")]})
    assert json.load(reader) == {"a": 1}, "who reads the old file sees all of it"
  assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": "NaN", "b": ["-Infinity"]}


def test_lines_without_step_metrics_are_valid(tmp_path: pathlib.Path):
  lines = StepLines(tmp_path / "metrics.jsonl", ["x"])
  lines.write(0, (), {})
  lines.write(1, (2.5,), {})
  lines.close()
  assert read_json_lines(tmp_path / "metrics.jsonl") == [{"step": 0}, {"step": 1, "x": 2.5}]

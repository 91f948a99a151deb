"""Where a run's time went is said in words that are right, and a trace holds the steps that were asked for (PB-65)."""

import gzip
import json
import pathlib
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process_command import run_command
from tiny import mlp, resnet

from trialbook import files
from trialbook.errors import UserError
from trialbook.input_pipeline import write_array_record
from trialbook.trainer import Config, profile, run
from trialbook.trainer.timing import Times, Tracer, parse_range

SLOWLY = """
  import time
  import numpy as np

  def decode(record):
    time.sleep(0.002)
    return {"inputs": np.frombuffer(record[:16], np.float32), "labels": np.frombuffer(record[16:], np.int32)[0]}
"""


def slow_config(folder: pathlib.Path) -> Config:
  """A run over records that take two milliseconds each to decode, by a module in `folder`."""
  (folder / "slowly.py").write_text(textwrap.dedent(SLOWLY))
  random = np.random.default_rng(0)
  examples = {"inputs": random.normal(size=(64, 4)), "labels": random.integers(0, 2, 64)}
  path = write_array_record(folder / "data", {"train": examples, "validation": examples}, num_classes=2)
  return mlp(
    dataset__name="array_record",
    dataset__path=str(path),
    dataset__decode="slowly:decode",
    max_train_steps=30,
    batch_size=8,
    logging__every_steps=10,
    evaluation__every_steps=30,
    evaluation__batch_size=64,
    evaluation__train_examples=0,
  )


@pytest.mark.slow
def test_a_slow_decode_is_called_input_bound_and_named_with_what_to_change(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  run(slow_config(tmp_path), tmp_path / "run")
  spent = profile.read_spent(tmp_path / "run")
  assert spent.bound == "input"
  assert spent.waiting > 0.5
  assert 0.008 < spent.step_seconds < 4
  code, printed, _ = run_command(capsys, "profile", tmp_path / "run", "--seconds=0.2")
  assert code == 0
  lines = printed.splitlines()
  assert any(line.startswith("input-bound: the training loop waits for data ") for line in lines)
  stages = {line.split()[0]: line.split() for line in lines if line.endswith("%")}
  assert {"read", "decode", "transfer"} <= stages.keys()
  assert 16 <= float(stages["decode"][1]) < 4000
  assert any(line.startswith("the slowest stage is decode: ") for line in lines)
  assert any(line.startswith("  - dataset.workers=") and "(it is 0)" in line for line in lines)


@pytest.mark.slow
def test_a_run_that_computes_is_not_called_input_bound(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  config = resnet(
    model__width=16,
    batch_size=256,
    max_train_steps=12,
    logging__every_steps=4,
    evaluation__every_steps=12,
  )
  run(config, tmp_path)

  def never(*_: object) -> None:
    raise AssertionError

  # There is no reason to measure the pipeline.
  monkeypatch.setattr(profile, "measure", never)
  spent = profile.read_spent(tmp_path)
  assert spent.bound == "compute"
  assert spent.waiting < 0.1
  told = "\n".join(profile.describe(tmp_path))
  assert "compute-bound: the training loop waits for data" in told
  assert "what to change" not in told


def recorded(workdir: pathlib.Path, times: dict[str, float], waiting: float, platform: str = "gpu") -> pathlib.Path:
  """A workdir that holds nothing but the records of 30 steps in three blocks, 10 ms a step but in the first."""
  workdir.mkdir()
  files.write_json(workdir / "config.json", {"format": 1, **mlp(batch_size=50).model_dump(mode="json")})
  facts = dict.fromkeys(("input_shape", "input_dtype", "num_classes", "num_targets", "normalization"))
  record = {"format": 1, "status": "running", "step": 0, "started": 0.0, "times": times, "platform": platform}
  files.write_json(workdir / "run.json", record | {"dataset": {**facts, "name": "digits", "examples": {}}})
  lines: list[dict[str, float]] = [{"step": step, "train/loss": 1.0} for step in range(1, 31)]
  for step, rate, waited in ((10, 50.0, 0.99), (20, 5000.0, waiting), (30, 5000.0, waiting)):
    lines[step - 1] |= {"examples_per_second": rate, "data_wait_fraction": waited}
  (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"step": 0}, *lines]))
  return workdir


TIMES = {"wait_for_data": 0.1, "dispatch": 0.5, "wait_for_device": 1.4, "evaluation": 6.0, "checkpoint": 1.0}


def test_the_first_block_in_which_everything_starts_does_not_count(tmp_path: pathlib.Path):
  spent = profile.read_spent(recorded(tmp_path / "run", {}, 0.05))
  assert spent.step_seconds == pytest.approx(0.01)
  assert spent.waiting == pytest.approx(0.05)
  assert profile.describe(tmp_path / "run")[0].startswith("run.json has no times")


def test_the_table_has_every_time_and_what_is_no_training_is_remarked_upon(tmp_path: pathlib.Path):
  lines = profile.describe(recorded(tmp_path / "run", TIMES | {"total": 10.0}, 0.05))
  table = dict(line.strip().rsplit(maxsplit=2)[::2] for line in lines if line.startswith("  ") and line.endswith("%"))
  assert table == {
    "waiting for data": "1%",
    "dispatch": "5%",
    "waiting for devices": "14%",
    "evaluation": "60%",
    "checkpointing": "10%",
    "everything else": "10%",
    "total": "100%",
  }
  assert any(
    line.startswith("evaluation takes 60% of the run: increase evaluation.every_steps (it is 10)") for line in lines
  )
  assert not any(line.startswith("checkpointing takes") for line in lines)
  (verdict,) = [line for line in lines if "-bound:" in line]
  assert verdict == (
    "compute-bound: the training loop waits for data 5% of its time; a step takes 10 ms;"
    " dispatch takes 25%, and waiting for the devices 70%"
  )


def test_remedies_are_those_of_the_slowest_stage(tmp_path: pathlib.Path):
  spent = profile.read_spent(recorded(tmp_path / "run", {}, 0.8))
  tfds = mlp(dataset__name="tfds:mnist", dataset__workers=500)
  decoding = profile.remedies(tfds, {"read": 0.001, "decode": 0.5, "augment": 0.1, "transfer": 0.2}, spent)
  assert decoding[0].startswith("more cores for dataset.workers=500: ")
  assert "; to keep up with a step of 2 ms it takes 301," in decoding[0]
  assert decoding[1].startswith("dataset.in_memory=true: ")
  (in_memory,) = profile.remedies(mlp(), {"read": 0.3, "transfer": 0.2}, spent)
  assert in_memory.startswith("use smaller examples")
  (transfer,) = profile.remedies(tfds, {"read": 0.1, "decode": 0.1, "transfer": 0.2}, spent)
  assert "uint8" in transfer
  assert profile.remedies(mlp(), {"read": 0.1, "augment": 0.2, "transfer": 0.1}, spent)[0].startswith("dataset.augm")


def test_dispatch_is_told_from_computing_where_they_can_be_told_apart(tmp_path: pathlib.Path):
  times = TIMES | {"dispatch": 2.0, "total": 12.0}
  assert profile.read_spent(recorded(tmp_path / "gpu", times, 0.05)).bound == "dispatch"
  assert profile.read_spent(recorded(tmp_path / "cpu", times, 0.05, "cpu")).bound == "compute"
  assert profile.read_spent(recorded(tmp_path / "waits", times, 0.6)).bound == "input"


def test_the_command_says_what_is_missing(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  def command(workdir: pathlib.Path) -> str:
    code, _, printed = run_command(capsys, "profile", workdir)
    assert code == 2
    return printed

  assert f"{tmp_path / 'no'} holds no run: there is no config.json" in command(tmp_path / "no")
  begun = recorded(tmp_path / "begun", {}, 0.1)
  (begun / "metrics.jsonl").write_text('{"step": 0, "validation/loss": 1.0}\n')
  assert "has no timings yet; they are written every logging.every_steps steps" in command(begun)


@pytest.mark.parametrize("text", ["", "10", "10:", ":20", "20:10", "10:10", "-1:5", "1.5:3", "a:b", "1:2:3"])
def test_a_range_of_steps_that_is_none_is_refused_with_an_example(text: str):
  with pytest.raises(UserError, match=r"must be START:STOP.*; 10:20 traces the 10 updates after step 10"):
    parse_range(text)


def test_a_range_of_steps():
  assert parse_range("0:3") == range(3)
  assert parse_range("99:120", 100) == range(99, 120)
  with pytest.raises(UserError, match="the run ends at step 100, so START must be below it"):
    parse_range("100:120", 100)


def test_times_of_several_threads_add_up():
  times = Times()

  def use() -> None:
    for _ in range(1000):
      times.add("dispatch", 0.25)
    with times.of("evaluation"):
      time.sleep(0.05)

  threads = [threading.Thread(target=use) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  seconds = times.as_dict()
  assert seconds["dispatch"] == 1000
  assert 0.2 <= seconds["evaluation"] <= 4 * seconds["total"]


def test_time_is_counted_though_what_took_it_failed():
  times = Times()
  with pytest.raises(KeyError), times.of("checkpoint"):
    raise KeyError
  assert times.as_dict().keys() == {"checkpoint", "total"}


@pytest.mark.parametrize(
  ("steps", "traced"), [(range(4, 7), [4, 5, 6]), (range(8, 99), [8, 9]), (range(0), []), (range(50, 60), [])]
)
def test_a_trace_holds_the_updates_that_were_asked_for(tmp_path: pathlib.Path, steps: range, traced: list[int]):
  state = jnp.zeros(())
  with Tracer(tmp_path / "profile", steps) as tracer:
    for step in range(10):
      tracer.at(step, state)
      with jax.profiler.TraceAnnotation(f"update {step}"):
        state = state + 1
      tracer.at(step + 1, state)
  files = sorted((tmp_path / "profile").rglob("perfetto_trace.json.gz"))
  assert len(files) == (1 if traced else 0)
  for file in files:
    names = {event.get("name", "") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}
    assert {name for name in names if name.startswith("update ")} == {f"update {step}" for step in traced}

"""Situations that users get into: interrupted forks, lost files, changed intervals, broken plug-ins."""

import itertools
import json
import pathlib
import time
from typing import Any

import numpy as np
import pytest
from json_lines import read_json_lines
from tiny import mlp, numbers

from trialbook.errors import UserError
from trialbook.trainer import Config, Programs, evaluation, load, read_result, run, train
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.schedules import Piecewise


def config(**changes) -> Config:
  return mlp(max_train_steps=40, **changes)


def interrupt(monkeypatch: pytest.MonkeyPatch, made: Config, workdir: pathlib.Path, programs: Programs, after: int):
  """Runs until `after` splits have been evaluated."""
  count = itertools.count()

  def stop(*arguments, **named):
    if next(count) == after:
      raise KeyboardInterrupt
    return evaluation.evaluate(*arguments, **named)

  monkeypatch.setattr(train, "evaluate", stop)
  with pytest.raises(KeyboardInterrupt):
    run(made, workdir, programs=programs)
  monkeypatch.setattr(train, "evaluate", evaluation.evaluate)


@pytest.mark.slow
def test_best_json_names_a_checkpoint_that_is_there_however_the_run_ended(tmp_path: pathlib.Path, programs: Programs):
  diverging = config(checkpointing__keep_latest=1).model_copy(
    update={"schedule": Piecewise(boundaries=(35,), factors=(1e30,))}
  )
  result = run(diverging, tmp_path / "run", programs=programs)
  assert result.status == "infeasible"
  best = json.loads((tmp_path / "run" / "best.json").read_text())
  values = {entry["step"]: entry["value"] for entry in best["evaluations"]}
  assert best["step"] == min(values, key=lambda step: (values[step], step))
  assert best["note"] is None
  assert result.checkpoint is not None
  assert result.checkpoint.is_dir()
  assert load(tmp_path / "run").step == best["step"]


@pytest.mark.slow
def test_an_interrupted_fork_goes_on_by_the_same_call(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  run(config(), tmp_path / "parent", programs=programs)
  longer = config(seed=4).override({"max_train_steps": 80})
  run(longer, tmp_path / "whole", programs=programs, fork=tmp_path / "parent")

  count = itertools.count()

  def stop(*arguments, **named):
    if next(count) == 4:
      raise KeyboardInterrupt
    return evaluation.evaluate(*arguments, **named)

  monkeypatch.setattr(train, "evaluate", stop)
  with pytest.raises(KeyboardInterrupt):
    run(longer, tmp_path / "child", programs=programs, fork=tmp_path / "parent")
  monkeypatch.setattr(train, "evaluate", evaluation.evaluate)
  run(longer, tmp_path / "child", programs=programs, fork=tmp_path / "parent")
  assert numbers(tmp_path / "child") == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_a_fork_or_a_resume_that_would_train_nothing_is_refused(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  run(config(), tmp_path / "parent", programs=programs)
  with pytest.raises(UserError, match="at step 40, so max_train_steps = 40 leaves nothing to train"):
    run(config(seed=1), tmp_path / "child", programs=programs, fork=tmp_path / "parent")
  assert not (tmp_path / "child").exists()
  constant = config(schedule__name="constant")
  interrupt(monkeypatch, constant, tmp_path / "run", programs, 7)
  with pytest.raises(UserError, match="trained to step 20, beyond max_train_steps = 10"):
    run(constant.override({"max_train_steps": 10}), tmp_path / "run", programs=programs)


@pytest.mark.slow
def test_checkpoints_may_be_turned_on_and_the_interval_and_the_metric_changed_on_resume(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  off = config(checkpointing__every_evaluations=0)
  interrupt(monkeypatch, off, tmp_path / "off", programs, 7)
  assert run(config(), tmp_path / "off", programs=programs).status == "complete"
  interrupt(monkeypatch, config(evaluation__train_examples=0), tmp_path / "metric", programs, 3)
  changed = config(evaluation__every_steps=8, selection__metric="train_subset/loss")
  result = run(changed, tmp_path / "metric", programs=programs)
  evaluated = [line["step"] for line in numbers(tmp_path / "metric") if "validation/loss" in line]
  assert evaluated == [0, 10, 20, 24, 32, 40] or evaluated == [0, 10, 16, 24, 32, 40]
  assert result.best_step in evaluated


@pytest.mark.slow
def test_checkpoints_that_could_not_be_read_are_set_aside(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
  kept = config(checkpointing__keep_latest=3)
  interrupt(monkeypatch, kept, tmp_path / "run", programs, 8)
  folder = tmp_path / "run" / "checkpoints"
  for step in storage.saved_steps(folder)[1:]:
    (folder / str(step) / "_CHECKPOINT_METADATA").write_text("")
  (folder / "99.removed").mkdir()
  (folder / "99.orbax-checkpoint-tmp").mkdir()
  run(kept, tmp_path / "run", programs=programs)
  assert "damaged checkpoint" in caplog.text
  assert {path.name for path in folder.glob("*.damaged")} == {"20.damaged", "30.damaged"}
  assert set(storage.saved_steps(folder)) >= {20, 30, 40}
  assert not [path for path in folder.iterdir() if path.name.endswith((".removed", "-tmp"))]


@pytest.mark.slow
def test_rates_are_of_training_alone(tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch):
  def slow(*arguments, **named):
    time.sleep(0.3)
    return evaluation.evaluate(*arguments, **named)

  monkeypatch.setattr(train, "evaluate", slow)
  run(config(), tmp_path / "run", programs=programs)
  lines = [line for line in read_json_lines(tmp_path / "run" / "metrics.jsonl") if "examples_per_second" in line]
  # Ten steps of 32 examples: with 0.6 s of evaluation among them there would be fewer than 600 a second.
  assert [line["step"] for line in lines] == [10, 20, 30, 40]
  assert all(line["examples_per_second"] > 640 for line in lines), [line["examples_per_second"] for line in lines]


PLUGINS = """
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
  def __init__(self, num_classes: int, rngs: nnx.Rngs, mode: str = "ok"):
    if mode == "raises":
      raise ValueError("this mode is not there")
    self.linear = nnx.Linear(64, num_classes, rngs=rngs) if mode != "empty" else None
    self.mode, self.noise = mode, rngs.noise() if mode == "noise" else None

  def __call__(self, inputs, train: bool):
    if self.mode == "empty":
      return jnp.zeros((len(inputs), 10))
    outputs = self.linear(inputs.reshape(len(inputs), -1))
    return {"tuple": (outputs, outputs), "shape": outputs[:, 0], "call": None}.get(self.mode, outputs)

from trialbook import Mean, Sum
from trialbook.trainer.tasks import Classification

class Wide:
  def __init__(self, wrong: str):
    self.wrong, self.task = wrong, Classification().build()
  def keys(self, info): return self.task.keys(info)
  def num_outputs(self, info): return self.task.num_outputs(info)
  def loss(self, outputs, batch, settings, info):
    losses = self.task.loss(outputs, batch, settings, info)
    return {
      "loss": losses[:, None],
      "mean": losses.mean(),
      "whole": losses.astype(jnp.int32),
      "term": {"ctc": losses, "balance": 0.5},
      "count": Mean(losses, jnp.ones(())),
    }.get(self.wrong, losses)
  def metrics(self, outputs, batch, info):
    error = self.task.metrics(outputs, batch, info)["error"]
    return {"error": error[:, None] if self.wrong == "metrics" else error}
  def rows(self, outputs, batch, model):
    return {"guess": outputs.argmax(axis=-1)[1:] if self.wrong == "rows" else outputs}

class Cubes(Wide):
  def metrics(self, outputs, batch):
    return {"n": Sum(jnp.ones((len(outputs), 2, 2)))}

class Old(Wide):
  def initial_batch(self, info, batch_size): ...
  def counts(self, outputs, batch): ...

class Misspelt(Wide):
  def loss(self, outputs, batch, setings): ...
  def rows(self): ...
"""


def wide(wrong: str, task: str = "Wide") -> dict[str, Any]:
  return {"task.name": f"plugins:{task}", "task.kwargs": {"wrong": wrong}, "selection.metric": "validation/loss"}


@pytest.mark.parametrize(
  ("changes", "fragments"),
  [
    ({"model.kwargs": {"mode": "raises"}}, ["cannot be created", "this mode is not there", "plugins.py, line 8"]),
    ({"model.kwargs": {"mode": "empty"}}, ["has no parameters"]),
    ({"model.kwargs": {"mode": "tuple"}}, ["returns a tuple"]),
    ({"model.kwargs": {"mode": "shape"}}, ["returns [32] for 32 examples; the task needs [32, ..., 10]"]),
    (
      wide("loss"),
      [
        "task 'plugins:Wide': loss returned float32[32, 1] for 'loss'; it must be one number for each example, [32]:",
        ": return Mean(loss), for the mean over all of them, or Mean(loss * mask, mask) if some do not count (",
        "plugins.py, line 26)",
      ],
    ),
    (wide("mean"), ["loss returned float32[] for 'loss'; it must be one number for each example, [32]: return losses"]),
    (wide("whole"), ["loss returned int32[32] for 'loss'; it must be floats: return losses.astype(jnp.float32)"]),
    (wide("term"), ["loss returned a float for 'balance'; it must be an array [32], or a Mean"]),
    (
      wide("count"),
      [
        "loss returned float32[] for 'loss.count'; it must be an array [32, ...]: count=…, with an axis of examples",
        "plugins.py, line 26)",
      ],
    ),
    (wide("metrics"), ["task 'plugins:Wide': metrics returned float32[32, 1] for 'error'", "plugins.py, line 35)"]),
    (wide("rows"), ["rows returned int32[255] for 'guess'; it must be an array [256, ...], a row for each example"]),
    (
      wide("", "Cubes"),
      ["metrics returned float32[32, 2, 2] for 'n.total'; it must be an array [32] or [32, K]", "plugins.py, line 42)"],
    ),
    (
      wide("", "Old"),
      [
        "task.name = 'plugins:Old': initial_batch is not called any more; write keys(self, info), which returns the",
        "task.name = 'plugins:Old': counts is not called any more; write metrics, with Sum(...) for what is added up",
      ],
    ),
    (
      wide("", "Misspelt"),
      [
        "task.name = 'plugins:Misspelt': loss asks for 'setings'; beside self, outputs, batch it can have",
        "it can have settings, train, sown, info; did you mean 'settings'?",
        "task.name = 'plugins:Misspelt': rows must be def rows(self, outputs, batch, model, ...)",
      ],
    ),
    ({"task.name": "plugins:Net", "task.kwargs": {"mode": "ok"}}, ["task.kwargs do not fit"]),
  ],
)
def test_a_plugin_that_does_not_follow_the_contract_is_told_what_is_wrong(
  tmp_path: pathlib.Path,
  programs: Programs,
  monkeypatch: pytest.MonkeyPatch,
  changes: dict,
  fragments: list[str],
):
  (tmp_path / "plugins.py").write_text(PLUGINS)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(__import__("sys").modules, "plugins", raising=False)
  made = config().override({"model.name": "plugins:Net", **changes})
  with pytest.raises(UserError) as caught:
    run(made, tmp_path / "run", programs=programs)
  for fragment in fragments:
    assert fragment in str(caught.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_plugin_may_draw_from_any_stream(tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch):
  (tmp_path / "plugins.py").write_text(PLUGINS)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(__import__("sys").modules, "plugins", raising=False)
  made = config().override({"model.name": "plugins:Net", "model.kwargs.mode": "default"})
  assert run(made, tmp_path / "run", programs=programs).status == "complete"


@pytest.mark.slow
def test_tasks_with_other_batches_do_not_share_a_program(tmp_path: pathlib.Path, programs: Programs):
  synthetic = {"dataset.name": "synthetic", "dataset.input_shape": (8,), "max_train_steps": 2}
  small = mlp().override({**synthetic, "evaluation.every_steps": 2})
  run(small, tmp_path / "classes", programs=programs)
  targets = small.override({"dataset.kind": "regression", "task.name": "regression"})
  assert run(targets, tmp_path / "targets", programs=programs).status == "complete"


@pytest.mark.slow
def test_an_evaluation_that_is_not_finite_is_told_and_not_taken_for_a_damaged_disk(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  def broken(*arguments, **named):
    values = evaluation.evaluate(*arguments, **named)
    return {name: float("nan") if name.endswith("loss") else value for name, value in values.items()}

  monkeypatch.setattr(train, "evaluate", broken)
  result = run(config(selection__metric="validation/loss"), tmp_path / "run", programs=programs)
  assert (result.status, result.best_step) == ("complete", None)
  assert result.note == "no evaluation has a finite validation/loss"
  assert np.isnan(result.metrics["validation/loss"])
  from trialbook.trainer.summary import print_result

  print_result(result)
  assert "no evaluation has a finite" in capsys.readouterr().out


@pytest.mark.slow
def test_a_source_of_a_warm_start_is_needed_only_at_the_start(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  run(config(), tmp_path / "7", programs=programs)  # A workdir may be named like a step.
  warm = config(seed=2, warm_start__source=str(tmp_path / "7"))
  interrupt(monkeypatch, warm, tmp_path / "run", programs, 5)
  (tmp_path / "7").rename(tmp_path / "elsewhere")
  assert run(warm, tmp_path / "run", programs=programs).status == "complete"


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "config.json"])
def test_a_record_that_cannot_be_read_is_named(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, name: str
):
  interrupt(monkeypatch, config(), tmp_path / "run", programs, 5)
  with (tmp_path / "run" / name).open("a") as file:
    file.write("{broken\n{}\n")
  with pytest.raises(UserError, match=f"{name}.* cannot be read"):
    run(config(), tmp_path / "run", programs=programs)


@pytest.mark.slow
def test_a_run_that_was_killed_has_no_duration(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  run(config(), tmp_path / "run", programs=programs)
  record = json.loads((tmp_path / "run" / "run.json").read_text())
  del record["finished"]
  (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"status": "running"}))
  result = read_result(tmp_path / "run")
  assert (result.status, result.seconds) == ("running", None)


@pytest.mark.parametrize("workdir", ["{tmp}/file/run", "{tmp}/dangling", "{tmp}/" + "x" * 300])
def test_a_workdir_that_cannot_be_is_refused(tmp_path: pathlib.Path, programs: Programs, workdir: str):
  (tmp_path / "file").write_text("")
  (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
  with pytest.raises(UserError, match="workdir"):
    run(config(), workdir.replace("{tmp}", str(tmp_path)), programs=programs)

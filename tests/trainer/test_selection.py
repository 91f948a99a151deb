"""Which step is the best one: the metric's own direction, said where it is unknown, and no untrained model unsaid."""

import json
import pathlib
import sys
import types
from typing import Any

import pytest
from json_lines import read_json_lines
from tiny import mlp

from trialbook.errors import ConfigError
from trialbook.files import read_json
from trialbook.trainer import Config, Programs, run
from trialbook.trainer import config as configs
from trialbook.trainer.config import Selection
from trialbook.trainer.schedules import Constant
from trialbook.trainer.workdir.selection import History

EVALUATED = {"logging.tensorboard": False, "evaluation.every_steps": 5, "evaluation.predictions": 0}


@pytest.fixture(name="programs", scope="module")
def shared_programs() -> Programs:
  return Programs()


def selecting(metric: str | None = None, **changes: Any) -> Config:
  config = mlp(**changes).model_copy(update={"schedule": Constant()}).override(EVALUATED)
  return config if metric is None else config.override({"selection.metric": metric})


def best_of(workdir: pathlib.Path, metric: str, mode: str) -> int:
  """The step with the best value, by what was logged."""
  values = {line["step"]: line[metric] for line in read_json_lines(workdir / "metrics.jsonl") if metric in line}
  sign = 1 if mode == "min" else -1
  return min(values, key=lambda step: (sign * values[step], step))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("metric", "mode"),
  [
    (None, "min"),
    ("validation/loss", "min"),
    ("train_subset/error", "min"),
    ("validation/accuracy", "max"),
    ("train_subset/accuracy", "max"),
  ],
)
def test_a_run_selects_by_the_metrics_own_direction(
  tmp_path: pathlib.Path, programs: Programs, metric: str | None, mode: str
):
  result = run(selecting(metric), tmp_path / "run", programs=programs)
  assert result.best_step == best_of(tmp_path / "run", metric or "validation/error", mode) > 0
  assert result.note is None
  record = read_json(tmp_path / "run" / "best.json") or {}
  assert (record["metric"], record["mode"]) == (metric or "validation/error", mode)
  assert json.loads((tmp_path / "run" / "config.json").read_text())["selection"]["mode"] == mode


@pytest.mark.slow
def test_a_metric_of_unknown_direction_needs_the_mode_and_says_so_before_anything_is_compiled(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, programs: Programs
):
  module = types.ModuleType("user_metrics")
  module.calibration = lambda outputs, batch: float(outputs.mean())  # pyright: ignore[reportAttributeAccessIssue]
  monkeypatch.setitem(sys.modules, "user_metrics", module)
  config = selecting(evaluation__metrics=("user_metrics:calibration",)).override(
    {"selection.metric": "validation/calibration", "max_train_steps": 5}
  )
  other = Programs()
  with pytest.raises(
    ConfigError, match=r"selection.mode is required: the direction of 'validation/calibration' is unknown. Set min or "
  ):
    run(config, tmp_path / "run", programs=other)
  assert not (tmp_path / "run").exists()
  assert other.compilations.total() == 0
  for mode in ("min", "max"):
    result = run(config.override({"selection.mode": mode}), tmp_path / mode, programs=programs)
    assert result.best_step == best_of(tmp_path / mode, "validation/calibration", mode)
  with pytest.raises(ConfigError, match="did you mean 'validation/calibration'") as caught:
    run(config.override({"selection.metric": "validation/calibratio"}), tmp_path / "run", programs=other)
  assert "selection.mode" not in str(caught.value), "A name that is wrong is the one thing to put right."


def test_another_metric_takes_its_own_direction_and_not_that_of_the_one_before():
  recorded = selecting().resolved()
  assert (recorded.selection.metric, recorded.selection.mode) == ("validation/error", "min")
  other = recorded.override({"selection.metric": "validation/accuracy"})
  assert other.selection.mode is None
  assert other.resolved().selection.mode == "max"
  both = recorded.override({"selection.metric": "validation/calibration", "selection.mode": "max"})
  assert both.override({"selection.metric": "validation/calibration", "seed": 3}).selection.mode == "max"
  assert both.override({"seed": 3}).selection.mode == "max"


@pytest.mark.slow
def test_a_mode_against_the_metrics_name_is_warned_of_and_obeyed_and_a_selected_step_0_is_warned_of(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture
):
  config = selecting().override({"selection.mode": "max"})
  (warning,) = configs.warnings(config)
  assert warning == (
    "selection.mode = 'max': the largest validation/error counts as the best, but its name suggests that smaller"
    " values are better; leave selection.mode unset to follow the name"
  )
  assert configs.warnings(config.resolved()) == [warning]
  result = run(config, tmp_path / "run", programs=programs)
  assert result.best_step == 0
  assert result.note == "the untrained model (step 0) was selected: no later checkpoint has a larger validation/error"
  log = (tmp_path / "run" / "logs" / "host_0.log").read_text()
  assert warning in caplog.text
  assert result.note in log
  off = run(config.override({"checkpointing.every_evaluations": 0}), tmp_path / "off", programs=programs)
  assert off.note == (
    "checkpoints are off, so the best evaluation has none;"
    " the untrained model (step 0) was selected: no later evaluation has a larger validation/error"
  )
  for right in ("min", None):
    assert configs.warnings(selecting().override({"selection.mode": right})) == []


@pytest.mark.slow
def test_a_run_of_before_that_recorded_the_wrong_mode_goes_on_and_selects_right(
  tmp_path: pathlib.Path, programs: Programs
):
  config = selecting("validation/accuracy", max_train_steps=10, checkpointing__keep_latest=9)
  run(config, tmp_path / "run", programs=programs)
  path = tmp_path / "run" / "config.json"
  stored = json.loads(path.read_text())
  stored["selection"]["mode"] = "min"  # What was written before, whatever the metric was.
  path.write_text(json.dumps(stored))
  longer = config.override({"max_train_steps": 20})
  result = run(longer, tmp_path / "run", programs=programs)
  assert result.status == "complete"
  assert result.best_step == best_of(tmp_path / "run", "validation/accuracy", "max") > 0
  record = read_json(tmp_path / "run" / "run.json") or {}
  assert record["restored_step"] == 10
  assert record["changed"] == {"max_train_steps": [10, 20], "selection.mode": ["min", "max"]}


def test_bits_per_token_of_a_run_of_before_are_read_under_their_old_name_and_its_best_checkpoint_is_kept(
  tmp_path: pathlib.Path,
):
  path = tmp_path / "metrics.jsonl"
  lines = [
    {"step": 0, "validation/bits_per_byte": 3.0, "train_subset/bits_per_byte": 2.5},
    {"step": 5, "validation/bits_per_byte": 1.0},
    {"step": 10, "validation/bits_per_token": 2.0},
    {"step": 15, "validation/bits_per_token": 1.5, "validation/bits_per_byte": 0.5},
  ]
  logged = {line["step"]: line for line in lines}
  path.write_text("".join(json.dumps(logged.get(step, {"step": step})) + "\n" for step in range(16)))
  history = History.read(tmp_path, Selection(metric="validation/bits_per_token", mode="min"))
  assert history.ranked() == [5, 15, 10, 0]
  assert history.evaluations[0] == {"validation/bits_per_token": 3.0, "train_subset/bits_per_token": 2.5}
  assert 5 in history.to_keep(mlp(checkpointing__keep_latest=1, checkpointing__keep_best=1))([0, 5, 10, 15])
  old = History.read(tmp_path, Selection(metric="validation/bits_per_byte", mode="min"))
  assert old.evaluations[5] == {"validation/bits_per_byte": 1.0}

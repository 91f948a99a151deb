"""Metrics of whole splits: exact whatever the batches and devices, and mistakes in them told early."""

import json
import math
import pathlib
import sys
import types
from collections.abc import Mapping

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny import mlp, numbers

from trialbook.errors import ConfigError, UserError
from trialbook.input_pipeline import Dataset, Table, load
from trialbook.trainer import Config, Programs, run, sharding
from trialbook.trainer.custom_metrics import area_under_curve
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.train_step import program_settings

AREA = "trialbook.trainer.custom_metrics:area_under_curve"


def two_classes(*metrics: str, **changes) -> Config:
  """On 100 validation examples of two classes."""
  config = mlp(optimizer__learning_rate=0.01, max_train_steps=6, evaluation__every_steps=2, **changes)
  return config.model_copy(update={"dataset": Table()}).override({"evaluation.metrics": list(metrics)})


@pytest.fixture(name="module")
def user_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
  """A module of the user's, `user_metrics`."""
  module = types.ModuleType("user_metrics")
  module.__file__ = "user_metrics.py"
  monkeypatch.setitem(sys.modules, "user_metrics", module)
  return module


@pytest.mark.parametrize("decimals", [0, 1, 8])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_the_area_is_that_of_scikit_learn_with_many_ties_or_none(decimals: int, offset: float):
  draw = np.random.default_rng(0)
  outputs = (np.round(draw.normal(size=(300, 2)), decimals) + offset).astype(np.float32)
  labels = draw.integers(2, size=300).astype(np.int32)
  scores = outputs[:, 1].astype(np.float64) - outputs[:, 0]
  assert area_under_curve(outputs, {"labels": labels}) == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)


def test_the_area_has_its_known_values():
  labels = np.array([0, 0, 1, 1], np.int32)
  outputs = np.array([[0, -2], [0, -1], [0, 1], [0, 2]], np.float32)
  assert area_under_curve(outputs, {"labels": labels}) == 1.0
  assert area_under_curve(-outputs, {"labels": labels}) == 0.0
  assert area_under_curve(0 * outputs, {"labels": labels}) == 0.5
  assert math.isnan(area_under_curve(outputs, {"labels": np.zeros(4, np.int32)}))
  assert math.isnan(area_under_curve(outputs, {"labels": np.ones(4, np.int32)}))
  with pytest.raises(ValueError, match=r"two classes.*\[4, 3\]"):
    area_under_curve(np.zeros((4, 3), np.float32), {"labels": labels})


def evaluated(config: Config, devices: int) -> tuple[dict[str, float], Dataset]:
  config = config.resolved()
  dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  program = Programs().get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  settings = sharding.put_replicated(mesh, program_settings(config))
  weights = evaluated_weights(config, program.init(settings))
  return evaluate(program, weights, settings, dataset, "validation", config), dataset


@pytest.mark.slow
def test_a_function_gets_each_example_once_and_in_order_whatever_the_batches_and_devices(module: types.ModuleType):
  calls: list[tuple[np.ndarray, Mapping[str, np.ndarray]]] = []

  def seen(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> float:
    calls.append((outputs, batch))
    return len(outputs)

  vars(module)["seen"] = seen
  areas = []
  for batch_size, devices in ((1, 1), (34, 1), (256, 1), (34, 2), (256, 2)):
    config = two_classes("user_metrics:seen", AREA, evaluation__batch_size=batch_size)
    values, dataset = evaluated(config, devices)
    assert values["validation/seen"] == values["validation/examples"] == 100
    (outputs, batch), *rest = calls
    assert not rest
    calls.clear()
    assert batch.keys() == {"labels"}
    everything = dataset.eval_batch(0, "validation", 100)
    np.testing.assert_array_equal(batch["labels"], everything["labels"])
    assert outputs.shape == (100, 2)
    at_once = roc_auc_score(batch["labels"], outputs[:, 1].astype(np.float64) - outputs[:, 0])
    assert values["validation/area_under_curve"] == pytest.approx(at_once, rel=1e-12)
    areas.append(values["validation/area_under_curve"])
  assert len(set(areas)) == 1
  assert 0.05 < areas[0] < 0.95


@pytest.mark.slow
def test_it_is_recorded_for_each_split_and_may_be_what_best_is_about(tmp_path: pathlib.Path):
  config = two_classes(AREA, selection__metric="validation/area_under_curve", selection__mode="max")
  result = run(config.override({"evaluation.test": True}), tmp_path)
  lines = [line for line in numbers(tmp_path) if "validation/loss" in line]
  areas = {line["step"]: line["validation/area_under_curve"] for line in lines}
  assert list(areas) == [0, 2, 4, 6]
  assert all("train_subset/area_under_curve" in line for line in lines)
  assert len(set(areas.values())) == 4
  best = json.loads((tmp_path / "best.json").read_text())
  assert result.best_step == best["step"] == max(areas, key=lambda step: areas[step])
  assert best["value"] == areas[best["step"]] == best["final"]["validation/area_under_curve"]
  assert 0.5 < best["final"]["test/area_under_curve"] <= 1


def not_a_number(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
  del batch
  return outputs


def fails(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> float:
  del outputs
  return batch["targets"].mean()


def undefined(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> float:
  del outputs, batch
  return math.nan


def error(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> float:
  del outputs, batch
  return 0.0


@pytest.mark.parametrize(
  ("metrics", "problems"),
  [
    (["no_such_metrics:f"], [r"evaluation\.metrics 'no_such_metrics:f': there is no module 'no_such_metrics'"]),
    (["user_metrics:gone"], [r"evaluation\.metrics 'user_metrics:gone': user_metrics.py has no 'gone'"]),
    (["user_metrics:NUMBER"], [r"'user_metrics:NUMBER': is a int; it must be a function"]),
    (["test_split_metrics:error", "user_metrics:error"], [r"two functions named 'error'"]),
    (["test_split_metrics"], [r"'test_split_metrics': must be written module:function"]),
    (["test_split_metrics:error"], [r"an evaluation already has a metric 'error'; give the function another name"]),
    (["user_metrics:examples"], [r"already has a metric 'examples'"]),
    (["no_such_metrics:f", "user_metrics:NUMBER"], [r"no_such_metrics", r"must be a function"]),
  ],
)
def test_functions_that_cannot_be_used_are_told_before_anything_is_written(
  tmp_path: pathlib.Path, module: types.ModuleType, metrics: list[str], problems: list[str]
):
  vars(module).update(NUMBER=3, error=error, examples=error)
  with pytest.raises(ConfigError) as caught:
    run(two_classes(*metrics), tmp_path / "run")
  assert len(caught.value.problems) == len(problems)
  for problem in problems:
    caught.match(problem)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "problem"),
  [
    ("fails", r"'fails': KeyError: 'targets'"),
    ("not_a_number", r"'not_a_number': returned a ndarray of shape \[64, 2\]; it must be a number"),
  ],
)
def test_a_function_that_fails_is_named_before_the_first_step(tmp_path: pathlib.Path, name: str, problem: str):
  with pytest.raises(UserError, match=problem):
    run(two_classes(f"test_split_metrics:{name}"), tmp_path)
  assert not [line for line in numbers(tmp_path) if "train/loss" in line]


@pytest.mark.slow
def test_a_value_that_is_no_number_is_recorded_and_never_the_best(tmp_path: pathlib.Path):
  selection = {"selection__metric": "validation/undefined", "selection__mode": "min"}
  result = run(two_classes("test_split_metrics:undefined", **selection), tmp_path)
  assert [line["validation/undefined"] for line in numbers(tmp_path) if "validation/loss" in line] == ["NaN"] * 4
  assert result.best_step is None
  assert "no evaluation has a finite validation/undefined" in (tmp_path / "best.json").read_text()

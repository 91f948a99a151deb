"""What a task of the user's can do in a run: keys, arguments of the model, randomness, rows, several splits."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import views
from tiny import numbers

from trialbook.trainer import Config, Programs, load, run


@pytest.fixture(autouse=True)
def promotion():
  """As users have it."""
  with jax.numpy_dtype_promotion("standard"):
    yield


def config(**changes: Any) -> Config:
  made = Config(compilation_cache=None, export=False).override(views.overrides())
  return made.override({path.replace("__", "."): value for path, value in changes.items()})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("views")
  with jax.numpy_dtype_promotion("standard"):
    run(config(export=True), folder)
  return folder


@pytest.mark.slow
def test_each_validation_and_test_split_is_evaluated_and_one_of_them_selects(trained: pathlib.Path):
  lines, best = numbers(trained), json.loads((trained / "best.json").read_text())
  last = lines[-1]
  for split, examples in (("train_subset", 10), ("validation", 20), ("validation_shifted", 13)):
    assert last[f"{split}/examples"] == last[f"{split}/seen"] == examples
    assert abs(last[f"{split}/loss_again"]) < 1e-4
  assert not [name for line in lines for name in line if name.startswith("test")]
  assert (best["metric"], best["mode"]) == ("validation_shifted/worst", "min")
  values = {line["step"]: line[best["metric"]] for line in lines if best["metric"] in line}
  assert best["value"] == min(values.values()) == best["final"][best["metric"]]
  assert {name.partition("/")[0] for name in best["final"]} == {
    "validation",
    "validation_shifted",
    "test",
    "test_shifted",
  }


@pytest.mark.slow
def test_functions_of_a_task_are_told_whether_it_is_training_and_terms_add_up(trained: pathlib.Path):
  for line in numbers(trained):
    if "train/loss" in line:
      assert line["train/in_training"] == 1
      assert line["train/loss"] == pytest.approx(line["train/square"] + 0.01 * line["train/size"], rel=1e-6)
    if "validation/loss" in line:
      assert line["validation/in_training"] == 0
      assert line["validation/loss"] == pytest.approx(line["validation/square"] + 0.01 * line["validation/size"])


@pytest.mark.slow
def test_noise_is_new_at_each_step_and_the_same_at_each_evaluation_and_what_is_fixed_stays(trained: pathlib.Path):
  lines = numbers(trained)
  noises = [line["train/noise"] for line in lines if "train/noise" in line]
  assert len(set(noises)) == len(noises) == 20
  evaluated = [line for line in lines if "validation/noise" in line]
  for name in ("validation/noise", "validation_shifted/noise", "validation/direction"):
    assert len({line[name] for line in evaluated}) == 1
  assert evaluated[0]["validation/noise"] != evaluated[0]["validation_shifted/noise"]
  directions = {line[name] for line in lines for name in ("train/direction", "validation/direction") if name in line}
  np.testing.assert_allclose(list(directions), directions.pop(), rtol=1e-6)


@pytest.mark.slow
def test_noise_does_not_depend_on_parts_and_batches(tmp_path: pathlib.Path, trained: pathlib.Path):
  run(config(gradient_accumulation=2, evaluation__batch_size=6), tmp_path)
  for one, two in zip(numbers(trained), numbers(tmp_path), strict=True):
    for name in one:
      if "/" in name and not name.startswith("test"):
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-4), (one["step"], name)


@pytest.mark.slow
def test_a_sampled_evaluation_draws_for_an_example_what_the_whole_one_draws(tmp_path: pathlib.Path):
  programs = Programs()
  run(config(evaluation__validation_examples=20), tmp_path / "whole", programs=programs)
  run(config(evaluation__validation_examples=19), tmp_path / "part", programs=programs)
  whole, part = (numbers(tmp_path / name)[0] for name in ("whole", "part"))
  # One example less changes the sum by that example's noise alone.
  assert abs(20 * whole["validation/noise"] - 19 * part["validation/noise"]) < 5


@pytest.mark.slow
def test_other_strengths_of_an_argument_of_the_call_and_of_a_term_compile_nothing(tmp_path: pathlib.Path):
  programs = Programs()
  run(config(), tmp_path / "one", programs=programs)
  run(config(model__traced__strength=2.0, task__traced__size=0.5), tmp_path / "two", programs=programs)
  assert set(programs.compilations.values()) == {1}
  one, two = (numbers(tmp_path / name)[1]["train/loss"] for name in ("one", "two"))
  assert one != two


@pytest.mark.slow
def test_a_loaded_model_takes_what_the_call_is_made_of_and_returns_the_tree(trained: pathlib.Path):
  model, batch = load(trained), views.data()["validation"]
  assert {path: leaf.shape for path, leaf in model.spec.items()} == {"first": (3,), "inputs/second": (2, 2, 1)}
  given = {"first": batch["inputs"]["first"], "inputs": {"second": batch["inputs"]["second"]}}
  outputs = model.predict(given)
  assert outputs["answer"].shape == (20,)
  assert [part.shape for part in outputs["parts"]] == [(20, 4), (20, 3)]
  with pytest.raises(ValueError, match="the model takes a dict of first: float32"):
    model.predict(batch["inputs"]["first"])
  card = json.loads((trained / "export" / "card.json").read_text())
  assert card["output"]["arrays"].keys() == {"answer", "parts/0", "parts/1"}
  assert card["input"]["arrays"]["inputs/second"] == {"shape": ["batch", 2, 2, 1], "dtype": "uint8"}


@pytest.mark.slow
def test_without_noise_predictions_are_those_of_the_loaded_model(tmp_path: pathlib.Path):
  run(config(task__kwargs__noisy=False), tmp_path)
  model, batch = load(tmp_path, step="last"), views.data()["validation"]
  with np.load(tmp_path / "predictions" / "20.npz") as saved:
    ids = saved["ids"]
    given = {"first": batch["inputs"]["first"][ids], "inputs/second": batch["inputs"]["second"][ids]}
    outputs = model.predict(given)
    np.testing.assert_allclose(saved["outputs/answer"], outputs["answer"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(saved["outputs/parts/0"], outputs["parts"][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(saved["answer"], batch["answer"][ids], rtol=1e-6)


@pytest.mark.slow
def test_what_no_one_needs_is_named_once_and_in_no_batch(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture):
  run(config(max_train_steps=1), tmp_path)
  told = [record.getMessage() for record in caplog.records if "does not use" in record.getMessage()]
  assert told == ["dataset views:data: the views:Regress task does not use 'unused': left out of the batches"]

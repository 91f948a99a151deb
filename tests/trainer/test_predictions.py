"""Saved predictions, and evaluations of a fixed part of the validation set: the same examples at every evaluation."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from tiny import mlp, numbers, resnet

from trialbook.input_pipeline import Digits, Table, Text, load
from trialbook.models import MlpConfig, TransformerConfig
from trialbook.trainer import Config, Programs, run, sharding, train
from trialbook.trainer import load as load_model
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.tasks import LanguageModel, Regression
from trialbook.trainer.train_step import program_settings
from trialbook.trainer.workdir.predictions import predict

KEPT = {"checkpointing__keep_latest": 9}


def saved(workdir: pathlib.Path) -> dict[int, dict[str, np.ndarray]]:
  """The arrays of each file of predictions, by step."""
  files = {int(path.stem): dict(np.load(path)) for path in (workdir / "predictions").iterdir()}
  return dict(sorted(files.items()))


@pytest.mark.slow
@pytest.mark.parametrize("averaged", [False, True])
def test_each_evaluation_saves_what_the_loaded_model_says_of_the_same_examples(
  tmp_path: pathlib.Path, programs: Programs, averaged: bool
):
  config = resnet(**KEPT) if averaged else mlp(**KEPT)
  run(config, tmp_path, programs=programs)
  predictions = saved(tmp_path)
  assert list(predictions) == ([0, 3, 6] if averaged else [0, 10, 20])
  first = predictions[0]
  assert first.keys() == {"ids", "labels", "outputs"}
  whole = load(config.dataset, seed=0, batch_size=16).eval_batch(0, "validation", 250)
  inputs, labels = whole["inputs"], whole["labels"]
  assert len(set(first["ids"].tolist())) == 16
  # Stratified: each of the ten classes is there.
  assert len(set(first["labels"].tolist())) == 10
  for step, found in predictions.items():
    np.testing.assert_array_equal(found["ids"], first["ids"])
    np.testing.assert_array_equal(found["labels"], labels[found["ids"]])
    expected = load_model(tmp_path, step).predict(inputs[found["ids"]])
    np.testing.assert_allclose(found["outputs"], expected, rtol=1e-4, atol=1e-5)
  assert not np.allclose(predictions[0]["outputs"], predictions[list(predictions)[-1]]["outputs"])


def predicted(config: Config, devices: int) -> dict[str, np.ndarray]:
  config = config.resolved()
  dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
  mesh = sharding.make_mesh(devices=jax.devices()[:devices])
  program = Programs().get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  settings = sharding.put_replicated(mesh, program_settings(config))
  return predict(program, evaluated_weights(config, program.init(settings)), settings, dataset, config)


@pytest.mark.slow
def test_the_examples_and_their_outputs_are_the_same_for_every_batch_size_and_number_of_devices():
  expected = predicted(mlp(evaluation__batch_size=250), 1)
  for batch_size, devices in ((1, 1), (7, 1), (16, 2), (10, 2), (512, 2)):
    found = predicted(mlp(evaluation__batch_size=batch_size), devices)
    assert found.keys() == expected.keys()
    for name in ("ids", "labels"):
      np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["outputs"], expected["outputs"], rtol=1e-5, atol=1e-6)
  # Fewer are a part of more, and there are never more than there are.
  np.testing.assert_array_equal(predicted(mlp(evaluation__predictions=5), 2)["ids"], expected["ids"][:5])
  every = predicted(mlp(evaluation__predictions=9999), 2)
  assert every["outputs"].shape == (250, 10)
  np.testing.assert_array_equal(every["ids"], np.arange(250))


@pytest.mark.slow
def test_targets_and_labels_of_positions_are_saved_too(tmp_path: pathlib.Path):
  regression = mlp(evaluation__predictions=3).model_copy(
    update={"dataset": Table(table="diabetes"), "task": Regression(), "model": MlpConfig(widths=())}
  )
  found = predicted(regression, 2)
  assert {name: array.shape for name, array in found.items()} == {"ids": (3,), "targets": (3, 1), "outputs": (3, 1)}
  (tmp_path / "text").write_bytes(b"To be, or not to be " * 100)
  text = mlp(evaluation__predictions=3).model_copy(
    update={
      "dataset": Text(path=str(tmp_path / "text"), length=4),
      "task": LanguageModel(),
      "model": TransformerConfig(width=8, depth=1, heads=1),
    }
  )
  found = predicted(text, 2)
  assert (found["labels"].shape, found["outputs"].shape) == ((3, 4), (3, 4, 256))


@pytest.mark.slow
def test_zero_turns_it_off(tmp_path: pathlib.Path):
  run(mlp(evaluation__predictions=0), tmp_path)
  assert not (tmp_path / "predictions").exists()


def interrupt(config: Config, workdir: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, at: int):
  """Runs until the evaluation of step `at` has been recorded, and is not yet in a checkpoint."""

  def due(config: Config, step: int) -> bool:
    if step == at:
      raise KeyboardInterrupt
    return True

  with monkeypatch.context() as patched:
    patched.setattr(train, "checkpoint_due", due)
    with pytest.raises(KeyboardInterrupt):
      run(config, workdir, programs=programs)


@pytest.mark.slow
def test_a_run_that_was_interrupted_ends_with_the_same_files(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  config = mlp()
  run(config, tmp_path / "whole", programs=programs)
  interrupt(config, tmp_path / "run", programs, monkeypatch, at=20)
  # A file that was being written is no file of predictions.
  (tmp_path / "run" / "predictions" / ".30.npz.tmp").write_bytes(b"PK")
  untouched = (tmp_path / "run" / "predictions" / "0.npz").stat().st_mtime_ns
  run(config, tmp_path / "run", programs=programs)
  assert (tmp_path / "run" / "predictions" / "0.npz").stat().st_mtime_ns == untouched
  (tmp_path / "run" / "predictions" / ".30.npz.tmp").unlink()
  expected, found = saved(tmp_path / "whole"), saved(tmp_path / "run")
  assert list(found) == list(expected) == [0, 10, 20]
  for step, arrays in expected.items():
    for name, array in arrays.items():
      np.testing.assert_array_equal(found[step][name], array, err_msg=f"{name} at step {step}")


def sampled(**changes: Any) -> Config:
  return mlp(evaluation__validation_examples=40, evaluation__batch_size=32, **changes)


def values_of(outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  outputs = outputs.astype(np.float64)
  log_p = outputs - np.log(np.exp(outputs).sum(axis=-1, keepdims=True))
  right = (outputs.argmax(axis=-1) == labels).mean()
  return {
    "validation/loss": -log_p[np.arange(len(labels)), labels].mean(),
    "validation/error": 1 - right,
    "validation/accuracy": right,
  }


@pytest.mark.slow
def test_periodic_evaluations_see_the_stratified_part_and_the_final_one_sees_all(
  tmp_path: pathlib.Path, programs: Programs
):
  run(sampled(**KEPT), tmp_path, programs=programs)
  dataset = load(Digits(), seed=0, batch_size=32)
  whole = dataset.eval_batch(0, "validation", 250)
  ids, _ = dataset.fixed_examples("validation", 40)
  shares = np.bincount(whole["labels"], minlength=10) * 40 / 250
  assert np.all(np.abs(np.bincount(whole["labels"][ids], minlength=10) - shares) < 1)
  best = json.loads((tmp_path / "best.json").read_text())
  expected = {}
  for line in (line for line in numbers(tmp_path) if "validation/loss" in line):
    assert line["validation/examples"] == 40
    assert line["validation/class_examples"] == np.bincount(whole["labels"][ids], minlength=10).tolist()
    model = load_model(tmp_path, line["step"])
    expected[line["step"]] = values_of(model.predict(whole["inputs"][ids]), whole["labels"][ids])
    for name, value in expected[line["step"]].items():
      assert line[name] == pytest.approx(value, rel=1e-4), f"{name} at step {line['step']}"
  assert len(expected) == 3
  final = values_of(load_model(tmp_path).predict(whole["inputs"]), whole["labels"])
  assert best["final"]["validation/examples"] == 250
  sample = best["sample"]
  assert (sample["examples"], sample["of"]) == (40, 250)
  assert sample["skew"].keys() == final.keys()
  for name, value in final.items():
    assert best["final"][name] == pytest.approx(value, rel=1e-4), name
    assert sample["skew"][name] == pytest.approx(expected[best["step"]][name] - value, abs=2e-5), name
  assert sample["skew"]["validation/loss"] != 0


@pytest.mark.slow
def test_a_sample_is_the_same_after_a_resume_and_none_is_told_where_all_are_seen(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  run(sampled(), tmp_path / "whole", programs=programs)
  interrupt(sampled(), tmp_path / "run", programs, monkeypatch, at=20)
  run(sampled(), tmp_path / "run", programs=programs)
  assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
  records = [json.loads((tmp_path / name / "best.json").read_text()) for name in ("whole", "run")]
  assert records[0]["sample"] is not None
  assert records[0] == records[1]
  run(mlp(evaluation__batch_size=32), tmp_path / "all", programs=programs)
  assert json.loads((tmp_path / "all" / "best.json").read_text())["sample"] is None


@pytest.mark.slow
def test_only_the_validation_set_is_sampled():
  config = sampled().resolved()
  dataset = load(config.dataset, seed=0, batch_size=32)
  mesh = sharding.make_mesh()
  program = Programs().get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  settings = sharding.put_replicated(mesh, program_settings(config))
  weights = evaluated_weights(config, program.init(settings))
  for split, examples in (("validation", 40), ("test", 250), ("train_subset", 64)):
    values = evaluate(program, weights, settings, dataset, split, config, sampled=True)
    assert values[f"{split}/examples"] == examples
  assert evaluate(program, weights, settings, dataset, "validation", config)["validation/examples"] == 250

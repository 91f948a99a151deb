"""A loaded model predicts for inputs like those that it was trained on, and says of others what is wrong with them."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.export
import numpy as np
import pytest
from tiny import mlp

from trialbook.input_pipeline import Digits
from trialbook.input_pipeline.datasets import text
from trialbook.trainer import Programs, TrainedModel, checks, export, load, run
from trialbook.trainer.loading import recorded_info

IMAGES = Digits().read().arrays["validation"]["inputs"][:5]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
  """An MLP that was trained on digits, bytes from 0 to 16."""
  workdir = tmp_path_factory.mktemp("run")
  run(mlp(), workdir, programs=Programs())
  assert json.loads((workdir / "run.json").read_text())["input_range"] == [0, 16]
  return load(workdir)


@pytest.fixture(scope="module")
def exported(digits: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
  """The same model as an export, and its weights."""
  params, variables = jax.device_get((digits.params, digits.variables))
  to = tmp_path_factory.mktemp("export") / "to"
  folder = export.export_model(to, digits.config, digits.info, params, variables, {})
  model = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
  return model, dict(np.load(folder / "weights.npz"))


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Any:
  return lambda: "another scale than the training inputs" in caplog.text


def like(model: TrainedModel, dtype: str, input_range: tuple[float, float] | None, **changes: Any) -> TrainedModel:
  """The model as if it had been trained on inputs of another kind; it gives back what reaches it."""
  info = dataclasses.replace(model.info, input_dtype=dtype, **changes)
  spec = {"": jax.ShapeDtypeStruct(info.input_shape, dtype)}
  model = dataclasses.replace(model, info=info, input_range=input_range, spec=spec)
  return dataclasses.replace(model, _forward=lambda params, variables, given: given[""])


@pytest.mark.parametrize("given", [IMAGES.tolist(), list(IMAGES), tuple(IMAGES), IMAGES.astype(np.int64)])
def test_lists_and_other_integers_predict_as_the_array_does(digits: TrainedModel, warned: Any, given: Any):
  np.testing.assert_array_equal(digits.predict(given), digits.predict(IMAGES))
  assert not warned()


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    (IMAGES / 255, "inputs are float64; the model takes integers, without any scaling: it was trained on"),
    (IMAGES.astype(np.float32), "inputs are float32; the model takes integers"),
    ((IMAGES / 16).tolist(), "inputs are float64; the model takes integers"),
    (IMAGES > 8, "inputs are bool; the model takes integers"),
    (IMAGES.astype(str), "inputs are <U3; the model takes integers"),
    (IMAGES.astype(np.int32) * 100, "inputs are from 0 to 1600; the model takes 0 to 255: it was trained on uint8"),
    (IMAGES.astype(np.int32) - 1, "inputs are from -1 to 15; the model takes 0 to 255"),
    (IMAGES[0], r"inputs have shape \(8, 8, 1\); the model takes \(B, \*\(8, 8, 1\)\)"),
    (7, r"inputs have shape \(\); the model takes"),
    ([[1], [1, 2]], r"inputs are not an array \(.*\); the model takes \(B, \*\(8, 8, 1\)\): it was trained on uint8"),
  ],
)
def test_inputs_of_another_kind_are_refused_with_what_the_model_was_trained_on(
  digits: TrainedModel, given: Any, expected: str
):
  with pytest.raises(ValueError, match=expected) as caught:
    digits.predict(given)
  assert str(caught.value).endswith("it was trained on uint8[8, 8, 1] from 0 to 16")


def test_a_model_of_floats_takes_integers_and_refuses_what_is_no_number_or_not_finite(digits: TrainedModel):
  model = like(digits, "float32", (-1.5, 2.0))
  for given in (np.ones((2, 8, 8, 1)), IMAGES, IMAGES.tolist(), IMAGES.astype(np.int64)):
    outputs = model.predict(given)
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs, given)
  for given, expected in (
    (IMAGES > 8, "inputs are bool; the model takes numbers, scaled as in training: it was trained on float32"),
    (IMAGES.astype(str), "inputs are <U3; the model takes numbers"),
    (np.full((1, 8, 8, 1), np.nan), r"not all finite: it was trained on float32\[8, 8, 1\] from -1.5 to 2"),
    (np.full((1, 8, 8, 1), np.inf), "not all finite"),
  ):
    with pytest.raises(ValueError, match=expected):
      model.predict(given)


@pytest.mark.parametrize(
  ("dtype", "trained", "given", "expected"),
  [
    ("float32", (-1.0, 2.0), 1.0, False),
    ("float32", (-1.0, 2.0), 0.0, False),
    ("float32", (-1.0, 2.0), -19.0, False),
    ("float32", (-1.0, 2.0), -21.0, True),
    ("float32", (0.0, 255.0), 1.0, True),
    ("uint8", (0.0, 255.0), 1, True),
    ("uint8", (0.0, 255.0), 26, False),
    ("int32", (0.0, 900.0), 1, False),
    ("float32", None, 1e9, False),
  ],
)
def test_inputs_of_another_scale_are_warned_of(
  digits: TrainedModel, warned: Any, dtype: str, trained: Any, given: float, expected: bool
):
  like(digits, dtype, trained).predict(np.full((8, 8, 8, 1), given))
  assert warned() == expected


def test_a_few_small_examples_or_small_ones_beside_usual_ones_are_not_warned_of(digits: TrainedModel, warned: Any):
  dark = np.ones((8, 8, 8, 1), np.uint8)
  like(digits, "uint8", (0.0, 255.0)).predict(dark[:7])
  like(digits, "uint8", (0.0, 255.0)).predict(np.concatenate([dark, 200 * dark[:1]]))
  assert not warned()


def test_another_scale_is_warned_of_once_for_each_model(digits: TrainedModel, caplog: pytest.LogCaptureFixture):
  for _ in range(2):
    model = like(digits, "float32", (0.0, 1.0))
    for _ in range(3):
      model.predict(np.full((1, 8, 8, 1), 50.0))
  assert caplog.text.count("another scale") == 2


def test_the_range_of_a_training_set_in_memory_is_that_of_more_than_one_batch(tmp_path: pathlib.Path):
  config = mlp(batch_size=1, dataset__name="synthetic", dataset__train_examples=500)
  prepared, inputs = checks.prepare(config, tmp_path / "run"), config.dataset.read().arrays["train"]["inputs"]
  batch = prepared.dataset.train_batch(0)["inputs"]
  assert inputs.min() < batch.min() < batch.max() < inputs.max()
  assert prepared.input_range == (inputs.min(), inputs.max())


def test_tokens_outside_of_a_transformers_vocabulary_are_refused(digits: TrainedModel):
  info = text.windows("text", np.zeros(2000, np.uint8), 12).info
  changed = mlp().override({"dataset.name": "shakespeare", "task.name": "language_model", "model.name": "transformer"})
  facts = {name: getattr(info, name) for name in ("input_shape", "label_shape", "num_classes")}
  model = like(digits, "int32", (0, 90), **facts)
  model = dataclasses.replace(model, config=changed)
  np.testing.assert_array_equal(model.predict([[255] * 12]), [[255] * 12])
  for wrong in (-1, 256):
    with pytest.raises(ValueError, match=f"inputs are from {wrong} to {wrong}; the model takes 0 to 255: it was trai"):
      model.predict([[wrong] * 12])


@pytest.mark.slow
def test_a_run_of_before_is_loaded_without_a_range(digits: TrainedModel, tmp_path: pathlib.Path):
  workdir = tmp_path / "run"
  run(mlp(max_train_steps=10), workdir, programs=Programs())
  record = json.loads((workdir / "run.json").read_text())
  del record["input_range"]
  (workdir / "run.json").write_text(json.dumps(record))
  model = load(workdir, "last")
  assert (model.input_range, recorded_info(workdir)) == (None, digits.info)
  assert model.predict(IMAGES).shape == (5, 10)


@pytest.mark.parametrize("given", [IMAGES / 255, IMAGES.astype(np.int32), IMAGES[0]])
def test_an_export_refuses_inputs_of_another_kind(exported: Any, given: Any):
  model, weights = exported
  assert model.call(weights, IMAGES).shape == (5, 10)
  with pytest.raises(ValueError, match=r"mismatch for args\[1\]"):
    model.call(weights, given)

"""Tasks: their losses and metrics against NumPy, numbers of whole splits, and data that does not fit."""

import dataclasses
import json
import math
import pathlib
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import mlp, numbers, state_of

from trialbook.errors import ConfigError, UserError
from trialbook.input_pipeline import AnyDataset, Augmentation, Data, Digits, Info, Shakespeare, Table, Text, load
from trialbook.models import TransformerConfig
from trialbook.trainer import Config, Programs, run, sharding
from trialbook.trainer.bound_task import BoundTask, bind
from trialbook.trainer.checkpoint_evaluation import evaluate_checkpoint
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.schedules import Constant
from trialbook.trainer.tasks import Classification, LanguageModel, Regression, Task
from trialbook.trainer.train_step import program_settings


def log_softmax(logits: np.ndarray) -> np.ndarray:
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(axis=-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
  """-sum(target * log p) with the target written out, float64."""
  classes = logits.shape[-1]
  target = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
  return -(target * log_softmax(logits)).sum(axis=-1)


def drawn(*shape: int) -> np.ndarray:
  return np.random.default_rng(0).normal(scale=3, size=shape).astype(np.float32)


def labels(classes: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(1).integers(classes, size=shape).astype(np.int32)


def settings(**values: float) -> dict[str, jax.Array]:
  return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def for_labels(task: Task, classes: int, *label_shape: int) -> BoundTask:
  """The task for labels of that shape for each example."""
  info = Info(
    name="made",
    input_shape=(1,),
    input_dtype="float32",
    num_classes=classes,
    num_targets=None,
    examples={"train": 4, "validation": 4},
    normalization=None,
    label_shape=label_shape,
  )
  return bind(task, info)


def losses(task: BoundTask, outputs: np.ndarray, batch: dict[str, np.ndarray], given: dict[str, jax.Array]) -> Any:
  (term,) = task.loss(jnp.asarray(outputs), jax.device_put(batch), settings=given, train=True, sown={}).values()
  assert term.count is None
  return term.total


def metrics(task: BoundTask, outputs: np.ndarray, batch: dict[str, np.ndarray]) -> dict[str, Any]:
  found = task.metrics(jnp.asarray(outputs), jax.device_put(batch), settings={}, train=False, sown={})
  return {name: value.total for name, value in found.items()}


@pytest.mark.parametrize("smoothing", [None, 0.0, 0.2])
def test_a_language_models_loss_is_the_mean_cross_entropy_over_positions(smoothing: float | None):
  outputs, batch = drawn(4, 6, 11), {"labels": labels(11, 4, 6)}
  given = {} if smoothing is None else settings(label_smoothing=smoothing)
  loss = losses(for_labels(LanguageModel().build(), 11, 6), outputs, batch, given)
  expected = cross_entropy(outputs, batch["labels"], smoothing or 0.0).mean(axis=-1)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_language_models_metrics_are_those_of_numpy_and_know_no_smoothing():
  outputs, batch = drawn(4, 6, 11), {"labels": labels(11, 4, 6)}
  task = for_labels(LanguageModel(label_smoothing=0.3).build(), 11, 6)
  values = metrics(task, outputs, batch)
  loss = cross_entropy(outputs, batch["labels"]).mean(axis=-1)
  expected = {
    "loss": loss,
    "bits_per_token": loss / math.log(2),
    "error": (outputs.argmax(axis=-1) != batch["labels"]).mean(axis=-1),
  }
  assert values.keys() == expected.keys()
  for name, value in values.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


def test_perplexity_is_of_a_whole_split_and_finite_or_nan_with_the_loss():
  task = for_labels(LanguageModel().build(), 11, 6)
  assert [*task.split_metrics()] == ["perplexity"]
  assert for_labels(Classification().build(), 11).split_metrics() == {}
  assert task.split_metric("perplexity", {"loss": 1.25, "error": 0.5}, {}) == math.exp(1.25)
  assert math.isfinite(task.split_metric("perplexity", {"loss": 1e9}, {}))
  assert math.isnan(task.split_metric("perplexity", {"loss": math.nan}, {}))


def text_config(path: pathlib.Path, **changes) -> Config:
  """A transformer of one block on a text of 10 different bytes; validation has 23 windows."""
  letters = np.random.default_rng(2).choice(list(b"the quick."), size=4000).astype(np.uint8)
  path.write_bytes(letters.tobytes())
  config = mlp(evaluation__predictions=2).model_copy(
    update={
      "dataset": Text(path=str(path), length=8),
      "task": LanguageModel(),
      "model": TransformerConfig(width=8, depth=1, heads=2, mlp_ratio=1.0),
      "schedule": Constant(),
    }
  )
  return config.override({path.replace("__", "."): value for path, value in changes.items()})


@pytest.mark.slow
def test_a_splits_perplexity_does_not_depend_on_the_batch_size(tmp_path: pathlib.Path):
  values = []
  for batch_size in (2, 10, 64):
    config = text_config(tmp_path / "text", evaluation__batch_size=batch_size).resolved()
    dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
    mesh = sharding.make_mesh()
    program = Programs().get(config, config.task.build(config.dataset), dataset.info, mesh)
    program.compile()
    arrays = sharding.put_replicated(mesh, program_settings(config))
    weights = evaluated_weights(config, program.init(arrays))
    values.append(evaluate(program, weights, arrays, dataset, "validation", config))
  assert values[0]["validation/examples"] == 24
  for value in values:
    assert value["validation/perplexity"] == math.exp(value["validation/loss"])
    assert value["validation/bits_per_byte"] == pytest.approx(value["validation/loss"] / math.log(2), rel=1e-6)
    # Untrained, all 256 bytes are about as likely.
    assert 200 < value["validation/perplexity"] < 330
    for name in ("loss", "perplexity", "bits_per_byte", "error"):
      assert value[f"validation/{name}"] == pytest.approx(values[0][f"validation/{name}"], rel=2e-6), name


def vocabulary() -> Data:
  """Sequences of 8 of 256 tokens that are no bytes: the shapes are those of text by bytes."""
  tokens = np.random.default_rng(4).integers(256, size=(64, 9))
  split = {"inputs": tokens[:, :-1], "labels": tokens[:, 1:]}
  return Data(splits={"train": split, "validation": split}, num_classes=256)


def test_bits_are_per_byte_only_where_a_dataset_says_that_a_token_is_a_byte():
  """Also of datasets that are yet to be written: they are found in the registry."""
  for kind in typing.get_args(AnyDataset):
    dataset = kind.model_construct()
    bits = "bits_per_byte" if kind in (Text, Shakespeare) else "bits_per_token"
    assert LanguageModel().objective(dataset) == f"validation/{bits}"
    outputs, batch = np.zeros((1, 2, 3), np.float32), {"labels": np.zeros((1, 2), np.int32)}
    assert metrics(for_labels(LanguageModel().build(dataset), 3, 2), outputs, batch).keys() == {"loss", bits, "error"}


@pytest.mark.slow
def test_runs_on_bytes_and_on_other_tokens_of_the_same_shapes_name_their_bits_rightly(tmp_path: pathlib.Path):
  programs = Programs()
  of_bytes = text_config(tmp_path / "text", max_train_steps=2, evaluation__every_steps=2)
  of_tokens = of_bytes.override({"dataset.name": "test_tasks:vocabulary"})
  for config, bits, other in (
    (of_bytes, "bits_per_byte", "bits_per_token"),
    (of_tokens, "bits_per_token", "bits_per_byte"),
  ):
    result = run(config, tmp_path / bits, programs=programs)
    lines = numbers(tmp_path / bits)
    for name in (f"train/{bits}", f"validation/{bits}", f"train_subset/{bits}"):
      loss = name.replace(bits, "loss")
      assert lines[-1][name] == pytest.approx(lines[-1][loss] / math.log(2), rel=1e-6)
    assert not [name for line in lines for name in line if other in name]
    record = json.loads((tmp_path / bits / "best.json").read_text())
    assert (record["metric"], record["mode"]) == (f"validation/{bits}", "min")
    assert result.best_step is not None
    again = evaluate_checkpoint(tmp_path / bits, "best", "validation")
    assert again[f"validation/{bits}"] == pytest.approx(result.best[f"validation/{bits}"], rel=1e-6)


@pytest.mark.slow
def test_a_run_may_select_by_perplexity_and_by_default_goes_by_bits_per_byte(tmp_path: pathlib.Path):
  config = text_config(tmp_path / "text", max_train_steps=4, evaluation__every_steps=2)
  programs = Programs()
  result = run(config.override({"selection.metric": "validation/perplexity"}), tmp_path / "run", programs=programs)
  assert result.status == "complete"
  assert result.metrics["validation/perplexity"] == math.exp(result.metrics["validation/loss"])
  assert config.resolved().selection.metric == "validation/bits_per_byte"
  with pytest.raises(ConfigError, match="validation/perplexit' is not evaluated; did you mean 'validation/perplexity'"):
    run(config.override({"selection.metric": "validation/perplexit"}), tmp_path / "other", programs=programs)


@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_the_loss_of_mixed_labels_is_that_of_mixed_targets(smoothing: float | None):
  outputs, mixing = drawn(6, 5), np.random.default_rng(3).uniform(size=6).astype(np.float32)
  own, other = labels(5, 6), labels(5, 6)[::-1].copy()
  given = {} if smoothing is None else settings(label_smoothing=smoothing)
  batch = {"labels": own, "mixed_labels": other, "mixing": mixing}
  loss = losses(for_labels(Classification().build(), 5), outputs, batch, given)
  hard = mixing[:, None] * np.eye(5)[own] + (1 - mixing[:, None]) * np.eye(5)[other]
  target = (1 - (smoothing or 0.0)) * hard + (smoothing or 0.0) / 5
  np.testing.assert_allclose(loss, -(target * log_softmax(outputs)).sum(axis=-1), rtol=1e-5)


def with_mixup(alpha: float | None) -> Config:
  return mlp(max_train_steps=5, evaluation__every_steps=5).model_copy(
    update={"dataset": Digits(augmentation=Augmentation(mixup_alpha=alpha)), "schedule": Constant()}
  )


@pytest.mark.slow
def test_mixup_of_strength_zero_trains_to_the_same_bits_and_another_strength_does_not_recompile(tmp_path: pathlib.Path):
  programs = Programs()
  for alpha in (0.0, 0.4, 1.0):
    run(with_mixup(alpha), tmp_path / f"{alpha}", programs=programs)
    assert programs.compilations == {"init": 1, "train_step": 1, "eval_step": 1}, alpha
  run(with_mixup(None), tmp_path / "None", programs=programs)
  assert programs.compilations == {"init": 2, "train_step": 2, "eval_step": 2}
  losses = {name: numbers(tmp_path / name) for name in ("None", "0.0", "0.4", "1.0")}
  assert losses["0.0"] == losses["None"]
  states = [flatten(state_of(tmp_path / name)) for name in ("None", "0.0")]
  for name, array in states[0].items():
    np.testing.assert_array_equal(array, states[1][name], err_msg=name)
  # The first evaluation is of the same parameters, the losses afterwards of other batches.
  assert losses["0.4"][0] == losses["1.0"][0] == losses["None"][0]
  assert len({lines[1]["train/loss"] for lines in losses.values()}) == 3


def test_only_training_batches_have_mixed_labels():
  config = with_mixup(0.4)
  dataset = load(config.dataset, seed=0, batch_size=8)
  task = bind(Classification().build(), dataset.info)
  assert {*task.train_paths} == dataset.train_batch(0).keys() == {"inputs", "labels", "mixed_labels", "mixing"}
  assert {*task.eval_paths} == {"inputs", "labels", "is_example"}
  assert dataset.eval_batch(0, "train", 8).keys() == {"inputs", "labels", "is_example", "example"}
  plain = dataclasses.replace(dataset.info, mixes_labels=False)
  assert bind(Classification().build(), plain).train_paths == ["inputs", "labels"]
  diabetes = load(Table(table="diabetes", augmentation=Augmentation(mixup_alpha=0.4)), seed=0, batch_size=8)
  assert {*bind(Regression().build(), diabetes.info).train_paths} == diabetes.train_batch(0).keys()


def test_a_task_and_data_that_do_not_fit_are_told_with_the_task_that_does(tmp_path: pathlib.Path):
  config = text_config(tmp_path / "text")
  with pytest.raises(ConfigError, match=r"labels of shape \[8\] for each: if .* set task\.name=language_model"):
    run(config.override({"task.name": "classification"}), tmp_path / "run")
  with pytest.raises(ConfigError, match=r"regression task needs targets, but dataset 'text' has labels"):
    run(config.override({"task.name": "regression"}), tmp_path / "run")
  with pytest.raises(ConfigError, match=r"language_model .* dataset 'digits' has .*task\.name=classification"):
    run(mlp(task__name="language_model"), tmp_path / "run")
  assert not (tmp_path / "run").exists()


class WholeText(nnx.Module):
  """One row of logits for a whole text."""

  def __init__(self, *, num_classes: int, input_shape: tuple[int, ...], rngs: nnx.Rngs):
    self.output = nnx.Linear(input_shape[0], num_classes, rngs=rngs)

  def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
    del train
    return self.output(tokens.astype(jnp.float32))


def test_outputs_that_do_not_fit_the_labels_are_told_with_both_shapes(tmp_path: pathlib.Path):
  config = text_config(tmp_path / "text", model__name="test_tasks:WholeText")
  with pytest.raises(UserError, match=r"outputs are \[32, 256\]; labels \[32, 8\] need \[32, 8, 'classes'\]"):
    run(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_the_error_of_mixed_examples_counts_each_label_by_its_share():
  outputs = np.asarray([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], np.float32)
  batch = {
    "labels": np.asarray([0, 0], np.int32),
    "mixed_labels": np.asarray([2, 1], np.int32),
    "mixing": np.asarray([0.75, 0.25], np.float32),
  }
  error = metrics(for_labels(Classification().build(), 3), outputs, batch)["error"]
  np.testing.assert_allclose(error, [1 - 0.75, 1 - 0.75])

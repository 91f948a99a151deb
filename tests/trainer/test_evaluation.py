"""Evaluation counts each example once and gives the same numbers for every batch size (PB-66, PB-68)."""

import math

import jax
import numpy as np
import pytest
from tiny import resnet

from trialbook.input_pipeline import load
from trialbook.trainer import sharding
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.evaluation_schedule import evaluated_splits, evaluation_steps
from trialbook.trainer.program import Programs
from trialbook.trainer.train_step import program_settings


def evaluation(batch_size: int, split: str = "test") -> dict:
  config = resnet(evaluation__batch_size=batch_size, evaluation__train_examples=333).resolved()
  dataset = load(config.dataset, seed=0, batch_size=16)
  # One device, so that a batch of one example is possible.
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  program = Programs().get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  settings = jax.device_put(program_settings(config), sharding.replicated(mesh))
  return evaluate(program, evaluated_weights(config, program.init(settings)), settings, dataset, split, config)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", "train_subset"])
def test_every_batch_size_gives_the_same_numbers(split: str):
  reference = evaluation(1, split)
  examples = reference[f"{split}/examples"]
  assert examples == {"test": 250, "train_subset": 333}[split]
  assert sum(reference[f"{split}/class_examples"]) == examples
  for batch_size in (7, 64, 1000):
    assert examples % batch_size, "the batch size must not divide the set"
    values = evaluation(batch_size, split)
    assert values.keys() == reference.keys()
    for name, value in values.items():
      np.testing.assert_allclose(value, reference[name], rtol=1e-6, atol=0, err_msg=f"{name}, {batch_size}")


@pytest.mark.slow
def test_correct_examples_are_counted_by_class():
  values = evaluation(64)
  correct = 1 - values["test/error"]
  assert math.isclose(sum(values["test/class_correct"]) / 250, correct, rel_tol=1e-9)
  assert math.isclose(values["test/accuracy"], correct, rel_tol=1e-9)


def test_evaluation_is_at_regular_steps_and_at_both_ends():
  config = resnet(max_train_steps=7, evaluation__every_steps=3)
  assert evaluation_steps(config) == [0, 3, 6, 7]
  assert evaluation_steps(resnet(max_train_steps=6, evaluation__every_steps=3)) == [0, 3, 6]


def test_the_test_split_is_not_evaluated_periodically():
  assert evaluated_splits(resnet(evaluation__test=True)) == ["train_subset", "validation"]
  assert evaluated_splits(resnet(evaluation__train_examples=0)) == ["validation"]

"""The chance level of a metric is that of plain counts of the same data (PB-07)."""

import math

import numpy as np
import pytest

from trialbook.trainer import Config
from trialbook.tuning.procedures.chance import chance_of

RANDOM = np.random.default_rng(0)
SHARES = (0.5, 0.3, 0.15, 0.05)
LABELS = {"train": RANDOM.choice(4, 3000, p=SHARES), "validation": RANDOM.choice(4, 1500, p=SHARES)}
TOKENS = {"train": RANDOM.choice(6, (500, 8), p=(0.4, 0.2, 0.2, 0.1, 0.05, 0.05))}
TOKENS["validation"] = RANDOM.choice(6, (120, 8), p=(0.4, 0.2, 0.2, 0.1, 0.05, 0.05))
TARGETS = {"train": RANDOM.normal((1.0, -3.0), (2.0, 0.5), (900, 2)), "validation": RANDOM.normal(0, 1, (300, 2))}
WEIGHTS = {split: RANDOM.uniform(0, 2, len(labels)) for split, labels in LABELS.items()}
MASK = {split: RANDOM.random(tokens.shape) < 0.7 for split, tokens in TOKENS.items()}


def classes(weighted: bool = False):
  """Labels of four classes, weighted or not."""

  def of(split: str):
    found = {"inputs": np.zeros((len(LABELS[split]), 2), np.float32), "labels": LABELS[split].astype(np.int32)}
    return found | ({"weights": WEIGHTS[split].astype(np.float32)} if weighted else {})

  return {split: of(split) for split in LABELS}


def tokens(masked: bool = False):
  """Sequences of six tokens, some positions masked or none."""

  def of(split: str):
    found = {"inputs": TOKENS[split].astype(np.int32), "labels": TOKENS[split].astype(np.int32)}
    return found | ({"mask": MASK[split]} if masked else {})

  return {split: of(split) for split in TOKENS}


def targets():
  """Two targets for each example."""
  return {
    split: {"inputs": np.zeros((len(values), 2), np.float32), "targets": values.astype(np.float32)}
    for split, values in TARGETS.items()
  }


class Own:
  """A task of a user's."""

  def keys(self, info):
    return ["inputs", "targets"]

  def num_outputs(self, info):
    return 2

  def loss(self, outputs, batch):
    return ((outputs - batch["targets"]) ** 2).mean(-1)


def chance(tmp_path, data: str, task: str, metric: str, **changes):
  config = Config().override(
    {
      "dataset": {"name": f"test_chance:{data}", "kwargs": changes.pop("kwargs", {})},
      "task": {"name": task},
      "model": {"name": "mlp", "widths": (4,)},
      **{path.replace("__", "."): value for path, value in changes.items()},
    }
  )
  return chance_of(config, metric, tmp_path)


@pytest.mark.parametrize("weighted", [False, True])
def test_of_classes_it_is_the_most_frequent_one(tmp_path, weighted):
  found = chance(tmp_path, "classes", "classification", "validation/error", kwargs={"weighted": weighted})
  weights = WEIGHTS["validation"] if weighted else np.ones(1500)
  wrong = LABELS["validation"] != 0
  expected = np.average(wrong, weights=weights)
  assert found is not None
  assert found.value == pytest.approx(expected, rel=1e-5)
  assert found.predictor.endswith("class, 0")
  assert found.examples == 1500
  # Of draws with replacement, the weighted share varies as much.
  drawn = [np.random.default_rng(draw).integers(0, 1500, 1500) for draw in range(400)]
  deviation = np.std([np.average(wrong[one], weights=weights[one]) for one in drawn])
  assert found.standard_error == pytest.approx(deviation, rel=0.15)
  right = chance(tmp_path, "classes", "classification", "validation/accuracy", kwargs={"weighted": weighted})
  assert right is not None
  assert right.value == pytest.approx(1 - expected, rel=1e-5)


def test_the_loss_of_classes_is_the_cross_entropy_of_their_frequencies(tmp_path):
  found = chance(tmp_path, "classes", "classification", "validation/loss")
  shares = np.bincount(LABELS["train"]) / 3000
  assert found is not None
  assert found.value == pytest.approx(-np.mean(np.log(shares[LABELS["validation"]])), rel=1e-6)


def test_a_part_of_the_validation_set_is_counted_as_evaluations_see_it(tmp_path):
  found = chance(tmp_path, "classes", "classification", "validation/error", evaluation__validation_examples=300)
  assert found is not None
  assert found.examples == 300


@pytest.mark.parametrize("masked", [False, True])
def test_of_a_language_it_is_the_unigram_entropy(tmp_path, masked):
  def of(metric):
    found = chance(tmp_path, "tokens", "language_model", f"validation/{metric}", kwargs={"masked": masked})
    assert found is not None
    return found

  def counted(split):
    return TOKENS[split][MASK[split]] if masked else TOKENS[split].ravel()

  shares = np.bincount(counted("train")) / len(counted("train"))
  loss = -np.mean(np.log(shares[counted("validation")]))
  assert of("loss").value == pytest.approx(loss, rel=1e-6)
  assert of("bits_per_token").value == pytest.approx(loss / math.log(2), rel=1e-6)
  assert of("perplexity").value == pytest.approx(math.exp(loss), rel=1e-6)
  assert of("perplexity").standard_error == pytest.approx(math.exp(loss) * of("loss").standard_error, rel=1e-3)
  assert of("error").value == pytest.approx(np.mean(counted("validation") != 0), rel=1e-6)
  assert "unigram" in of("loss").predictor


def test_of_targets_it_is_their_mean(tmp_path):
  found = chance(tmp_path, "targets", "regression", "validation/loss")
  assert found is not None
  errors = (TARGETS["validation"] - TARGETS["train"].mean(0)) ** 2
  assert found.value == pytest.approx(errors.mean(), rel=1e-5)
  assert found.standard_error == pytest.approx(errors.mean(1).std() / 300**0.5, rel=1e-3)
  absolute = chance(tmp_path, "targets", "regression", "validation/absolute_error")
  assert absolute is not None
  expected = np.abs(TARGETS["validation"] - np.median(TARGETS["train"], axis=0)).mean()
  assert absolute.value == pytest.approx(expected, rel=1e-5)


def test_of_other_metrics_splits_and_tasks_it_is_not_known(tmp_path):
  assert chance(tmp_path, "classes", "classification", "train_subset/error") is None
  assert chance(tmp_path, "classes", "classification", "validation/top_5_error") is None
  assert chance(tmp_path, "targets", "test_chance:Own", "validation/loss") is None

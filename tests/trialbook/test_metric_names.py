"""The one table of directions: what it knows, however it is written, and what it does not pretend to know."""

import inspect
import typing

import jax.numpy as jnp
import pytest

from trialbook.input_pipeline import Digits, Info, Text
from trialbook.metric_names import better, contradiction
from trialbook.trainer import custom_metrics
from trialbook.trainer.bound_task import bind
from trialbook.trainer.task_values import Mean
from trialbook.trainer.tasks import LanguageModel, PluginTask, TaskConfig
from trialbook.tuning.importers.metric_names import DEFAULTS, ours


@pytest.mark.parametrize(
  ("mode", "names"),
  [
    (
      "min",
      "error loss perplexity bits_per_byte bits_per_token absolute_error mean_squared_error rmse wer top_5_error",
    ),
    ("min", "nll negative_log_likelihood cross_entropy brier_score_loss fid_score dice_loss Log-Loss val.loss"),
    ("max", "accuracy area_under_curve f1 f1_macro bleu mean_average_precision mAP@0.5:0.95 acc5 recall@10 hits@10"),
    ("max", "balanced_accuracy_score roc_auc_score r2_score log_likelihood Mean-IoU rougeL pass@1 inception_score"),
    (None, "calibration score top5 accuracy_gap loss_scale learning_rate grad_norm examples seconds update_norm"),
    (None, "neg_mean_squared_error one_minus_dice negative_accuracy 1-accuracy 1_-_auc one_minus_auc val_1-accuracy"),
    (None, "time_to_accuracy steps_to_accuracy epochs_until_loss number_of_errors recall_at_precision"),
    (None, "attention_map feature_map first_pass forward_pass daily_returns cap_ap"),
    ("max", "map ap val_map mean_ap mAP50 pass pass@10 returns mean_returns macro_ap top_1_accuracy hits_1"),
    ("min", "top-1-error top_1_error_rate task_1_loss fold1_loss"),
  ],
)
def test_a_direction_is_known_by_the_last_part_of_a_name_however_it_is_written(mode: str | None, names: str):
  for name in names.split():
    for split in ("", "validation/", "train_subset/", "test/"):
      for written in (name, name.upper(), name.replace("_", " "), name.replace("_", "-")):
        assert better(split + written) == mode, split + written


def test_a_name_without_a_metric_has_no_direction():
  assert [better(name) for name in ("", "/", "validation/", "validation/mean", "loss/")] == [None] * 5


def test_every_metric_of_ours_has_a_direction_and_so_has_the_one_that_a_task_selects_by():
  """Also tasks and functions that are yet to be written: they are found in the registry and the module."""
  found = dict.fromkeys(["area_under_curve"])
  kinds = [typing.get_args(kind)[0] for kind in typing.get_args(typing.get_args(TaskConfig)[0])]
  assert len(kinds) > 3
  for kind in kinds:
    if kind is PluginTask:
      continue
    for dataset in (Digits(), Text()):
      examples = (2, 3) if kind is LanguageModel else (2,)
      batch = {"labels": jnp.zeros(examples, jnp.int32), "targets": jnp.zeros((*examples, 4))}
      spec = {name: (array.shape[1:], str(array.dtype)) for name, array in batch.items()}
      info = Info(
        name="any",
        input_shape=(4,),
        input_dtype="float32",
        num_classes=4,
        num_targets=4,
        examples={},
        normalization=None,
        label_shape=examples[1:],
        spec={"inputs": ((4,), "float32"), **spec},
      )
      task = bind(kind().build(dataset), info)
      metrics = task.metrics(jnp.zeros((*examples, 4)), batch, settings={}, train=False, sown={})
      # A sum has no direction.
      found |= {name: None for name, metric in metrics.items() if isinstance(metric, Mean)}
      found |= dict.fromkeys(task.split_metrics())
      assert better(kind().objective(dataset)) is not None
  found |= {
    name: None
    for name, function in vars(custom_metrics).items()
    if inspect.isfunction(function) and [*inspect.signature(function).parameters] == ["outputs", "batch"]
  }
  assert {
    "accuracy",
    "bits_per_byte",
    "bits_per_token",
    "perplexity",
    "absolute_error",
    "area_under_curve",
  } <= found.keys()
  assert [name for name in found if better(name) is None] == []


def test_what_an_import_ranks_by_unasked_has_a_direction_and_so_have_the_names_that_it_translates():
  assert [better(metric) for metric in DEFAULTS] == ["min", "min", "max"]
  for name in ("val_acc", "valid/err", "eval.error_rate", "dev-ppl", "val_bpb"):
    assert better(ours(name)) is not None
    assert better(ours(name)) == better(name)


def test_a_direction_against_the_table_is_said_in_words_and_any_other_is_not():
  assert contradiction("validation/accuracy", "min") == (
    "the smallest validation/accuracy counts as the best, but its name suggests that larger values are better"
  )
  assert (
    contradiction("loss", "max")
    == "the largest loss counts as the best, but its name suggests that smaller values are better"
  )
  for metric, mode in (("loss", "min"), ("f1", "max"), ("loss", None), ("calibration", "min"), ("calibration", "max")):
    assert contradiction(metric, mode) is None

"""The changes from one config to another lead from the one to the other, whichever kinds of parts they have."""

import itertools

import pytest

from trialbook.settings import leaves
from trialbook.trainer import Config
from trialbook.tuning.procedures.config_changes import changed, recommended

BASE = Config().override({"schedule.decay_steps": 100, "optimizer.weight_decay": 0.1, "seed": 1})
CONFIGS = {
  "cosine": BASE,
  "constant": BASE.override({"schedule.name": "constant", "seed": 2}),
  "warm": BASE.override({"schedule.name": "linear", "schedule.warmup_steps": 10, "clip_norm": 1.0}),
  "adam": BASE.override({"optimizer.name": "adam", "max_train_steps": 300}),
  "mlp": BASE.override({"model.name": "mlp", "model.dropout_rate": 0.1}),
  "averaged": BASE.override({"averaging.decay": 0.9, "averaging.evaluate": "current"}),
  "augmented": BASE.override({"dataset.augmentation.crop_padding": 2}),
  "evaluated": BASE.override({"evaluation.every_steps": 7, "evaluation.train_examples": 0}),
  "by the error": BASE.override({"selection.metric": "validation/error", "selection.mode": "min"}),
  "by the loss": BASE.override({"selection.metric": "validation/loss", "selection.mode": "min"}),
  "otherwise split": BASE.override({"dataset.split_seed": 3, "evaluation.test": True}),
}


@pytest.mark.parametrize(("baseline", "candidate"), [*itertools.permutations(CONFIGS, 2)])
def test_the_recommended_changes_make_the_candidate_from_the_baseline(baseline: str, candidate: str):
  made = CONFIGS[baseline].override(recommended(CONFIGS[baseline], CONFIGS[candidate]))
  assert made.override({"seed": 0}).resolved() == CONFIGS[candidate].override({"seed": 0}).resolved()
  assert recommended(made, CONFIGS[candidate]) == {}


@pytest.mark.parametrize(("baseline", "candidate"), [*itertools.permutations(CONFIGS, 2)])
def test_what_is_trained_differs_by_the_recommended_changes_that_are_no_host_fields(baseline: str, candidate: str):
  before, after = CONFIGS[baseline], CONFIGS[candidate]
  host = {path for path, kind, _, _ in leaves(after) if kind == "host"} - {"max_train_steps"}
  found = changed(before, after)
  assert found.keys() == recommended(before, after).keys() - host

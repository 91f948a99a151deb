"""The changes from one config to another lead from the one to the other, whichever kinds of parts they have."""

import itertools

import pytest

from trialbook.trainer import Config
from trialbook.tuning.procedures.config_changes import changed

BASE = Config().override({"schedule.decay_steps": 100, "optimizer.weight_decay": 0.1, "seed": 1})
CONFIGS = {
  "cosine": BASE,
  "constant": BASE.override({"schedule.name": "constant", "seed": 2}),
  "warm": BASE.override({"schedule.name": "linear", "schedule.warmup_steps": 10, "clip_norm": 1.0}),
  "adam": BASE.override({"optimizer.name": "adam", "max_train_steps": 300}),
  "mlp": BASE.override({"model.name": "mlp", "model.dropout_rate": 0.1}),
  "averaged": BASE.override({"averaging.decay": 0.9}),
  "augmented": BASE.override({"dataset.augmentation.crop_padding": 2}),
}


@pytest.mark.parametrize(("baseline", "candidate"), [*itertools.permutations(CONFIGS, 2)])
def test_the_changes_make_the_candidate_from_the_baseline(baseline: str, candidate: str):
  changes = changed(CONFIGS[baseline], CONFIGS[candidate])
  made = CONFIGS[baseline].override({path: new for path, (_, new) in changes.items()})
  assert made.override({"seed": 0}) == CONFIGS[candidate].override({"seed": 0})
  assert changed(made, CONFIGS[candidate]) == {}

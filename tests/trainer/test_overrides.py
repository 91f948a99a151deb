"""Changing a config: one mechanism, every problem at once, in words that help."""

import pytest

from trainer import Averaging, Config, ConfigError
from trainer.optimizers import Adam, Nesterov
from trainer.overrides import parse_assignments
from trialbook.settings import Settings, Static, Traced, leaves, traced_values


def problems_of(changes: dict) -> list[str]:
  with pytest.raises(ConfigError) as caught:
    Config().override(changes)
  return caught.value.problems


def test_a_changed_field_leaves_all_others_as_they_were():
  before = Config(optimizer=Nesterov(learning_rate=0.5, weight_decay=0.1))
  after = before.override({"optimizer.learning_rate": 0.3})
  assert after == Config(optimizer=Nesterov(learning_rate=0.3, weight_decay=0.1))
  assert before.optimizer.learning_rate == 0.5


def test_a_new_name_brings_the_new_kinds_defaults_and_comes_before_its_siblings():
  before = Config(optimizer=Nesterov(learning_rate=0.5, momentum=0.99))
  changes = {"optimizer.beta1": 0.8, "optimizer.name": "adam"}
  assert before.override(changes).optimizer == Adam(beta1=0.8)
  assert before.override(dict(reversed(changes.items()))).optimizer == Adam(beta1=0.8)


def test_the_same_name_changes_nothing():
  before = Config(optimizer=Nesterov(learning_rate=0.5))
  assert before.override({"optimizer.name": "nesterov"}) == before


def test_a_path_below_an_absent_subtree_brings_it_in_and_none_takes_it_out():
  averaged = Config().override({"averaging.decay": 0.5})
  assert averaged.averaging == Averaging(decay=0.5)
  assert averaged.override({"averaging": None}).averaging is None


def test_all_problems_are_told_at_once_with_the_nearest_names():
  problems = problems_of(
    {
      "optimizer.learning_rat": 1.0,
      "batch_size": "many",
      "model.name": "resnett",
      "clip_norm": -1.0,
      "schedule.warmup_steps": 5000,
    }
  )
  text = "\n".join(problems)
  assert len(problems) == 5
  assert "unknown field 'optimizer.learning_rat'; did you mean 'learning_rate'?" in text
  assert "batch_size = 'many': should be a valid integer" in text
  assert "unknown model 'resnett'; did you mean 'resnet'?" in text
  assert "clip_norm = -1.0: should be greater than 0" in text
  assert "schedule.warmup_steps = 5000" in text


@pytest.mark.parametrize(
  ("changes", "fragment"),
  [
    ({"optimizer.beta1": 0.5}, "unknown field 'optimizer.beta1'"),
    ({"batch_size": 2.5}, "batch_size"),
    ({"batch_size": True}, "batch_size"),
    ({"optimizer.learning_rate": float("nan")}, "learning_rate"),
    ({"optimizer.learning_rate": "0.1"}, "learning_rate"),
    ({"batch_size.x": 1}, "'batch_size' has no fields"),
    ({"model.stage_sizes": (1, 2.5)}, "model.stage_sizes"),
    ({"optimizer.name": "adm"}, "did you mean 'adam'?"),
  ],
)
def test_a_wrong_value_is_refused(changes: dict, fragment: str):
  assert fragment in "\n".join(problems_of(changes))


def test_assignments_are_literals_or_strings():
  assert parse_assignments(["a.b=1e-3", "c=(1, 2)", "d=None", "e=adam", "f=true", "g=a=b"]) == {
    "a.b": 1e-3,
    "c": (1, 2),
    "d": None,
    "e": "adam",
    "f": True,
    "g": "a=b",
  }


@pytest.mark.parametrize("assignments", [["foo"], ["=3"], ["a=1", "a=2"]])
def test_an_assignment_that_is_none_is_refused(assignments: list[str]):
  with pytest.raises(ConfigError, match="--set"):
    parse_assignments(assignments)


def test_every_field_of_every_kind_of_config_has_one_kind():
  for config in (Config(), Config().override({"optimizer.name": "adam", "averaging.decay": 0.9})):
    assert {kind for _, kind, _, _ in leaves(config)} == {"static", "traced", "host"}
  with pytest.raises(TypeError, match="declared as one of"):

    class Undeclared(Settings):
      x: int = 1

  with pytest.raises(TypeError, match="declared as one of"):

    class Both(Settings):
      x: Static[Traced[int]] = 1


def test_complements_are_formed_in_float64():
  values = traced_values(Adam(beta2=1 - 1e-6))
  assert values["one_minus_beta2"] == pytest.approx(1e-6, rel=1e-7)
  assert "beta2" not in values

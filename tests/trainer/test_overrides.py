"""Changing a config: one mechanism, every problem at once, in words that help."""

import jax.numpy as jnp
import numpy as np
import pytest

from trialbook.errors import ConfigError
from trialbook.models import MlpConfig, PluginConfig
from trialbook.settings import Settings, Static, Traced, leaves, traced_values
from trialbook.trainer import Averaging, Config, ParameterGroup
from trialbook.trainer.optimizers import SGD, Adam, Nesterov
from trialbook.trainer.overrides import parse_assignments


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


def test_only_a_name_that_chooses_a_kind_replaces_its_siblings():
  before = Config(model=PluginConfig(name="my_net:Net", kwargs={"width": 3, "name": "alice"}))
  after = before.override({"model.kwargs.name": "bob"})
  assert after.model == PluginConfig(name="my_net:Net", kwargs={"width": 3, "name": "bob"})
  assert before.override({"model.name": "my_net:Other"}).model == PluginConfig(name="my_net:Other")
  # Where there is no kind to choose, the rest of the record is left for the checks to look at.
  with pytest.raises(ConfigError) as caught:
    Config(batch_size=31).override({"name": "x", "evaluation.name": "y", "evaluation.every_steps": 7})
  assert caught.value.rest == Config(batch_size=31).override({"evaluation.every_steps": 7})


def test_a_whole_subtree_comes_before_what_is_below_it():
  changes = {"optimizer.beta1": 0.8, "optimizer": Adam(beta2=0.9)}
  assert Config().override(changes).optimizer == Adam(beta1=0.8, beta2=0.9)
  changes = {"optimizer.learning_rate": 0.5, "optimizer.name": "sgd", "optimizer": Adam(learning_rate=0.1)}
  assert Config().override(changes).optimizer == SGD(learning_rate=0.5)
  groups = {"parameter_groups.0.frozen": True, "parameter_groups": ({"parameters": "output/*"},)}
  assert Config().override(groups).parameter_groups == (ParameterGroup(parameters="output/*", frozen=True),)
  groups = {
    "parameter_groups.0": ParameterGroup(parameters="c"),
    "parameter_groups": [ParameterGroup(parameters="a"), {"parameters": "b"}],
  }
  assert [group.parameters for group in Config().override(groups).parameter_groups] == ["c", "b"]


def test_an_entry_of_a_tuple_is_set_by_its_number():
  before = Config(model=MlpConfig(widths=(8, 8)))
  assert before.override({"model.widths.1": 4}).model == MlpConfig(widths=(8, 4))
  with pytest.raises(ConfigError, match=r"'model\.widths' has 2 entries, counted from 0"):
    before.override({"model.widths.2": 4})


def test_values_are_copied_and_may_be_numpys_or_jaxs():
  adam, group = {"name": "adam"}, {"parameters": "*"}
  changes = {"optimizer": adam, "optimizer.beta1": np.float64(0.5), "parameter_groups": [group]}
  changes |= {"parameter_groups.0.frozen": np.bool_(True), "batch_size": np.int32(64), "seed": jnp.uint32(3)}
  changes |= {"model.name": "mlp", "model.widths": np.array([8, 4])}
  changed = Config().override(changes)
  assert changed.optimizer == Adam(beta1=0.5)
  assert changed.parameter_groups == (ParameterGroup(parameters="*", frozen=True),)
  assert (changed.batch_size, changed.seed, changed.model) == (64, 3, MlpConfig(widths=(8, 4)))
  assert (adam, group) == ({"name": "adam"}, {"parameters": "*"})


def test_a_subtree_that_cannot_come_in_leaves_the_rest_to_be_checked():
  with pytest.raises(ConfigError, match=r"warm_start\.source is missing") as caught:
    Config().override({"warm_start.step": 3, "batch_size": 5000})
  assert caught.value.rest == Config(batch_size=5000)


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
    ({"batch_size.x.y": 1}, "'batch_size' has no fields"),
    ({"model..width": 1}, "unknown field 'model..width': a name is missing between its dots"),
    ({"": 1}, "unknown field ''"),
    ({"dataset.augmentation.crop_padding": -1}, "dataset.augmentation.crop_padding = -1: should be greater than or"),
    ({"parameter_groups": 3}, "parameter_groups = 3: should be"),
    ({"parameter_groups": ({"parameters": "*", "frozen": 3},)}, "parameter_groups.0.frozen = 3: should be"),
    ({"parameter_groups.-1.frozen": True}, "'parameter_groups' has 0 entries, counted from 0"),
    ({"parameter_groups.²": 1}, "'parameter_groups' has 0 entries, counted from 0"),
    ({"model.name": "my_net:Net", "model.traced": {"rate": "high"}}, "model.traced.rate = 'high': should be"),
    ({"model.name": "my_net:Net", "model.kwarg": {}}, "unknown field 'model.kwarg'; did you mean 'kwargs'?"),
    ({"model": "mlp"}, "model = 'mlp': is a group of fields; did you mean model.name=mlp?"),
    ({"task": "regression"}, "task = 'regression': is a group of fields; did you mean task.name=regression?"),
    ({"optimizer": "adam"}, "optimizer = 'adam': is a group of fields; did you mean optimizer.name=adam?"),
    ({"optimizer": "adm"}, "is a group of fields; set optimizer.name; did you mean 'adam'? available: adam, adamw"),
    (
      {"model": None},
      "is a group of fields; set model.name; available: cnn, mlp, module:Class, resnet, ",
    ),
    (
      {"model": {"widths": (3,)}},
      "model.name is missing; available: cnn, mlp, module:Class, resnet, ",
    ),
    (
      {"model.name": None},
      "model.name is missing; available: cnn, mlp, module:Class, resnet, ",
    ),
    ({"averaging": 0.9}, "averaging = 0.9: is a group of fields: averaging.decay, averaging.evaluate"),
    ({"model.kwargs": {"sizes": {1, 2}}}, "model.kwargs.sizes = {1, 2}: is a set; should be a number"),
    ({"averaging": {(1, 2): 3}}, "averaging has the key (1, 2): keys should be strings"),
    ({"model.name": "my_net:Net", "model.kwargs.x": float("inf")}, "model.kwargs.x = inf: should be a finite number"),
    ({"optimizer.learning_rate": 1j}, "optimizer.learning_rate = 1j: is a complex"),
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


@pytest.mark.parametrize(
  ("assignments", "problem"),
  [
    (["foo"], "--set foo: write it as PATH=VALUE"),
    (["=3"], "--set =3: write it as PATH=VALUE"),
    (["seed=1", "seed=2"], "--set seed is given twice"),
    (["model.kwargs={{'a':1}}"], "model.kwargs = {{'a':1}}: is not a value (unhashable type"),
    (["averaging={(1,2):3}"], "averaging has the key (1, 2)"),
  ],
)
def test_an_assignment_that_is_none_is_told_with_all_other_problems(assignments: list[str], problem: str):
  others = ["clip_norm=-1", "optimizer.name=adam", "schedule.warmup_steps=5000"]
  with pytest.raises(ConfigError) as caught:
    Config().override(parse_assignments([*assignments, *others]))
  assert len(caught.value.problems) == 3
  assert caught.value.problems[0].startswith(problem)
  assert caught.value.rest.optimizer == Adam()


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

import dataclasses
import importlib.util

import pytest
import quadratics
import tiny

from trialbook.errors import ConfigError
from trialbook.tuning import (
  BayesianOptimization,
  Discrete,
  Grid,
  Halton,
  Integer,
  Linear,
  Listed,
  Log,
  Minimize,
  Objective,
  OneOf,
  Optional,
  Study,
  Uniform,
  by_scientific_value,
)
from trialbook.tuning.study import TRIAL_COLUMNS, check

RATE = {"optimizer.learning_rate": Log(1e-3, 1.0)}


def study(**changes) -> Study:
  one = Study(name="s", goal="Why?", config=tiny.mlp(), objective=Minimize("validation/error"), trials=4)
  return dataclasses.replace(one, **changes)


def flat(**changes):
  """The hyperparameters of a study that has no problem, by name."""
  checked = check(study(**changes))
  assert checked.problems == []
  return {one.name: one for one in checked.hyperparameters}


def test_what_stands_under_a_value_has_a_name_of_its_own_and_is_nuisance():
  found = flat(
    scientific={
      "optimizer": OneOf(
        {
          "nesterov": {"learning_rate": Log(1e-3, 10.0), "one_minus_momentum": Log(1e-3, 1.0)},
          "adam": {"learning_rate": Log(1e-5, 0.1)},
          "sgd": {},
        }
      )
    },
    nuisance={"optimizer.weight_decay": Log(1e-6, 1e-2)},
  )
  assert list(found) == [
    "optimizer",
    "optimizer.nesterov.learning_rate",
    "optimizer.nesterov.one_minus_momentum",
    "optimizer.adam.learning_rate",
    "optimizer.weight_decay",
  ]
  assert [one.role for one in found.values()] == ["scientific", *["nuisance"] * 4]
  assert found["optimizer"].changes("adam") == {"optimizer.name": "adam"}
  assert found["optimizer.adam.learning_rate"].parent == ("optimizer", "adam")
  assert found["optimizer.adam.learning_rate"].scale == Log(1e-5, 0.1)
  assert found["optimizer.nesterov.learning_rate"].scale == Log(1e-3, 10.0)
  assert found["optimizer.nesterov.one_minus_momentum"].changes(0.1) == {"optimizer.momentum": 0.9}
  assert found["optimizer.weight_decay"].parent is None


def test_a_group_may_be_named_by_its_name_field():
  space = OneOf({"adam": {"one_minus_beta1": Log(1e-3, 1.0)}, "nesterov": {}})
  assert flat(scientific={"optimizer.name": space}) == flat(scientific={"optimizer": space})


def test_names_under_a_value_of_a_plain_field_are_whole_paths_and_the_same_under_two_values_are_two():
  decay = Optional({"one_minus_decay": Log(1e-3, 0.1)})
  found = flat(scientific={"batch_size": OneOf({16: {**RATE, "averaging": decay}, 32: {**RATE, "averaging": decay}})})
  assert [name for name in found if ".32" in name] == [
    "batch_size.32.optimizer.learning_rate",
    "batch_size.32.averaging.present",
    "batch_size.32.averaging.one_minus_decay",
  ]
  one = found["batch_size.32.averaging.one_minus_decay"]
  assert (one.path, one.parent) == ("averaging.decay", ("batch_size.32.averaging.present", True))
  assert len(found) == 7


def test_the_same_conditional_space_under_two_values_is_two():
  schedule = OneOf({"cosine": {"warmup_steps": Integer(0, 10)}, "constant": {}})
  found = flat(scientific={"batch_size": OneOf({16: {"schedule": schedule}, 32: {"schedule": schedule}})})
  parents = {name: one.parent for name, one in found.items() if name.endswith("warmup_steps")}
  assert parents == {
    f"batch_size.{size}.schedule.cosine.warmup_steps": (f"batch_size.{size}.schedule", "cosine") for size in (16, 32)
  }


def test_an_optional_is_its_presence_and_what_is_inside():
  found = flat(
    scientific={"clip_norm": Optional(Log(0.1, 10.0)), "averaging": Optional({"one_minus_decay": Log(1e-3, 0.1)})}
  )
  assert list(found) == ["clip_norm.present", "clip_norm", "averaging.present", "averaging.one_minus_decay"]
  assert found["clip_norm.present"].changes(False) == {"clip_norm": None}
  assert found["clip_norm.present"].changes(True) == {}
  assert found["clip_norm"].parent == ("clip_norm.present", True)
  assert [one.role for one in found.values()] == ["scientific", "nuisance"] * 2
  assert found["averaging.one_minus_decay"].changes(0.25) == {"averaging.decay": 0.75}


def test_what_needs_another_program_is_static():
  found = flat(
    scientific={
      "model.widths": OneOf([(32,), (16, 16)]),
      "optimizer": OneOf(["adam", "nesterov"]),
      "clip_norm": Optional(Log(0.1, 10.0)),
    },
    nuisance={**RATE, "batch_size": Discrete([16, 32]), "seed": Integer(0, 9)},
  )
  assert [name for name, one in found.items() if one.static] == [
    "model.widths",
    "optimizer",
    "clip_norm.present",
    "batch_size",
  ]


def test_a_field_that_another_kind_than_the_configs_has_may_be_varied_for_all_kinds():
  found = flat(
    scientific={"optimizer": OneOf(["adam", "adamw"])}, nuisance={"optimizer.one_minus_beta1": Log(1e-3, 1.0)}
  )
  assert found["optimizer.one_minus_beta1"].changes(0.25) == {"optimizer.beta1": 0.75}


def test_a_function_knows_names_and_no_fields():
  space = OneOf({"big": {"width": Integer(1, 9)}, "small": {"width": Integer(1, 3)}})
  function = {"function": "quadratics:anything", "search": Halton(), "trials": 3}
  found = check(quadratics.study(nuisance={"kind": space}, **function))
  assert found.problems == []
  assert [(one.name, one.path, one.parent) for one in found.hyperparameters] == [
    ("kind", "kind", None),
    ("kind.big.width", "width", ("kind", "big")),
    ("kind.small.width", "width", ("kind", "small")),
  ]


WRONG_SPACES = {
  "misspelt field": ({"optimizer.learning_rat": Log(1e-3, 1.0)}, ["'optimizer.learning_rat'", "did you mean 'lear"]),
  "misspelt group": ({"optimiser.learning_rate": Log(1e-3, 1.0)}, ["did you mean 'optimizer.learning_rate'?"]),
  "no group": ({"learning_rate": Log(1e-3, 1.0)}, ["'learning_rate'", "did you mean 'optimizer.learning_rate'?"]),
  "field of another kind": ({"optimizer.beta1": Linear(0.0, 0.9)}, ["unknown field 'optimizer.beta1'", "momentum"]),
  "of one of the kinds": (
    {"optimizer": OneOf(["adam", "nesterov"]), "optimizer.momentum": Linear(0.0, 0.9)},
    ["where optimizer is 'adam'", "unknown field 'optimizer.momentum'", "stands under them: OneOf("],
  ),
  "no such kind": (
    {"optimizer": OneOf(["nesterv", "adam"]), **RATE},
    ["unknown optimizer 'nesterv'; did you mean 'nesterov'?"],
  ),
  "above the range": ({"optimizer.momentum": Linear(0.0, 1.5)}, ["optimizer.momentum = 1.5: should be less than 1"]),
  "below the range": ({"optimizer.learning_rate": Linear(-1.0, 1.0)}, ["= -1.0: should be greater than or equal"]),
  "complement out of range": ({"optimizer.one_minus_momentum": Log(1e-3, 2.0)}, ["optimizer.momentum = -1.0"]),
  "complement of anything": ({"optimizer.one_minus_learning_rate": Log(1e-3, 0.5)}, ["vary it as it is"]),
  "log over zero": ({"optimizer.learning_rate": Log(0.0, 1.0)}, ["Log(min=0.0, max=1.0)", "min > 0; use Linear"]),
  "empty range": ({"optimizer.learning_rate": Linear(1.0, 1.0)}, ["min should be smaller than max"]),
  "not whole": (
    {"evaluation.batch_size": Linear(10, 20)},
    ["evaluation.batch_size = 16.18: should be a valid integer"],
  ),
  "listed and not whole": ({"batch_size": Discrete([16, 20.5])}, ["batch_size = 20.5: should be a valid integer"]),
  "no such choice": ({"model.activation": OneOf(["relu", "geluu"])}, ["'geluu': should be 'relu', 'gelu'"]),
  "no value": ({"model.activation": OneOf([])}, ["needs a value at least"]),
  "a group": ({"optimizer": Log(1e-3, 1.0)}, ["optimizer is a group of fields; vary optimizer.learning_rate"]),
  "no scale": ({"optimizer.learning_rate": (1e-3, 1.0)}, ["= (0.001, 1.0): should be a scale such as Log("]),
  "a scale's class": ({"optimizer.learning_rate": Log}, ["should be a scale such as Log("]),
  "no space": ({"optimizer": OneOf({"adam": Log(1e-3, 1.0)})}, ["['optimizer.adam']", "should be a space"]),
  "no string": ({3: Log(1e-3, 1.0)}, ["the name 3 should be a string"]),
  "empty name": ({"": Log(1e-3, 1.0)}, ["a name is missing between its dots"]),
  "whole path under a group": (
    {"optimizer": OneOf({"adam": {"optimizer.learning_rate": Log(1e-3, 1.0)}})},
    ["names are relative to optimizer here; write 'learning_rate'"],
  ),
  "wrong parent": (
    {"optimizer": OneOf({"adam": {"momentum": Linear(0.0, 0.9)}, "nesterov": {"beta1": Linear(0.0, 0.9)}})},
    ["unknown field 'optimizer.momentum'; available: beta1", "unknown field 'optimizer.beta1'"],
  ),
  "twice by its complement": (
    {"optimizer.momentum": Linear(0.0, 0.9), "optimizer.one_minus_momentum": Log(1e-3, 1.0)},
    ["'optimizer.momentum' and 'optimizer.one_minus_momentum' both set optimizer.momentum"],
  ),
  "below a value and always": (
    {"optimizer": OneOf({"adam": {"learning_rate": Log(1e-3, 1.0)}, "sgd": {}}), **RATE},
    ["'optimizer.adam.learning_rate' and 'optimizer.learning_rate' both set optimizer.learning_rate"],
  ),
  "never absent": (
    {"optimizer.learning_rate": Optional(Log(1e-3, 1.0))},
    ["it cannot be left out: optimizer.learning_rate = None"],
  ),
  "nothing inside": ({"averaging": Optional({})}, ["Optional needs a scale, or the space of the group's fields"]),
  "twice optional": (
    {"clip_norm": Optional(Optional(Log(1e-3, 1.0)))},  # pyright: ignore[reportArgumentType]
    ["Optional needs a scale, or the space of the group's fields"],
  ),
  "inside and outside": (
    {"averaging": Optional({"one_minus_decay": Log(1e-3, 0.1)}), "averaging.evaluate": OneOf(["average", "current"])},
    ["'averaging.evaluate' is set also where averaging is left out; put it into the Optional"],
  ),
  "refused everywhere": (
    {"schedule.warmup_steps": OneOf([100, 200]), **RATE},
    ["the config refuses every point of the space that was tried, the first one for: schedule.warmup_steps = "],
  ),
  "a range refused everywhere": ({"schedule.warmup_steps": Integer(100, 200)}, ["at most the number of steps", "20"]),
  "refused under a value": (
    {"schedule": OneOf({"cosine": {"warmup_steps": Integer(100, 200)}, "constant": {}})},
    ["that was tried where schedule is 'cosine', the first one for: schedule.warmup_steps = "],
  ),
}


@pytest.mark.parametrize(("space", "texts"), WRONG_SPACES.values(), ids=WRONG_SPACES)
def test_a_wrong_space_is_told(space, texts):
  problems = check(study(nuisance=space)).problems
  assert problems
  for text in texts:
    assert any(text in problem for problem in problems), problems
  assert all(problem.startswith("study s: ") for problem in problems)


def test_what_one_of_several_values_cannot_be_is_left_to_the_trials():
  assert flat(scientific={"schedule.warmup_steps": OneOf([10, 200])}, nuisance=RATE)


def test_a_value_may_be_possible_only_with_another_hyperparameters():
  assert flat(scientific={"schedule.warmup_steps": OneOf([100, 200])}, nuisance={"max_train_steps": Integer(50, 400)})


def test_a_hyperparameter_has_one_role():
  problems = check(study(scientific=RATE, nuisance=RATE)).problems
  assert problems == ["study s: hyperparameter 'optimizer.learning_rate' is there twice: give it one role"]


WRONG_STUDIES = {
  "nothing varied": ({"nuisance": {}}, "no hyperparameter is varied"),
  "no folder's name": ({"name": "a/b"}, "name = 'a/b': should be a name that a folder can have"),
  "the folder above": ({"name": ".."}, "name = '..': should be a name"),
  "no name": ({"name": None}, "name = None: should be a string"),
  "no goal": ({"goal": " "}, "goal is empty: write down the question"),
  "objective as a string": ({"objective": "validation/error"}, "should be an objective, for example Minimize("),
  "mode": ({"objective": Objective("validation/error", "minimum")}, "mode = 'minimum': should be 'min' or 'max'"),  # pyright: ignore[reportArgumentType]
  "value": ({"objective": Minimize("validation/error", "beste")}, "value = 'beste'; did you mean 'best'?"),  # pyright: ignore[reportArgumentType]
  "metric without a split": ({"objective": Minimize("error")}, "should be SPLIT/NAME, for example 'validation/error'"),
  "split of no evaluation": ({"objective": Minimize("test/error")}, "no evaluation during the training is of 'test'"),
  "misspelt split": ({"objective": Minimize("validatoin/error")}, "did you mean 'validation'?"),
  "no trials": ({"trials": 0}, "trials = 0: should be at least 1"),
  "trials as a string": ({"trials": "4"}, "trials = '4': should be a whole number"),
  "half a trial": ({"trials": 2.5}, "trials = 2.5: should be a whole number"),
  "no end": ({"trials": None}, "`trials` is required: Halton is an infinite sequence"),
  "more than the grid": ({"trials": 30, "search": Grid()}, "trials = 30: Grid has 5 points"),
  "search as a string": ({"search": "halton"}, "search = 'halton': should be a search, for example Halton(seed=0)"),
  "search as a class": ({"search": Halton}, "should be a search, for example Halton(seed=0)"),
  "the search's own": ({"search": Halton(seed=-1)}, "the seed should be a whole number"),
  "a point outside": (
    {"trials": None, "search": Listed([{"optimizer.learning_rate": 5.0}])},
    "should be a value of Lo",
  ),
  "config and function": ({"function": "quadratics:curve"}, "set one of `config`"),
  "neither": ({"config": None}, "set one of `config`"),
  "config as a path": ({"config": "config.py"}, "config = 'config.py': should be a trialbook.Config"),
  "cores": ({"cores_per_trial": 0}, "cores_per_trial = 0: should be at least 1"),
  "attempts": ({"max_attempts": "3"}, "max_attempts = '3': should be a whole number"),
  "space": ({"nuisance": [Log(1e-3, 1.0)]}, "should be a space, for example {"),
  "config of its own": (
    {"config": tiny.mlp(schedule__warmup_steps=7).model_copy(update={"max_train_steps": 5})},
    "config: schedule.warmup_steps = 7: should be at most the number of steps of the run, 5",
  ),
}


@pytest.mark.parametrize(("changes", "text"), WRONG_STUDIES.values(), ids=WRONG_STUDIES)
def test_a_wrong_study_is_told(changes, text):
  problems = check(study(**{"nuisance": RATE, **changes})).problems
  assert any(text in problem for problem in problems), problems


@pytest.mark.parametrize(
  ("function", "text"),
  [
    ("quadratics", "write it as module:name"),
    ("quadratic:curve", "there is no module 'quadratic'"),
    ("quadratics:curves", "has no 'curves'; did you mean 'curve'?"),
    ("quadratics:POINTS", "is a tuple and cannot be called"),
  ],
)
def test_a_function_that_is_none_is_told(function, text):
  (problem,) = check(quadratics.study(function=function)).problems
  assert text in problem


def test_a_function_has_no_optional_and_no_column_twice():
  nuisance = {"rate": Optional(Log(0.1, 1.0))}
  (problem,) = check(quadratics.study(nuisance=nuisance, search=Halton(), trials=3)).problems
  assert "a function can have OneOf([False, True])" in problem
  nuisance = dict.fromkeys(TRIAL_COLUMNS, Log(0.1, 1.0))
  problems = check(quadratics.study(nuisance=nuisance, search=Halton(), trials=3)).problems
  assert len(problems) == len(TRIAL_COLUMNS)
  assert "'trial': has the name of a column" in problems[0]


def test_all_problems_are_told_at_once():
  wrong = study(name="a/b", goal="", trials=0, scientific={"a": Log(0.0, 1.0)}, nuisance={"b": Log(1e-3, 1.0)})
  problems = check(wrong).problems
  for text in ("name = ", "goal is empty", "trials = 0", "Log(min=0.0", "unknown field 'b'"):
    assert sum(text in problem for problem in problems) == 1, text
  assert len(problems) == 5


@pytest.mark.parametrize("kind", [Halton, Uniform, BayesianOptimization])
def test_a_search_without_end_needs_the_number_of_trials_whatever_else_is_wrong_or_not_installed(kind, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  problems = check(study(nuisance=RATE, search=kind(seed=-1), trials=None)).problems
  needed = ["Optuna, which is missing"] if kind is BayesianOptimization else []
  for text in (
    f"`trials` is required: {kind.__name__} is an infinite sequence",
    "seed should be a whole number",
    *needed,
  ):
    assert any(text in problem for problem in problems), problems


def test_a_study_is_divided_by_the_values_of_its_scientific_hyperparameter():
  space = {"nesterov": {"learning_rate": Log(1e-3, 10.0)}, "adam": {"learning_rate": Log(1e-5, 0.1)}}
  divided = by_scientific_value(study(scientific={"optimizer": OneOf(space)}))
  assert [one.name for one in divided.studies] == ["s_nesterov", "s_adam"]
  assert [one.trials for one in divided.studies] == [4, 4]
  names = [[hyperparameter.name for hyperparameter in check(one).hyperparameters] for one in divided.studies]
  assert names == [["optimizer", f"optimizer.{name}.learning_rate"] for name in space]


@pytest.mark.parametrize("space", [{}, RATE, {"seed": Discrete([1, 2]), **RATE}, {"optimizer": {"adam": {}}}])
def test_a_study_without_one_listed_scientific_hyperparameter_is_not_divided(space):
  with pytest.raises(ConfigError, match="needs one scientific hyperparameter, a OneOf or a Discrete"):
    by_scientific_value(study(scientific=space))


def test_arguments_of_a_plug_in_model_are_varied_by_their_names():
  plugged = tiny.mlp(model__name="my_net:MyNet")
  space = {"model.kwargs.width": OneOf([16, 32]), "model.traced.rate": Linear(0.0, 0.5)}
  found = flat(config=plugged, nuisance=space)
  assert [one.static for one in found.values()] == [True, False]
  assert found["model.kwargs.width"].changes(32) == {"model.kwargs.width": 32}
  below = {"model": OneOf({"my_net:MyNet": {"kwargs.width": OneOf([16, 32])}, "mlp": {}})}
  assert list(flat(scientific=below)) == ["model", "model.my_net:MyNet.kwargs.width"]


def test_an_objective_that_hides_another_column_of_the_table_is_refused():
  hidden = Study(
    name="s", goal="Why?", function="quadratics:curve", objective=Minimize("x"), nuisance={"x": Linear(0, 1)}, trials=2
  )
  assert check(hidden).problems == ["study s: objective: 'x' is the name of another column of trials.csv; rename it"]

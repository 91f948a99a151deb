import dataclasses

import pytest
import quadratics
import tiny

from trialbook.settings import Settings, leaves
from trialbook.trainer import Config
from trialbook.trainer.optimizers import RULES
from trialbook.tuning import (
  Discrete,
  Integer,
  Linear,
  Log,
  Maximize,
  Minimize,
  OneOf,
  Optional,
  Study,
  optimizer_spaces,
  role_advice,
)
from trialbook.tuning.study import check

RATE = {"optimizer.learning_rate": Log(1e-3, 1.0)}


def warnings(*, scientific=None, nuisance=None, config: Config | None = None) -> list[str]:
  study = Study(
    name="s",
    goal="Why?",
    config=config or tiny.mlp(),
    objective=Minimize("validation/error"),
    scientific=scientific or {},
    nuisance=nuisance or {},
    trials=4,
  )
  checked = check(study)
  assert checked.problems == []
  return list(role_advice.warnings(study, checked.hyperparameters))


@pytest.mark.parametrize("role", ["scientific", "nuisance"])
def test_a_batch_size_is_called_out_with_what_to_retune(role):
  (warning,) = warnings(**{"nuisance": {}, role: {**RATE, "batch_size": Discrete([16, 32])}})
  for text in ("batch_size is varied", "throughput", "retune the optimizer's and regularization", "(PB-05)"):
    assert text in warning


def test_an_objective_against_the_direction_of_its_metric_is_called_out_also_of_a_function():
  wrong = "objective: the smallest validation/accuracy counts as the best, but "
  wrong += "its name suggests that larger values are better"
  for study, expected in (
    (dataclasses.replace(quadratics.study(), objective=Minimize("validation/accuracy")), [wrong]),
    (dataclasses.replace(quadratics.study(), objective=Maximize("validation/accuracy")), []),
    (dataclasses.replace(quadratics.study(), objective=Maximize("quality")), []),
  ):
    assert list(role_advice.warnings(study, check(study).hyperparameters)) == expected


@pytest.mark.parametrize("role", ["scientific", "nuisance"])
def test_a_number_of_steps_is_called_out(role):
  (warning,) = warnings(**{"nuisance": {}, role: {**RATE, "max_train_steps": Integer(10, 20)}})
  for text in ("max_train_steps is varied", "do not compete fairly", "between studies (PB-61)"):
    assert text in warning


def test_they_are_called_out_below_a_value_too():
  space = OneOf({"relu": {"batch_size": Discrete([16, 32])}, "gelu": {"max_train_steps": Integer(10, 20)}})
  found = warnings(scientific={"model.activation": space}, nuisance=RATE)
  assert [warning.partition(" is varied")[0] for warning in found] == ["batch_size", "max_train_steps"]


def test_an_optimizer_is_not_nuisance():
  (warning,) = warnings(nuisance={"optimizer": OneOf(optimizer_spaces("adam", "nesterov"))})
  assert "optimizer is a nuisance hyperparameter" in warning
  assert "make it scientific, or fix it (PB-12)" in warning


def test_architecture_is_not_nuisance():
  for space in ({"model.widths": OneOf([(32,), (16, 16)])}, {"model": OneOf(["mlp", "cnn"])}):
    (warning,) = warnings(nuisance={**RATE, **space})
    (name,) = space
    assert warning.startswith(f"{name} is architecture, and a nuisance hyperparameter")
    assert "make it scientific, or fix it (PB-12)" in warning
    assert warnings(scientific=space, nuisance=RATE) == []


def test_strengths_in_a_model_are_no_architecture():
  config = tiny.mlp(model__dropout_rate=0.1)
  assert warnings(config=config, nuisance={**RATE, "model.dropout_rate": Linear(0.0, 0.5)}) == []


def test_whether_a_feature_is_there_is_not_nuisance():
  feature = {"clip_norm": Optional(Log(0.1, 10.0))}
  (warning,) = warnings(nuisance={**RATE, **feature})
  assert "clip_norm.present: whether a feature is there is scientific or fixed" in warning
  assert warnings(scientific=feature, nuisance=RATE) == []


def test_the_strength_of_a_regularizer_is_not_scientific_on_a_continuum():
  strength = "optimizer.weight_decay"
  (warning,) = warnings(scientific={strength: Log(1e-6, 1e-2)}, nuisance=RATE)
  assert f"{strength} is scientific on a continuous scale" in warning
  assert "compare values from a list, or make it nuisance (PB-12)" in warning
  assert warnings(scientific={strength: Discrete([0.0, 1e-4])}, nuisance=RATE) == []
  assert warnings(nuisance={**RATE, strength: Log(1e-6, 1e-2)}) == []


def test_every_strength_is_a_field_that_there_is():
  def kinds(of: type[Settings]):
    return [of, *(kind for below in of.__subclasses__() for kind in kinds(below))]

  fields = {name for kind in kinds(Settings) for name in kind.model_fields}
  assert set(role_advice._STRENGTHS) <= fields


def test_a_comparison_that_tunes_nothing_of_the_optimizer_is_suspect():
  activation = {"model.activation": OneOf(["relu", "gelu"])}
  (warning,) = warnings(scientific=activation)
  assert "none of the optimizer's hyperparameters is tuned, while model.activation is compared" in warning
  assert "enough for fewer than 10 trials (PB-12, PB-17)" in warning
  assert warnings(scientific=activation, nuisance=RATE) == []


def test_the_learning_rate_is_the_first_to_be_tuned():
  activation = {"model.activation": OneOf(["relu", "gelu"])}
  (warning,) = warnings(scientific=activation, nuisance={"optimizer.one_minus_momentum": Log(1e-3, 1.0)})
  assert "optimizer.learning_rate is fixed while optimizer.one_minus_momentum is varied" in warning


def test_each_optimizer_is_compared_at_its_own_learning_rate():
  spaces = {"adam": {"learning_rate": Log(1e-5, 0.1)}, "nesterov": {"one_minus_momentum": Log(1e-3, 1.0)}, "sgd": {}}
  found = warnings(scientific={"optimizer": OneOf(spaces)})
  assert [warning.partition(" is compared")[0] for warning in found] == ["optimizer 'nesterov'", "optimizer 'sgd'"]
  assert 'OneOf({"nesterov": {"learning_rate": Log(...)}}) (PB-11, PB-12)' in found[0]
  assert warnings(scientific={"optimizer": OneOf(optimizer_spaces(*RULES))}) == []
  assert warnings(scientific={"optimizer": OneOf(list(spaces))}, nuisance=RATE) == []


def test_nothing_is_said_of_a_study_without_comparison_of_seeds_alone_or_of_a_function():
  assert warnings(nuisance={"optimizer.one_minus_momentum": Log(1e-3, 1.0)}) == []
  assert warnings(scientific={"seed": Discrete([1, 2, 3])}) == []
  study = dataclasses.replace(quadratics.study(), nuisance={"batch_size": Integer(1, 9)})
  assert list(role_advice.warnings(study, check(study).hyperparameters)) == []


def test_every_field_that_says_how_long_or_how_large_a_training_is_is_known_to_the_roles():
  # Were one of them renamed, its warning would be lost in silence.
  assert {"batch_size", "max_train_steps", "optimizer.learning_rate"} <= {path for path, *_ in leaves(Config())}

import pytest

from trialbook.trainer import Config
from trialbook.trainer.optimizers import RULES
from trialbook.tuning.space.ready_spaces import OPTIMIZER_SPACES, adam_by_budget, optimizer_spaces, under
from trialbook.tuning.space.scales import Log


def changes(name: str, value: float) -> dict[str, float]:
  """What a hyperparameter of the group sets: of one_minus_x, x is one minus the value."""
  if name.startswith("one_minus_"):
    return {f"optimizer.{name.removeprefix('one_minus_')}": 1 - value}
  return {f"optimizer.{name}": value}


def test_each_optimizer_has_a_space():
  assert set(OPTIMIZER_SPACES) == set(RULES)


ALL = [*OPTIMIZER_SPACES.items(), *((name, adam_by_budget(1000)) for name in ("adam", "nadam", "adamw", "lamb"))]


@pytest.mark.parametrize(("optimizer", "space"), ALL, ids=lambda value: value if isinstance(value, str) else len(value))
def test_the_config_takes_both_ends_of_each_range_and_its_default_is_inside(optimizer, space):
  default = Config().override({"optimizer.name": optimizer})
  for name, scale in space.items():
    assert isinstance(scale, Log)
    assert scale.problems() == []
    for end in (scale.at(0.0), scale.at(1.0)):
      ((path, value),) = changes(name, end).items()
      config = Config().override({"optimizer.name": optimizer, path: value})
      assert getattr(config.optimizer, path.partition(".")[2]) == value
    field = name.removeprefix("one_minus_")
    usual = getattr(default.optimizer, field)
    assert scale.min <= (usual if field == name else 1 - usual) <= scale.max


def test_the_learning_rate_is_tuned_over_several_decades_for_every_optimizer():
  for space in OPTIMIZER_SPACES.values():
    assert next(iter(space)) == "learning_rate"
    scale = space["learning_rate"]
    assert isinstance(scale, Log)
    assert scale.max / scale.min >= 1e3


@pytest.mark.parametrize(
  ("trials", "names"),
  [
    (1, ["learning_rate"]),
    (9, ["learning_rate"]),
    (10, ["learning_rate", "one_minus_beta1"]),
    (24, ["learning_rate", "one_minus_beta1"]),
    (25, ["learning_rate", "one_minus_beta1", "epsilon"]),
    (74, ["learning_rate", "one_minus_beta1", "epsilon"]),
    (75, ["learning_rate", "one_minus_beta1", "epsilon", "one_minus_beta2"]),
  ],
)
def test_more_of_adam_is_tuned_with_more_trials(trials, names):
  assert list(adam_by_budget(trials)) == names


def test_no_trial_is_an_error():
  with pytest.raises(ValueError, match="trials=0"):
    adam_by_budget(0)


def test_optimizers_are_chosen_by_name():
  assert list(optimizer_spaces("nesterov", "adam")) == ["nesterov", "adam"]
  assert optimizer_spaces("adam")["adam"] == OPTIMIZER_SPACES["adam"]
  assert optimizer_spaces() == dict(OPTIMIZER_SPACES)
  with pytest.raises(ValueError, match="unknown optimizer 'adma'; did you mean 'adam"):
    optimizer_spaces("adam", "adma")


def test_a_space_is_put_under_a_group():
  assert under("optimizer", {"epsilon": Log(1e-9, 1.0)}) == {"optimizer.epsilon": Log(1e-9, 1.0)}

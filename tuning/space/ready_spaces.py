"""Search spaces of optimizers to start from: wide ones, to be narrowed where a study's results allow it (PB-17).

    names = "nesterov", "adam"
    scientific={"optimizer": OneOf(optimizer_spaces(*names))}      # which optimizer is better, each at its best
    nuisance=under("optimizer", adam_by_budget(trials=20))         # the optimizer is fixed

Names are relative to the group `optimizer`. Every range includes the default of `trainer.optimizers`. Weight decay is
in none: whether there is any is a question of its own (PB-12).
"""

from collections.abc import Mapping

from trialbook.naming import nearest
from trialbook.tuning.space.scales import Log, Space

# Two decades either way of what is usual, so that both ends are far from the best for most models: 0.1 (He et al.,
# 2016), 1e-3 (Kingma & Ba, 2015), a tenth of that (Chen et al., 2023). The baselines of AlgoPerf (Dahl et al., 2023)
# use the parts 2e-2 to 5 for Nesterov and 1e-4 to 1e-2 for NAdamW.
_MOMENTUM_RATE = Log(1e-3, 10.0)
_ADAM_RATE = Log(1e-5, 0.1)
_LION_RATE = Log(1e-6, 1e-2)

# 1/(1-β) is the number of steps that a moving average remembers: of gradients from 1000 down to none but the last;
# of their squares from 10,000 to 10, since a shorter one makes the step's size noise.
_ONE_MINUS_MOMENTUM = Log(1e-3, 1.0)
_ONE_MINUS_BETA2 = Log(1e-4, 0.1)

# From no effect to more than most √v, where the update is momentum's with the learning rate η/ε (Choi et al., 2019).
_EPSILON = Log(1e-10, 1e-3)

# Of RMSProp it stands under the root. From TensorFlow's default to the value of Inception (Szegedy et al., 2016).
_RMSPROP_EPSILON = Log(1e-10, 1.0)

_ADAM: Space = {
  "learning_rate": _ADAM_RATE,
  "one_minus_beta1": _ONE_MINUS_MOMENTUM,
  "epsilon": _EPSILON,
  "one_minus_beta2": _ONE_MINUS_BETA2,
}
"""The hyperparameters of Adam in the order in which the playbook adds them."""

FEWEST_TRIALS = (1, 10, 25, 75)
"""Fewest trials from which the first, the first two, … of `_ADAM` are tuned.

10 and 25 are the playbook's, and "substantially more than 25" for the last. 25 trials in three dimensions are as many
as a grid of 25^(1/3) = 2.9 values of each has; the same in four takes 25^(4/3) = 73.
"""


def adam_by_budget(trials: int) -> Space:
  """Return what of Adam to tune with `trials` trials (PB-17); also for NAdam, AdamW and LAMB.

  Args:
    trials: for each combination of scientific values.

  Returns:
    the learning rate; from 10 trials on β₁ too, from 25 on ε, from 75 on β₂.

  Raises:
    ValueError: if there is no trial.
  """
  if trials < 1:
    raise ValueError(f"adam_by_budget(trials={trials}): there should be 1 trial at least")
  tuned = sum(trials >= fewest for fewest in FEWEST_TRIALS)
  return dict(list(_ADAM.items())[:tuned])


OPTIMIZER_SPACES: Mapping[str, Space] = {
  "sgd": {"learning_rate": _MOMENTUM_RATE},
  "momentum": {"learning_rate": _MOMENTUM_RATE, "one_minus_momentum": _ONE_MINUS_MOMENTUM},
  "nesterov": {"learning_rate": _MOMENTUM_RATE, "one_minus_momentum": _ONE_MINUS_MOMENTUM},
  "rmsprop": {
    "learning_rate": _ADAM_RATE,
    "one_minus_momentum": _ONE_MINUS_MOMENTUM,
    "epsilon": _RMSPROP_EPSILON,
  },
  "adam": adam_by_budget(25),
  "nadam": adam_by_budget(25),
  "adamw": adam_by_budget(25),
  "lamb": adam_by_budget(25),
  # Its β₁ mixes the last gradient into the step, its β₂ is how long gradients are remembered.
  "lion": {
    "learning_rate": _LION_RATE,
    "one_minus_beta1": _ONE_MINUS_MOMENTUM,
    "one_minus_beta2": _ONE_MINUS_MOMENTUM,
  },
}
"""For each optimizer three dimensions at most, which 25 to 75 trials of each explore."""


def space_of(name: str) -> Space:
  """Return the space of an optimizer; of one of the user's, a wide range of learning rates."""
  return OPTIMIZER_SPACES.get(name, {"learning_rate": Log(1e-5, 1.0)})


def optimizer_spaces(*names: str) -> dict[str, Space]:
  """Return optimizers with their spaces, for `OneOf`; without names, all that there are.

  Raises:
    ValueError: if a name is none of an optimizer's.
  """
  for name in names:
    if name not in OPTIMIZER_SPACES:
      raise ValueError(f"unknown optimizer {name!r}{nearest(name, OPTIMIZER_SPACES)}")
  return {name: OPTIMIZER_SPACES[name] for name in names or OPTIMIZER_SPACES}


def under(prefix: str, space: Space) -> Space:
  """Return a space whose names are whole paths: each behind `prefix` and a dot."""
  return {f"{prefix}.{name}": scale for name, scale in space.items()}

"""Parameters that learn at another rate than the rest, or not at all, chosen by their names."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from trialbook.errors import UserError
from trialbook.trainer.checkpoints.array_names import flatten, map_named, matches
from trialbook.trainer.config import ParameterGroup
from trialbook.trainer.overrides import nearest

Groups = tuple[ParameterGroup, ...]


def check(groups: Groups, params: Any) -> None:
  """Raise UserError for a group that no parameter belongs to."""
  names = list(flatten(params))
  unused = [
    f"parameter_groups.{index}: no parameter matches {group.parameters!r}{nearest(group.parameters, names)}"
    for index, group in enumerate(groups)
    if not any(_group_of(name, groups) == index for name in names)
  ]
  if unused:
    raise UserError(unused)


def stop_frozen(groups: Groups, params: Any) -> Any:
  """Return the parameters, with no gradient flowing into the frozen ones."""

  def one(name: str, param: Array) -> Array:
    index = _group_of(name, groups)
    return jax.lax.stop_gradient(param) if index is not None and groups[index].frozen else param

  return map_named(one, params)


def keep_frozen(groups: Groups, params: Any, others: Any) -> Any:
  """Return the tree `others`, like the parameters, in which frozen parameters are as they are in `params`."""
  own = flatten(params)

  def one(name: str, other: Array) -> Array:
    index = _group_of(name, groups)
    return own[name] if index is not None and groups[index].frozen else other

  return map_named(one, others)


def labels_by_name(labels: Mapping[str, str]) -> Callable[[Any], Any]:
  """Return a function from parameters to their labels, as `optax.multi_transform` takes it.

  Args:
    labels: pattern over names such as `blocks/*/kernel` -> label; of several that fit, the first counts.

  Raises:
    UserError: when it is called, for a parameter that no pattern fits, or a pattern that fits none.
  """

  def label(params: Any) -> Any:
    names = list(flatten(params))
    fitting = {name: next((one for one in labels if matches(name, (one,))), None) for name in names}
    problems = [
      f"labels_by_name: no pattern fits the parameter {name!r}; add one, such as '*', at the end"
      for name, pattern in fitting.items()
      if pattern is None
    ]
    problems += [
      f"labels_by_name: {pattern!r} is the first that fits of no parameter{nearest(pattern, names)}"
      for pattern in labels
      if pattern not in fitting.values()
    ]
    if problems:
      raise UserError(problems)
    return map_named(lambda name, _: labels[str(fitting[name])], params)

  return label


def scale_updates(groups: Groups, settings: Mapping[str, Array], updates: Any, stacked: Collection[str] = ()) -> Any:
  """Return the updates times each group's multiplier and depth decay; zero for frozen parameters.

  Args:
    groups: of the config.
    settings: the traced settings under `parameter_groups`, by names such as `0.learning_rate_multiplier`.
    updates: a tree like the parameters.
    stacked: names of the parameters whose first axis counts layers.
  """
  depths = _depths(groups, updates, stacked)

  def one(name: str, update: Array) -> Array:
    index = _group_of(name, groups)
    if index is None:
      return update
    if groups[index].frozen:
      return jnp.zeros_like(update)
    update = update * settings[f"{index}.{_MULTIPLIER}"]
    if name not in depths:
      return update
    factor = settings[f"{index}.{_DECAY}"] ** jnp.asarray(depths[name], jnp.float32)
    return update * factor.reshape(-1, *(1,) * (update.ndim - 1)) if factor.ndim else update * factor

  return map_named(one, updates)


_MULTIPLIER, _DECAY = "learning_rate_multiplier", "depth_decay"
_NUMBER = re.compile(r"(?:^|/)(\d+)(?:/|$)")


def _depths(groups: Groups, updates: Any, stacked: Collection[str]) -> dict[str, np.ndarray]:
  """Return how many layers come after each, for the parameters of groups with a depth decay."""
  numbers: dict[str, tuple[str, int]] = {}
  found: dict[str, np.ndarray] = {}
  for name, update in flatten(updates).items():
    index = _group_of(name, groups)
    if index is None or groups[index].depth_decay is None:
      continue
    if name in stacked:
      found[name] = np.arange(update.shape[0])[::-1]
    elif number := _NUMBER.search(name):
      numbers[name] = f"{index}/{name[: number.start(1)]}", int(number[1])
  last: dict[str, int] = {}
  for layers, number in numbers.values():
    last[layers] = max(number, last.get(layers, 0))
  return found | {name: np.array(last[layers] - number) for name, (layers, number) in numbers.items()}


def _group_of(name: str, groups: Groups) -> int | None:
  return next((index for index, group in enumerate(groups) if matches(name, (group.parameters,))), None)

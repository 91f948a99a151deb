"""Parameters that learn at another rate than the rest, or not at all, chosen by their names."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
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


def scale_updates(groups: Groups, settings: Mapping[str, Array], updates: Any) -> Any:
  """Return the updates times each group's multiplier; zero for frozen parameters.

  Args:
    groups: of the config.
    settings: the traced settings under `parameter_groups`, by names such as `0.learning_rate_multiplier`.
    updates: a tree like the parameters.
  """

  def one(name: str, update: Array) -> Array:
    index = _group_of(name, groups)
    if index is None:
      return update
    return jax.numpy.zeros_like(update) if groups[index].frozen else update * settings[f"{index}.{_MULTIPLIER}"]

  return map_named(one, updates)


_MULTIPLIER = "learning_rate_multiplier"


def _group_of(name: str, groups: Groups) -> int | None:
  return next((index for index, group in enumerate(groups) if matches(name, (group.parameters,))), None)

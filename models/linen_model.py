"""Flax Linen modules as models: built from the shape of an example, their collections kept as NNX variables."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from trialbook.models.call_modes import MODES, mode_arguments

_MOST_AXES = 8
"""Maximum number of axis names that a model may ask for; each is found by one more try."""


class LinenModel(nnx.Module):
  """A Linen module, called `model(inputs, train=bool)` as NNX models are.

  Parameters are named as Linen names them (`Dense_0/kernel`), the variables of another collection below its name
  (`batch_stats/BatchNorm_0/mean`). In training all collections but the parameters are mutable; what is sown is dropped.
  Whichever streams of randomness the module asks for, it gets them from `rngs`.

  Axis names, as in `BatchNorm(axis_name="batch")`, are bound to an axis of size one. A step is compiled for the global
  batch, so statistics over it are synchronised already.

  Args:
    module: not bound.
    inputs: [B, ...], as the model will be given them; only their shape and dtype count.
    rngs: with the streams `params`, `dropout` and `default`.

  Raises:
    ValueError: if the module keeps a collection whose name is that of a submodule.
  """

  def __init__(self, module: linen.Module, inputs: jax.Array, *, rngs: nnx.Rngs):
    self._module = module
    self._rngs = rngs.fork()
    self._axes: tuple[str, ...] = ()
    modes: dict[str, Any] = dict(mode_arguments(type(module).__call__, train=False))
    keys = {name: stream() for name, stream in self._rngs.items()}

    def init(inputs: jax.Array) -> Mapping[str, Any]:
      return self._in_mode(train=False).init(keys, inputs, **modes)

    variables = dict(linen.meta.unbox(self._bound(init, inputs)))
    params = variables.pop("params", {})
    variables = {name: tree for name, tree in variables.items() if not _is_sown(tree)}
    self._params, self._collections = tuple(params), tuple(variables)
    if taken := sorted({*self._params} & {*self._collections}):
      raise ValueError(f"{taken[0]!r} is both a submodule and a collection of variables; rename the submodule")
    for name, tree in params.items():
      setattr(self, name, nnx.data(jax.tree.map(nnx.Param, tree)))
    for name, tree in variables.items():
      kind = nnx.BatchStat if name == "batch_stats" else nnx.Variable
      setattr(self, name, nnx.data(jax.tree.map(kind, tree)))

  def __call__(self, inputs: jax.Array, *, train: bool) -> Any:
    """Return the outputs for inputs [B, ...]."""
    values = {name: _values(getattr(self, name)) for name in (*self._params, *self._collections)}
    variables = {name: values[name] for name in self._collections}
    variables["params"] = {name: values[name] for name in self._params}
    keys = {name: stream() for name, stream in self._rngs.items()}
    module = self._in_mode(train=train)
    modes: dict[str, Any] = dict(mode_arguments(type(self._module).__call__, train=train))
    mutable = list(self._collections) if train and self._collections else False

    def apply(variables: Mapping[str, Any], inputs: jax.Array) -> Any:
      return module.apply(variables, inputs, rngs=keys, mutable=mutable, **modes)

    found = self._bound(apply, variables, inputs)
    if not mutable:
      return found
    outputs, after = found
    for name, tree in after.items():
      own = getattr(self, name)
      jax.tree.map(lambda variable, value: variable.set_value(value), own, dict(tree), is_leaf=_is_variable)
    return outputs

  def _in_mode(self, *, train: bool) -> linen.Module:
    """Return the module, with its attributes set to training or evaluation if its call has no argument for that."""
    if mode_arguments(type(self._module).__call__, train=train):
      return self._module
    fields = {name: getattr(type(self._module), "__dataclass_fields__", {}).get(name) for name in MODES}
    modes: dict[str, Any] = {name: value is train for name, value in MODES.items() if fields[name] is not None}
    return self._module.clone(**modes) if modes else self._module

  def _bound(self, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call with each axis bound that the module names, as they are found."""
    for _ in range(_MOST_AXES):
      try:
        return _with_axes(call, self._axes)(*arguments)
      except NameError as error:
        missing = re.search(r"unbound axis name: (\w+)", str(error))
        if missing is None:
          raise
        self._axes = (*self._axes, missing[1])
    raise ValueError(f"the module names more than {_MOST_AXES} axes: {', '.join(self._axes)}")


def _with_axes(call: Callable[..., Any], axes: tuple[str, ...]) -> Callable[..., Any]:
  """Return the call inside one axis of size one for each name."""
  return functools.reduce(_with_axis, axes, call)


def _with_axis(call: Callable[..., Any], axis: str) -> Callable[..., Any]:
  mapped = jax.vmap(lambda _, arguments: call(*arguments), in_axes=(0, None), axis_name=axis)
  return lambda *arguments: jax.tree.map(lambda x: x[0], mapped(jnp.zeros(1), arguments))


def _values(tree: Any) -> Any:
  return jax.tree.map(lambda variable: variable.get_value(), tree, is_leaf=_is_variable)


def _is_sown(collection: Any) -> bool:
  """Return whether a collection holds what `sow` appended, in tuples that grow with each call."""
  return any(
    isinstance(leaf, tuple) for leaf in jax.tree.leaves(collection, is_leaf=lambda node: isinstance(node, tuple))
  )


def _is_variable(node: Any) -> bool:
  return isinstance(node, nnx.Variable)

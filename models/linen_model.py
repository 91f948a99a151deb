"""Flax Linen modules as models: built from the shape of an example, their collections kept as NNX variables."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from trialbook.models.call_modes import MODES, Call, mode_arguments, with_mode

_MOST_AXES = 8
"""Maximum number of axis names that a model may ask for; each is found by one more try."""


class LinenModel(nnx.Module):
  """A Linen module, called `model(..., train=bool)` with whatever arguments it takes.

  Parameters are named as Linen names them (`Dense_0/kernel`), the variables of another collection below its name
  (`batch_stats/BatchNorm_0/mean`). In training all collections but the parameters are mutable. What it sows becomes
  `nnx.Intermediate` of this model, named by its path (`Block_0/balance`), or by its collection too
  (`intermediates/kernel`) if the model has something else of that name. Whichever streams of randomness the module asks
  for, it gets them from `rngs`.

  Axis names, as in `BatchNorm(axis_name="batch")`, are bound to an axis of size one. A step is compiled for the global
  batch, so statistics over it are synchronised already.

  Args:
    module: not bound.
    example: the arguments of a call; only their shapes and dtypes count.
    rngs: with the streams `params`, `dropout` and `default`.

  Raises:
    ValueError: if the module keeps a collection whose name is that of a submodule.
  """

  def __init__(self, module: linen.Module, example: Call, *, rngs: nnx.Rngs):
    self._module = module
    self._rngs = rngs.fork()
    self._axes: tuple[str, ...] = ()
    example = with_mode(type(module).__call__, example, train=False)
    keys = {name: stream() for name, stream in self._rngs.items()}

    def init(call: Call) -> Mapping[str, Any]:
      return self._in_mode(train=False).init(keys, *call.args, mutable=True, **call.kwargs)

    variables = dict(linen.meta.unbox(self._bound(init, example)))
    params = variables.pop("params", {})
    # What is sown in training only is not there yet.
    self._sown = tuple(dict.fromkeys(("intermediates", *(name for name, tree in variables.items() if _is_sown(tree)))))
    variables = {name: tree for name, tree in variables.items() if name not in self._sown}
    self._params, self._collections = tuple(params), tuple(variables)
    if taken := sorted({*self._params} & {*self._collections}):
      raise ValueError(f"{taken[0]!r} is both a submodule and a collection of variables; rename the submodule")
    for name, tree in params.items():
      setattr(self, name, nnx.data(jax.tree.map(nnx.Param, tree)))
    for name, tree in variables.items():
      kind = nnx.BatchStat if name == "batch_stats" else nnx.Variable
      setattr(self, name, nnx.data(jax.tree.map(kind, tree)))

  def __call__(self, *args: Any, train: bool, method: str | None = None, **kwargs: Any) -> Any:
    """Return the outputs of the module, or of the method of that name, for these arguments."""
    values = {name: _values(getattr(self, name)) for name in (*self._params, *self._collections)}
    variables = {name: values[name] for name in self._collections}
    variables["params"] = {name: values[name] for name in self._params}
    keys = {name: stream() for name, stream in self._rngs.items()}
    module = self._in_mode(train=train)
    called = getattr(type(self._module), method or "__call__")
    arguments = with_mode(called, Call(*args, **kwargs), train=train)
    mutable = [*(self._collections if train else ()), *self._sown]

    def apply(variables: Mapping[str, Any], call: Call) -> Any:
      return module.apply(variables, *call.args, rngs=keys, mutable=mutable, method=method, **call.kwargs)

    outputs, after = self._bound(apply, variables, arguments)
    for name, tree in after.items():
      if name in self._sown:
        for path, value in _sown_values(tree):
          is_free = isinstance(getattr(self, path, None), nnx.Intermediate | None)
          for one in value:
            self.sow(nnx.Intermediate, path if is_free else f"{name}/{path}", one)
      else:
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


def kind_of(model: nnx.Module) -> type:
  """Return the class that the user has written: of the Linen module, if the model is one."""
  return type(model._module if isinstance(model, LinenModel) else model)


def _with_axes(call: Callable[..., Any], axes: tuple[str, ...]) -> Callable[..., Any]:
  """Return the call inside one axis of size one for each name."""
  return functools.reduce(_with_axis, axes, call)


def _with_axis(call: Callable[..., Any], axis: str) -> Callable[..., Any]:
  mapped = jax.vmap(lambda _, arguments: call(*arguments), in_axes=(0, None), axis_name=axis)
  return lambda *arguments: jax.tree.map(lambda x: x[0], mapped(jnp.zeros(1), arguments))


def _sown_values(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
  """Yield path and values of what was sown, in the order of calls."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _sown_values(value, f"{prefix}{name}/")
    else:
      yield f"{prefix}{name}", value if isinstance(value, tuple) else (value,)


def _values(tree: Any) -> Any:
  return jax.tree.map(lambda variable: variable.get_value(), tree, is_leaf=_is_variable)


def _is_sown(collection: Any) -> bool:
  """Return whether a collection holds what `sow` appended, in tuples that grow with each call."""
  return any(
    isinstance(leaf, tuple) for leaf in jax.tree.leaves(collection, is_leaf=lambda node: isinstance(node, tuple))
  )


def _is_variable(node: Any) -> bool:
  return isinstance(node, nnx.Variable)

"""A model as two pure functions of plain arrays, whatever its class keeps inside.

A model's variables fall into four groups: parameters; settings that are filled at the jit boundary
(`Hyperparameter`); random state, which is never kept but set from a key; and all others (batch statistics …).
Parameters and others are nested dictionaries of arrays outside; the module exists only while tracing. What a model
sows to be looked at (`nnx.Intermediate`) is dropped.

A call with train=True is preceded by the model's `train()`, any other by its `eval()`, as flax means it: layers that
are called without a flag, such as `nnx.Dropout` and `nnx.BatchNorm`, follow these, whatever their constructors set.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from trialbook import models
from trialbook.errors import UserError
from trialbook.input_pipeline import Info
from trialbook.models import plugin
from trialbook.models.hyperparameter import Hyperparameter, SettingError, fill
from trialbook.trainer.checkpoints.array_names import changes, flatten
from trialbook.trainer.config import Config
from trialbook.trainer.user_code_errors import explained

Tree = dict[str, Any]


def cast(tree: Any, dtype: str) -> Any:
  """Return the tree with its floating-point arrays in `dtype`; other arrays as they are."""

  def one(x: Array) -> Array:
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

  return jax.tree.map(one, tree)


def wide(tree: Any) -> Any:
  """Return the tree with its floating-point arrays in float32 at least, the dtype of whatever accumulates."""

  def one(x: Array) -> Array:
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4 else x

  return jax.tree.map(one, tree)


def below(settings: Mapping[str, Array], path: str) -> dict[str, Array]:
  """Return the traced settings under one dotted path, by their names there."""
  prefix = path + "."
  return {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}


def own_settings(settings: Mapping[str, Array], path: str) -> dict[str, Array]:
  """Return the settings as `below`; a plug-in's `traced.NAME` is there as NAME."""
  own = below(settings, path)
  return own | below(own, "traced")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """The model of a config, for one dataset and task.

  Attributes:
    config: the run's config without its traced numbers.
    info: facts about the dataset: shape of an example, normalization.
    num_outputs: size of the model's last output axis.
  """

  config: Config
  info: Info
  num_outputs: int

  def _split(self, model: nnx.Module) -> tuple[Any, ...]:
    """Return the model's graph and its four groups of variables."""
    return nnx.split(model, nnx.Param, nnx.RngState, Hyperparameter, ...)

  def _build(self, key: Array) -> nnx.Module:
    streams = {name: jax.random.fold_in(key, index) for index, name in enumerate(("params", "dropout", "default"))}
    rngs = nnx.Rngs(**streams)
    config, input_shape = self.config.model, self.info.input_shape
    # As `_normalize` hands them on.
    is_integer = self.info.normalization is None and self.info.input_dtype.startswith(("int", "uint"))
    model = models.build(
      config,
      input_shape=input_shape,
      num_outputs=self.num_outputs,
      rngs=rngs,
      input_dtype=self.info.input_dtype if is_integer else "float32",
    )
    nnx.pop(model, nnx.Intermediate)
    return model

  @functools.cached_property
  def _abstract(self) -> tuple[Any, ...]:
    """Return shapes as `_split`. Raises UserError where config and layers disagree on traced settings."""
    name = self.config.model.name
    with explained(f"model {name!r} cannot be created for inputs of shape {self.info.input_shape}"):
      groups = self._split(nnx.eval_shape(lambda: self._build(jax.random.key(0))))
    if not jax.tree.leaves(groups[1]):
      raise UserError(f"model {name!r} has no parameters (nnx.Param): there is nothing to train")
    read = {variable.get_metadata("setting") for _, variable in nnx.to_flat_state(groups[3])}
    given = getattr(self.config.model, "traced", {})
    if unread := sorted(set(given) - read):
      raise UserError([f"model.traced.{name}: no layer reads this setting" for name in unread])
    return groups

  def init(self, key: Array) -> tuple[Tree, Tree]:
    """Return parameters (in the precision's `param_dtype`) and other variables of a new model."""
    _ = self._abstract  # Tells what is wrong with the model.
    _, params, _, _, variables = self._split(self._build(key))
    # A variable may be made of a Python number.
    params, variables = (jax.tree.map(jnp.asarray, nnx.to_pure_dict(state)) for state in (params, variables))
    return cast(params, self.config.precision.param_dtype), variables

  def apply(
    self,
    params: Tree,
    variables: Tree,
    inputs: Array,
    settings: Mapping[str, Array],
    *,
    train: bool,
    key: Array | None = None,
  ) -> tuple[Array, Tree]:
    """Return outputs [B, ...] in float32, and the other variables after the call.

    Args:
      params: as `init` gives them.
      variables: as `init` gives them; floating-point averages of them are cast to the dtypes of the model.
      inputs: [B, *input_shape] as the dataset gives them, not normalized.
      settings: all traced settings of the run by path.
      train: whether dropout drops and statistics move.
      key: of what is random; None where nothing is.
    """
    graph, param_state, rng_state, hyper_state, other_state = self._abstract
    params = cast(params, self.config.precision.compute_dtype)
    variables = jax.tree.map(_cast_average, variables, nnx.to_pure_dict(other_state))
    name = self.config.model.name

    def call(params: Tree) -> tuple[Any, dict[str, Tree]]:
      model = nnx.merge(
        graph,
        _with_values(param_state, params),
        _with_keys(rng_state, jax.random.key(0) if key is None else key),
        self._filled(hyper_state, settings),
        _with_values(other_state, variables),
        copy=True,
      )
      outputs = plugin.call(model, self._normalize(inputs), train=train)
      nnx.pop(model, nnx.Intermediate)
      _, *states = self._split(model)
      return outputs, {"params": nnx.to_pure_dict(states[0]), "variables": nnx.to_pure_dict(states[3])}

    with explained(f"model {name!r} fails on inputs of shape {inputs.shape}"):
      outputs, after = call(params)
      changed = changes({"params": params, "variables": variables}, after)
    if changed:
      raise UserError(
        f"model {name!r} changes its variables during a call: {'; '.join(changed)}. Create them in the constructor with"
        " their final shape and dtype. (Sow values that are only inspected as nnx.Intermediate.)"
      )
    if assigned := _assigned(lambda params: call(params)[1]["params"], params, after["params"]):
      raise UserError(
        f"model {name!r} assigns to its parameters during a call: {', '.join(assigned)}. The new values would be lost,"
        " since only updates change parameters. Use what is computed from a parameter without storing it in the model."
      )
    if not isinstance(outputs, jax.Array):
      raise UserError(f"model {name!r} returns a {type(outputs).__name__}; it must return one array of outputs")
    if outputs.ndim < 2 or (outputs.shape[0], outputs.shape[-1]) != (inputs.shape[0], self.num_outputs):
      raise UserError(
        f"model {name!r} returns {list(outputs.shape)} for {inputs.shape[0]} examples;"
        f" the task needs [{inputs.shape[0]}, ..., {self.num_outputs}]"
      )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
      raise UserError(f"model {name!r} returns {outputs.dtype}; it must return floats")
    return cast(outputs, "float32"), after["variables"]

  def _filled(self, state: nnx.State, settings: Mapping[str, Array]) -> nnx.State:
    try:
      return fill(state, own_settings(settings, "model"))
    except SettingError as error:
      raise UserError(f"model {self.config.model.name!r}: {error}") from None

  def _normalize(self, inputs: Array) -> Array:
    if self.info.normalization is not None:
      mean, std = (jnp.asarray(x, jnp.float32) for x in self.info.normalization)
      inputs = (inputs.astype(jnp.float32) - mean) / std
    return cast(inputs, self.config.precision.compute_dtype)


def _assigned(call: Callable[[Tree], Tree], params: Tree, after: Tree) -> list[str]:
  """Return the names of the parameters that have another value after a call.

  Args:
    call: from the parameters before a call to those after it.
    params: those before.
    after: those after. One that is the same object is the same; `nnx.jit` and `nnx.remat` give back others, so that
      only a second look, at what computes them, can tell.
  """
  before, found = flatten(params), flatten(after)
  if all(found[name] is value for name, value in before.items()):
    return []
  jaxpr = jax.make_jaxpr(call)(params).jaxpr
  pairs = zip(before, jaxpr.invars, jaxpr.outvars, strict=True)
  return [name for name, own, value in pairs if _source(jaxpr, value) not in (own, UNKNOWN)]


UNKNOWN = "in a transformation that cannot be inspected"


def _source(jaxpr: Any, variable: Any) -> Any:
  """Return the argument of a jaxpr that a variable is; None if it is computed; or `UNKNOWN`."""
  if variable in jaxpr.invars:
    return variable
  equation = next((equation for equation in jaxpr.eqns if variable in equation.outvars), None)
  if equation is None:
    return None
  inside = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
  if inside is None:
    return UNKNOWN if equation.primitive.name in ("while", "cond") else None
  inside = getattr(inside, "jaxpr", inside)
  source = _source(inside, inside.outvars[equation.outvars.index(variable)])
  if source in (None, UNKNOWN):
    return source
  return _source(jaxpr, equation.invars[inside.invars.index(source)])


def _cast_average(value: Array, own: Any) -> Array:
  """Return a variable in the dtype that the model keeps it in; its average may have a wider one."""
  return value.astype(own.dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value


def _with_values(state: nnx.State, values: Tree) -> nnx.State:
  flat = dict(nnx.to_flat_state(state))
  paths = dict(_flatten(values))
  return nnx.from_flat_state({path: variable.replace(paths[path]) for path, variable in flat.items()})


def _with_keys(state: nnx.State, key: Array) -> nnx.State:
  """Restart each layer's random stream from a key of its own."""
  flat = {}
  for index, (path, variable) in enumerate(nnx.to_flat_state(state)):
    is_key = jnp.issubdtype(variable.get_value().dtype, jax.dtypes.prng_key)
    value = jax.random.fold_in(key, index) if is_key else jnp.zeros((), jnp.uint32)
    flat[path] = variable.replace(value)
  return nnx.from_flat_state(flat)


def _flatten(tree: Tree, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
  if not isinstance(tree, dict):
    return [(path, tree)]
  return [item for key, value in tree.items() for item in _flatten(value, (*path, key))]

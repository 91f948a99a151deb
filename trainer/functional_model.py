"""A model as two pure functions of plain arrays, whatever its class keeps inside.

A model's variables fall into four groups: parameters; settings that are filled at the jit boundary
(`Hyperparameter`); random state, which is never kept but set from a key; and all others (batch statistics …).
Parameters and others are nested dictionaries of arrays outside; the module exists only while tracing. What a model
sows (`nnx.Intermediate`) is given to the task, and not kept.

A call with train=True is preceded by the model's `train()`, any other by its `eval()`, as flax means it: layers that
are called without a flag, such as `nnx.Dropout` and `nnx.BatchNorm`, follow these, whatever their constructors set.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from trialbook import models
from trialbook.errors import UserError
from trialbook.input_pipeline import Info
from trialbook.models import layout, plugin
from trialbook.models.call_modes import Call
from trialbook.models.hyperparameter import Hyperparameter, SettingError, fill
from trialbook.models.layout import Placement, placement_of
from trialbook.models.tiled_logits import TiledLogits, is_tiled
from trialbook.naming import nearest
from trialbook.trainer import sharding, sharding_rules
from trialbook.trainer.checkpoints.array_names import changes, flatten, map_named, matches
from trialbook.trainer.config import Config
from trialbook.trainer.user_code_errors import explained

Tree = dict[str, Any]


def cast(tree: Any, dtype: str) -> Any:
  """Return the tree with its floating-point arrays in `dtype`; other arrays as they are."""

  def one(x: Any) -> Any:
    return x.astype(dtype) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) else x

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
    info: facts about the dataset: normalization of the inputs.
    num_outputs: size of the last axis of the one array that the model returns; None: outputs are as they are.
    example: a call of the model for one example, with shapes and dtypes in place of arrays.
  """

  config: Config
  info: Info
  num_outputs: int | None
  example: Call

  @property
  def input_shape(self) -> tuple[int, ...] | None:
    """Return the shape of one example of the first argument of the model; None if that is not one array."""
    shape = getattr(self.example.args[0], "shape", None) if self.example.args else None
    return None if shape is None else shape[1:]

  def _split(self, model: nnx.Module) -> tuple[Any, ...]:
    """Return the model's graph and its four groups of variables."""
    return nnx.split(model, nnx.Param, nnx.RngState, Hyperparameter, ...)

  def _build(self, key: Array) -> nnx.Module:
    streams = {name: jax.random.fold_in(key, index) for index, name in enumerate(("params", "dropout", "default"))}
    rngs = nnx.Rngs(**streams)
    example = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf, self.example
    )
    model = models.build(
      self.config.model, input_shape=self.input_shape, num_outputs=self.num_outputs, rngs=rngs, example=example
    )
    nnx.pop(model, nnx.Intermediate)
    return model

  @functools.cached_property
  def _abstract(self) -> tuple[Any, ...]:
    """Return shapes as `_split`. Raises UserError where config and layers disagree on traced settings."""
    name = self.config.model.name
    with explained(f"model {name!r} cannot be created for {self._inputs(self.example)}"):
      model = nnx.eval_shape(lambda: self._build(jax.random.key(0)))
      groups = self._split(model)
      rules = plugin.sharding_rules(model)
      layers = list(plugin.layers_with_statistics(model))
    if not jax.tree.leaves(groups[1]):
      raise UserError(f"model {name!r} has no parameters (nnx.Param): there is nothing to train")
    if unmatched := [one for one in self.config.frozen_statistics if not any(matches(name, (one,)) for name in layers)]:
      near = nearest(unmatched[0], layers)
      raise UserError(f"frozen_statistics: no layer of {name!r} with batch statistics matches {unmatched[0]!r}{near}")
    self._place(groups[1], rules)
    read = {variable.get_metadata("setting") for _, variable in nnx.to_flat_state(groups[3])}
    given = getattr(self.config.model, "traced", {})
    if unread := sorted(set(given) - read - set(plugin.passed_settings(model, given))):
      raise UserError(
        [
          f"model.traced.{one}: no layer of {name!r} reads this setting, and its call has no such argument; write"
          f" def __call__(self, ..., {one}), or give model.kwargs.{one}"
          for one in unread
        ]
      )
    return groups

  def _is_frozen(self, layer: str) -> bool:
    return matches(layer, self.config.frozen_statistics)

  def _place(self, params: nnx.State, rules: Any) -> None:
    """Give each parameter its placement, by the model's rules."""
    named = {"/".join(map(str, path)): param for path, param in nnx.to_flat_state(params)}
    known = {name: (param.shape, placement_of(param)) for name, param in named.items()}
    sizes = jax.sharding.get_abstract_mesh().shape
    for name, placement in sharding_rules.placements(rules, known, sizes, self.config.model.name).items():
      dtype = self.config.precision.compute_dtype if placement.stacked else None
      named[name].set_metadata(layout.PLACEMENT, placement._replace(dtype=dtype))

  @functools.cached_property
  def placements(self) -> dict[str, Placement]:
    """Return how each parameter is to be split, by name."""
    return {"/".join(map(str, path)): placement_of(param) for path, param in nnx.to_flat_state(self._abstract[1])}

  def _cast(self, params: Tree) -> Tree:
    """Return the parameters in the dtype of the computation, but for those of stacks."""
    dtype = self.config.precision.compute_dtype
    return map_named(lambda name, array: array if self.placements[name].stacked else cast(array, dtype), params)

  def _inputs(self, call: Call) -> str:
    """Return what a model is called with, for a message."""
    shape = getattr(call.args[0], "shape", None) if len(call.args) == 1 and not call.kwargs else None
    if shape is None:
      return f"the call {call}"
    return f"inputs of shape {self.input_shape if call is self.example else shape}"

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
    arguments: Call,
    settings: Mapping[str, Array],
    *,
    train: bool,
    key: Array | None = None,
    method: str = "",
  ) -> tuple[Any, Tree, dict[str, tuple[Array, ...]]]:
    """Return outputs with floats in float32, the other variables after the call, and what was sown, by path.

    Args:
      params: as `init` gives them.
      variables: as `init` gives them; floating-point averages of them are cast to the dtypes of the model.
      arguments: of the call, normalized; their floats are cast to the dtype that the model computes in.
      settings: all traced settings of the run by path.
      train: whether dropout drops and statistics move.
      key: of what is random; None where nothing is.
      method: of the model to call; "": the model itself. Its outputs are not checked.
    """
    graph, param_state, rng_state, hyper_state, other_state = self._abstract
    # Gathered after they were cast, since half as many bytes may do. A stack does both, for a layer at a time.
    params = sharding.gathered(self._cast(params), self.placements)
    variables = sharding.gathered(jax.tree.map(_cast_average, variables, nnx.to_pure_dict(other_state)))
    name = self.config.model.name
    called = cast(arguments, self.config.precision.compute_dtype)
    own = own_settings(settings, "model")
    traced = {
      one: own[one].astype(self.config.precision.compute_dtype) for one in getattr(self.config.model, "traced", {})
    }

    def call(params: Tree) -> tuple[Any, dict[str, Tree]]:
      model = nnx.merge(
        graph,
        _with_values(param_state, params),
        _with_keys(rng_state, jax.random.key(0) if key is None else key),
        self._filled(hyper_state, settings),
        _with_values(other_state, variables),
        copy=True,
      )
      with warnings.catch_warnings():
        # `nnx.capture` adds variables to each module, which break transformations that name all kinds of variables.
        warnings.filterwarnings("ignore", r"(?s).*Using 'Module\.(sow|perturb)", DeprecationWarning)
        outputs = plugin.call(model, called, train=train, traced=traced, method=method, frozen=self._is_frozen)
      sown = nnx.pop(model, nnx.Intermediate)
      _, *states = self._split(model)
      after = {"params": nnx.to_pure_dict(states[0]), "variables": nnx.to_pure_dict(states[3])}
      return (outputs, _by_path(sown)), after

    with explained(f"model {name!r} fails on {self._inputs(arguments)}"):
      (outputs, sown), after = call(params)
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
    if not method:
      self._check_outputs(outputs, arguments)
    # The logits of a tile are cast one by one.
    outputs = jax.tree.map(lambda leaf: leaf if is_tiled(leaf) else cast(leaf, "float32"), outputs, is_leaf=is_tiled)
    return outputs, after["variables"], cast(sown, "float32")

  def _check_outputs(self, outputs: Any, arguments: Call) -> None:
    name = self.config.model.name
    leaves = jax.tree.leaves(outputs, is_leaf=is_tiled)
    if not leaves or not all(isinstance(leaf, jax.Array | TiledLogits) for leaf in leaves):
      raise UserError(
        f"model {name!r} returns a {type(outputs).__name__}; it must return an array, or a tree of arrays"
      )
    sizes = [leaf.shape[0] for leaf in jax.tree.leaves(arguments) if getattr(leaf, "shape", ())]
    size = sizes[0] if sizes else None
    if self.num_outputs is None:
      shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), outputs, is_leaf=is_tiled)
      wrong = {path: leaf for path, leaf in flatten(shapes).items() if leaf.ndim and leaf.shape[0] != size}
      if wrong:
        path, leaf = next(iter(wrong.items()))
        raise UserError(
          f"model {name!r} returns {list(leaf.shape)}{f' as {path!r}' if path else ''} for {size} examples; each array"
          " must have an axis of examples first, or be one number. Sow what belongs to the whole batch"
        )
      return
    if not isinstance(outputs, jax.Array | TiledLogits):
      raise UserError(
        f"model {name!r} returns a {type(outputs).__name__}, but the task has num_outputs and needs one array"
        f" [B, ..., {self.num_outputs}]. A task without num_outputs receives whatever the model returns"
      )
    if len(outputs.shape) < 2 or outputs.shape[0] not in sizes or outputs.shape[-1] != self.num_outputs:
      raise UserError(
        f"model {name!r} returns {list(outputs.shape)} for {size} examples;"
        f" the task needs [{size}, ..., {self.num_outputs}]"
      )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
      raise UserError(f"model {name!r} returns {outputs.dtype}; it must return floats")

  def normalized(self, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Return a batch, by path, with its inputs normalized, in float32."""
    found = dict(batch)
    for path, (mean, std) in self.info.normalizations.items():
      if path in found:
        mean_C, std_C = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
        found[path] = (found[path].astype(jnp.float32) - mean_C) / std_C
    return found

  def _filled(self, state: nnx.State, settings: Mapping[str, Array]) -> nnx.State:
    try:
      return fill(state, own_settings(settings, "model"))
    except SettingError as error:
      raise UserError(f"model {self.config.model.name!r}: {error}") from None


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


def _by_path(sown: nnx.State) -> dict[str, tuple[Any, ...]]:
  found = {}
  for path, variable in nnx.to_flat_state(sown):
    if not isinstance(variable, nnx.Perturbation):  # Of which nothing is sown.
      value = variable.get_value()
      found["/".join(map(str, path))] = value if isinstance(value, tuple) else (value,)
  return found


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

"""Models from outside the repository, which need to import nothing of ours: Flax NNX and Linen."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import linen, nnx
from pydantic import Field, JsonValue

from trialbook.import_attribute import PluginError, import_attribute, place_of
from trialbook.models.call_modes import Call, with_mode
from trialbook.models.linen_model import LinenModel, kind_of
from trialbook.naming import nearest
from trialbook.settings import Settings, Static, Traced

OUTPUTS = ("num_classes", "num_outputs", "n_classes", "num_labels", "out_features")
INPUTS = ("in_features", "in_channels")
ALWAYS = ("num_classes", "input_shape", "rngs")
GIVEN = (*OUTPUTS, *INPUTS, "input_shape", "rngs")
"""Arguments that a constructor is given, if it has a parameter of that name."""


class PluginConfig(Settings):
  """A model named as "module:Name": a class, or a function or `functools.partial` that returns a model.

  It is a Flax NNX or Linen module. The task says what it is called with (`inputs`, if it does not say), and receives
  what it returns. If its call has an argument `train`, `training`, `is_training`, `deterministic`,
  `use_running_average` or `inference`, it is passed by keyword; an NNX module's `train()` or `eval()` is called before.
  Its constructor is given what it has a parameter for of `num_classes` (or `num_outputs`, `n_classes`, `num_labels`,
  `out_features`), `in_features` (or `in_channels`: the last axis of an example), `input_shape` (of an example) and
  `rngs`, beside the settings in `kwargs`. A Linen module may be named itself, too; then `kwargs` replace its
  attributes. `traced` holds settings that never recompile: those that the call has an argument for are passed to it; an
  NNX model's layers read others by name, as `models.dropout.Dropout("dropout_rate")` does. The constructor does not see
  them.
  """

  name: Static[str] = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  traced: Traced[dict[str, float]] = Field(default_factory=dict)


def load(config: PluginConfig) -> Any:
  """Import what the config names, looking in the current directory after everything else.

  Returns:
    A class of NNX or Linen modules, a function that returns one, or a Linen module.

  Raises:
    PluginError: the module is missing or raises, has no such name, or that is none of these.
  """
  found = import_attribute("model.name", config.name)
  where = f"model.name {config.name!r}:"
  if isinstance(found, nnx.Module):
    raise PluginError(
      f"{where} is an NNX module that was made when its file was imported; name its class, or a function that makes it"
    )
  if inspect.isclass(found) and not issubclass(found, nnx.Module | linen.Module):
    raise PluginError(f"{where} must be a subclass of flax.nnx.Module or flax.linen.Module, or a function")
  if not isinstance(found, linen.Module) and not callable(found):
    raise PluginError(f"{where} is a {type(found).__name__}; name a class of models, or a function that makes one")
  return found


def problems(config: PluginConfig) -> list[str]:
  """Return all that is wrong with a plug-in and can be found without making one; empty if nothing is."""
  try:
    found = load(config)
  except PluginError as error:
    return [str(error)]
  if isinstance(found, linen.Module):
    fields = [name for name in type(found).__dataclass_fields__ if name not in ("parent", "name")]
    return [
      f"model.kwargs.{name}: {type(found).__name__} has no attribute {name!r}{nearest(name, fields)}"
      for name in config.kwargs
      if name not in fields
    ]
  return [
    *_constructor_problems(found, config),
    *(_call_problems(found, config) if inspect.isclass(found) else []),
  ]


def build(
  config: PluginConfig,
  *,
  input_shape: tuple[int, ...] | None,
  num_outputs: int | None,
  rngs: nnx.Rngs,
  example: Call | None = None,
) -> nnx.Module:
  """Make the model; a constructor with `**kwargs` is given `num_classes`, `input_shape` and `rngs` at least.

  Args:
    config: the model's settings.
    input_shape: of one example; None if it is not one array.
    num_outputs: size of the last axis of the outputs; None if the task does not say.
    rngs: the streams `params`, `dropout` and `default`.
    example: arguments of a call for one example, for a Linen module; None: zeros of `input_shape`.

  Raises:
    PluginError: `problems(config)` is not empty, or what a function returned is not a model.
  """
  if found := problems(config):
    raise PluginError("\n".join(found))
  factory = load(config)
  if isinstance(factory, linen.Module):
    changes: dict[str, Any] = dict(config.kwargs)
    made = factory.clone(**changes)
  else:
    given = _given(factory, config, input_shape, num_outputs, rngs)
    if missing := [name for name in _required(factory) if name not in (*given, *config.kwargs)]:
      mend = "give it as model.kwargs." + missing[0]
      if missing[0] in OUTPUTS:
        mend += ", or let the task say it: def num_outputs(self, info)"
      raise PluginError(
        f"model.name {config.name!r}: needs {missing[0]!r}, which the task does not give; {mend}{place_of(factory)}"
      )
    made = factory(**config.kwargs, **given)
  if isinstance(made, linen.Module):
    if example is None:
      example = Call(jnp.zeros((1, *(input_shape or ()))))
    function = type(made).__call__
    traced = {name: jnp.zeros(()) for name in config.traced if _takes(function, name)}
    example = Call(*example.args, **example.kwargs, **traced)
    _check_call(function, type(made), with_mode(function, example, train=False))
    made = LinenModel(made, example, rngs=rngs)
  if not isinstance(made, nnx.Module):
    raise PluginError(
      f"model.name {config.name!r}: returned a {type(made).__name__}; it must return a Flax NNX or Linen module"
    )
  if not inspect.isclass(factory) and (found := _call_problems(type(made), config)):
    raise PluginError("\n".join(found))
  return made


def layers_with_statistics(model: nnx.Module) -> dict[str, nnx.Module]:
  """Return the layers, by name, that normalize by the batch in training and by what they remember otherwise."""
  layers = {"/".join(map(str, path)): layer for path, layer in nnx.iter_modules(model)}
  return {name: layer for name, layer in layers.items() if hasattr(layer, "use_running_average")}


def call(
  model: nnx.Module,
  arguments: Call,
  *,
  train: bool,
  traced: Mapping[str, Any] = MappingProxyType({}),
  method: str = "",
  frozen: Callable[[str], bool] = lambda _: False,
) -> Any:
  """Call a model in training or in evaluation, in the way that it has for that; return its outputs.

  Args:
    model: an NNX module, or a `LinenModel`.
    arguments: of the call, but for the mode.
    train: whether it is in training.
    traced: settings by name; those that the call has an argument for are passed.
    method: of the model to call; "": the model itself.
    frozen: whether a layer, by name, is in evaluation always.

  Raises:
    PluginError: the model does not take these arguments.
  """
  # By way of the class, since an attribute of the model may be named so.
  (type(model).train if train else type(model).eval)(model)
  for name, layer in layers_with_statistics(model).items() if train else ():
    if frozen(name):
      layer.eval()
  kind = kind_of(model)
  function = getattr(kind, method, None) if method else _call(kind)
  if function is None:
    methods = [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")]
    raise PluginError(f"model.name: {kind.__name__} has no method {method!r}{nearest(method, methods)}{place_of(kind)}")
  given = {name: value for name, value in traced.items() if _takes(function, name)}
  if twice := given.keys() & arguments.kwargs.keys():
    name = min(twice)
    raise PluginError(
      f"model.traced.{name}: the task's model_inputs gives {name!r} as well; leave one of them out{place_of(function)}"
    )
  arguments = Call(*arguments.args, **arguments.kwargs, **given)
  whole = with_mode(function, arguments, train=train)
  _check_call(function, kind, whole)
  if isinstance(model, LinenModel):
    return model(*arguments.args, train=train, method=method or None, **arguments.kwargs)
  return function(model, *whole.args, **whole.kwargs)


def _check_call(function: Callable[..., Any], kind: type, arguments: Call) -> None:
  """Raise PluginError if a model, or one of its methods, does not take these arguments."""
  try:
    inspect.signature(function).bind(None, *arguments.args, **arguments.kwargs)
  except TypeError as error:
    name = getattr(function, "__name__", "__call__")
    method = "" if name == "__call__" else f".{name}"
    raise PluginError(
      f"model.name: {kind.__name__}{method}{inspect.signature(function)} cannot be called with {arguments}: {error}."
      f" The task's model_inputs says what a model is called with: Call(batch[...], name=...){place_of(function)}"
    ) from None


def passed_settings(model: nnx.Module, names: Iterable[str]) -> list[str]:
  """Return those of the traced settings that the call of a model has an argument for."""
  function = _call(kind_of(model))
  return [name for name in names if _takes(function, name)]


def sharding_rules(model: nnx.Module) -> Any:
  """Return what a model says of how its parameters are split over devices; see `trialbook.trainer.sharding_rules`."""
  return getattr(model._module if isinstance(model, LinenModel) else model, "sharding_rules", {})


def _takes(function: Callable[..., Any], name: str) -> bool:
  parameter = inspect.signature(function).parameters.get(name)
  return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _given(
  factory: Callable[..., Any],
  config: PluginConfig,
  input_shape: tuple[int, ...] | None,
  num_outputs: int | None,
  rngs: nnx.Rngs,
) -> dict[str, Any]:
  """Return the arguments that a constructor is given.

  Beside `num_classes`, `input_shape` and `rngs`, a name such as `out_features` is given only if it has no default: a
  default says that it means something else.
  """
  values: dict[str, Any] = {"rngs": rngs}
  if num_outputs is not None:
    values |= dict.fromkeys(OUTPUTS, num_outputs)
  if input_shape is not None:
    values |= dict.fromkeys(INPUTS, input_shape[-1] if input_shape else 1) | {"input_shape": input_shape}
  if taken := [name for name in ALWAYS if name in values and name in config.kwargs]:
    raise PluginError(f"model.kwargs.{taken[0]}: the model already receives {taken[0]}; leave it out")
  parameters, (keywords, takes_any) = _parameters(factory), _keywords(factory)
  wanted = [name for name in keywords if name in ALWAYS or parameters[name].default is inspect.Parameter.empty]
  return {
    name: values[name]
    for name in values
    if (name in wanted or (takes_any and name in ALWAYS)) and name not in config.kwargs
  }


def _required(factory: Callable[..., Any]) -> list[str]:
  """Return the names of the arguments that have no default."""
  kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  return [name for name, one in _parameters(factory).items() if one.default is one.empty and one.kind in kinds]


def _constructor_problems(factory: Callable[..., Any], config: PluginConfig) -> list[str]:
  found = []
  name_of = getattr(factory, "__name__", config.name)
  keywords, takes_any = _keywords(factory)
  settings = [name for name in keywords if name not in GIVEN]
  for name in config.kwargs:
    if name == "rngs":
      found.append("model.kwargs.rngs: the model already receives rngs; leave it out")
    elif name not in keywords and not takes_any:
      found.append(f"model.kwargs.{name}: {name_of} has no argument {name!r}{nearest(name, settings)}")
  for name, parameter in _parameters(factory).items():
    if parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
      continue
    if parameter.kind is parameter.POSITIONAL_ONLY:
      found.append(f"model.name {config.name!r}: its argument {name!r} must be accepted by keyword")
    elif name in settings and name not in config.kwargs:
      found.append(
        f"model.kwargs.{name}: {name_of} needs a value for {name!r}; give model.kwargs.{name} "
        f"(only num_classes, in_features, input_shape, rngs are passed automatically)"
      )
  return found


def _call_problems(model: type, config: PluginConfig) -> list[str]:
  if _call(model) is None:
    return [f"model.name {config.name!r}: has no __call__; it must be callable, such as model(inputs)"]
  return []


def _call(model: type) -> Any:
  """Return `__call__` as its class has it; that of a class without one would be its metaclass's."""
  return next((vars(base)["__call__"] for base in model.__mro__ if "__call__" in vars(base)), None)


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
  """Return the parameters of a function, or of a class's constructor.

  nnx's metaclass hides the latter from `inspect.signature(model)`.
  """
  if isinstance(factory, functools.partial):
    left = list(_parameters(factory.func).items())[len(factory.args) :]
    # What it has set by keyword is a default: the call may set it again.
    return {
      name: parameter.replace(default=factory.keywords[name]) if name in factory.keywords else parameter
      for name, parameter in left
    }
  if not inspect.isclass(factory):
    return dict(inspect.signature(factory).parameters)
  if factory.__init__ is object.__init__:
    return {}
  parameters = list(inspect.signature(factory.__init__).parameters.items())[1:]
  # Those that Linen adds to each class.
  hidden = ("parent", "name") if issubclass(factory, linen.Module) else ()
  return {name: parameter for name, parameter in parameters if name not in hidden}


def _keywords(factory: Callable[..., Any]) -> tuple[list[str], bool]:
  """Return the arguments that can be given by keyword, and whether any others are taken."""
  parameters = _parameters(factory).values()
  keywords = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
  return keywords, any(p.kind is p.VAR_KEYWORD for p in parameters)

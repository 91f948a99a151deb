"""Model classes from outside the repository, which need to import nothing of ours."""

import inspect
from typing import Any, TypeGuard

from flax import nnx
from pydantic import Field, JsonValue

from trialbook.naming import nearest
from trialbook.plugin import PluginError, import_attribute
from trialbook.settings import Settings, Static, Traced

# What a constructor is given if it has a parameter of that name.
GIVEN = ("num_classes", "input_shape", "rngs")
MODES = ("training", "is_training", "deterministic", "use_running_average", "inference")
"""Usual names of flags for training or evaluation, which nobody would set."""


class PluginConfig(Settings):
  """A model class named as "module:Class".

  It is a Flax NNX module, called `model(inputs) -> outputs[batch, num_outputs]`, with `train=bool` if its `__call__`
  takes that; its `train()` or `eval()` is called before. Its constructor takes what it wants of `num_classes` (the
  number of outputs), `input_shape` (of one example) and `rngs`, beside the settings in `kwargs`. `traced` holds
  settings that never recompile; the model's layers read them by name, as `models.dropout.Dropout("dropout_rate")` does,
  and the constructor does not see them.
  """

  name: Static[str] = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  traced: Traced[dict[str, float]] = Field(default_factory=dict)


def load(config: PluginConfig) -> type[nnx.Module]:
  """Imports the class, looking in the current directory after everything else.

  Raises:
    PluginError: the module is missing or raises, has no such name, or that is not an `nnx.Module` class.
  """
  found = import_attribute("model.name", config.name)
  if not inspect.isclass(found):
    raise PluginError(f"model.name {config.name!r}: is not a class but a {type(found).__name__}; name the class")
  if not _is_model(found):
    linen = any(base.__module__.startswith("flax.linen") for base in found.__mro__)
    hint = " (it is a flax.linen module; flax.nnx.bridge can wrap it in one)" if linen else ""
    raise PluginError(f"model.name {config.name!r}: must be a subclass of flax.nnx.Module{hint}")
  return found


def problems(config: PluginConfig) -> list[str]:
  """All that is wrong with a plug-in, found without making one; empty if nothing is."""
  try:
    model = load(config)
  except PluginError as error:
    return [str(error)]
  return [*_constructor_problems(model, config), *_call_problems(model, config)]


def build(config: PluginConfig, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs) -> nnx.Module:
  """Makes the model; a constructor with `**kwargs` is given all of `GIVEN`.

  Raises:
    PluginError: `problems(config)` is not empty.
  """
  if found := problems(config):
    raise PluginError("\n".join(found))
  model = load(config)
  given = {"num_classes": num_outputs, "input_shape": input_shape, "rngs": rngs}
  keywords, takes_any = _keywords(model)
  return model(**config.kwargs, **{name: given[name] for name in GIVEN if takes_any or name in keywords})


def _constructor_problems(model: type[nnx.Module], config: PluginConfig) -> list[str]:
  found = []
  keywords, takes_any = _keywords(model)
  settings = [name for name in keywords if name not in GIVEN]
  for name in config.kwargs:
    if name in GIVEN:
      found.append(f"model.kwargs.{name}: {name} is given to the model already; leave it out")
    elif name not in keywords and not takes_any:
      found.append(f"model.kwargs.{name}: {model.__name__} has no argument {name!r}{nearest(name, settings)}")
  for name, parameter in _parameters(model).items():
    if parameter.default is not parameter.empty:
      continue
    if parameter.kind is parameter.POSITIONAL_ONLY:
      found.append(f"model.name {config.name!r}: its argument {name!r} must be accepted by keyword")
    elif name in settings and name not in config.kwargs:
      found.append(
        f"model.kwargs.{name}: {model.__name__} needs a value for {name!r}; give model.kwargs.{name} "
        f"(without being asked it gets only {', '.join(GIVEN)})"
      )
  return found


def _call_problems(model: type[nnx.Module], config: PluginConfig) -> list[str]:
  wanted = "callable as model(inputs) or model(inputs, train=bool)"
  call = _call(model)
  if call is None:
    return [f"model.name {config.name!r}: has no __call__; it must be {wanted}"]
  if takes_train(model):
    return []
  try:
    bound = inspect.signature(call).bind("self", "inputs")
  except TypeError as error:
    return [f"model.name {config.name!r}: must be {wanted}: {error}"]
  return [
    f"model.name {config.name!r}: its __call__ would always see {name}={parameter.default}, since only train is passed:"
    f" rename it to train, or leave it out, as train() or eval() is called before"
    for name, parameter in bound.signature.parameters.items()
    if name in MODES and isinstance(parameter.default, bool)
  ]


def takes_train(model: type[nnx.Module]) -> bool:
  """Whether a model is called with `train=bool` beside its inputs."""
  try:
    inspect.signature(_call(model) or model).bind("self", "inputs", train=True)
  except TypeError:
    return False
  return True


def _call(model: type[nnx.Module]) -> Any:
  """`__call__` as its class has it; that of a class without one would be its metaclass's."""
  return next((vars(base)["__call__"] for base in model.__mro__ if "__call__" in vars(base)), None)


def _parameters(model: type[nnx.Module]) -> dict[str, inspect.Parameter]:
  """Of the constructor; nnx's metaclass hides them from `inspect.signature(model)`."""
  return dict(list(inspect.signature(model.__init__).parameters.items())[1:])


def _keywords(model: type[nnx.Module]) -> tuple[list[str], bool]:
  """The constructor's arguments that can be given by keyword, and whether it takes any others."""
  parameters = _parameters(model).values()
  keywords = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
  return keywords, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _is_model(found: Any) -> TypeGuard[type[nnx.Module]]:
  return inspect.isclass(found) and issubclass(found, nnx.Module)

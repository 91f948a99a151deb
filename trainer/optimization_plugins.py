"""Optimizers and schedules of the user's, named as "module:function", which need to import nothing of ours.

A function is given by name what it has an argument for: the settings in `kwargs`, the numbers in `traced`, and

    optimizer   learning_rate  the scheduled learning rate of the step, float32 []
                settings       all numbers in `traced` by name
                decay_mask     params -> tree of bool: which parameters weight decay applies to, as everywhere here;
                               also given as `mask` or `weight_decay_mask`, as optax's functions call it
    schedule    step           updates since the end of the warmup, int32 []
                settings       as above

An optimizer's function returns an optax transformation. A schedule's returns the factor on the learning rate or, if it
has no argument `step`, a function of the step, as optax's do. Both are called inside the compiled step.
"""

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from pydantic import Field, JsonValue

from trialbook.errors import UserError
from trialbook.import_attribute import PluginError, import_attribute, place_of
from trialbook.naming import nearest
from trialbook.settings import Settings, Static, Traced
from trialbook.trainer import recorded_settings
from trialbook.trainer.checkpoints.array_names import changes, flatten
from trialbook.trainer.recorded_settings import RecordedSettings
from trialbook.trainer.user_code_errors import explained

PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
MASKS = ("decay_mask", "mask", "weight_decay_mask")
"""Names of the argument that says which parameters weight decay applies to; `kwargs` may replace it."""
_TRACED_ERRORS = (
  jax.errors.ConcretizationTypeError,
  jax.errors.TracerArrayConversionError,
  jax.errors.TracerIntegerConversionError,
)


class PluginOptimizer(Settings):
  """An optimizer named as "module:function", such as `my_opt:build` or `optax.contrib:muon`.

  Attributes:
    learning_rate: the base learning rate. The default is Adam's; other rules need others.
    kwargs: further arguments of the function; another value is another program.
    traced: numbers that never recompile: arguments of the function, or read from its argument `settings`.
    evaluated_params: "module:function" of (optimizer state, parameters) that returns the parameters which evaluations
      see, such as `optax.contrib:schedule_free_eval_params`; None: the parameters themselves. They are kept beside the
      others, in float32.
  """

  name: Static[str] = Field(pattern=PATTERN)
  learning_rate: Traced[float] = Field(default=1e-3, ge=0)
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  traced: Traced[dict[str, float]] = Field(default_factory=dict)
  evaluated_params: Static[str | None] = Field(default=None, pattern=PATTERN)


class PluginSchedule(Settings):
  """A schedule named as "module:function": of (step, settings), or one of optax's.

  Attributes:
    warmup_steps: steps of linear warmup before it, as of any schedule.
    kwargs: further arguments of the function; another value is another program.
    traced: numbers that never recompile: arguments of the function, or read from its argument `settings`.
  """

  name: Static[str] = Field(pattern=PATTERN)
  warmup_steps: Traced[int] = Field(default=0, ge=0, lt=2**31)
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  traced: Traced[dict[str, float]] = Field(default_factory=dict)


Plugin = PluginOptimizer | PluginSchedule
Scalar = Float[Array, ""]


def problems(*configs: Settings) -> list[str]:
  """Return all that is wrong with the plug-ins among some settings and shows without calling them."""
  found = []
  for config in configs:
    if isinstance(config, PluginOptimizer | PluginSchedule):
      try:
        found += _argument_problems(config, _load(config))
        if isinstance(config, PluginOptimizer) and config.evaluated_params is not None:
          _load_evaluated(config)
      except PluginError as error:
        found.append(str(error))
  return found


def functions(*configs: Settings) -> tuple[Any, ...]:
  """Return the functions that the plug-ins among some settings name: another one is another program."""
  found = []
  for config in configs:
    if isinstance(config, PluginOptimizer | PluginSchedule):
      found.append(_load(config))
    if isinstance(config, PluginOptimizer) and config.evaluated_params is not None:
      found.append(_load_evaluated(config))
  return tuple(found)


def transformation(
  config: PluginOptimizer,
  settings: Mapping[str, Scalar],
  learning_rate: Scalar,
  decay_mask: Callable[[Any], Any],
) -> optax.GradientTransformationExtraArgs:
  """Make the optimizer of one step; see `trialbook.trainer.optimizers.transformation`.

  Its functions raise UserError, with the name of the optimizer, where the user's code fails or returns something else
  than it should.
  """
  where, read = f"optimizer.name {config.name!r}", set()
  given = {"learning_rate": learning_rate, **dict.fromkeys(MASKS, decay_mask)}
  made = _called(config, settings, given, read)
  if not all(callable(getattr(made, member, None)) for member in ("init", "update")):
    raise UserError(
      f"{where}: returned a {type(made).__name__}; it must return an optax transformation, which has the functions"
      f" init and update{_place(config)}"
    )
  made = optax.with_extra_args_support(made)

  def init(params: Any) -> Any:
    with _own_code(config, f"{where}: init fails"):
      return jax.tree.map(jnp.asarray, made.init(params))

  def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
    with _own_code(config, f"{where}: update fails"):
      updates, state = made.update(grads, state, params, **extra)
      _check_alike(f"{where}: update returns", updates, params)
      updates = jax.tree.map(lambda update, param: jnp.asarray(update, param.dtype), updates, params)
      state = jax.tree.map(jnp.asarray, state)
    if not read >= {*config.traced}:
      jax.eval_shape(init, params)  # May read what the update does not.
    _check_read(config, read)
    return updates, state

  return optax.GradientTransformationExtraArgs(init, update)


def evaluated_params(config: PluginOptimizer, opt_state: Any, params: Any) -> Any:
  """Return the parameters that evaluations see: what `evaluated_params` of the config returns."""
  assert config.evaluated_params is not None
  what = f"optimizer.evaluated_params {config.evaluated_params!r}"
  with _own_code(config, f"{what} fails"):
    found = _load_evaluated(config)(opt_state, params)
    if changed := changes(params, found):
      raise UserError(f"{what}: returns something else than parameters like those that it was given: {changed[0]}")
  return found


def factor(config: PluginSchedule, settings: Mapping[str, Array], step: Int[Array, ""]) -> Scalar:
  """Return the factor on the base learning rate, `step` updates after the end of the warmup."""
  where, read = f"schedule.name {config.name!r}", set()
  found = _called(config, settings, {"step": step}, read)
  if callable(found) and "step" not in _arguments(_load(config))[0]:
    with _own_code(config, f"{where}: the function that it returns fails"):
      found = found(step)
  if not isinstance(found, jax.Array):
    raise UserError(
      f"{where}: returns a {type(found).__name__}; it must return an array that is computed from `step` and `settings`"
      f" with jax.numpy, since a Python number would be a constant of the compiled step{_place(config)}"
    )
  if found.shape or not jnp.issubdtype(found.dtype, jnp.floating):
    raise UserError(
      f"{where}: returns {found.dtype}{list(found.shape)}; it must return one float, the factor on the learning rate"
      f"{_place(config)}"
    )
  _check_read(config, read)
  return found.astype(jnp.float32)


def _group(config: Plugin) -> str:
  return "optimizer" if isinstance(config, PluginOptimizer) else "schedule"


def _load(config: Plugin) -> Callable[..., Any]:
  field = f"{_group(config)}.name"
  found = import_attribute(field, config.name)
  if isinstance(found, optax.GradientTransformation):
    raise PluginError(
      f"{field} {config.name!r}: is a transformation that was made when its file was imported, with a learning rate of"
      " its own; name a function that makes it from `learning_rate`"
    )
  return _function(field, config.name, found)


def _load_evaluated(config: PluginOptimizer) -> Callable[..., Any]:
  field, name = "optimizer.evaluated_params", str(config.evaluated_params)
  found = _function(field, name, import_attribute(field, name))
  try:
    inspect.signature(found).bind(None, None)
  except TypeError:
    raise PluginError(
      f"{field} {name!r}: must be a function of (optimizer state, parameters), not of {inspect.signature(found)}"
      f"{place_of(found)}"
    ) from None
  return found


def _function(field: str, name: str, found: Any) -> Callable[..., Any]:
  if not callable(found):
    raise PluginError(f"{field} {name!r}: is a {type(found).__name__}; it must be a function")
  try:
    inspect.signature(found)
  except (TypeError, ValueError) as error:
    told = f"{field} {name!r}: its arguments are not known; name a function that is written in Python"
    raise PluginError(told) from error
  return found


def _arguments(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
  """Return the arguments that can be given by keyword, and whether any others are taken."""
  parameters = inspect.signature(function).parameters
  by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  named = {name: one for name, one in parameters.items() if one.kind in by_keyword}
  return named, any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _argument_problems(config: Plugin, function: Callable[..., Any]) -> Iterator[str]:
  group, (arguments, takes_any) = _group(config), _arguments(function)
  shown = getattr(function, "__name__", config.name)
  given = ("learning_rate", "settings") if group == "optimizer" else ("step", "settings")
  if group == "optimizer" and "learning_rate" not in arguments and not takes_any:
    yield f"optimizer.name {config.name!r}: {shown} must have an argument learning_rate{place_of(function)}"
  settable = [name for name in arguments if name not in given]
  for field, names in (("kwargs", config.kwargs), ("traced", config.traced)):
    for name in names:
      if name in given or (field == "traced" and name in MASKS):
        remedy = "set optimizer.learning_rate" if name == "learning_rate" else "leave it out"
        yield f"{group}.{field}.{name}: {shown} receives {name} already; {remedy}"
      elif name not in arguments and not takes_any and (field == "kwargs" or "settings" not in arguments):
        yield f"{group}.{field}.{name}: {shown} has no argument {name!r}{nearest(name, settable)}"
  for name in config.kwargs.keys() & config.traced.keys():
    yield f"{group}.traced.{name}: is in {group}.kwargs, too; leave one of them out"
  for name, one in inspect.signature(function).parameters.items():
    if one.default is not one.empty or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
      continue
    if one.kind is one.POSITIONAL_ONLY:
      yield f"{group}.name {config.name!r}: its argument {name!r} must be accepted by keyword{place_of(function)}"
    elif name not in (*given, *config.kwargs, *config.traced, *(MASKS if group == "optimizer" else ())):
      yield (
        f"{group}.kwargs.{name}: {shown} needs a value for {name!r}; give {group}.kwargs.{name}, or"
        f" {group}.traced.{name} for a number that never recompiles"
      )


def _called(config: Plugin, settings: Mapping[str, Array], given: Mapping[str, Any], read: set[str]) -> Any:
  """Call the function of a plug-in; `read` receives the names of the traced numbers that it has used."""
  try:
    function = _load(config)
  except PluginError as error:
    raise UserError(str(error)) from error
  arguments, takes_any = _arguments(function)
  traced = {name: settings[f"traced.{name}"] for name in config.traced}
  passed = {
    name: value for name, value in traced.items() if name in arguments or (takes_any and "settings" not in arguments)
  }
  read.update(passed)
  passed |= {name: value for name, value in given.items() if name in arguments and name not in config.kwargs}
  if "learning_rate" in given:
    passed["learning_rate"] = given["learning_rate"]
  if "settings" in arguments:
    passed["settings"] = RecordedSettings(traced, read)
  with _own_code(config, f"{_group(config)}.name {config.name!r} fails"):
    return function(**config.kwargs, **passed)


@contextlib.contextmanager
def _own_code(config: Plugin, what: str) -> Iterator[None]:
  """Explain errors of the user's code, in which dtypes mix as jax has it by default."""
  group = _group(config)
  try:
    with explained(what), jax.numpy_dtype_promotion("standard"):
      yield
  except UserError as error:
    cause = error.__cause__
    if isinstance(cause, _TRACED_ERRORS):
      raise UserError(
        f"{what}: it decides by, or converts, the value of an array, which is unknown while the step is compiled. Give"
        f" a number that it decides by as {group}.kwargs.NAME; compute with jax.numpy (jnp.where){_place(config)}"
      ) from cause
    if (
      isinstance(cause, KeyError)
      and traceback.extract_tb(cause.__traceback__)[-1].filename == recorded_settings.__file__
    ):
      raise UserError(
        f"{what}: it reads the setting {cause.args[0]!r}, which is not there; give {group}.traced.{cause.args[0]}"
        f"{_place(config)}"
      ) from cause
    raise


def _check_alike(what: str, found: Any, params: Any) -> None:
  """Raise UserError if a tree has not the names and shapes of the parameters."""
  wanted, shapes = ({name: jnp.shape(leaf) for name, leaf in flatten(tree).items()} for tree in (params, found))
  if wrong := [name for name in {**wanted, **shapes} if wanted.get(name) != shapes.get(name)]:
    name = wrong[0]
    has = f"{list(shapes[name])}" if name in shapes else "nothing"
    needs = f"needs {list(wanted[name])}" if name in wanted else "is not a parameter"
    raise UserError(f"{what} {has} for {name!r}, which {needs}")


def _check_read(config: Plugin, read: set[str]) -> None:
  group = _group(config)
  if unread := [name for name in config.traced if name not in read]:
    raise UserError([f"{group}.traced.{name}: {config.name} does not read this setting" for name in unread])


def _place(config: Plugin) -> str:
  return place_of(_load(config))

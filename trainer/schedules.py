"""Learning-rate schedules, as factors on the optimizer's base learning rate (PB-63, PB-82, PB-90).

The learning rate of the update `step → step+1` is `optimizer.learning_rate * factor(step)`. Any schedule can
begin with a linear warmup, which counts among the steps of the run: the factor is (step+1)/warmup_steps while
step < warmup_steps. Behind it, at t = max(step − warmup_steps, 0), comes the schedule's own shape, which
starts at exactly 1 (one of the user's need not). So a warmup of 0 changes nothing; one of 1 has the factor 1
and lets the shape start a step later.

Lengths are arguments of the compiled program, like all numbers of a schedule. To add one: a settings class, a
shape (a function of the traced values and t), and its entries in `SHAPES` and `ScheduleConfig`.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Discriminator, Field, Tag

from trialbook.settings import Settings, Static, Traced, kind_tag
from trialbook.trainer import optimization_plugins
from trialbook.trainer.optimization_plugins import PluginSchedule

Steps = Traced[Annotated[int, Field(ge=0, lt=2**31)]]
DecaySteps = Traced[Annotated[int, Field(ge=1, lt=2**31)] | None]
# Above 1 it would not be a decay, and the shape would not start at exactly 1.
EndFactor = Traced[Annotated[float, Field(ge=0, le=1)]]


class Constant(Settings):
  """The base learning rate throughout: right for a first configuration (PB-07)."""

  name: Static[Literal["constant"]] = "constant"
  warmup_steps: Steps = 0


class Linear(Settings):
  """Constant, then a straight line to the end factor, then flat.

  Attributes:
    constant_steps: steps at factor 1 before the decay; a longer run has more of them (PB-63).
    decay_steps: length of the decay; None: what warmup and constant part leave of the run.
    end_factor: factor after the decay.
  """

  name: Static[Literal["linear"]] = "linear"
  warmup_steps: Steps = 0
  constant_steps: Steps = 0
  decay_steps: DecaySteps = None
  end_factor: EndFactor = 0.0


class Cosine(Settings):
  """Half a cosine from 1 to the end factor (Loshchilov & Hutter, 2017, without restarts), then flat.

  Attributes:
    decay_steps: length of the decay; None: what the warmup leaves of the run.
    end_factor: factor after the decay.
  """

  name: Static[Literal["cosine"]] = "cosine"
  warmup_steps: Steps = 0
  decay_steps: DecaySteps = None
  end_factor: EndFactor = 0.0


class Rsqrt(Settings):
  """1/√(1 + t/timescale_steps). With timescale_steps = warmup_steps, the schedule of Vaswani et al. (2017).

  Attributes:
    timescale_steps: steps after which the factor is 1/√2; it does not depend on the length of the run, so
      runs can be extended. The default is a common choice for large vision and language models.
  """

  name: Static[Literal["rsqrt"]] = "rsqrt"
  warmup_steps: Steps = 0
  timescale_steps: Traced[Annotated[int, Field(ge=1, lt=2**31)]] = 10_000


class Piecewise(Settings):
  """Constant between boundaries; without any, constant.

  Attributes:
    boundaries: steps after the end of the warmup, increasing.
    factors: factors[i] is the factor itself (not a further multiplication) from t = boundaries[i] on, until
      the next boundary; before the first it is 1.
  """

  name: Static[Literal["piecewise"]] = "piecewise"
  warmup_steps: Steps = 0
  boundaries: Traced[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...]] = ()
  factors: Traced[tuple[Annotated[float, Field(ge=0)], ...]] = ()


ScheduleConfig = Annotated[
  Annotated[Constant, Tag("constant")]
  | Annotated[Linear, Tag("linear")]
  | Annotated[Cosine, Tag("cosine")]
  | Annotated[Rsqrt, Tag("rsqrt")]
  | Annotated[Piecewise, Tag("piecewise")]
  | Annotated[PluginSchedule, Tag("module:Class")],
  Discriminator(kind_tag),
]

Values = Mapping[str, Array]


def factor(config: ScheduleConfig, settings: Values, step: Int[Array, ""]) -> Float[Array, ""]:
  """Return the factor on the base learning rate for the update `step → step+1`, inside a compiled function.

  Args:
    config: says which schedule; none of its traced numbers is read.
    settings: its traced values by field name, int32 and float32, traced or not.
    step: number of updates already applied, int32.

  Returns:
    float32 [], exact where the schedule is 1 or the end factor.

  Raises:
    ValueError: if the schedule has not been through `resolve`.
  """
  if "decay_steps" in type(config).model_fields and "decay_steps" not in settings:
    raise ValueError("schedule.decay_steps is None; resolve it first with schedules.resolve(schedule, num_steps)")
  warmup_steps = settings["warmup_steps"]
  warmup = jnp.where(step < warmup_steps, _ratio(step + 1, warmup_steps), 1)
  t = jnp.maximum(step - warmup_steps, 0)
  if isinstance(config, PluginSchedule):
    return warmup * optimization_plugins.factor(config, settings, t)
  return warmup * SHAPES[config.name](settings, t)


def resolve(schedule: ScheduleConfig, num_steps: int) -> ScheduleConfig:
  """Return the schedule with every number explicit for a run of `num_steps`: a decay of None ends with the run."""
  if not isinstance(schedule, Linear | Cosine) or schedule.decay_steps is not None:
    return schedule
  return schedule.model_copy(update={"decay_steps": max(num_steps - _steps_before_decay(schedule), 1)})


def prepend_warmup(schedule: ScheduleConfig, num_steps: int, steps: int) -> tuple[ScheduleConfig, int]:
  """Put the playbook's warmup (PB-82) before a schedule: `steps` of warmup, then the schedule, in a longer run.

  Returns:
    the resolved schedule, and the new number of steps of the run (10,000 and a warmup of 1,000: 11,000).

  Raises:
    ValueError: if the schedule has a warmup already, or `steps` is not positive.
  """
  if schedule.warmup_steps:
    raise ValueError(
      f"schedule.warmup_steps = {schedule.warmup_steps}: the schedule already has a warmup; to prepend"
      " another, set it to 0 and shorten the run by as many steps"
    )
  if steps < 1:
    raise ValueError(f"a warmup of {steps} steps cannot be prepended; it needs at least 1")
  return resolve(schedule, num_steps).model_copy(update={"warmup_steps": steps}), num_steps + steps


def problems(schedule: ScheduleConfig, num_steps: int) -> list[str]:
  """Return what is wrong between a schedule's fields, in a run of `num_steps` steps; [] if nothing.

  A decay or a boundary that lies beyond the end of the run is allowed: a run may be cut short.
  """
  found = []
  if schedule.warmup_steps > num_steps:
    found.append(
      f"schedule.warmup_steps = {schedule.warmup_steps}: should be at most the number of steps of the run, {num_steps}"
    )
  elif isinstance(schedule, Linear) and schedule.decay_steps is None and _steps_before_decay(schedule) > num_steps:
    found.append(
      f"schedule.constant_steps = {schedule.constant_steps}: after a warmup of {schedule.warmup_steps} steps,"
      f" nothing of the run's {num_steps} steps is left for the decay; shorten it, or set"
      " schedule.decay_steps"
    )
  if isinstance(schedule, Piecewise):
    boundaries, factors = schedule.boundaries, schedule.factors
    if len(boundaries) != len(factors):
      found.append(
        f"schedule.factors has {len(factors)} values, but schedule.boundaries has {len(boundaries)};"
        " give one factor for each boundary (before the first it is 1)"
      )
    if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
      found.append(f"schedule.boundaries = {list(boundaries)}: each must be larger than the one before it")
  return found


def _constant(settings: Values, t: Array) -> Array:
  del settings, t
  return jnp.float32(1)


def _linear(settings: Values, t: Array) -> Array:
  t = jnp.maximum(t - settings["constant_steps"], 0)
  return _between(settings["end_factor"], _remaining(settings["decay_steps"], t))


def _cosine(settings: Values, t: Array) -> Array:
  # (1 + cos πp)/2 at p = 1 − remaining; as a square it keeps its digits near the end, where 1 + cos cancels.
  half_wave = jnp.square(jnp.sin(jnp.float32(jnp.pi / 2) * _remaining(settings["decay_steps"], t)))
  return _between(settings["end_factor"], half_wave)


def _rsqrt(settings: Values, t: Array) -> Array:
  return 1 / jnp.sqrt(1 + _ratio(t, settings["timescale_steps"]))


def _piecewise(settings: Values, t: Array) -> Array:
  # Without boundaries the traced array is an empty one of floats.
  passed = jnp.sum(t >= settings["boundaries"].astype(jnp.int32))
  return jnp.concatenate([jnp.ones(1, jnp.float32), settings["factors"]])[passed]


SHAPES: dict[str, Callable[[Values, Array], Array]] = {
  "constant": _constant,
  "linear": _linear,
  "cosine": _cosine,
  "rsqrt": _rsqrt,
  "piecewise": _piecewise,
}


def _ratio(numerator: Array, denominator: Array) -> Array:
  return numerator.astype(jnp.float32) / denominator.astype(jnp.float32)


def _remaining(decay_steps: Array, t: Array) -> Array:
  # The difference is taken between integers: float32 does not tell steps apart beyond 2**24.
  return _ratio(jnp.maximum(decay_steps - t, 0), decay_steps)


def _between(end_factor: Array, fraction: Array) -> Array:
  """Interpolate from end_factor (fraction 0) to 1 (fraction 1), exact at both; end_factor = 1 gives exactly 1."""
  return end_factor + (1 - end_factor) * fraction


def _steps_before_decay(schedule: Linear | Cosine) -> int:
  return schedule.warmup_steps + (schedule.constant_steps if isinstance(schedule, Linear) else 0)

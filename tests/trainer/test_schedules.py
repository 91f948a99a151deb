"""Schedules against plain Python in float64, at their joints, for very long runs, and when runs grow."""

import math
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from trialbook.settings import leaves, traced_values
from trialbook.trainer import schedules
from trialbook.trainer.schedules import Constant, Cosine, Linear, Piecewise, Rsqrt

LONG = 2**31 - 1


def formula(schedule: Any, step: int) -> float:
  if step < schedule.warmup_steps:
    return (step + 1) / schedule.warmup_steps
  t = step - schedule.warmup_steps
  match schedule.name:
    case "constant":
      return 1.0
    case "linear":
      progress = min(max(t - schedule.constant_steps, 0) / schedule.decay_steps, 1.0)
      return (1 - progress) + progress * schedule.end_factor
    case "cosine":
      progress = min(t / schedule.decay_steps, 1.0)
      return schedule.end_factor + (1 - schedule.end_factor) * (1 + math.cos(math.pi * progress)) / 2
    case "rsqrt":
      return math.sqrt(schedule.timescale_steps / (t + schedule.timescale_steps))
    case "piecewise":
      passed = [f for boundary, f in zip(schedule.boundaries, schedule.factors, strict=True) if boundary <= t]
      return passed[-1] if passed else 1.0
  raise AssertionError(schedule.name)


def factors(schedule: Any, steps: list[int]) -> np.ndarray:
  """The compiled factor at each of the steps, with nothing to read in the config but its name."""
  evaluate = jax.jit(jax.vmap(lambda settings, step: schedules.factor(hollow(schedule), settings, step), (None, 0)))
  result = evaluate(traced_values(schedule), jnp.asarray(np.array(steps, np.int32)))
  assert result.dtype == jnp.float32
  return np.asarray(result)


def hollow(schedule: Any) -> Any:
  numbers = {path: math.nan for path, kind, _, value in leaves(schedule) if kind == "traced" and value is not None}
  return schedule.model_copy(update=numbers)


CASES = [
  Constant(),
  Constant(warmup_steps=7),
  Linear(decay_steps=90),
  Linear(warmup_steps=10, constant_steps=20, decay_steps=60, end_factor=0.1),
  Linear(warmup_steps=10, constant_steps=0, decay_steps=1),
  Cosine(decay_steps=100),
  Cosine(warmup_steps=10, decay_steps=77, end_factor=0.01),
  Rsqrt(timescale_steps=10),
  Rsqrt(warmup_steps=30, timescale_steps=30),
  Piecewise(),
  Piecewise(warmup_steps=5, boundaries=(1, 40, 80), factors=(2.0, 0.3, 0.0)),
]


@pytest.mark.parametrize("schedule", CASES, ids=repr)
def test_factor_is_the_formula_at_every_step(schedule):
  steps = list(range(130))
  np.testing.assert_allclose(
    factors(schedule, steps), [formula(schedule, step) for step in steps], rtol=5e-7, atol=1e-15
  )


@pytest.mark.parametrize(
  "schedule",
  [
    Constant(warmup_steps=LONG),
    Linear(warmup_steps=10**8, constant_steps=10**9, decay_steps=10**9),
    Linear(decay_steps=LONG, end_factor=0.5),
    Linear(warmup_steps=LONG - 10, constant_steps=LONG, decay_steps=LONG),
    Cosine(warmup_steps=1, decay_steps=LONG - 1),
    Rsqrt(timescale_steps=LONG),
    Piecewise(warmup_steps=2**24, boundaries=(2**24 + 1, 2**30 + 1), factors=(0.5, 0.25)),
  ],
  ids=repr,
)
def test_factor_keeps_its_digits_up_to_two_billion_steps(schedule):
  edges = [0, 2**24, 2**25, 2**30 + 2**24, 10**8, 11 * 10**8, 21 * 10**8, LONG]
  steps = sorted({step for edge in edges for step in range(edge - 2, edge + 3) if 0 <= step <= LONG})
  # The floor is for the formula: 1 + cos cancels in float64 where little of the decay remains.
  np.testing.assert_allclose(
    factors(schedule, steps), [formula(schedule, step) for step in steps], rtol=5e-7, atol=1e-16
  )


@pytest.mark.parametrize("kind", [Linear, Cosine])
@pytest.mark.parametrize("end_factor", [0.0, 1e-9, 0.1, 0.3, 1.0])
def test_decay_starts_at_exactly_one_and_ends_at_exactly_its_end_factor(kind, end_factor):
  schedule = kind(warmup_steps=3, decay_steps=7, end_factor=end_factor)
  values = factors(schedule, [2, 3, 10, 11, 1000, LONG])
  assert list(values[:2]) == [1, 1]
  assert list(values[2:]) == [np.float32(end_factor)] * 4


@pytest.mark.parametrize("kind", [Constant, Linear, Cosine, Rsqrt, Piecewise])
def test_warmup_of_one_step_is_a_factor_of_exactly_one_and_a_shift(kind):
  schedule = schedules.resolve(kind(), 50)
  behind = factors(schedule.model_copy(update={"warmup_steps": 1}), list(range(60)))
  assert behind[0] == 1
  np.testing.assert_array_equal(behind[1:], factors(schedule, list(range(59))))


@pytest.mark.parametrize(
  ("one", "other"),
  [
    (Constant(), Constant(warmup_steps=10)),
    (Linear(decay_steps=9), Linear(warmup_steps=5, constant_steps=3, decay_steps=20, end_factor=0.2)),
    (Cosine(decay_steps=9), Cosine(warmup_steps=5, decay_steps=20, end_factor=0.2)),
    (Rsqrt(), Rsqrt(warmup_steps=5, timescale_steps=2)),
    (Piecewise(boundaries=(3,), factors=(0.1,)), Piecewise(warmup_steps=5, boundaries=(4,), factors=(0.2,))),
  ],
  ids=lambda schedule: schedule.name,
)
def test_new_lengths_need_no_new_program(one, other):
  traces = []

  @jax.jit
  def evaluate(settings, step):
    traces.append(one.name)
    return schedules.factor(hollow(one), settings, step)

  for schedule in (one, other):
    assert evaluate(traced_values(schedule), jnp.int32(6)) == pytest.approx(formula(schedule, 6), rel=5e-7)
  assert len(traces) == 1


def test_resolve_makes_the_decay_explicit_and_changes_nothing_else():
  assert schedules.resolve(Linear(), 100) == Linear(decay_steps=100)
  assert schedules.resolve(Linear(warmup_steps=10, constant_steps=30), 100).decay_steps == 60  # pyright: ignore
  assert schedules.resolve(Cosine(warmup_steps=10, end_factor=0.1), 100).decay_steps == 90  # pyright: ignore
  assert schedules.resolve(Cosine(warmup_steps=100), 100).decay_steps == 1  # pyright: ignore
  for explicit in (Constant(), Rsqrt(), Piecewise(boundaries=(3,), factors=(0.1,)), Linear(decay_steps=5)):
    assert schedules.resolve(explicit, 100) is explicit


def test_unresolved_schedule_is_refused_with_the_remedy():
  with pytest.raises(ValueError, match=r"schedule\.decay_steps.*resolve"):
    schedules.factor(Cosine(), {"warmup_steps": jnp.int32(0)}, jnp.int32(0))


@pytest.mark.parametrize(
  "schedule",
  [Constant(), Linear(), Linear(constant_steps=4000), Cosine(end_factor=0.1), Rsqrt(timescale_steps=100)],
  ids=repr,
)
def test_prepended_warmup_lengthens_the_run_and_leaves_the_schedule_behind_it_unchanged(schedule):
  warmed, num_steps = schedules.prepend_warmup(schedule, 10_000, 1_000)
  assert num_steps == 11_000
  values = factors(warmed, list(range(num_steps)))
  np.testing.assert_array_equal(values[1_000:], factors(schedules.resolve(schedule, 10_000), list(range(10_000))))
  np.testing.assert_allclose(values[:1_000], np.arange(1, 1_001) / 1_000, rtol=2e-7)


def test_second_warmup_is_refused():
  with pytest.raises(ValueError, match=r"schedule\.warmup_steps = 5: .* already"):
    schedules.prepend_warmup(Cosine(warmup_steps=5), 100, 10)
  with pytest.raises(ValueError, match="at least 1"):
    schedules.prepend_warmup(Cosine(), 100, 0)


@pytest.mark.parametrize(
  ("schedule", "words"),
  [
    (Constant(warmup_steps=101), [r"schedule.warmup_steps = 101", "100"]),
    (Linear(warmup_steps=50, constant_steps=60), ["schedule.constant_steps = 60", "schedule.decay_steps"]),
    (Piecewise(boundaries=(3, 3), factors=(0.5, 0.1)), ["schedule.boundaries = [3, 3]"]),
    (Piecewise(boundaries=(9, 3), factors=(0.5, 0.1)), ["schedule.boundaries = [9, 3]"]),
    (Piecewise(boundaries=(3, 9), factors=(0.5,)), ["schedule.factors has 1", "schedule.boundaries has 2"]),
  ],
)
def test_problem_names_the_field_and_the_limit(schedule, words):
  (problem,) = schedules.problems(schedule, 100)
  assert all(word in problem for word in words)


def test_all_problems_are_reported_at_once():
  assert len(schedules.problems(Piecewise(warmup_steps=101, boundaries=(9, 3), factors=()), 100)) == 3


@pytest.mark.parametrize(
  "schedule",
  [
    Constant(warmup_steps=100),
    Linear(constant_steps=90, decay_steps=90),
    Cosine(warmup_steps=10, decay_steps=1000),
    Piecewise(boundaries=(10, 500), factors=(0.1, 0.01)),
  ],
  ids=repr,
)
def test_schedule_may_reach_beyond_the_end_of_the_run(schedule):
  assert schedules.problems(schedule, 100) == []


def test_every_schedule_is_registered_and_chosen_by_its_name():
  *union, plugin = (get_args(one)[0] for one in get_args(get_args(schedules.ScheduleConfig)[0]))
  assert plugin is schedules.PluginSchedule
  assert [kind().name for kind in union] == list(schedules.SHAPES)
  adapter = pydantic.TypeAdapter(schedules.ScheduleConfig)
  for kind in union:
    assert type(adapter.validate_python({"name": kind().name})) is kind


@pytest.mark.parametrize(
  "make",
  [
    lambda: Constant(warmup_steps=-1),
    lambda: Linear(decay_steps=0),
    lambda: Cosine(end_factor=1.5),
    lambda: Rsqrt(timescale_steps=0),
    lambda: Piecewise(boundaries=(0,), factors=(0.1,)),
    lambda: Constant(warmup_steps=2**31),
  ],
)
def test_settings_out_of_range_are_refused(make):
  with pytest.raises(pydantic.ValidationError):
    make()

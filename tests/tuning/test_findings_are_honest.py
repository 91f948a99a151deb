"""Findings about points propose spaces that can be searched, and say so where nothing can be told."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import planted
import planted_points
import pytest
from planted import World
from planted_points import FIVE, quick

from trialbook.tuning import Minimize, StudyResults
from trialbook.tuning.findings import boundary, importance, infeasible, stopping, variance
from trialbook.tuning.findings.statistics import expansion, seed_noise
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, ReverseLog, Scale

SIDE = Hyperparameter(name="side", path="side", scale=Linear(0.0, 1.0), role="nuisance")


def study(scale: Scale, worth: Callable[[float], float], bad: Callable[[Any], bool] = lambda value: False, count=48):
  """Of one hyperparameter `x` whose places are worth that, and one beside it that matters a little."""
  one = Hyperparameter(name="x", path="x", scale=scale, role="nuisance")
  rng = np.random.default_rng(0)
  trials = []
  for number in range(count):
    values = {"x": scale.at((number + 0.5) / count), "side": float(rng.random())}
    if bad(values["x"]):
      trials.append(planted.trial(number, values, {}, state="infeasible"))
      continue
    value = worth(scale.unit(values["x"])) + 0.1 * (values["side"] - 0.5) ** 2
    trials.append(planted.trial(number, values, {"m": ([1], [value])}))
  return planted.results(trials, (one, SIDE), Minimize("m"))


def retrained(groups: Sequence[tuple[float, Sequence[float]]], infeasible_first: bool = False) -> StudyResults:
  """Points at a place, with what each retrain of it was worth."""
  trials = [planted.trial(0, {"side": groups[0][0], "seed": 9}, {}, state="infeasible")] if infeasible_first else []
  for place, values in groups:
    for seed, value in enumerate(values):
      trials.append(planted.trial(len(trials), {"side": place, "seed": seed}, {"m": ([1], [value])}))
  seeds = Hyperparameter(name="seed", path="seed", scale=Integer(0, 9), role="nuisance")
  return planted.results(trials, (SIDE, seeds), Minimize("m"))


@pytest.mark.parametrize(
  ("scale", "bad", "text", "left"),
  [
    (Integer(1, 8), lambda x: x <= 4, "x up to 4", Integer(5, 8)),
    (Integer(1, 8), lambda x: x >= 6, "x from 6 on", Integer(1, 5)),
    (Discrete((8, 16, 32, 64, 128)), lambda x: x >= 64, "x from 64 on", Discrete((8, 16, 32))),
    (Discrete((8, 16, 32, 64, 128)), lambda x: x <= 16, "x up to 16", Discrete((32, 64, 128))),
    (Discrete((8, 16, 32)), lambda x: x >= 16, "x from 16 on", None),
    (ReverseLog(0.9, 0.9999), lambda x: x > 0.9993, "x above 1 - 0.00075", ReverseLog(0.9, 0.99925)),
    (Linear(100.0, 110.0), lambda x: x > 106, "x above 106", Linear(100.0, 106.0)),
    (Log(1e-4, 1.0), lambda x: x > 0.1, "x above 0.1", Log(1e-4, 0.1)),
  ],
)
def test_what_is_infeasible_is_left_out_and_nothing_else(scale, bad, text, left):
  (found,) = infeasible.find(study(scale, lambda unit: 0.1 + (unit - 0.5) ** 2, bad))
  assert found.title.endswith(f"most of them at {text}")
  if left is None:
    assert found.space is None
    return
  assert found.space is not None
  new = Hyperparameter.from_json("x", found.space["x"]).scale
  assert new.problems() == []
  if isinstance(left, Integer | Discrete):
    assert new == left
  else:
    assert (new.min, new.max) == pytest.approx((left.min, left.max), rel=1e-3)  # pyright: ignore


@pytest.mark.parametrize(
  "scale",
  [Log(0.1, 0.13), Log(1e-3, 1.25e-3), Linear(100.0, 110.0), Linear(1000.0, 1100.0), ReverseLog(0.9, 0.9999)],
)
def test_a_narrow_scale_is_expanded_by_a_share_of_its_width(scale):
  one = Hyperparameter(name="x", path="x", scale=scale, role="nuisance")
  for upper in (True, False):
    new = expansion.expanded(one, upper, 0.25)
    place = scale.unit(new.max) - 1 if upper else -scale.unit(new.min)
    assert 0.125 <= place <= 0.5
  (found,) = boundary.find(study(scale, lambda unit: 0.1 + 0.3 * (1.3 - unit) ** 2))
  assert (found.severity, found.subject) == ("warning", "x")


def test_a_bound_close_to_one_is_written_as_what_it_lacks():
  (found,) = boundary.find(study(ReverseLog(0.9, 0.9999), lambda unit: 0.1 + 0.3 * (1.3 - unit) ** 2))
  assert found.title == "The best trials lie at the upper edge of x (1 - 0.0001)"
  assert found.action is not None
  assert "to 1 - 6e-06" in found.action


@pytest.mark.parametrize("scale", [Discrete((0.01, 0.1)), Integer(1, 2)])
def test_two_values_have_no_edge(scale):
  found = boundary.find(study(scale, lambda unit: 1 - unit))
  assert [(one.severity, one.title) for one in found][:1] == [
    ("cannot_tell", "x has two values: there is no edge to test")
  ]
  assert not any(one.title.endswith("an edge of x") for one in found)


@pytest.mark.parametrize("seed", range(3))
def test_a_test_that_could_not_have_told_does_not_say_that_nothing_is_there(seed):
  def surface(units: Mapping[str, float], _: np.random.Generator) -> float:
    return 0.08 + sum(0.05 * (1.5 - unit) ** 2 for unit in units.values())

  (found,) = boundary.find(quick(seed, World(space=FIVE, surface=surface, trials=16, retrain=0.0, jitter=0.0)))
  assert found.severity == "cannot_tell"
  # Ten coefficients, the constant and six points to spare.
  assert (found.numbers["more"], found.action) == (
    1,
    "Run trials at 1 more point at least (retrains count once).",
  )


def sloping(scale: Scale, falls: Callable[[float], float], size: float) -> StudyResults:
  """Costs along a line, every second one above it by `size` and the others below: a known slope and a known error."""
  return study(scale, lambda unit: falls(unit) + size * (-1) ** int(48 * unit))


def test_a_side_towards_which_points_improve_without_significance_is_not_told():
  (found,) = boundary.find(sloping(Log(1e-4, 1.0), lambda unit: 0.1 + 0.05 * (1 - unit), 0.015))
  assert (found.severity, found.subject) == ("cannot_tell", "x")
  assert found.title == "Whether the upper edge of x limits the best points cannot be told from 48 points with a value"
  assert found.numbers["p"] == {"x above": pytest.approx(0.08, abs=0.01)}
  more = found.numbers["more"]
  # Of four sides each is tested at 0.0125, where t is 2.3; so many more points bring 1.4 there.
  assert more == pytest.approx(48 * ((2.32 / 1.42) ** 2 - 1), abs=3)
  assert found.action == f"Run trials at {more} more points at least (retrains count once)."


@pytest.mark.parametrize(
  ("scale", "falls", "size"),
  [
    # More than four times as many points would be needed.
    (Log(1e-4, 1.0), lambda unit: 0.1 + 0.05 * (1 - unit), 0.02),
    # By the least expansion it falls by 0.012, of a loss of 8.
    (Log(1e-4, 1.0), lambda unit: 8 + 0.05 * (1 - unit), 0.015),
    # The lower edge is the end of what it can be.
    (Linear(0.0, 1.0), lambda unit: 0.1 + 0.05 * unit, 0.015),
    (Integer(1, 48), lambda unit: 0.1 + 0.05 * unit, 0.015),
  ],
)
def test_what_more_trials_would_not_tell_or_nobody_could_use_is_not_asked(scale, falls, size):
  assert [one.severity for one in boundary.find(sloping(scale, falls, size))] == ["ok"]


@pytest.mark.parametrize(("bad", "size"), [(lambda number: number % 4 < 2, 0.012), (lambda _: True, 0.015)])
def test_a_side_that_ends_where_trials_are_infeasible_is_not_asked_about(bad, size):
  scale = Log(1e-4, 1.0)

  def infeasible_at(value: float) -> bool:
    number = int(48 * scale.unit(value))
    return number >= 40 and bad(number)

  falls = lambda unit: 0.1 + 0.05 * (1 - unit) + size * (-1) ** int(48 * unit)  # noqa: E731
  assert [one.severity for one in boundary.find(study(scale, falls, infeasible_at))] == ["ok"]


def test_bounds_that_are_not_known_are_asked_for():
  one = Hyperparameter(name="x", path="x", scale=Log(1e-4, 1.0), role="nuisance", inferred=True)
  trials = [planted.trial(k, {"x": 10 ** (-k / 10)}, {"m": ([1], [0.1 + k])}) for k in range(20)]
  (found,) = boundary.find(planted.results(trials, (one,), Minimize("m")))
  assert (found.severity, found.action) == (
    "cannot_tell",
    "Give the min, max and scale of each: in study.json for tables, else with import --space=FILE.",
  )


def test_retrains_of_too_few_points_do_not_count():
  (found,) = [one for one in boundary.find(retrained([(0.2 * k, [0.1, 0.2, 0.3]) for k in range(5)])) if one.action]
  assert found.title == "Too few points to tell whether the best lie at an edge of side"
  assert "8 points with a value (retrains count once)" in found.why


def test_a_p_that_no_test_can_be_trusted_to_is_said_as_a_bound():
  (found,) = boundary.find(study(Log(1e-4, 1.0), lambda unit: 0.1 + 0.3 * (1.3 - unit) ** 2))
  assert found.numbers["p"] < 1e-12
  assert "(p < 1e-6, tested on all sides)" in found.why


def test_a_feature_that_helps_at_its_best_strength_is_not_removed():
  for seed in range(4):
    found = importance.find(planted_points.feature(seed, -0.05))
    assert not any("does not help" in one.title for one in found)


def test_an_effect_of_a_fifth_of_the_best_error_is_not_said_to_hardly_matter():
  rng = np.random.default_rng(0)
  # Of a wide space, a fifth of the way to the median point is more than the best error.
  results = study(Log(1e-4, 1.0), lambda unit: 0.1 + 3 * (unit - 0.5) ** 2 + 1e-4 * rng.normal())
  trials = [
    dataclasses.replace(
      t,
      log=dataclasses.replace(t.log, curves={"m": [(1, t.objective + 0.018 * t.values["side"])]}),  # pyright: ignore
    )
    for t in results.trials
  ]
  space = tuple(results.space.values())
  found = [one for one in importance.find(planted.results(trials, space, Minimize("m"))) if one.subject == "side"]
  assert [one.title.partition(":")[0] for one in found] == ["side matters less than the others"]
  assert "Fix it next time" not in (found[0].action or "")


def test_points_that_lie_within_their_own_margins_are_not_told_apart_wherever_they_stand():
  errors = np.array([-1, 1, -1, 1, 0]) * 0.01
  groups = [(0.0, 0.1 + errors), (0.1, 0.12 + errors), (0.2, [0.121]), (0.3, [0.122]), (0.4, [0.3]), (0.5, [0.4])]
  _, apart = variance.find(retrained(groups, infeasible_first=True))
  assert (apart.severity, apart.numbers["not_told_apart"]) == ("note", 3)
  # Trial 0 gave nothing.
  assert apart.trials == (1, 11, 12)


def test_the_noise_of_a_bad_point_is_not_that_of_good_ones():
  results = retrained([*((0.01 * k, [0.1 + 0.001 * k]) for k in range(30)), (0.9, [0.9, 0.2, 0.6])])
  assert seed_noise.noise_of(results) is None
  assert [one.severity for one in variance.find(results)] == ["cannot_tell", "cannot_tell"]
  assert "only bad points" in variance.find(results)[0].title


def test_equal_negative_values_keep_their_sign():
  equal = retrained([(0.02 * k, [-0.5]) for k in range(40)])
  (found,) = stopping.find(equal)
  assert found.why == "They all have -0.5."


def test_a_categorical_hyperparameter_may_interact_with_a_number():
  # In this study a product of both enters the fit.
  study = planted_points.CONTROLS["two equal settings, a categorical nuisance"](8)
  assert [one.severity for one in boundary.find(study)] == ["ok"]

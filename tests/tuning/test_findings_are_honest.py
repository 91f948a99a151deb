"""Findings about points propose spaces that can be searched, and say so where nothing can be told."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from trialbook.tuning import Minimize, StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted, planted_points
from trialbook.tuning.advice_benchmark.planted import World
from trialbook.tuning.advice_benchmark.planted_points import FIVE, quick
from trialbook.tuning.advice_benchmark.point_plants import CONTROLS
from trialbook.tuning.findings import boundary, density, fixed, importance, infeasible, stopping, variance
from trialbook.tuning.findings.left_out import left_out
from trialbook.tuning.findings.statistics import expansion, seed_noise
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, ReverseLog, Scale

CASES = pathlib.Path(__file__).parent / "cases"
SIDE = Hyperparameter(name="side", path="side", scale=Linear(0.0, 1.0), role="nuisance")


def study(
  scale: Scale,
  worth: Callable[[float], float],
  bad: Callable[[Any], bool] = lambda value: False,
  count: int = 48,
  metric: str = "m",
) -> StudyResults:
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
    trials.append(planted.trial(number, values, {metric: ([1], [value])}))
  return planted.results(trials, (one, SIDE), Minimize(metric))


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
  assert found.title.endswith(f"all of them with {text}")
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
  assert found.title == "The best points lie at the upper edge of x (1 - 0.0001)"
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
    "To decide whether the best values lie at an edge, try at least 1 more point. Retrains of a point count once.",
  )


def sloping(scale: Scale, falls: Callable[[float], float], size: float) -> StudyResults:
  """Costs along a line, every second one above it by `size` and the others below: a known slope and a known error."""
  return study(scale, lambda unit: falls(unit) + size * (-1) ** int(48 * unit), metric="loss")


def test_a_side_towards_which_points_improve_without_significance_is_not_told():
  (found,) = boundary.find(sloping(Log(1e-4, 0.1), lambda unit: 0.1 + 0.05 * (1 - unit), 0.015))
  assert (found.severity, found.subject) == ("cannot_tell", "x")
  assert found.title == "48 points with a value are too few to say whether the upper edge of x limits the best points"
  assert found.numbers["p"] == {"x above": pytest.approx(0.08, abs=0.01)}
  more = found.numbers["more"]
  # Of four sides each is tested at 0.0125, where t is 2.3; so many more points bring 1.4 there.
  assert more == pytest.approx(48 * ((2.32 / 1.42) ** 2 - 1), abs=3)
  said = f"To decide whether the best values lie at an edge, try at least {more} more points."
  assert found.action == f"{said} Retrains of a point count once."


@pytest.mark.parametrize(
  ("scale", "falls", "size"),
  [
    # More than four times as many points would be needed.
    (Log(1e-4, 0.1), lambda unit: 0.1 + 0.05 * (1 - unit), 0.02),
    # The lower edge is the end of what it can be.
    (Linear(0.0, 1.0), lambda unit: 0.1 + 0.05 * unit, 0.015),
    (Integer(1, 48), lambda unit: 0.1 + 0.05 * unit, 0.015),
  ],
)
def test_what_more_trials_would_not_tell_or_nobody_could_use_is_not_asked(scale, falls, size):
  assert [one.severity for one in boundary.find(sloping(scale, falls, size))] == ["ok"]


@pytest.mark.parametrize(("bad", "size"), [(lambda number: number % 4 < 2, 0.012), (lambda _: True, 0.015)])
def test_a_side_that_ends_where_trials_are_infeasible_is_not_asked_about(bad, size):
  scale = Log(1e-4, 0.1)

  def infeasible_at(value: float) -> bool:
    number = int(48 * scale.unit(value))
    return number >= 40 and bad(number)

  falls = lambda unit: 0.1 + 0.05 * (1 - unit) + size * (-1) ** int(48 * unit)  # noqa: E731
  assert [one.severity for one in boundary.find(study(scale, falls, infeasible_at))] == ["ok"]


def test_where_bounds_are_not_known_the_values_that_were_tried_are_named():
  one = Hyperparameter(name="x", path="x", scale=Log(1e-4, 0.1), role="nuisance", inferred=True)
  trials = [planted.trial(k, {"x": 10 ** (-1 - k / 7)}, {"m": ([1], [0.1 + 0.1 * k])}) for k in range(20)]
  (found,) = boundary.find(planted.results(trials, (one,), Minimize("m")))
  assert (found.severity, found.title) == (
    "warning",
    "The best points lie at the upper end of the tried values of x (0.1)",
  )


def test_retrains_of_too_few_points_do_not_count():
  (found,) = [one for one in boundary.find(retrained([(0.2 * k, [0.1, 0.2, 0.3]) for k in range(2)])) if one.action]
  assert found.title == "2 points with a value are too few to test whether the best lie at an edge of side"
  assert "Retrains of a point count once" in found.why
  assert found.numbers["more"] == 1


def test_a_p_that_no_test_can_be_trusted_to_is_said_as_a_bound():
  (found,) = boundary.find(study(Log(1e-4, 1.0), lambda unit: 0.1 + 0.3 * (1.3 - unit) ** 2))
  assert found.numbers["p"] < 1e-12
  assert "(p < 1e-6, corrected for all edges)" in found.why


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
  assert [one.title.partition(":")[0] for one in found] == ["side has a small but clear effect"]
  assert "Fix it next time" not in (found[0].action or "")


def test_points_that_lie_within_their_own_margins_are_not_told_apart_wherever_they_stand():
  errors = np.array([-1, 1, -1, 1, 0]) * 0.01
  groups = [(0.0, 0.1 + errors), (0.1, 0.12 + errors), (0.2, [0.121]), (0.3, [0.122]), (0.4, [0.3]), (0.5, [0.4])]
  _, apart = variance.find(retrained(groups, infeasible_first=True))
  assert (apart.severity, apart.numbers["ties"]) == ("note", 3)
  # Trial 0 gave nothing.
  assert apart.trials == (1, 11, 12)


def test_the_noise_of_a_bad_point_is_not_that_of_good_ones():
  results = retrained([*((0.01 * k, [0.1 + 0.001 * k]) for k in range(30)), (0.9, [0.9, 0.2, 0.6])])
  assert seed_noise.noise_of(results) is None
  assert [one.severity for one in variance.find(results)] == ["cannot_tell", "cannot_tell"]
  assert "only bad points" in variance.find(results)[0].title


def test_equal_negative_values_keep_their_sign():
  equal = retrained([(float(place), [-0.5]) for place in np.random.default_rng(0).random(40)])
  (found,) = stopping.find(equal)
  assert found.why == "They all have -0.5."


def test_a_categorical_hyperparameter_may_interact_with_a_number():
  # In this study a product of both enters the fit.
  study = CONTROLS["two equal settings, a categorical nuisance"](8)
  assert [one.severity for one in boundary.find(study)] == ["ok"]


def test_an_effect_that_is_small_beside_the_range_but_above_the_noise_is_not_fixed(tmp_path):
  results = read_results(import_study("csv", CASES / "ce_loss_hardly_matters", tmp_path / "study")[0])
  found = {one.subject: one for one in importance.find(results) if one.severity == "note"}
  assert set(found) == {"weight_decay", "dropout_rate"}
  for one in found.values():
    assert "hardly matters" not in one.title
    assert "has a small but clear effect" in one.title
    assert one.numbers["low"] > 2 * one.numbers["noise"]
    assert not (one.action or "").startswith("Fix")
    assert "do not fix" in (one.action or "")


@pytest.mark.parametrize(("deviation", "what"), [(0.0002, "small but clear"), (0.02, "hardly matters")])
def test_what_hardly_matters_is_below_the_noise_too(deviation, what):
  rng = np.random.default_rng(0)
  one = Hyperparameter(name="x", path="x", scale=Log(1e-4, 1.0), role="nuisance")
  seeds = Hyperparameter(name="seed", path="seed", scale=Integer(0, 9), role="nuisance")
  trials = []
  for place in range(60):
    unit, side = (place + 0.5) / 60, float(rng.random())
    for seed in range(3):
      value = 0.1 + 3 * (unit - 0.5) ** 2 + 0.003 * side + rng.normal(0, deviation)
      values = {"x": one.scale.at(unit), "side": side, "seed": seed}
      trials.append(planted.trial(len(trials), values, {"error": ([1], [value])}))
  results = planted.results(trials, (one, SIDE, seeds), Minimize("error"))
  (found,) = [each for each in importance.find(results) if each.subject == "side"]
  assert what in found.title


def pruned(share: float, count: int = 60) -> StudyResults:
  """A study in which the worst share of the points was ended early."""
  drawn = quick(0, World(trials=count, surface=planted_points.shape(0, planted.SPACE)))
  worst = sorted(drawn.trials, key=lambda trial: trial.objective or 0.0)[round((1 - share) * count) :]
  numbers = {trial.trial for trial in worst}
  trials = [
    dataclasses.replace(trial, recorded=("pruned", "pruned at step 3")) if trial.trial in numbers else trial
    for trial in drawn.trials
  ]
  return planted.results(trials, planted.SPACE)


def test_points_that_were_ended_early_count_as_tried_and_are_said():
  results = pruned(0.7)
  (dense,), (stop,) = density.find(results), stopping.find(results)
  assert (dense.numbers["points"], dense.numbers["tried"]) == (18, 60)
  assert "42 trials without a value (42 ended early as worse than others)" in dense.why
  # They are worse than the best, so that the gain of as many points again is about that of the whole study.
  assert stop.numbers["points"] == 60
  assert stop.numbers["gain"] == pytest.approx(stopping.find(pruned(0.0))[0].numbers["gain"], rel=0.6)
  assert "42 points ended early" in stop.why
  for module in (boundary, density, stopping, importance, variance):
    for one in module.find(results):
      assert one.severity not in ("warning", "problem"), one.title


def test_of_survivors_alone_no_hyperparameter_is_said_to_matter_little():
  found = importance.find(pruned(0.5))
  assert "30 points ended early as worse than others and are not in the fit" in found[0].why
  assert not any("matter" in one.title and one.severity == "note" for one in found)


def test_where_points_were_ended_early_at_an_edge_it_is_not_expanded():
  worth = lambda unit: 0.1 + 0.3 * (1.3 - unit) ** 2  # noqa: E731
  results = study(Log(1e-4, 0.1), worth, metric="error")
  assert [one.severity for one in boundary.find(results)] == ["warning"]
  changed = [dataclasses.replace(t, recorded=("pruned", None)) if t.values["x"] > 0.02 else t for t in results.trials]
  found = boundary.find(planted.results(changed, tuple(results.space.values()), Minimize("error")))
  assert not [one for one in found if one.space]


def test_trials_without_a_value_are_named_by_what_became_of_them():
  drawn = quick(0, World(trials=6, surface=planted_points.shape(0, planted.SPACE)))
  states = ("pruned", "stopped", "failed", "running", "complete", "complete")
  trials = [dataclasses.replace(t, recorded=(s, None)) for t, s in zip(drawn.trials, states, strict=True)]
  assert left_out(planted.results(trials, planted.SPACE)) == (
    " Not counted: 4 trials without a value (1 ended early as worse than others, 1 interrupted, 1 failed, 1 running)."
  )
  assert left_out(drawn) == ""


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_too_few_points_are_said_in_the_same_words_whatever_their_number(count):
  results = quick(0, World(trials=count, surface=planted_points.shape(0, planted.SPACE)))
  (found,) = density.find(results)
  if count == 1:
    assert (found.severity, found.title) == ("cannot_tell", "Only one point has a value: it shows no good region")
    return
  assert (found.severity, found.numbers["more"]) == ("warning", 12 - count)
  assert found.title == f"{count} points for 3 hyperparameters are too few to show where the best values are"


def test_the_best_of_a_few_drawn_points_is_often_alone_and_of_many_it_is_not():
  one = Hyperparameter(name="x", path="x", scale=Log(1e-4, 0.1), role="nuisance")

  def drawn(costs: Sequence[float]) -> StudyResults:
    rng = np.random.default_rng(0)
    trials = [planted.trial(k, {"x": 10 ** -rng.uniform(1, 4)}, {"error": ([1], [c])}) for k, c in enumerate(costs)]
    return planted.results(trials, (one,), Minimize("error"))

  few = [0.1, 0.18, 0.25, 0.3, 0.35]
  assert [found.severity for found in density.find(drawn(few))] == ["ok"]
  many = [0.1, *np.linspace(0.25, 0.35, 20)]
  assert [found.severity for found in density.find(drawn(many))] == ["warning"]


def test_the_best_point_is_that_with_the_best_mean_of_its_retrains():
  # The best trial is a lucky one of another point.
  results = retrained([(0.2, [0.1, 0.101, 0.102]), (0.4, [0.08, 0.2, 0.21]), (0.6, [0.3, 0.31, 0.3])])
  point = variance.best_point(results)
  assert point is not None
  assert point.values["side"] == 0.2
  assert results.best is not None
  assert results.best.values["side"] == 0.2
  numbers = variance.find(results)[1].numbers
  assert (numbers["best"], numbers["trial"]) == (pytest.approx(0.101), 0)


def test_a_search_that_learns_is_extrapolated_from_its_later_half():
  rng = np.random.default_rng(0)
  costs = 0.1 + 0.3 * np.exp(-np.arange(40) / 8) + rng.gamma(2.0, 0.005, 40)
  groups = [(float(place), [cost]) for place, cost in zip(rng.random(40), costs, strict=True)]
  (found,) = stopping.find(retrained(groups))
  assert "the search learns from results" in found.why
  shuffled = [(place, [cost]) for (place, _), cost in zip(groups, rng.permutation(costs), strict=True)]
  (other,) = stopping.find(retrained(shuffled))
  assert "learns" not in other.why


def test_a_hyperparameter_that_only_some_trials_record_is_not_called_fixed():
  trials = [
    planted.trial(k, {"side": 0.1 * k, "kept": 3, **({"some": 7} if k < 2 else {})}, {"m": ([1], [0.1])})
    for k in range(6)
  ]
  kept, some = (
    Hyperparameter(name=name, path=name, scale=Discrete((value,)), role="fixed")
    for name, value in (("kept", 3), ("some", 7))
  )
  (found,) = fixed.find(planted.results(trials, (SIDE, kept, some), Minimize("m")))
  assert found.numbers == {"kept": 3}
  assert "some in 2 of 6 trials" in found.why


@pytest.mark.parametrize("trials", [2, 5, 10, 24])
def test_whatever_asks_for_more_points_says_how_many_in_a_number_of_its_own(trials):
  results = quick(1, World(space=FIVE, surface=planted_points.shape(1, FIVE), trials=trials))
  for module in (boundary, density, stopping, importance):
    for one in module.find(results):
      if "more point" in (one.action or "") and one.severity != "ok":
        assert isinstance(one.numbers["more"], int), one.title
        assert f"{one.numbers['more']} more point" in (one.action or "")

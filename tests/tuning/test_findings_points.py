"""Findings about points say what was planted, say nothing else, and survive any study."""

import dataclasses
import itertools
import json
import time

import numpy as np
import pytest
import scipy.stats

from trialbook.tuning import Halton, Maximize, StudyResults
from trialbook.tuning.advice_benchmark import planted, planted_points, plants, point_plants
from trialbook.tuning.advice_benchmark.planted import SPACE, World
from trialbook.tuning.advice_benchmark.planted_points import RATE, quick, shape
from trialbook.tuning.advice_benchmark.point_plants import CONTROLS, PLANTS
from trialbook.tuning.findings import (
  SEVERITIES,
  boundary,
  comparison,
  density,
  fixed,
  importance,
  infeasible,
  stopping,
  variance,
)
from trialbook.tuning.findings.statistics import expansion, extreme_value, response_surface, seed_noise, separation
from trialbook.tuning.findings.statistics.points import TriedPoint, points_of, searched, units_of
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, ReverseLog

MODULES = (infeasible, boundary, density, stopping, comparison, variance, importance, fixed)
SEEDS = range(50)


def worths(trials) -> list[float]:
  return [trial.objective for trial in trials if trial.objective is not None]


def all_findings(results: StudyResults):
  return [finding for module in MODULES for finding in module.find(results)]


@pytest.mark.evidence
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "_"))
def test_what_is_planted_is_found_the_more_surely_the_larger_it_is(plant):
  rates = [plants.rate(plant, size, SEEDS) for size in plant.sizes]
  assert rates[0] <= 0.25 or plant.name == "winner by luck"
  # Within what 50 instances leave uncertain.
  assert all(later >= earlier - 0.15 for earlier, later in itertools.pairwise(rates)), rates
  assert all(rate >= 0.84 for rate in rates[plant.sizes.index(plant.reached) :]), rates


@pytest.mark.evidence
@pytest.mark.parametrize("control", CONTROLS)
def test_healthy_studies_raise_no_alarm(control):
  rates = point_plants.false_alarms(control, SEEDS)
  assert all(rate <= 0.05 for rate in rates.values()), rates


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name.replace(" ", "_"))
def test_a_large_effect_is_found_in_most_of_a_few_studies(plant):
  found = [plant.is_seen(seed, plant.sizes[-1]) for seed in range(4)]
  assert sum(found) >= 3


def test_a_few_healthy_studies_are_silent():
  for control in CONTROLS.values():
    assert not point_plants.alarms(control(3))


@pytest.mark.evidence
@pytest.mark.parametrize(("trials", "retrain"), [(48, 0.0015), (24, 0.0015), (48, 0.01)])
def test_what_doubling_gains_is_in_the_interval_as_often_as_it_says(trials, retrain):
  gains, means, highs = [], [], []
  for seed in range(100):
    world = World(surface=shape(seed, SPACE), trials=trials, retrain=retrain)
    first, second = quick(seed, world), quick(seed, world, skip=trials)
    numbers = stopping.find(first)[0].numbers
    best = [min(worths(results.trials)) for results in (first, second)]
    gains.append(max(0.0, best[0] - best[1]))
    means.append(numbers["gain"])
    highs.append(numbers["high"])
  covered = float(np.mean(np.array(gains) <= np.array(highs) + 1e-12))
  # The upper end has 95%: of 100 studies at least 89, in 99 of 100 cases.
  assert covered >= 0.89
  # Extrapolation errs to the side of going on, and by less than a factor of three.
  assert 0.6 * np.mean(gains) <= np.mean(means) <= 3 * np.mean(gains) + 1e-4


def test_the_chance_that_as_many_new_trials_contain_a_better_one_is_a_half():
  rng = np.random.default_rng(1)
  fits = [extreme_value.fit_extreme_value(rng.weibull(1.5, 40).tolist()) for _ in range(50)]
  chances = [fit.exceeds(np.zeros(1), 40)[0] for fit in fits if fit is not None]
  assert len(chances) == 50
  assert np.mean(chances) == pytest.approx(0.5, abs=0.06)


def test_the_gain_is_that_of_drawn_trials_of_a_known_tail():
  # One shape and one end point alone: the expectation by Monte Carlo.
  found = extreme_value.fit_extreme_value(np.linspace(0.1, 0.5, 41).tolist())
  assert found is not None
  weights = np.zeros_like(found.weights)
  weights[5, 12] = 1.0
  found = dataclasses.replace(found, weights=weights)
  rng = np.random.default_rng(0)
  draws = 200_000
  share = rng.beta(found.count + 1, found.total - found.count, draws)
  inside = rng.binomial(30, share)
  # The best of several: the power of a uniform number.
  uniform = 1 - rng.random(draws) ** (1 / np.maximum(inside, 1))
  width = found.excess * (1 + extreme_value.BEYOND[12])
  cost = found.threshold - width * (1 - uniform ** (1 / extreme_value.SHAPES[5]))
  gains = np.where(inside > 0, np.maximum(found.best - cost, 0), 0)
  mean, low, high = found.gain(30)
  assert mean == pytest.approx(gains.mean(), rel=0.05)
  assert (low, high) == (
    pytest.approx(np.quantile(gains, 0.05), abs=1e-3),
    pytest.approx(np.quantile(gains, 0.95), rel=0.05),
  )


def test_the_medians_of_a_tail_are_those_of_its_formula():
  found = extreme_value.fit_extreme_value(np.linspace(0.1, 0.5, 41).tolist(), infeasible=5)
  assert found is not None
  weights = np.zeros_like(found.weights)
  weights[5, 12] = 1.0
  drawn = dataclasses.replace(found, weights=weights).medians(20, 20_000, np.random.default_rng(0))
  # The k-th root of a half of the trials cost more; fewer trials under the threshold make the median worse.
  for quantile in (0.1, 0.5, 0.9):
    share = scipy.stats.beta(found.count + 1, 46 - found.count).ppf(1 - quantile)
    inside = ((1 - 0.5 ** (1 / 20)) / share) ** (1 / extreme_value.SHAPES[5])
    expected = found.threshold - found.excess * (1 + extreme_value.BEYOND[12]) * (1 - inside)
    assert np.quantile(drawn, quantile) == pytest.approx(expected, rel=5e-3)


def test_the_cut_is_half_way_between_the_last_feasible_and_the_first_infeasible_place():
  one = Hyperparameter(name="x", path="x", scale=Linear(0.0, 10.0), role="nuisance")
  points = [
    TriedPoint({"x": float(x)}, (x,), (0.1,) if x < 7 else (), int(x >= 7)) for x in (0, 1, 2, 3, 4, 5, 7, 8, 9)
  ]
  cut = separation.separation(one, points, [not point.retrains for point in points])
  assert cut is not None
  assert (cut.unit, cut.value, cut.above) == (pytest.approx(0.6), pytest.approx(6.0), True)
  assert (cut.inside, cut.outside) == ((3, 3), (0, 6))
  # One way to choose 3 of 9 places, two sides, eight cuts.
  assert cut.p == pytest.approx(2 * 8 / 84)


def sobol_study(noise_of_trials: float = 0.0, mode: str = "min") -> tuple[StudyResults, dict[str, float]]:
  """An additive function with an interaction, and its total indices by hand."""
  rng = np.random.default_rng(0)
  a, b, c = 0.04, 0.02, 0.02

  def worth(units):
    x, y, z = (2 * units[one.name] - 1 for one in SPACE)
    # Over [-1, 1] these have variances a²/3, b² 4/45, c²/9.
    return 0.3 + a * x + b * y**2 + c * x * z + rng.normal(0, noise_of_trials)

  trials = []
  for number, values in enumerate(Halton(seed=1).points(list(SPACE), 0, 80)):
    value = worth({one.name: one.scale.unit(values[one.name]) for one in SPACE})
    trials.append(planted.trial(number, values, {"m": (np.array([1]), np.array([value if mode == "min" else -value]))}))
  parts = {"x": a**2 / 3, "y": 4 * b**2 / 45, "xz": c**2 / 9}
  whole = sum(parts.values())
  names = [one.name for one in SPACE]
  indices = {
    names[0]: (parts["x"] + parts["xz"]) / whole,
    names[1]: parts["y"] / whole,
    names[2]: parts["xz"] / whole,
  }
  objective = Maximize("m") if mode == "max" else planted.Objective("m", "min")
  return planted.results(trials, SPACE, objective), indices


@pytest.mark.parametrize("mode", ["min", "max"])
def test_importance_is_sobols_index_of_a_function_with_known_effects(mode):
  for deviation, tolerance in ((0.0, 1e-3), (0.004, 0.06)):
    results, expected = sobol_study(deviation, mode)
    shares = importance.find(results)[0].numbers["shares"]
    assert {name: share[0] for name, share in shares.items()} == pytest.approx(expected, abs=tolerance)
    assert all(low - 0.01 <= expected[name] <= high + 0.01 for name, (_, low, high) in shares.items())
  pair = next(one for one in importance.find(results) if "interact" in one.title)
  assert {pair.subject, pair.numbers["with"]} == {SPACE[0].name, SPACE[2].name}


def test_the_slope_of_the_surface_is_that_of_the_function():
  results, _ = sobol_study()
  found = response_surface.fit(points_of(results), searched(results))
  assert found is not None
  centre = found.centre[SPACE[2].name] / np.sqrt(3)
  for unit in (0.0, 0.4, 1.0):
    # d/du of a x + b y² + c x z, where x = 2u - 1.
    assert found.slope(SPACE[0].name, unit)[0] == pytest.approx(2 * (0.04 + 0.02 * centre), abs=1e-6)
    assert found.slope(SPACE[1].name, unit)[0] == pytest.approx(2 * 2 * 0.02 * (2 * unit - 1), abs=1e-6)


def test_wilsons_interval_and_the_cut_are_those_of_the_counts():
  results = quick(1, World(surface=shape(1, SPACE), diverges=lambda units, _: units[RATE] > 0.75))
  (found,) = infeasible.find(results)
  bad, total, z = found.numbers["infeasible"], 48, scipy.stats.norm.ppf(0.975)
  share = bad / total
  centre = (share + z**2 / 2 / total) / (1 + z**2 / total)
  half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / 4 / total**2)
  assert (found.numbers["low"], found.numbers["high"]) == (pytest.approx(centre - half), pytest.approx(centre + half))
  assert (found.subject, found.numbers["inside"], found.severity) == (RATE, [bad, bad], "warning")
  assert found.numbers["cut"] == pytest.approx(SPACE[0].scale.at(0.75), rel=0.5)
  new = Hyperparameter.from_json(RATE, found.space[RATE])  # pyright: ignore[reportOptionalSubscript]
  assert new.scale.min == 1e-4  # pyright: ignore[reportAttributeAccessIssue]
  assert new.scale.max == pytest.approx(found.numbers["cut"], rel=0.1)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
  ("scale", "upper", "expected"),
  [
    (Log(1e-4, 0.1), True, Log(1e-4, 0.6)),
    (Log(1e-4, 1.0), True, None),
    (Log(1e-4, 1.0), False, Log(1e-5, 1.0)),
    (Linear(0.0, 4.0), True, Linear(0.0, 5.0)),
    (Linear(0.0, 4.0), False, None),
    (Linear(1.0, 9.0), False, None),
    (Linear(2.0, 10.0), False, Linear(1.0, 10.0)),
    (ReverseLog(0.9, 0.999), True, ReverseLog(0.9, 0.9997)),
    (Integer(1, 8), True, Integer(1, 10)),
    (Integer(1, 8), False, None),
    (Integer(8, 128, log=True), False, Integer(4, 128, log=True)),
    (Discrete((8, 16, 32)), True, Discrete((8, 16, 32, 64))),
    (Discrete((1, 2, 3)), True, Discrete((1, 2, 3, 4))),
    (Discrete((1, 2, 3)), False, None),
  ],
)
def test_a_scale_is_expanded_by_a_quarter_at_least_and_not_beyond_what_it_can_be(scale, upper, expected):
  one = Hyperparameter(name="x", path="x", scale=scale, role="nuisance")
  assert expansion.expanded(one, upper, 0.25) == expected


def test_a_share_is_not_expanded_beyond_one():
  one = Hyperparameter(name="d", path="model.dropout_rate", scale=Linear(0.0, 0.9), role="nuisance")
  assert expansion.expanded(one, True, 0.25) == ReverseLog(0.0, 0.94)
  whole = dataclasses.replace(one, scale=Linear(0.0, 1.0))
  assert expansion.expanded(whole, True, 0.25) is None


def test_inferred_bounds_are_the_outermost_values_that_were_tried():
  results = planted_points.edge(0, 0.6)
  assert any(one.severity == "warning" for one in boundary.find(results))
  inferred = [dataclasses.replace(one, inferred=True) for one in SPACE]
  study = dataclasses.replace(results.study, hyperparameters={one.name: one.as_json() for one in inferred})
  (found,) = boundary.find(dataclasses.replace(results, study=study))
  assert (found.severity, found.subject) == ("warning", SPACE[0].name)
  assert "the upper end of the tried values" in found.title
  # What is proposed was not made up from the trials.
  assert not Hyperparameter.from_json(SPACE[0].name, found.space[SPACE[0].name]).inferred  # pyright: ignore


def retrained(deviation: float, points: int = 6, seeds: int = 5) -> StudyResults:
  rng = np.random.default_rng(7)
  trials = []
  for number in range(points * seeds):
    point = number % points
    value = 0.1 + 0.05 * point + rng.normal(0, deviation)
    values = {SPACE[0].name: 10 ** (-3 + point / 3)}
    trials.append(planted.trial(number, values, {"validation/error": (np.array([1]), np.array([value]))}))
  return planted.results(trials, SPACE[:1])


def test_trial_variance_is_pooled_over_the_better_half_of_the_retrained_points():
  results = retrained(0.003)
  groups = [worths(point) for point in results.points][:3]
  expected = np.sqrt(np.mean([np.var(group, ddof=1) for group in groups]))
  (trial, apart) = variance.find(results)
  assert trial.numbers["deviation"] == pytest.approx(expected)
  assert trial.numbers["freedom"] == 12
  ends = expected * np.sqrt(12 / scipy.stats.chi2.ppf([0.975, 0.025], 12))
  assert (trial.numbers["low"], trial.numbers["high"]) == pytest.approx(tuple(ends))
  assert (apart.severity, apart.numbers["ties"]) == ("ok", 1)
  # Both means are of five seeds.
  margin = scipy.stats.t.ppf(0.975, 12) * expected * np.sqrt(2 / 5)
  assert apart.numbers["margin"] == pytest.approx(margin)
  assert variance.find(retrained(0.05))[1].severity == "note"


def test_reruns_give_the_trial_variance_and_the_trial_that_was_chosen_does_not_count():
  results = quick(0, World(surface=shape(0, SPACE), trials=12))
  again = retrained(0.002, points=1)
  found = seed_noise.trial_noise(dataclasses.replace(results, reruns={results.best.trial: again}))  # pyright: ignore
  assert found is not None
  assert found.deviation == pytest.approx(np.std(worths(again.trials), ddof=1))
  assert variance.find(results)[0].severity == "cannot_tell"
  assert "5 other seeds" in (variance.find(results)[0].action or "")


def test_sampling_noise_is_that_of_a_share():
  results = quick(0, World(surface=shape(0, SPACE), validation_examples=4000))
  share = results.best.objective  # pyright: ignore[reportOptionalMemberAccess]
  assert seed_noise.sampling_noise(results)[0] == pytest.approx(np.sqrt(share * (1 - share) / 4000), rel=0.01)  # pyright: ignore


ODD = (
  Hyperparameter(name="optimizer", path="optimizer", scale=OneOf(["adam", "sgd"]), role="scientific", sets="name"),
  Hyperparameter(
    name="optimizer.adam.lr", path="lr", scale=Log(1e-5, 0.1), role="nuisance", parent=("optimizer", "adam")
  ),
  Hyperparameter(
    name="optimizer.sgd.lr", path="lr", scale=Log(1e-3, 10.0), role="nuisance", parent=("optimizer", "sgd")
  ),
  Hyperparameter(name="flip", path="flip", scale=OneOf([True, False]), role="nuisance"),
  Hyperparameter(name="width", path="width", scale=Discrete((8, 16, 32)), role="nuisance"),
  Hyperparameter(name="layers", path="layers", scale=Integer(1, 6), role="nuisance", inferred=True),
  Hyperparameter(name="decay", path="decay", scale=ReverseLog(0.9, 0.9999), role="nuisance"),
  Hyperparameter(name="seed", path="seed", scale=Integer(0, 3), role="nuisance"),
)


def odd(trials: int, bad: float = 0.2, equal: bool = False, space=ODD, states=("infeasible",)) -> StudyResults:
  rng = np.random.default_rng(trials)
  found = []
  for number, values in enumerate(Halton(seed=0).points(list(space), 0, trials)):
    value = 0.2 if equal else rng.random()
    curves = {"m": (np.array([1, 2]), np.array([np.nan, value]))}
    state = str(rng.choice(states)) if rng.random() < bad else "complete"
    found.append(planted.trial(number, values, curves, state=state, reason=None))
  return planted.results(found, space, planted.Objective("m", "max"))


@pytest.mark.parametrize("trials", [0, 1, 2, 5, 9, 20, 60])
@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"bad": 0.0},
    {"bad": 1.0},
    {"equal": True},
    {"space": ODD[3:4]},
    {"space": ODD[7:]},
    {"states": ("failed", "stopped", "running", "infeasible", "pending")},
  ],
  ids=["mixed", "feasible", "infeasible", "equal", "boolean", "seeds", "unfinished"],
)
def test_any_study_has_findings_that_are_json_and_the_same_each_time(trials, changes):
  results = odd(trials, **changes)
  found = all_findings(results)
  assert found == all_findings(results)
  for one in found:
    json.dumps(one.as_json(), allow_nan=False)
    assert one.severity in SEVERITIES
    assert not one.title.endswith(".")
    assert one.why
    assert one.action or one.severity != "cannot_tell"
    assert set(one.trials) <= set(range(trials))
    for name, stored in (one.space or {}).items():
      assert not Hyperparameter.from_json(name, stored).scale.problems()
  asked = {one.question for one in found}
  assert asked >= {"infeasible", "boundary", "density", "stopping", "variance", "importance", "fixed"}


def test_values_outside_of_their_scale_or_of_another_type_are_looked_over():
  results = odd(30)
  changed = [
    dataclasses.replace(t, values={**t.values, "width": [8, "wide", None, 17, True][t.trial % 5]})
    for t in results.trials
  ]
  results = dataclasses.replace(results, trials=tuple(changed))
  assert all_findings(results)
  assert np.isnan(units_of(ODD[4], points_of(results))).sum() > 15


def test_fixed_hyperparameters_are_named_the_most_consequential_first():
  space = (*SPACE, Hyperparameter(name="batch_size", path="batch_size", scale=Discrete((64,)), role="fixed"))
  trials = [dataclasses.replace(t, values={**t.values, "batch_size": 64}) for t in quick(0, World(trials=4)).trials]
  (found,) = fixed.find(planted.results(trials, space))
  assert (found.severity, found.numbers) == ("note", {"batch_size": 64})
  assert "batch_size = 64" in found.title


@pytest.mark.slow
def test_findings_come_within_seconds_for_large_studies():
  results = odd(1000, space=(*SPACE, *ODD))
  start = time.process_time()
  all_findings(results)
  assert time.process_time() - start < 8

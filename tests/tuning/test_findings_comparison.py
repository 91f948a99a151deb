"""A winner is more than luck, and more than what the other hyperparameters make of it."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import planted, planted_points
from trialbook.tuning.findings import comparison
from trialbook.tuning.findings.statistics import differences, permutation_test
from trialbook.tuning.space.scales import Hyperparameter, Integer, Linear, OneOf


@pytest.mark.slow
def test_of_a_few_studies_of_equal_settings_hardly_one_has_a_clear_winner():
  claims = [comparison.find(planted_points.contest(seed, 0.0))[0].severity == "ok" for seed in range(50)]
  # Of 50 with a chance of 0.05, more than 6 have one of 0.01.
  assert sum(claims) <= 6


@pytest.mark.evidence
def test_equal_settings_have_a_clear_winner_in_one_of_twenty_studies_at_most():
  claims = [comparison.find(planted_points.contest(seed, 0.0))[0].severity == "ok" for seed in range(100)]
  # Of 100 with a chance of 0.05, more than 9 have one of 0.03.
  assert sum(claims) <= 9


METHOD = Hyperparameter(name="method", path="method", scale=OneOf(["one", "other"]), role="scientific")
WIDE = Hyperparameter(name="x", path="x", scale=Linear(0.0, 1e6), role="nuisance")


def compared(methods, worth, points=None, space=(METHOD, WIDE)) -> StudyResults:
  """Trials of such methods that are worth so much; `points` says which are retrains of one another."""
  points = range(len(worth)) if points is None else points
  trials = [
    planted.trial(
      number,
      {**({"method": method} if isinstance(method, str) else method), "x": float(point)},
      {"m": (np.array([1]), np.array([value]))},
    )
    for number, (method, value, point) in enumerate(zip(methods, worth, points, strict=True))
  ]
  return planted.results(trials, space, planted.Objective("m", "min"))


def bowl(rng: np.random.Generator, count: int) -> np.ndarray:
  return 0.1 + 0.4 * np.sum((rng.random((count, 8)) - 0.5) ** 2, axis=1) + rng.normal(0, 0.0015, count)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("draw", "count"),
  [
    (lambda rng, count: rng.normal(0.3, 0.02, count), 12),
    (lambda rng, count: rng.normal(0.3, 0.02, count), 32),
    (bowl, 32),
    (lambda rng, count: 0.1 + 0.3 * rng.weibull(3, count), 32),
  ],
  ids=["noise, few", "noise", "8 dimensions", "weibull"],
)
def test_of_one_distribution_no_setting_wins_more_often_than_is_said(draw, count):
  claims = 0
  for seed in range(60):
    worth = draw(np.random.default_rng((seed, count)), 2 * count).tolist()
    claims += comparison.find(compared(["one", "other"] * count, worth))[0].severity == "ok"
  # Of 60 with a chance of 0.05, more than 7 have one of 0.01; of a chance of 0.2, 7 or fewer have one of 0.07.
  assert claims <= 7


def test_a_difference_has_a_bootstrap_interval_and_a_share_of_random_deals():
  rng = np.random.default_rng(0)
  worth = [float(rng.normal(0.3 + 0.01 * (n % 2), 0.02)) for n in range(24)]
  lead = comparison.find(compared(["one", "other"] * 12, worth))[0].numbers["leads"]["other"]
  one, other = np.array(worth[::2]), np.array(worth[1::2])
  rng = np.random.default_rng(1)
  bests = [rng.choice(side, (20_000, 12)).min(1) for side in (one, other)]
  # The quantiles are differences of values, so that they may be a neighbour of the true one.
  for name, chance in (("low", 0.05), ("high", 0.95)):
    around = np.quantile(bests[1] - bests[0], [chance - 0.015, chance + 0.015])
    assert around[0] - 1e-9 <= lead["bootstrap"][name] <= around[1] + 1e-9
  assert lead["low"] <= lead["bootstrap"]["low"]
  assert lead["high"] >= lead["bootstrap"]["high"]
  # The mean best of six draws with replacement, by its definition.
  weights = -np.diff((1 - np.arange(13) / 12) ** 6)
  mean = lambda side: np.sort(side) @ weights  # noqa: E731
  shuffles = [rng.permutation(worth) for _ in range(4000)]
  as_large = np.mean([abs(mean(shuffle[:12]) - mean(shuffle[12:])) >= mean(other) - mean(one) for shuffle in shuffles])
  assert lead["p"] == pytest.approx(as_large, abs=0.05)


def test_the_trial_that_is_cited_is_the_best_one_also_where_objectives_change_sign():
  worth = [0.5, 0.4, -0.5, *np.linspace(-0.2, 0.3, 21)]
  (found, *_) = comparison.find(compared(["one", "other"] * 12, worth))
  assert found.trials[0] == 2


def test_retrains_are_one_try_and_the_best_point_is_their_mean():
  rng = np.random.default_rng(0)
  worth = [0.1, 0.3, *rng.uniform(0.25, 0.4, 20)]
  seeded = [{"method": ("one", "other")[n // 2 % 2], "seed": n % 2} for n in range(22)]
  space = (METHOD, WIDE, Hyperparameter(name="seed", path="seed", scale=Integer(0, 1), role="nuisance"))
  (found, *_) = comparison.find(compared(seeded, worth, points=[n // 2 for n in range(22)], space=space))
  assert found.numbers["settings"]["one"]["points"] == 6
  assert found.numbers["settings"]["one"]["best"] == pytest.approx(0.2)
  assert found.title == (
    "one is best so far, with 0.2 (mean of 2 retrains), but both settings have fewer than the 8 points with a value"
    " that a comparison needs"
  )
  assert found.action == "Run 2 more points of one and 3 more points of other, so that each setting has 8 with a value."
  assert found.numbers["more"] == 5
  assert "Trials that differ only in their seed are one point" in found.why


def test_trials_in_which_a_scientific_hyperparameter_does_not_exist_can_win():
  kind = Hyperparameter(name="optimizer", path="optimizer", scale=OneOf(["adam", "sgd"]), role="scientific")
  amsgrad = Hyperparameter(
    name="amsgrad", path="amsgrad", scale=OneOf([True, False]), role="scientific", parent=("optimizer", "adam")
  )
  had = [{"optimizer": "sgd"}] * 2 + [{"optimizer": "adam", "amsgrad": each} for each in (True, False)]
  had *= 12
  rng = np.random.default_rng(0)
  worth = [0.1 + 0.1 * rng.random() + 0.3 * ("amsgrad" in values) for values in had]
  found = comparison.find(compared(had, worth, space=(kind, amsgrad, WIDE)))
  assert [(one.severity, one.subject) for one in found] == [("ok", "optimizer=sgd"), ("warning", found[1].subject)]
  assert set(found[1].numbers["settings"]) == {"amsgrad=True", "amsgrad=False"}
  nuisance = dataclasses.replace(kind, role="nuisance")
  found, *_ = comparison.find(compared(had, worth, space=(nuisance, amsgrad, WIDE)))
  assert (found.severity, found.subject) == ("ok", "without amsgrad")


def test_of_two_scientific_hyperparameters_each_has_a_verdict_over_the_values_of_the_other():
  depth = Hyperparameter(name="depth", path="depth", scale=Integer(1, 3), role="scientific")
  rng = np.random.default_rng(0)
  had = [{"method": method, "depth": depth} for method in ("one", "other") for depth in (1, 2, 3)] * 12
  worth = [0.1 + 0.05 * rng.random() + 0.3 * (values["depth"] == 1) for values in had]
  methods, depths = comparison.find(compared(had, worth, space=(METHOD, depth, WIDE)))
  assert (methods.severity, methods.plot) == ("warning", "comparison")
  assert set(methods.numbers["settings"]) == {"method=one", "method=other"}
  assert methods.numbers["settings"]["method=one"]["points"] == 36
  assert (depths.severity, depths.plot) == ("warning", "comparison")
  assert depths.numbers["leads"]["depth=1"]["low"] > 0
  (second,) = {"depth=2", "depth=3"} - {depths.subject}
  assert re.fullmatch(
    rf"No clear winner: {depths.subject} has \S+ at best and {second} \S+, and a gap that small arises by chance",
    depths.title,
  )
  assert f"{depths.subject} or {second}" in (depths.action or "")


def test_settings_whose_best_points_are_equal_have_no_winner():
  rng = np.random.default_rng(0)
  worth = [0.1, 0.1, *rng.uniform(0.2, 0.4, 22)]
  (found,) = comparison.find(compared(["one", "other"] * 12, worth))
  assert found.title == "No clear winner: one and other are equal at best, with 0.1"


FIRST = Hyperparameter(name="first", path="first", scale=OneOf([True, False]), role="scientific")
SECOND = Hyperparameter(name="second", path="second", scale=OneOf([True, False]), role="scientific")


def verdicts(results: StudyResults):
  return {one.numbers["hyperparameter"]: one for one in comparison.find(results) if "settings" in one.numbers}


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 1.0])
def test_what_comes_with_a_better_value_of_another_hyperparameter_does_not_win_by_it(share):
  claims = [
    verdicts(planted_points.crossed(seed, share))["optimizer.name"].severity == "ok" for seed in range(300, 340)
  ]
  # Of 40 with a chance of 0.05, more than 6 have one of 0.01; pooled, 0.3 are claimed at 0.9 and all at 1.
  assert sum(claims) <= 6


def test_hyperparameters_that_were_varied_together_are_not_told_apart():
  found = verdicts(planted_points.crossed(0, 1.0))
  for name, other in (("optimizer.name", "model.layers"), ("model.layers", "optimizer.name")):
    assert found[name].severity == "cannot_tell"
    assert f"{name} and {other} were varied together: too few trials of " in found[name].title
    assert found[name].title.endswith(f"have the same {other}")
    assert f"Run each value of {name} with the same values of {other}" in (found[name].action or "")


def test_a_real_winner_beside_another_hyperparameter_is_found():
  found = [verdicts(planted_points.crossed(seed, effect=0.1))["optimizer.name"] for seed in range(8)]
  assert sum((one.severity, one.subject) == ("ok", "optimizer.name=adam") for one in found) >= 6


@pytest.mark.evidence
def test_of_several_hyperparameters_without_effect_one_study_of_twenty_has_a_winner_at_most():
  axes = [dataclasses.replace(FIRST, name=name, path=name) for name in "abcd"]
  claims = 0
  for seed in range(200):
    rng = np.random.default_rng((seed, 8))
    had = [{one.name: bool(rng.integers(2)) for one in axes} for _ in range(64)]
    worth = rng.normal(0.3, 0.02, 64).tolist()
    claims += any(one.severity == "ok" for one in comparison.find(compared(had, worth, space=(*axes, WIDE))))
  # Of 200 with a chance of 0.05, more than 17 have one of 0.01; were each tested by itself, four would have 0.12.
  assert claims <= 17


@pytest.mark.slow
def test_beside_another_hyperparameter_a_winner_is_half_as_likely_to_be_luck():
  between = []
  for seed in range(60):
    rng = np.random.default_rng((seed, 9))
    had = [{"first": n % 2 == 0, "second": n // 2 % 2 == 0} for n in range(48)]
    worth = [float(rng.normal(0.3 + 0.03 * (not each["first"]), 0.03)) for each in had]
    found = verdicts(compared(had, worth, space=(FIRST, SECOND, WIDE)))["first"]
    (lead,) = found.numbers["leads"].values()
    if lead["low"] > 0:
      between += [found.severity] if differences.SIGNIFICANCE / 2 < lead["p"] <= differences.SIGNIFICANCE else []
      assert (found.severity == "ok") == (lead["p"] <= differences.SIGNIFICANCE / 2)
  assert between


def test_deals_within_strata_are_those_of_a_loop_over_all_of_them():
  rng = np.random.default_rng(3)
  costs, strata = (rng.random(5), rng.random(5) - 0.3), ([0, 0, 0, 1, 2], [0, 1, 1, 1, 3])
  whole, where = np.concatenate(costs), np.array([*strata[0], *strata[1]])
  weights = -np.diff((1 - np.arange(6) / 5) ** 2)
  worse = lambda first: np.sort(whole[~first]) @ weights - np.sort(whole[first]) @ weights  # noqa: E731
  seen, all_of_them = worse(np.arange(10) < 5), []
  for chosen in itertools.combinations(range(10), 5):
    first = np.isin(np.arange(10), chosen)
    if [int(first[where == stratum].sum()) for stratum in range(4)] == [3, 1, 1, 0]:
      all_of_them.append(worse(first))
  assert permutation_test.permutation_count(*strata) == len(all_of_them) == 16
  found = permutation_test.permutation_test((costs[0].tolist(), costs[1].tolist()), strata, 4, np.random.default_rng(0))
  assert found.observed == pytest.approx(seen)
  assert found.expected == pytest.approx(np.mean(all_of_them), abs=0.02)
  assert found.p_value == pytest.approx(np.mean(np.abs(all_of_them) >= seen - 1e-12), abs=0.05)


def test_settings_of_one_value_are_told_apart_by_their_hyperparameters():
  rng = np.random.default_rng(0)
  had = [{"first": n % 2 == 0, "second": n // 2 % 2 == 0} for n in range(64)]
  worth = [0.1 + 0.2 * (not each["first"]) + 0.4 * (not each["second"]) + 0.02 * rng.random() for each in had]
  found = comparison.find(compared(had, worth, space=(FIRST, SECOND, WIDE)))
  assert [one.subject for one in found] == ["first=True", "second=True"]
  assert found[0].title.startswith("first=True wins")
  assert "lower than that of first=False (90% interval: " in found[0].title


def test_who_has_too_few_points_is_counted_and_equal_points_are_said_to_be():
  kinds = dataclasses.replace(METHOD, scale=OneOf(["a", "b", "c"]))
  rng = np.random.default_rng(0)
  (found,) = comparison.find(compared(["a"] * 10 + ["b"] * 7 + ["c"] * 7, rng.random(24), space=(kinds, WIDE)))
  assert found.title.endswith("but 2 of 3 settings have fewer than the 8 trials with a value that a comparison needs")
  worth = [0.1, 0.3] * 6 + rng.uniform(0.1, 0.9, 12).tolist()
  (found,) = comparison.find(compared(["one", "other"] * 12, worth))
  assert found.title.endswith("but the best trials of one and other are equal")
  assert "finer objective" in (found.action or "")


def test_of_many_settings_a_few_are_named():
  kinds = dataclasses.replace(METHOD, scale=OneOf(list("abcdefgh")))
  rng = np.random.default_rng(0)
  (found,) = comparison.find(compared(list("abcdefgh") * 10, rng.random(80), space=(kinds, WIDE)))
  assert "and 4 others" in found.title
  assert "any of these 8 settings" in (found.action or "")


def test_effort_is_shown_by_a_plot_of_its_settings():
  (_, found) = comparison.find(compared(["one"] * 30 + ["other"] * 8, np.random.default_rng(0).random(38)))
  assert found.plot == "comparison"
  had = [{"first": n % 4 != 0, "second": n // 4 % 2 == 0} for n in range(64)]
  found = comparison.find(compared(had, np.random.default_rng(0).random(64), space=(FIRST, SECOND, WIDE)))
  assert [one.plot for one in found if "effort" in one.numbers] == ["comparison"]


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.06])
def test_a_verdict_does_not_depend_on_the_zero_the_scale_or_the_direction_of_the_metric(gap):
  rng = np.random.default_rng(5)
  methods = ["one", "other"] * 16
  worth = np.array([float(rng.normal(0.3 + gap * (method == "other"), 0.02)) for method in methods])
  changed = {
    "min": [worth, worth - 5000, worth + 0.5, 1000 * worth, 1e-6 * worth, 1000 * worth - 1180],
    "max": [-worth, 5000 - worth, 1 - worth],
  }
  verdicts = []
  for mode, all_ in changed.items():
    for values in all_:
      results = compared(methods, values.tolist())
      objective = planted.Objective("m", mode)  # pyright: ignore[reportArgumentType]
      found, *_ = comparison.find(results.by(objective))
      (lead,) = found.numbers["leads"].values()
      verdicts.append((found.severity, found.subject, found.numbers["more"], round(lead["p"], 3)))
      assert all(words not in found.title for words in ("nan", "inf"))
      if found.severity == "warning":
        assert len(set(re.findall(r"-?\d[\d.,e+-]*\d", found.title))) == 2, found.title
  assert len(set(verdicts)) == 1

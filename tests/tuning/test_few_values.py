"""Studies of a few values of one hyperparameter: the best is the first, the last, or inside; and how sure that is."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from trialbook.tuning import Maximize, Minimize, StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import Finding, boundary
from trialbook.tuning.findings.statistics import sweeps
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, Scale

CASES = pathlib.Path(__file__).parent / "cases"
RATES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
FALLING = (1.1, 0.8, 0.53, 0.32, 0.18, 0.10, 0.06)


def named(scale: Scale, name: str = "learning_rate", inferred: bool = False) -> Hyperparameter:
  return Hyperparameter(name=name, path=name, scale=scale, role="nuisance", inferred=inferred)


def study(
  space: Sequence[Hyperparameter], rows: Sequence[tuple[dict[str, Any], Any]], mode: str = "min"
) -> StudyResults:
  """Trials with a value, "infeasible" or "pruned"."""
  trials = []
  for number, (values, value) in enumerate(rows):
    if value in ("infeasible", "pruned"):
      curves = {"error": ([1], [0.9])} if value == "pruned" else {}
      trials.append(planted.trial(number, values, curves, state=value))
    else:
      trials.append(planted.trial(number, values, {"error": ([100], [value])}))
  return planted.results(trials, tuple(space), Minimize("error") if mode == "min" else Maximize("accuracy"))


def rates(values: Sequence[Any], inferred: bool = False, places: Sequence[float] = RATES) -> StudyResults:
  """One trial at each of some learning rates."""
  tried = list(places[: len(values)])
  one = named(Log(tried[0], tried[-1]), inferred=inferred)
  return study((one,), [({one.name: place}, value) for place, value in zip(tried, values, strict=True)])


def only(results: StudyResults) -> Finding:
  (found,) = boundary.find(results)
  return found


@pytest.mark.parametrize(
  ("name", "count", "new"), [("grid_5_lrs_x1_best_is_last", 5, 10.0), ("grid_7_lrs_x3_best_is_last", 7, 5.0)]
)
def test_an_error_that_falls_to_the_last_learning_rate_asks_for_larger_ones(name, count, new, tmp_path):
  found = only(read_results(import_study("csv", CASES / name, tmp_path / "study")[0]))
  assert (found.severity, found.subject, found.numbers["side"]) == ("warning", "learning_rate", "upper")
  assert found.title == (
    f"validation/error falls at each of the {count} values of learning_rate up to the largest, 1: larger ones may be"
    " better"
  )
  assert (found.numbers["new"], found.numbers["more"]) == (new, 1)
  assert found.numbers["means"] == sorted(found.numbers["means"], reverse=True)


@pytest.mark.parametrize("inferred", [True, False])
@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_the_same_fall_gets_the_same_words_and_severity_with_fewer_values(count, inferred):
  found = only(rates(FALLING[-count:], inferred))
  assert (found.severity, found.subject, found.numbers["side"]) == ("warning", "learning_rate", "upper")
  assert f"error falls at each of the {count} values of learning_rate up to the largest" in found.title
  assert found.space is not None
  new = Hyperparameter.from_json("learning_rate", found.space["learning_rate"])
  assert not new.inferred
  assert new.scale.max == pytest.approx(10 * RATES[count - 1], rel=0.6)  # pyright: ignore


def test_the_smallest_may_be_the_best_and_larger_may_be_better():
  found = only(rates(FALLING[:1:-1]))
  assert (found.severity, found.numbers["side"], found.numbers["new"]) == ("warning", "lower", 1e-5)
  one = named(Log(1e-4, 1.0))
  rows = [({one.name: place}, value) for place, value in zip(RATES, (0.2, 0.4, 0.6, 0.7, 0.8), strict=False)]
  trials = [planted.trial(n, values, {"accuracy": ([1], [value])}) for n, (values, value) in enumerate(rows)]
  found = only(planted.results(trials, (one,), Maximize("accuracy")))
  assert found.title.startswith("accuracy rises at each of the 5 values")


@pytest.mark.parametrize("values", [(0.8, 0.3, 0.1, 0.2, 0.6), (0.3, 0.1, 0.2), (0.11, 0.1, 0.3, 0.4)])
def test_a_best_value_between_others_is_no_edge(values):
  found = only(rates(values))
  assert (found.severity, found.title) == ("ok", "The best value of learning_rate lies between others that were tried")


@pytest.mark.parametrize("last", [0.0995, 0.1, 0.1005])
def test_where_the_last_two_are_about_equal_it_is_a_note(last):
  found = only(rates((0.8, 0.5, 0.3, 0.1, last)))
  assert found.severity == "note"
  assert found.title.startswith("The largest two of the 5 values of learning_rate, 0.1 and 1, are the best")


@pytest.mark.parametrize("values", [(0.1012, 0.1008, 0.1001), (0.1, 0.1, 0.1), (0.103, 0.104, 0.102)])
def test_a_few_values_that_are_alike_have_no_edge(values):
  assert only(rates(values)).severity == "ok"


def test_two_values_ask_for_a_third_on_the_better_side():
  found = only(rates((0.3, 0.1)))
  assert (found.severity, found.numbers["more"]) == ("cannot_tell", 1)
  assert found.action == "Try a third value beyond the better one, above 0.001."


@pytest.mark.parametrize(("count", "severity"), [(1, "warning"), (2, "warning")])
def test_a_learning_rate_beyond_which_training_fails_is_not_raised(count, severity):
  found = only(rates((*FALLING[1:5], *["infeasible"] * count)))
  assert (found.id, found.severity, found.space) == ("PB-80", severity, None)
  assert "and at 1" in found.title
  assert (found.action or "").startswith("Try values between 0.1 and 1.")


def test_values_beyond_the_best_that_were_ended_early_are_worse():
  assert only(rates((*FALLING[1:5], "pruned"))).severity == "ok"


def test_drawn_values_do_not_reach_the_edge_and_chosen_ones_may_lie_inside_a_larger_space():
  drawn = (3.2131e-4, 0.00123123, 0.034223, 0.12342, 0.4232)
  values = (0.7, 0.5, 0.3, 0.2, 0.1)
  for places, severity in ((drawn, "note"), (RATES[:5], "warning")):
    one = named(Log(1e-4, 20.0))
    found = only(study((one,), [({one.name: p}, value) for p, value in zip(places, values, strict=True)]))
    assert (found.severity, found.space) == (severity, None)
    assert "up to the edge of the space, were not tried" in found.title
  # Of an import, the values that were tried are all that is known.
  one = named(Log(min(drawn), max(drawn)), inferred=True)
  found = only(study((one,), [({one.name: p}, value) for p, value in zip(drawn, values, strict=True)]))
  assert found.severity == "warning"


@pytest.mark.parametrize(
  ("scale", "tried", "end"),
  [
    (Integer(1, 5), (5, 4, 3, 2, 1), "is the end of what it can be"),
    (Linear(0.0, 0.4), (0.4, 0.3, 0.2, 0.1, 0.0), "is the end of what it can be"),
    (Linear(0.2, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0), "may be the end of what it can be"),
  ],
)
def test_where_nothing_lies_beyond_it_is_a_note(scale, tried, end):
  one = named(scale, "x")
  found = only(study((one,), [({"x": x}, value) for x, value in zip(tried, FALLING[-5:], strict=True)]))
  assert (found.severity, found.space) == ("note", None)
  assert end in found.title


def test_values_of_a_list_are_continued():
  for values, new in (((0.9, 0.99, 0.999), 0.9999), ((32, 64, 128, 256, 512), 1024)):
    one = named(Discrete(values), "x")
    found = only(study((one,), [({"x": x}, v) for x, v in zip(values, FALLING[-len(values) :], strict=True)]))
    assert (found.severity, found.numbers["new"]) == ("warning", new)


def seeded(worth: Sequence[float], deviation: float, seed: int = 0, seeds: int = 3) -> StudyResults:
  rng = np.random.default_rng(seed)
  space = (named(Log(RATES[0], RATES[len(worth) - 1])), named(Integer(0, 9), "seed"))
  rows = [
    ({"learning_rate": rate, "seed": number}, value + rng.normal(0, deviation))
    for rate, value in zip(RATES, worth, strict=False)
    for number in range(seeds)
  ]
  return study(space, rows)


def test_retrains_show_what_is_more_than_noise():
  # Both falls are larger than noise, and too small to be so without knowing it.
  found = only(seeded((0.12, 0.11, 0.10), 0.001))
  assert found.severity == "warning"
  assert "means over at least 3 retrains" in found.why
  assert found.numbers["fall"] > found.numbers["margin"] > 0
  assert only(seeded((0.12, 0.11, 0.10), 0.0, seeds=1)).severity == "ok"
  # The last two are equal but for noise.
  assert only(seeded((0.3, 0.2, 0.1, 0.1), 0.003)).severity != "warning"


def test_the_order_is_tested_exactly_and_retrains_are_not_compared_with_each_other():
  rng = np.random.default_rng(0)
  groups = [(2,), (3,), (1,), (2,)]
  sizes = [size for (size,) in groups]
  cuts = np.cumsum(sizes)[:-1]

  def pairs(values) -> int:
    return sum(
      int(np.sum(a[:, None] > b[None])) for a, b in itertools.combinations(np.split(np.asarray(values), cuts), 2)
    )

  observed = np.array([3.0, 2.5, 2.6, 2.0, 1.9, 1.0, 2.2, 0.5])
  drawn = np.mean([pairs(rng.permutation(8)) >= pairs(observed) for _ in range(20_000)])
  assert sweeps.p_of([[part.tolist() for part in np.split(observed, cuts)]]) == pytest.approx(drawn, abs=0.006)
  # One order of 5, of 3 twice, and one of the ways to deal nine trials to three values.
  assert sweeps.p_of([[[5.0], [4.0], [3.0], [2.0], [1.0]]]) == pytest.approx(1 / 120)
  assert sweeps.p_of([[[3.0], [2.0], [1.0]]] * 2) == pytest.approx(1 / 36)
  assert sweeps.p_of([[[3.0, 3.1, 3.2], [2.0, 2.1, 2.2], [1.0, 1.1, 1.2]]]) == pytest.approx(1 / 1680)
  # Ties are no evidence.
  assert sweeps.p_of([[[1.0], [1.0], [1.0]]]) == pytest.approx(1.0)


def test_many_trials_are_tested_by_a_normal_distribution_that_is_close():
  values = [[10.0 - place + 0.1 * k for k in range(8)] for place in (0, 0.3, 0.1, 0.5, 0.2)]
  exact = sweeps.p_of([values])
  assert sweeps.p_of([[*values[:-1], [*values[-1], 20.0]]]) == pytest.approx(exact, abs=0.15)


def grid(worth, second: Hyperparameter, places: Sequence[Any], noise: float = 0.002) -> StudyResults:
  rng = np.random.default_rng(0)
  space = (named(Log(0.01, 1.0)), second)
  rows = [
    ({"learning_rate": rate, second.name: place}, worth(number, k) + rng.normal(0, noise))
    for number, rate in enumerate(RATES[2:5])
    for k, place in enumerate(places)
  ]
  return study(space, rows)


@pytest.mark.parametrize(
  ("second", "places"),
  [
    (named(Log(1e-5, 1e-3), "weight_decay"), (1e-5, 1e-4, 1e-3)),
    (named(OneOf(["relu", "gelu"]), "activation"), ("relu", "gelu")),
    (named(Discrete((64, 128)), "batch_size"), (64, 128)),
  ],
)
def test_in_a_grid_each_value_is_compared_with_the_same_others(second, places):
  # The others change more than the learning rate does.
  found = boundary.find(grid(lambda number, k: 0.3 + 0.4 * abs(k - 1) - 0.1 * number, second, places))
  (edge,) = [one for one in found if one.subject == "learning_rate"]
  assert (edge.severity, edge.numbers["side"]) == ("warning", "upper")
  assert "falls at each of the 3 values" in edge.title
  inner = boundary.find(grid(lambda number, k: 0.3 + 0.4 * abs(k - 1) + 0.1 * abs(number - 1), second, places))
  assert not [one for one in inner if one.severity in ("note", "warning")]
  assert any("The best value of learning_rate, 0.1" in one.why for one in inner)


def test_values_that_are_tried_one_hyperparameter_after_the_other_are_compared_in_their_rows():
  space = (named(Log(1e-4, 1.0)), named(Log(1e-5, 1e-3), "weight_decay"))
  rows = [({"learning_rate": rate, "weight_decay": 1e-4}, v) for rate, v in zip(RATES, FALLING[1:6], strict=False)]
  rows += [({"learning_rate": 0.1, "weight_decay": decay}, v) for decay, v in ((1e-5, 0.2), (1e-3, 0.25))]
  (found,) = boundary.find(study(space, rows))
  assert (found.severity, found.subject) == ("warning", "learning_rate")


@pytest.mark.evidence
@pytest.mark.parametrize("noise", [0.001, 0.003, 0.01])
@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_values_that_differ_by_noise_alone_are_seldom_warned_of(count, noise):
  warned = noted = 0
  for seed in range(300):
    values = 0.1 + np.random.default_rng(seed).normal(0, noise, count)
    severity = only(rates(values.tolist())).severity
    warned += severity == "warning"
    noted += severity == "note"
  # The levels are 0.05 and 0.1 for both sides.
  assert warned <= 0.05 * 300 + 6
  assert noted <= 0.1 * 300 + 9


@pytest.mark.evidence
@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_an_optimum_beyond_the_last_value_is_said_and_one_inside_is_not(count):
  inside = beyond = 0
  for seed in range(200):
    rng = np.random.default_rng(seed)
    places, height = np.linspace(0, 1, count), rng.uniform(0.2, 0.35)
    noise = rng.normal(0, 0.003, count)
    for bottom in (rng.uniform(0.35, 0.65), rng.uniform(1.1, 1.4)):
      found = only(rates((0.08 + height * (places - bottom) ** 2 + noise).tolist()))
      inside += bottom < 1 and found.severity != "ok"
      beyond += bottom > 1 and found.severity in ("note", "warning")
  assert inside <= 10
  assert beyond >= 180


@pytest.mark.parametrize("values", [FALLING[2:], (0.8, 0.5, 0.3, 0.1, 0.0999), (0.8, 0.3, 0.1, 0.2, 0.6), FALLING[-3:]])
def test_without_a_natural_zero_it_does_not_depend_on_the_zero_the_scale_or_the_direction(values):
  one = named(Log(RATES[0], RATES[len(values) - 1]))

  def said(scale: float, shift: float) -> tuple[str, ...]:
    mode = Minimize("elbo") if scale > 0 else Maximize("elbo")
    trials = [
      planted.trial(k, {one.name: rate}, {"elbo": ([1], [scale * value + shift])})
      for k, (rate, value) in enumerate(zip(RATES, values, strict=False))
    ]
    found = only(planted.results(trials, (one,), mode))
    return found.severity, found.title.replace("rises", "falls")

  assert {said(*change) for change in ((1.0, -5000.0), (-1.0, -1180.0), (730.0, 0.0), (0.003, 0.1))} == {said(1.0, 0.0)}

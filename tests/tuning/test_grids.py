"""A space of finitely many points that were all tried has no others: nothing asks for them."""

import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tiny

from trialbook.tuning import Minimize, Study, StudyResults, read_results, tables
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import boundary, density, importance, stopping
from trialbook.tuning.findings.statistics import finite_spaces
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.plan import balance
from trialbook.tuning.search.grid import Grid
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.counting import combinations
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf
from trialbook.tuning.study import check

CASES = pathlib.Path(__file__).parent / "cases"
MODULES = (boundary, density, stopping, importance)


def named(name: str, scale: Any, **changes: Any) -> Hyperparameter:
  return Hyperparameter(name=name, path=name, scale=scale, role="nuisance", **changes)


RATE = named("lr", Discrete((0.001, 0.01, 0.1)))
ACTIVATION = named("act", OneOf(["relu", "gelu"]))
SIZE = named("bs", Discrete((64, 128)))


def study(
  space: Sequence[Hyperparameter],
  points: Sequence[dict[str, Any]],
  worth: Callable[[dict[str, Any]], float] = lambda values: 0.1,
  states: dict[int, str] | None = None,
) -> StudyResults:
  rng = np.random.default_rng(0)
  trials = []
  for number, values in enumerate(points):
    state = (states or {}).get(number, "complete")
    curves = {"error": ([100], [worth(values) + rng.normal(0, 0.01)])} if state == "complete" else {}
    trials.append(planted.trial(number, values, curves, state=state))
  return planted.results(trials, tuple(space), Minimize("error"))


def product(*space: Hyperparameter) -> list[dict[str, Any]]:
  values = [list(finite_spaces.values_of(one) or ()) for one in space]
  return [dict(zip([one.name for one in space], point, strict=True)) for point in itertools.product(*values)]


def asked(results: StudyResults) -> list[str]:
  """What asks for more points of the same space, in numbers or words."""
  found = [one for module in MODULES for one in module.find(results) if one.space is None]
  words = ("more point", "more trial", "Doubl")
  return [
    one.title for one in found if one.numbers.get("more") or any(word in f"{one.title} {one.action}" for word in words)
  ]


def test_all_combinations_of_a_grid_were_tried_and_none_are_left(tmp_path):
  results = read_results(import_study("csv", CASES / "grid", tmp_path / "study")[0])
  assert asked(results) == []
  (dense,), (stop,) = density.find(results), stopping.find(results)
  assert (dense.severity, dense.numbers["combinations"], dense.numbers["left"]) == ("ok", 12, 0)
  assert dense.title == "4 of 12 points lie within 0.014 of the best, and nothing is left to try"
  assert "All 12 combinations (3 of lr, 2 of act and 2 of bs) were tried." in dense.why
  assert stop.title == "All 12 combinations (3 of lr, 2 of act and 2 of bs) were tried: others could only repeat them"
  assert "gain" not in stop.numbers
  # What can be done instead is said: between the neighbours of the best learning rate.
  assert "lr between 0.001 and 0.1" in (stop.action or "")
  assert "retrain the best points" in (dense.action or "")


@pytest.mark.parametrize(
  "space",
  [
    (RATE, ACTIVATION, SIZE),
    (named("layers", Integer(1, 4)), ACTIVATION),
    (named("units", Discrete((16, 32, 64))), named("flag", OneOf([True, False]))),
    (named("lr", Discrete((0.001, 0.01, 0.1, 1.0))),),
  ],
)
@pytest.mark.parametrize("states", [{}, {0: "infeasible"}, {1: "pruned"}])
def test_no_finding_asks_for_points_of_a_space_that_has_none(space, states):
  results = study(space, product(*space), states=states)
  assert finite_spaces.exhausted(results) is not None
  assert asked(results) == []


def test_of_a_space_that_was_tried_in_part_no_more_is_asked_than_is_left():
  points = product(RATE, ACTIVATION, SIZE)
  results = study((RATE, ACTIVATION, SIZE), points[:-2], lambda values: 0.1 + 0.1 * (values["lr"] > 0.01))
  assert finite_spaces.exhausted(results) is None
  found = [one for module in MODULES for one in module.find(results) if one.space is None]
  assert max(one.numbers.get("more", 0) for one in found) == 2
  (one,) = stopping.find(results)
  assert one.title.startswith("The 2 combinations that are left would gain")


def test_trials_that_failed_or_run_were_not_tried():
  points = product(RATE, ACTIVATION, SIZE)
  for state in ("failed", "running", "pending", "stopped"):
    assert finite_spaces.exhausted(study((RATE, ACTIVATION, SIZE), points, states={3: state})) is None


def test_a_grid_of_values_that_were_chosen_from_continuous_scales_is_complete_too():
  space = (named("lr", Log(1e-3, 0.1), inferred=True), named("wd", Linear(0.0, 0.3), inferred=True))
  points = [{"lr": lr, "wd": wd} for lr in (0.001, 0.01, 0.1) for wd in (0.0, 0.1, 0.2, 0.3)]
  results = study(space, points)
  found = finite_spaces.exhausted(results)
  assert found is not None
  assert not found.is_declared
  assert asked(results) == []
  assert "only new values would add to it" in stopping.find(results)[0].title
  # One point less is no grid.
  assert finite_spaces.finite_space(study(space, points[:-1])) is None


@pytest.mark.parametrize(
  ("values", "chosen"),
  [
    ([1e-4, 1e-3, 1e-2, 0.1], True),
    ([1e-4, 3e-4, 1e-3, 3e-3], True),
    ([0.1, 0.2154, 0.4642, 1.0], True),
    ([0.9, 0.99, 0.999], True),
    ([1, 2, 5, 10], True),
    ([0.00132, 0.0204, 0.0231, 0.3123], False),
    ([0.123, 0.456, 0.501], False),
  ],
)
def test_values_look_chosen_if_they_are_short_or_evenly_spaced(values, chosen):
  assert finite_spaces.is_chosen(values) is chosen


def test_drawn_points_are_no_grid():
  space = (named("lr", Log(1e-4, 1.0)),)
  points = Halton(seed=0).points(list(space), 0, 12)
  assert finite_spaces.finite_space(study(space, points)) is None


def test_points_are_counted_under_each_value_of_a_conditional_hyperparameter():
  kind = named("kind", OneOf(["a", "b"]))
  under = named("under", Discrete((1, 2, 3)), parent=("kind", "a"))
  assert combinations((kind, under)) == 4
  assert combinations((kind, under, named("side", Integer(0, 4)))) == 20
  assert combinations((kind, under, named("rate", Log(1e-3, 1.0)))) == float("inf")


def test_a_plan_says_when_trials_repeat_because_the_space_is_finite():
  space = {"model.activation": OneOf(["relu", "gelu"]), "batch_size": Discrete([16, 32])}
  one = Study(
    name="s", goal="Why?", config=tiny.mlp(), objective=Minimize("validation/error"), scientific=space, trials=10
  )
  hyperparameters = check(one).hyperparameters
  points = Halton().points(hyperparameters, 0, 10)
  of = balance(hyperparameters, points)
  assert (of.possible, of.repeats) == (4, 6)
  assert "6 of 10 trials repeat the values and so the result of an earlier one: the space has 4 combinations" in (
    tables.balance(of, [], hyperparameters)
  )
  of = balance(hyperparameters, Grid().points(hyperparameters, 0, 4))
  assert of.repeats == 0
  assert not any("repeat" in line for line in tables.balance(of, [], hyperparameters))


def test_seeds_are_no_repeats():
  hyperparameters = (RATE, named("seed", Integer(0, 3)))
  points = [{"lr": 0.1, "seed": seed} for seed in range(4)]
  assert balance(hyperparameters, points).repeats == 0
  assert balance(hyperparameters, [*points, points[0]]).repeats == 1

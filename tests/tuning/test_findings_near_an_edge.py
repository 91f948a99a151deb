"""Best points near an edge are a note that expands it, and hyperparameters that matter least are named."""

from collections.abc import Callable

import numpy as np
import pytest

from trialbook.tuning import Minimize, StudyResults
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import boundary, importance, infeasible
from trialbook.tuning.findings.statistics import expansion
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, Scale

SIDE = Hyperparameter(name="side", path="side", scale=Linear(0.0, 1.0), role="nuisance")
KIND = Hyperparameter(name="kind", path="kind", scale=OneOf(["a", "b"]), role="nuisance")


def study(
  scale: Scale,
  worth: Callable[[float], float],
  bad: Callable[[float, float], bool] = lambda unit, chance: False,
  beside: float = 0.1,
  name: str = "x",
  kind: float = 0.0,
  noise: float = 0.001,
  rng: np.random.Generator | None = None,
) -> StudyResults:
  """Of 48 places of a hyperparameter that are worth that, one beside it, and one of two kinds."""
  one = Hyperparameter(name=name, path=name, scale=scale, role="nuisance")
  rng = rng or np.random.default_rng(0)
  trials = []
  for number in range(48):
    values = {name: scale.at((number + 0.5) / 48), "side": float(rng.random()), "kind": "ab"[number % 2]}
    if bad(scale.unit(values[name]), float(rng.random())):
      trials.append(planted.trial(number, values, {}, state="infeasible"))
      continue
    value = worth(scale.unit(values[name])) + beside * (values["side"] - 0.5) ** 2 + kind * (number % 2)
    trials.append(planted.trial(number, values, {"m": ([1], [value + rng.normal(0, noise)])}))
  return planted.results(trials, (one, SIDE, KIND), Minimize("m"))


def valley(bottom: float) -> Callable[[float], float]:
  return lambda unit: 0.1 + 0.3 * (unit - bottom) ** 2


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("scale", [Log(1e-4, 0.1), Linear(2.0, 3.0), Integer(10, 30), Discrete((2, 4, 8, 16, 32, 64))])
def test_an_optimum_right_at_an_edge_is_a_note_with_the_space_expanded_there(scale, upper):
  results = study(scale, valley(float(upper)))
  (found,) = boundary.find(results)
  assert (found.id, found.severity, found.subject, found.plot) == ("PB-23", "note", "x", "axis:x")
  # Most of the best have the last of so few values.
  at = "at" if isinstance(scale, Discrete) else "near"
  assert found.title.startswith(f"The best points lie {at} the {'upper' if upper else 'lower'} edge of x")
  assert found.space is not None
  new = Hyperparameter.from_json("x", found.space["x"]).scale
  assert new == expansion.expanded(results.space["x"], upper, 0.25)
  assert set(found.trials) >= {results.best.trial}  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
  ("scale", "bottom", "severity", "at"),
  [
    (Discrete((2, 4, 8)), 0.9, "note", "at"),
    (Integer(1, 8), 1.4, "warning", "at"),
    (Integer(1, 8), 0.86, "note", "near"),
  ],
)
def test_on_a_scale_of_few_values_it_is_said_which_the_best_trials_have(scale, bottom, severity, at):
  found = [one for one in boundary.find(study(scale, valley(bottom), beside=0.01)) if one.subject == "x"]
  assert [(one.severity, one.title) for one in found] == [
    (severity, f"The best points lie {at} the upper edge of x (8)")
  ]
  assert ("of the best 6 points have 8, the last value." in found[0].why) == (at == "at")
  assert ("the best 6 points have 7 at the median." in found[0].why) == (at == "near")
  assert "%" not in found[0].why
  assert "of the scale" not in found[0].why


def test_an_optimum_inside_of_the_outer_part_is_none():
  for bottom in (0.25, 0.3, 0.5, 0.7, 0.75):
    assert [one.severity for one in boundary.find(study(Log(1e-4, 1.0), valley(bottom)))] == ["ok"]


def test_a_side_that_is_warned_of_has_no_note_too():
  assert [one.severity for one in boundary.find(study(Log(1e-4, 0.1), valley(1.3)))] == ["warning"]


@pytest.mark.parametrize(
  ("name", "scale", "bottom"),
  [("x", Linear(0.0, 0.5), 0.0), ("momentum", Linear(0.5, 1.0), 1.0), ("x", Integer(1, 20), 0.0)],
)
def test_near_the_end_of_what_a_hyperparameter_can_be_there_is_nothing_to_expand(name, scale, bottom):
  found = boundary.find(study(scale, valley(bottom), name=name))
  assert not [one for one in found if one.severity in ("note", "warning")]


def test_where_trials_are_often_infeasible_at_an_edge_it_is_not_expanded():
  # One of two: no cliff, but no place to go to either.
  results = study(Log(1e-4, 1.0), valley(0.95), bad=lambda unit, chance: unit > 0.8 and chance < 0.5)
  assert infeasible.find(results)[0].subject == "x"
  assert not [one for one in boundary.find(results) if one.space or one.id == "PB-80"]


def test_near_an_instability_it_is_said_without_a_larger_space():
  results = study(Log(1e-4, 1.0), valley(0.7), bad=lambda unit, _: unit > 0.7, name="learning_rate")
  found = [one for one in boundary.find(results) if one.severity != "ok"]
  assert [(one.id, one.severity, one.space) for one in found] == [("PB-80", "note", None)]
  assert "the best points lie not far below" in found[0].title


@pytest.mark.parametrize(("bottom", "left_out"), [(0.9, False), (0.7, False), (0.35, True)])
def test_what_is_unstable_is_not_left_out_while_the_best_trials_lie_beside_it(bottom, left_out):
  results = study(Log(1e-4, 1.0), valley(bottom), bad=lambda unit, _: unit > 0.7, name="learning_rate")
  assert ("PB-80" in [one.id for one in boundary.find(results)]) != left_out
  (found,) = infeasible.find(results)
  assert (found.space is not None) == left_out
  assert (found.action or "").startswith("Leave out" if left_out else "Do not leave out learning_rate above")


@pytest.mark.slow
def test_a_hyperparameter_that_does_not_matter_has_best_points_near_no_edge():
  rng = np.random.default_rng(0)
  noisy = [study(Log(1e-4, 1.0), lambda _: 0.1, beside=0.1, noise=0.01, rng=rng) for _ in range(60)]
  notes = [one.title for results in noisy for one in boundary.find(results) if one.severity in ("note", "warning")]
  # Of 60 with a chance of 0.05, more than 7 have one of 0.01.
  assert len(notes) <= 7, notes


def test_what_changes_little_beside_the_most_matters_less_and_a_kind_is_a_choice():
  # So noisy that it may be more than a fifth of the way to the median point.
  results = study(Log(1e-4, 1.0), valley(0.5), beside=0.0, kind=0.003, noise=0.003)
  found = {one.subject: one for one in importance.find(results) if one.severity == "note"}
  assert set(found) == {"side"}
  assert found["side"].title.startswith("side matters less than the others")
  assert "less than 8% of what the one that matters most changes" in found["side"].why

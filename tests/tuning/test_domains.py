"""No space is proposed with values that a hyperparameter cannot have, and none with values that nobody asked for."""

import itertools
import pathlib

import numpy as np
import pytest

from trialbook.tuning import Minimize, StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import boundary
from trialbook.tuning.findings.statistics import expansion
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, ReverseLog, Scale

CASES = pathlib.Path(__file__).parent / "cases"


def case(name: str, folder: pathlib.Path) -> StudyResults:
  return read_results(import_study("csv", CASES / name, folder / "study")[0])


def proposed(found, name: str) -> Scale:
  """The scale that a finding proposes for a hyperparameter."""
  (one,) = [each for each in found if each.space]
  return Hyperparameter.from_json(name, one.space[name]).scale


def named(scale: Scale, name: str = "x") -> Hyperparameter:
  return Hyperparameter(name=name, path=name, scale=scale, role="nuisance")


def study(scale: Scale, bottom: float, name: str = "x", count: int = 40, depth: float = 0.3) -> StudyResults:
  """Points along a scale that are the better the nearer they are to a place on it, and a second hyperparameter."""
  rng = np.random.default_rng(0)
  space = (named(scale, name), named(Linear(0.0, 2.0), "side"))
  trials = []
  for number in range(count):
    unit, side = (number + 0.5) / count, float(2 * rng.random())
    value = 0.1 + depth * (unit - bottom) ** 2 + 0.02 * (side - 1) ** 2 + rng.normal(0, 0.001)
    trials.append(planted.trial(number, {name: scale.at(unit), "side": side}, {"error": ([1], [value])}))
  return planted.results(trials, space, Minimize("error"))


@pytest.mark.parametrize(
  ("name", "scale"),
  [
    ("dropout", Linear(0.3, 0.95)),
    ("beta_2", ReverseLog(0.9, 1 - 0.0003)),
    ("momentum", ReverseLog(0.5, 1 - 0.004)),
  ],
)
def test_close_to_1_a_scale_is_expanded_by_what_it_lacks_to_1(name, scale, tmp_path):
  found = boundary.find(case(f"s_{name}", tmp_path))
  new = proposed(found, name)
  assert type(new) is type(scale)
  assert (new.min, new.max) == pytest.approx((scale.min, scale.max), rel=1e-9)  # pyright: ignore
  assert [(one.severity, one.subject, one.numbers["side"]) for one in found] == [("warning", name, "upper")]


def test_a_bound_of_exactly_1_is_crossed_only_on_request(tmp_path):
  (found,) = boundary.find(case("s_warmup_ratio", tmp_path))
  assert (found.severity, found.subject, found.space) == ("note", "warmup_ratio", None)
  assert "may be the end of what it can be" in found.title
  assert found.action is not None
  assert found.action.startswith("Nothing, if 1 is the end of what warmup_ratio can be")
  assert "1.2" not in found.action


def test_a_linear_learning_rate_with_its_optimum_at_the_bottom_asks_for_a_log_scale(tmp_path):
  found = boundary.find(case("lr_on_linear_scale_expand_to_0", tmp_path))
  assert proposed(found, "learning_rate") == Log(1e-4, 1.0)
  (one,) = found
  assert (one.severity, one.action) == ("warning", "Search learning_rate on a log scale from 0.0001 to 1.")


@pytest.mark.parametrize(
  ("name", "scale", "new"),
  [
    # The optimum is inside, but not resolved.
    ("weight_decay", Linear(1e-5, 1e-2), Log(1e-5, 1e-2)),
    ("units", Integer(16, 1024), Integer(16, 1024, log=True)),
    # Of a learning rate that begins at 0, from the smallest that was tried, and below it.
    ("lr", Linear(0.0, 0.8), Log(0.003, 0.8)),
    # Too narrow for a decade: it goes further down, but not to 0.
    ("lr", Linear(0.1, 0.5), Log(0.07, 0.5)),
    ("clip_norm", Linear(0.5, 2.0), Linear(0.25, 2.0)),
    # What may be off is expanded to 0.
    ("dropout", Linear(0.1, 0.5), Linear(0.0, 0.5)),
  ],
)
def test_where_the_best_are_at_the_bottom_of_a_linear_scale_small_values_are_resolved(name, scale, new):
  found = [one for one in boundary.find(study(scale, -0.2, name)) if one.subject == name]
  assert [one.severity for one in found] == ["warning"]
  assert proposed(found, name) == new


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize(
  "scale",
  [
    *(Linear(low, high) for low, high in itertools.combinations((0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.999, 1.0), 2)),
    *(Log(low, high) for low, high in itertools.combinations((1e-6, 1e-3, 0.1, 0.5, 0.9, 0.99, 1.0), 2)),
    *(ReverseLog(low, high) for low, high in itertools.combinations((0.0, 0.1, 0.5, 0.9, 0.99, 0.9999), 2)),
    *(Discrete(v) for v in ((0.9, 0.99, 0.999), (0.1, 0.2), (0.5, 0.75, 1.0), (0.001, 0.01, 0.1), (0.0, 0.5, 0.9))),
  ],
  ids=repr,
)
@pytest.mark.parametrize("step", [0.25, 0.5])
def test_what_was_searched_between_0_and_1_stays_there_whatever_its_name(scale, upper, step):
  for name in ("x", "dropout_rate", "one_minus_beta1"):
    new = expansion.expanded(named(scale, name), upper, step)
    if new is None:
      continue
    assert new.problems() == []
    low, high = expansion.bound_of(new, False), expansion.bound_of(new, True)
    assert 0 <= low < high <= 1
    # A bound of 1 is never proposed, only kept.
    assert high < 1 or expansion.bound_of(scale, True) == 1
    old = expansion.bound_of(scale, upper)
    assert (high > old) if upper else (low < old)


def test_a_learning_rate_may_exceed_1_and_signed_values_may_too():
  assert expansion.expanded(named(Log(1e-4, 1.0), "optimizer.learning_rate"), True, 0.25) == Log(1e-4, 10.0)
  assert expansion.expanded(named(Discrete((0.01, 0.1, 1.0)), "lr"), True, 0.25) == Discrete((0.01, 0.1, 1.0, 10.0))
  assert expansion.expanded(named(Linear(-3.0, 3.0)), True, 0.25) == Linear(-3.0, 4.5)
  # A correlation, a cosine.
  assert expansion.expanded(named(Linear(-1.0, 1.0)), True, 0.25) is None
  assert expansion.expanded(named(Linear(-1.0, 1.0)), False, 0.25) is None


@pytest.mark.parametrize(
  ("values", "upper", "new"),
  [
    ((32, 64, 128, 256, 512), True, 1024),
    ((8, 16, 24), False, 4),
    ((0.1, 0.2, 0.3), False, 0.05),
    ((0.7, 0.8, 0.9), True, 0.95),
    ((1, 2, 3), False, None),
    ((0.0, 0.1), False, None),
  ],
)
def test_a_list_is_continued_as_it_goes_on_without_values_that_cannot_be(values, upper, new):
  found = expansion.expanded(named(Discrete(values)), upper, 0.25)
  assert (None if found is None else expansion.bound_of(found, upper)) == new


def test_batch_sizes_stay_powers_of_two():
  assert expansion.expanded(named(Integer(16, 256, log=True)), True, 0.25) == Integer(16, 512, log=True)

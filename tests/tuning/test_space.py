import collections
import json
import math

import numpy as np
import pytest

from trialbook.tuning.space import scales
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, Optional, ReverseLog

CONTINUOUS = [
  Linear(-1.0, 3.0),
  Linear(0.0, 1.0),
  Log(1e-5, 1e-1),
  Log(0.12345678, 7.654321),
  ReverseLog(0.0, 0.999),
  ReverseLog(0.9, 1 - 1e-7),
]
NUMBERED = [
  Integer(0, 9),
  Integer(-3, 3),
  Integer(1, 64, log=True),
  Discrete([0.0, 0.1, 0.2, 0.5]),
  Discrete([16, 32]),
  OneOf(["sgd", "adam", None, True, 2, (1, 2)]),
]
UNITS = np.linspace(0, 1, 20_001)


@pytest.mark.parametrize("scale", CONTINUOUS, ids=str)
def test_unit_is_the_inverse_of_at_up_to_the_digits_that_are_kept(scale):
  # Six digits are a relative error of 5e-6 at most; this is what it means on the scale, by its slope.
  width = {
    Linear: lambda value: abs(value) / (scale.max - scale.min),
    Log: lambda value: 1 / math.log(scale.max / scale.min),
    ReverseLog: lambda value: 1 / math.log((1 - scale.min) / (1 - scale.max)),
  }[type(scale)]
  for unit in UNITS[::100]:
    value = scale.at(float(unit))
    assert scale.unit(value) == pytest.approx(unit, abs=5.1e-6 * width(value) + 1e-8)


@pytest.mark.parametrize("scale", NUMBERED, ids=str)
def test_unit_of_a_value_that_is_one_of_several_is_in_its_interval(scale):
  for unit in UNITS[::100]:
    value = scale.at(float(unit))
    assert scale.at(scale.unit(value)) == value


@pytest.mark.parametrize("scale", [*CONTINUOUS, Integer(0, 9), Integer(1, 64, log=True)], ids=str)
def test_values_grow_with_the_unit_from_one_bound_to_the_other_and_never_leave_them(scale):
  values = [scale.at(float(unit)) for unit in [0.0, 1e-17, *UNITS, np.nextafter(1, 0), 1.0]]
  assert all(scale.min <= value <= scale.max for value in values)
  assert sorted(values[2:]) == values[2:]
  assert (values[0], values[-1]) == pytest.approx((scale.min, scale.max), rel=5.1e-6)


@pytest.mark.parametrize(("scale", "bound"), [(Log(0.12345678, 1), 0), (Log(0.1, 0.98765432), 1)])
def test_rounding_does_not_lead_out_of_the_bounds(scale, bound):
  value = scale.at(float(bound))
  assert scale.min <= value <= scale.max
  assert 0 <= scale.unit(value) <= 1


def test_scales_are_uniform_in_what_they_say():
  assert Linear(-1.0, 3.0).at(0.25) == 0.0
  assert Log(1e-4, 1.0).at(0.75) == pytest.approx(0.1)
  assert ReverseLog(0.9, 0.999).at(0.5) == pytest.approx(0.99)


def test_of_a_decay_close_to_one_all_digits_of_its_complement_are_kept():
  scale = ReverseLog(0.9, 1 - 1e-8)
  for unit in UNITS[::500]:
    # 0.1 down to 1e-8, seven decades.
    assert 1 - scale.at(float(unit)) == pytest.approx(10 ** (-1 - 7 * unit), rel=1e-5)


def test_values_have_few_digits():
  assert all(len(f"{Log(1e-3, 1.0).at(float(unit)):g}") <= 11 for unit in UNITS[::100])
  assert Log(1e-3, 1.0).at(1 / 3) == 0.01


@pytest.mark.parametrize("scale", [one for one in NUMBERED if not getattr(one, "log", False)], ids=str)
def test_each_value_is_equally_frequent(scale):
  values = list(range(scale.min, scale.max + 1)) if isinstance(scale, Integer) else list(scale.values)
  # The middles of equal intervals, as many in each value's.
  counts = collections.Counter(scale.at((i + 0.5) / (100 * len(values))) for i in range(100 * len(values)))
  assert counts == dict.fromkeys(values, 100)


def test_whole_numbers_on_a_log_scale_are_as_frequent_as_the_logarithm_of_their_interval():
  scale = Integer(1, 64, log=True)
  counts = collections.Counter(scale.at(float(unit)) for unit in UNITS)
  assert sorted(counts) == list(range(1, 65))
  for value, count in counts.items():
    share = math.log((value + 0.5) / (value - 0.5)) / math.log(64.5 / 0.5)
    assert count / len(UNITS) == pytest.approx(share, abs=2 / len(UNITS))


@pytest.mark.parametrize(
  ("scale", "says"),
  [
    (Linear(1.0, 1.0), "min should be smaller than max"),
    (Linear(math.nan, 1.0), "finite"),
    (Linear(0.0, math.inf), "finite"),
    (Linear("0", 1), "finite numbers"),  # pyright: ignore[reportArgumentType]
    (Log(0.0, 1.0), "min > 0"),
    (Log(-1.0, 1.0), "min > 0"),
    (Log(2.0, 1.0), "min should be smaller than max"),
    (ReverseLog(0.9, 1.0), "max < 1"),
    (ReverseLog(0.99, 0.9), "min should be smaller than max"),
    (Integer(0, 3, log=True), "min >= 1"),
    (Integer(0, 2.5), "whole numbers"),  # pyright: ignore[reportArgumentType]
    (Integer(5, 5), "min should be smaller than max"),
    (Discrete([]), "a value at least"),
    (Discrete([1, 1]), "larger than the one before"),
    (Discrete([2, 1]), "larger than the one before"),
    (Discrete(["a"]), "use OneOf"),  # pyright: ignore[reportArgumentType]
    (Discrete([1, math.nan]), "finite"),
    (OneOf([]), "a value at least"),
    (OneOf([frozenset()]), "should be a string"),
  ],
  ids=str,
)
def test_what_is_wrong_with_a_scale_is_said(scale, says):
  assert says in " ".join(scale.problems())


@pytest.mark.parametrize("scale", [*CONTINUOUS, *NUMBERED], ids=str)
def test_a_right_scale_has_no_problems_and_a_record_in_json(scale):
  assert scale.problems() == []
  assert json.loads(json.dumps(scale.as_json())) == scale.as_json()


def test_scales_are_equal_by_what_they_hold():
  assert OneOf(["a", "b"]) == OneOf({"a": {}, "b": {}})
  assert OneOf({"a": {"x": Log(1, 2)}}) != OneOf(["a"])
  assert Optional(Log(1, 2)) == Optional(Log(1, 2)) != Optional(Log(1, 3))
  assert {OneOf(["a"]), OneOf(["a"])} == {OneOf(["a"])}


def nested() -> list[Hyperparameter]:
  def one(name, scale, parent=None):
    return Hyperparameter(name=name, path=name, scale=scale, role="nuisance", parent=parent)

  return [
    one("outer", OneOf(["a", "b"])),
    one("inner", OneOf(["x", "y"]), ("outer", "a")),
    one("deep", Linear(0.0, 1.0), ("inner", "x")),
    one("other", Linear(0.0, 1.0), ("outer", "b")),
    one("always", Linear(0.0, 1.0)),
  ]


@pytest.mark.parametrize(
  ("outer", "inner", "names"),
  [
    ("a", "x", ["outer", "inner", "deep", "always"]),
    ("a", "y", ["outer", "inner", "always"]),
    # What stands under an `inner` that does not exist itself is not there either.
    ("b", "x", ["outer", "other", "always"]),
  ],
)
def test_a_hyperparameter_exists_only_with_its_parents_value_at_any_depth(outer, inner, names):
  values = {"outer": outer, "inner": inner, "deep": 0.1, "other": 0.2, "always": 0.3}
  assert scales.active(nested(), values) == {name: values[name] for name in names}


def test_a_point_of_the_unit_cube_has_the_values_that_exist():
  assert scales.at(nested(), [0.1, 0.9, 0.5, 0.25, 0.75]) == {"outer": "a", "inner": "y", "always": 0.75}
  with pytest.raises(ValueError):
    scales.at(nested(), [0.1])


@pytest.mark.parametrize(
  ("sets", "value", "changes"),
  [
    ("value", 0.5, {"group.x": 0.5}),
    ("complement", 0.25, {"group.x": 0.75}),
    ("name", "adam", {"group.x.name": "adam"}),
    ("presence", False, {"group.x": None}),
    ("presence", True, {}),
  ],
)
def test_a_value_changes_the_field_that_it_sets(sets, value, changes):
  one = Hyperparameter(name="n", path="group.x", scale=OneOf([value]), role="nuisance", sets=sets)
  assert one.changes(value) == changes


def test_a_hyperparameter_is_recorded_with_its_scale_role_and_parent():
  one = Hyperparameter(name="n", path="p", scale=Log(1e-3, 1.0), role="nuisance", parent=("o", "a"), static=True)
  assert json.loads(json.dumps(one.as_json())) == {
    "role": "nuisance",
    "scale": "log",
    "min": 1e-3,
    "max": 1.0,
    "path": "p",
    "parent": {"name": "o", "value": "a"},
    "sets": "value",
    "static": True,
  }

"""What a model says of how its parameters are split, and that rules which cannot be followed are refused."""

from typing import Any

import pytest

from trialbook.errors import UserError
from trialbook.models.layout import Placement
from trialbook.trainer import sharding_rules

PARAMS = {
  "hidden/kernel": ((4, 6), Placement()),
  "hidden/bias": ((6,), Placement()),
  "blocks/layer/kernel": ((5, 4, 6), Placement(stacked=True)),
}
SIZES = {"data": 1, "fsdp": 2, "tensor": 3}


def placed(rules: Any, sizes: dict[str, int] = SIZES) -> dict[str, Placement]:
  return sharding_rules.placements(rules, PARAMS, sizes, "my_net:MyNet")


def test_the_first_rule_that_fits_counts_and_those_of_a_stack_leave_out_its_depth():
  rules = {"blocks/*": (None, "tensor"), "*/kernel": ("fsdp",), "hidden/bias": ["tensor"]}
  assert placed(rules) == {
    "hidden/kernel": Placement(("fsdp",)),
    "hidden/bias": Placement(("tensor",)),
    "blocks/layer/kernel": Placement((None, "tensor"), stacked=True),
  }


@pytest.mark.parametrize(
  ("rules", "problem"),
  [
    (["hidden/kernel"], r"sharding_rules is a list; a mapping such as"),
    (
      {"hiden/kernel": ("tensor",)},
      r"\['hiden/kernel'\] names no parameter; did you mean 'hidden/kernel'\? available: ",
    ),
    ({"hidden/kernel": "tensor"}, r"= 'tensor' is not a tuple of axes"),
    ({3: ("tensor",)}, r"\[3\] = \('tensor',\) is not a tuple"),
    ({"hidden/kernel": ("model",)}, r"has the axis 'model'; parameters are split over 'fsdp' and 'tensor', or None"),
    ({"hidden/kernel": ("tensor", "tensor")}, r"has the axis 'tensor' more than once"),
    ({"hidden/bias": (None, "tensor")}, r"has 2 axes, but hidden/bias \[6\] has 1"),
    (
      {"hidden/kernel": ("tensor",)},
      r"splits axis 0 of hidden/kernel \[4, 6\] over mesh\.tensor = 3, which does not divide 4; these do: 1, 2, 4",
    ),
    ({"blocks/*": ("tensor",)}, r"splits axis 0 of blocks/layer/kernel \[4, 6\] over mesh\.tensor = 3"),
    ({"hidden/kernel": ("fsdp",)}, r"mesh\.tensor = 3: the sharding_rules of model 'my_net:MyNet' name no parameter"),
    ({}, r"so 3 devices would do the same work; set mesh\.tensor to 1"),
  ],
)
def test_a_rule_that_cannot_be_followed_is_refused_with_its_name_and_what_would_do(rules: Any, problem: str):
  with pytest.raises(UserError, match=problem):
    placed(rules)


def test_all_problems_are_reported_together_and_without_a_mesh_no_size_is_wrong():
  rules = {"a": ("tensor",), "hidden/kernel": ("tensor",)}
  with pytest.raises(UserError) as caught:
    placed(rules)
  assert len(caught.value.problems) == 2
  assert placed({"hidden/kernel": ("tensor",)}, {})["hidden/kernel"].axes == ("tensor",)

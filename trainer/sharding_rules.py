"""Rules by which a model says how its parameters are split over the devices.

A model, ours or a plug-in, has them as `sharding_rules`: a class attribute, or a property.

    class MyNet(nnx.Module):
      sharding_rules = {"hidden/kernel": (None, "tensor"), "hidden/bias": ("tensor",), "output/kernel": ("tensor",)}

A key is a pattern over names of parameters, as in `parameter_groups`; of several that fit, the first counts. The value
has the axis of the mesh, "tensor" or "fsdp", for each axis of the parameter from the first on, or None. Of a `Stack`,
they are the axes of one layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.models.layout import TENSOR, Placement
from trialbook.naming import nearest
from trialbook.trainer.checkpoints.array_names import matches

AXES = ("fsdp", TENSOR)


def placements(
  rules: Any,
  params: Mapping[str, tuple[tuple[int, ...], Placement]],
  sizes: Mapping[str, int],
  model: str,
) -> dict[str, Placement]:
  """Return the placement of each parameter, by name.

  Args:
    rules: the model's.
    params: shape of each parameter, and its placement without rules.
    sizes: of the axes of the mesh; empty: there is none.
    model: its name.

  Raises:
    UserError: with all rules that fit no parameter, or not the parameters that they name; or `tensor` is larger than 1
      and splits nothing.
  """
  if not isinstance(rules, Mapping):
    raise UserError(f"model {model!r}: sharding_rules is a {type(rules).__name__}; {_FORM}")
  found, problems = {name: placement for name, (_, placement) in params.items()}, []
  taken: set[str] = set()
  for pattern, axes in rules.items():
    where = f"model {model!r}: sharding_rules[{pattern!r}]"
    if problem := _form_problem(pattern, axes):
      problems.append(f"{where} {problem}")
      continue
    names = [name for name in params if matches(name, (pattern,))]
    if not names:
      problems.append(f"{where} names no parameter{nearest(pattern, params)}")
    for name in names:
      shape, placement = params[name]
      problems += [f"{where} {problem}" for problem in _misfits(name, shape[placement.stacked :], axes, sizes)]
      if name not in taken:
        found[name] = placement._replace(axes=tuple(axes))
    taken.update(names)
  tensor = sizes.get(TENSOR, 1)
  if not problems and tensor > 1 and not any(TENSOR in placement.axes for placement in found.values()):
    problems.append(
      f"mesh.tensor = {tensor}: the sharding_rules of model {model!r} name no parameter that it splits, so {tensor}"
      f" devices would do the same work; set mesh.tensor to 1, or give the model rules: {_FORM}"
    )
  if problems:
    raise UserError(problems)
  return found


_FORM = 'a mapping such as {"hidden/kernel": (None, "tensor")}'


def _form_problem(pattern: Any, axes: Any) -> str:
  if not isinstance(pattern, str) or isinstance(axes, str) or not isinstance(axes, Sequence):
    return f"= {axes!r} is not a tuple of axes of the mesh; sharding_rules is {_FORM}"
  if unknown := [axis for axis in axes if axis is not None and axis not in AXES]:
    return f"has the axis {unknown[0]!r}; parameters are split over {' and '.join(map(repr, AXES))}, or None"
  named = [axis for axis in axes if axis is not None]
  return f"has the axis {named[0]!r} more than once" if len(set(named)) < len(named) else ""


def _misfits(name: str, shape: tuple[int, ...], axes: Sequence[str | None], sizes: Mapping[str, int]) -> list[str]:
  """Return why axes of the mesh cannot split a parameter (a layer of it, in a stack)."""
  if len(axes) > len(shape):
    return [f"has {len(axes)} axes, but {name} {list(shape)} has {len(shape)}"]
  found = []
  for index, (size, axis) in enumerate(zip(shape, axes, strict=False)):
    devices = 1 if axis is None else sizes.get(axis, 1)
    if size % devices:
      fitting = [str(n) for n in range(1, size + 1) if size % n == 0]
      found.append(
        f"splits axis {index} of {name} {list(shape)} over mesh.{axis} = {devices}, which does not divide {size};"
        f" these do: {', '.join(fitting)}"
      )
  return found

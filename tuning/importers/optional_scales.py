"""Hyperparameters that some trials switch off: by `None`, or by a zero among values on a logarithmic scale.

Such a column becomes the two hyperparameters that `Optional` gives in our own studies: `NAME.present`, and `NAME`,
which exists where it is present. So its scale stays numeric, and a log scale stays one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from trialbook.tuning.importers import inferred
from trialbook.tuning.space.scales import Hyperparameter, Integer, Log, OneOf, Role


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
  """A column as two hyperparameters.

  Attributes:
    hyperparameters: `NAME.present`, and `NAME`.
    note: what was read as off.
  """

  hyperparameters: tuple[Hyperparameter, Hyperparameter]
  note: str

  def values(self, value: Any) -> dict[str, Any]:
    """Return the values of both for a value of the column."""
    present, inside = self.hyperparameters
    return {present.name: False} if is_off(value, inside.scale) else {present.name: True, inside.name: value}


def split(name: str, values: Sequence[Any], known: Hyperparameter | None, has_present: bool) -> Split | None:
  """Return a column as two hyperparameters if some trials switch it off; None if none does.

  Args:
    name: of the column.
    values: of the trials that have one.
    known: the hyperparameter as the source or the user declares it; None if it is inferred.
    has_present: whether the trials have a column `NAME.present` already.
  """
  here = [value for value in values if value is not None]
  if has_present or not here or not all(map(_is_number, here)) or inferred.path_of(name) == "seed":
    return None
  one = guessed(name, here) if known is None else known
  if one is None or isinstance(one.scale, OneOf):
    return None
  zeros = sum(value == 0 for value in here) if _has_log_scale(one.scale) else 0
  absent = len(values) - len(here)
  if not zeros and not absent:
    return None
  present = Hyperparameter(
    name=f"{name}.present",
    path=one.path,
    scale=OneOf([False, True]),
    role="nuisance" if one.role == "fixed" else one.role,
    parent=one.parent,
    sets="presence",
    static=True,
    inferred=True,
  )
  # What stands under a scientific value has to be tuned for it.
  role = "nuisance" if one.role == "scientific" else one.role
  inside = dataclasses.replace(one, role=role, parent=(present.name, True))
  written = " or ".join(text for text, count in (("None or empty", absent), ("0", zeros)) if count)
  others = "on a log scale" if zeros else "numbers"
  note = (
    f"{name} is {written} in {zeros + absent} of {len(values)} trials, and {others} in the others. This is read as"
    f" switched off ({present.name} = False)."
  )
  return Split(hyperparameters=(present, inside), note=note)


def guessed(name: str, values: Sequence[Any], role: Role = "nuisance") -> Hyperparameter | None:
  """Return the hyperparameter that had these values, as `inferred.hyperparameter` does, but on a log scale where all
  values but zero are on one."""
  others = [value for value in values if value != 0]
  if len({*others}) > 1 and len(others) < len(values) and all(map(_is_number, values)):
    one = inferred.hyperparameter(name, others, role)
    if one is not None and _has_log_scale(one.scale) and one.path != "seed":
      return one
  return inferred.hyperparameter(name, values, role)


def is_off(value: Any, scale: Any) -> bool:
  """Return whether a value of a hyperparameter on a numeric scale means that it is switched off."""
  return value is None or (_is_number(value) and value == 0 and _has_log_scale(scale))


def _has_log_scale(scale: Any) -> bool:
  return isinstance(scale, Log) or (isinstance(scale, Integer) and scale.log)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)

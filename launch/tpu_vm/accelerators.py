"""Accelerator types of Cloud TPU: how many chips and hosts a slice has, and which runtime knows it."""

import dataclasses
import re

from trialbook.errors import UserError
from trialbook.naming import nearest

_TYPE = re.compile(r"([a-z0-9]+)-([1-9][0-9]*)")


@dataclasses.dataclass(frozen=True)
class Family:
  """A generation of slices.

  Attributes:
    runtime: version of the software that its machines start with.
    cores_per_chip: in whose number the type's name counts; 1: the name counts chips.
    chips_of_one_host: the largest slice of a single host, in chips.
    chips_per_host: of a slice of several hosts.
  """

  runtime: str
  cores_per_chip: int
  chips_of_one_host: int
  chips_per_host: int = 4


FAMILIES = {
  "v2": Family("tpu-ubuntu2204-base", 2, 4),
  "v3": Family("tpu-ubuntu2204-base", 2, 4),
  "v4": Family("tpu-ubuntu2204-base", 2, 4),
  "v5litepod": Family("v2-alpha-tpuv5-lite", 1, 8),
  "v5p": Family("v2-alpha-tpuv5", 2, 4),
  "v6e": Family("v2-alpha-tpuv6e", 1, 8),
}
"""First part of an accelerator type -> its family (cloud.google.com/tpu/docs/runtimes, and the pages of the types)."""


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice of an accelerator type.

  Attributes:
    chips: of it.
    hosts: of it.
    runtime: version of the software for it.
  """

  chips: int
  hosts: int
  runtime: str


def slice_of(accelerator_type: str) -> Slice:
  """Return what an accelerator type such as "v5litepod-16" is. Raises UserError."""
  found = _TYPE.fullmatch(accelerator_type)
  if found is None or found[1] not in FAMILIES:
    kind = accelerator_type.partition("-")[0]
    known = ", ".join(f"{name}-N" for name in FAMILIES)
    raise UserError(
      f"--accelerator_type={accelerator_type} is unknown{nearest(kind, FAMILIES)}; known are {known}, where N is a"
      " number of chips for v5litepod and v6e, and of cores for the others"
    )
  family = FAMILIES[found[1]]
  chips, rest = divmod(int(found[2]), family.cores_per_chip)
  if rest:
    raise UserError(f"--accelerator_type={accelerator_type}: {found[2]} is a number of cores, of which a chip has two")
  hosts = 1 if chips <= family.chips_of_one_host else -(-chips // family.chips_per_host)
  return Slice(chips, hosts, family.runtime)


def runtime_problem(accelerator_type: str, runtime: str) -> str | None:
  """Return what is wrong with a runtime version for an accelerator type; None if it fits, or is not known here."""
  made_for = [name for name, family in FAMILIES.items() if family.runtime == runtime]
  if not made_for or accelerator_type.partition("-")[0] in made_for:
    return None
  return (
    f"--runtime_version={runtime} is for {', '.join(made_for)}, and does not know {accelerator_type}; leave it out for"
    f" {slice_of(accelerator_type).runtime}"
  )

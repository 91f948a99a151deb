"""What is known of chips and of the topologies they come in, from public sources. Imports no jax."""

import dataclasses
import math
import re

from trialbook.errors import UserError
from trialbook.naming import nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """A kind of chip. A figure that is not published is None, and nothing is computed from it.

  Attributes:
    platform: whose compiler is used: "tpu", or "gpu" and "cpu", for which jax's CPU compiler stands in.
    hbm_bytes: memory of a chip.
    usable_bytes: what the compiler gives to programs, by its message about one that is too large (libtpu 0.0.42).
    flops: peak FLOP/s in bfloat16, dense.
    hbm_bandwidth: bytes/s between chip and memory.
    ici_bandwidth: bytes/s that a chip receives over all its links to other chips of the slice or node, one way.
    dcn_bandwidth: bytes/s of a chip to other slices or nodes.
    torus: number of dimensions in which chips have neighbours; 0: all reach each other through a switch.
    wraps: length from which on a dimension of the topology is a ring, in multiples of which it is one.
    chips_per_host: chips of a host in a job of several hosts.
    host_bytes: memory of such a host.
    source: where the figures are published.
  """

  platform: str
  hbm_bytes: int | None = None
  usable_bytes: int | None = None
  flops: float | None = None
  hbm_bandwidth: float | None = None
  ici_bandwidth: float | None = None
  dcn_bandwidth: float | None = None
  torus: int = 0
  wraps: int = 0
  chips_per_host: int = 1
  host_bytes: int | None = None
  source: str = ""


CHIPS = {
  "v4": Chip(
    platform="tpu",
    hbm_bytes=32 * GIB,
    usable_bytes=int(30.75 * GIB),
    flops=275e12,
    hbm_bandwidth=1200e9,
    # Six links of 50 GB/s each way: table 4 of arXiv:2304.01433.
    ici_bandwidth=300e9,
    torus=3,
    wraps=4,
    chips_per_host=4,
    host_bytes=407 * 10**9,
    source="cloud.google.com/tpu/docs/v4, arXiv:2304.01433",
  ),
  "v5e": Chip(
    platform="tpu",
    hbm_bytes=16 * GIB,
    usable_bytes=int(15.75 * GIB),
    flops=197e12,
    hbm_bandwidth=819e9,
    ici_bandwidth=200e9,
    # 6.4 Tbit/s for the 256 chips of a pod.
    dcn_bandwidth=6.4e12 / 8 / 256,
    torus=2,
    wraps=16,
    chips_per_host=4,
    host_bytes=192 * 10**9,
    source="cloud.google.com/tpu/docs/v5e",
  ),
  "v5p": Chip(
    platform="tpu",
    hbm_bytes=95 * GIB,
    usable_bytes=int(95.74 * GIB),
    flops=459e12,
    hbm_bandwidth=2765e9,
    ici_bandwidth=600e9,
    dcn_bandwidth=50e9 / 8,
    torus=3,
    wraps=4,
    chips_per_host=4,
    host_bytes=448 * 10**9,
    source="cloud.google.com/tpu/docs/v5p",
  ),
  "v6e": Chip(
    platform="tpu",
    hbm_bytes=32 * GIB,
    usable_bytes=int(31.25 * GIB),
    flops=918e12,
    hbm_bandwidth=1600e9,
    ici_bandwidth=400e9,
    # 25.6 Tbit/s for the 256 chips of a pod.
    dcn_bandwidth=25.6e12 / 8 / 256,
    torus=2,
    wraps=16,
    chips_per_host=4,
    host_bytes=720 * 10**9,
    source="cloud.google.com/tpu/docs/v6e",
  ),
  "a100": Chip(
    platform="gpu",
    hbm_bytes=80 * GIB,
    usable_bytes=80 * GIB,
    flops=312e12,
    hbm_bandwidth=2039e9,
    ici_bandwidth=300e9,
    chips_per_host=8,
    source="NVIDIA A100 80GB SXM data sheet",
  ),
  "h100": Chip(
    platform="gpu",
    hbm_bytes=80 * GIB,
    usable_bytes=80 * GIB,
    flops=989e12,
    hbm_bandwidth=3350e9,
    ici_bandwidth=450e9,
    chips_per_host=8,
    source="NVIDIA H100 SXM data sheet",
  ),
  "h200": Chip(
    platform="gpu",
    hbm_bytes=141 * 10**9,
    usable_bytes=141 * 10**9,
    flops=989e12,
    hbm_bandwidth=4800e9,
    ici_bandwidth=450e9,
    chips_per_host=8,
    source="NVIDIA H200 SXM data sheet",
  ),
  "cpu": Chip(platform="cpu", source="this machine"),
}

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES = {"v4": (*_CUBES, "12x16x16"), "v5e": _FLAT, "v5p": (*_CUBES, "16x16x24"), "v6e": _FLAT}
"""The shapes of slices that are offered, by chip; GPUs and CPUs are counted instead, such as h100:8."""
MOST_COUNTED = 1024
"""Most GPUs or CPU devices; each is a device of one process of the CPU compiler."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """Chips of one kind, as slices of one shape, or as a number of GPUs.

  Attributes:
    kind: name of the chip.
    shape: chips along each dimension of a slice; one number if they are counted.
    slices: number of slices.
  """

  kind: str
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def chip(self) -> Chip:
    """Return the facts of the chip."""
    return CHIPS[self.kind]

  @property
  def name(self) -> str:
    """Return the name of a slice, such as "v5e:16x16"."""
    return f"{self.kind}:{'x'.join(map(str, self.shape))}"

  @property
  def chips(self) -> int:
    """Return the number of chips in all slices."""
    return math.prod(self.shape) * self.slices

  @property
  def chips_per_host(self) -> int:
    """Return the chips of each host."""
    return min(self.chip.chips_per_host, math.prod(self.shape))

  @property
  def hosts(self) -> int:
    """Return the number of hosts."""
    return math.ceil(self.chips / self.chips_per_host)

  def is_ring(self, dimension: int) -> bool:
    """Return whether the ends of a dimension are neighbours."""
    length = self.shape[dimension]
    return self.chip.wraps > 0 and length >= self.chip.wraps and length % self.chip.wraps == 0

  def __str__(self) -> str:
    return self.name if self.slices == 1 else f"{self.slices} slices of {self.name}"


def known() -> list[str]:
  """Return the names of all topologies; GPUs and CPUs by an example."""
  return [
    *(f"{kind}:{shape}" for kind, shapes in SHAPES.items() for shape in shapes),
    *(f"{kind}:8" for kind in CHIPS if kind not in SHAPES),
  ]


def _of_size(kind: str, chips: int) -> str:
  """Return the names of the slices of a chip whose numbers of chips are nearest to a number."""
  own = {"v5": "v5e", **{name: name for name in SHAPES}}.get(kind)
  named = [(name, shape) for name, shapes in SHAPES.items() if own in (None, name) for shape in shapes]

  def distance(one: tuple[str, str]) -> float:
    return abs(math.log(math.prod(map(int, one[1].split("x"))) / max(chips, 1)))

  return ", ".join(f"{name}:{shape}" for name, shape in sorted(named, key=distance)[:3])


def parse_topology(text: str, slices: int = 1) -> Topology:
  """Return the topology of a name such as "v5e:16x16", or "h100:8".

  Raises:
    UserError: there is no such topology; the message has those that there are.
  """
  kind, _, shape = text.partition(":")
  if cloud := re.fullmatch(r"(v\d\w*?)(?:litepod)?-(\d+)", text):
    raise UserError(f"--topology={text}: write CHIP:SHAPE, as in {_of_size(cloud[1], int(cloud[2]))}")
  if kind not in CHIPS:
    raise UserError(f"--topology={text}: there is no chip {kind!r}{nearest(kind, CHIPS)}; a name is CHIP:SHAPE")
  if kind in SHAPES:
    if shape not in SHAPES[kind]:
      sides = [int(side) for side in re.findall(r"\d+", shape)]
      offered = _of_size(kind, math.prod(sides)) if sides else ", ".join(f"{kind}:{one}" for one in SHAPES[kind])
      raise UserError(
        f"--topology={text}: {kind} has no slice of this shape; the nearest are {offered} (--help has all)"
      )
    return Topology(kind=kind, shape=tuple(map(int, shape.split("x"))), slices=slices)
  if not re.fullmatch(r"[1-9]\d{0,3}", shape) or int(shape) > MOST_COUNTED:
    raise UserError(f"--topology={text}: write {kind}:NUMBER, with 1 to {MOST_COUNTED} devices, for example {kind}:8")
  if slices > 1:
    raise UserError(
      f"--slices={slices}: {kind} has no slices; give the number of all devices, --topology={kind}:NUMBER"
    )
  return Topology(kind=kind, shape=(int(shape),))

"""The meshes of a topology."""

from collections.abc import Iterator, Sequence


def possible_meshes(chips: int, axes: Sequence[str]) -> Iterator[dict[str, int]]:
  """Yield the sizes of axes that are given sizes, for all ways to cut the chips of a slice; the rest is `data`.

  Args:
    chips: of a slice.
    axes: names of the axes, such as ["fsdp", "tensor"].
  """
  if not axes:
    yield {}
    return
  for size in (one for one in range(1, chips + 1) if chips % one == 0):
    for rest in possible_meshes(chips // size, axes[1:]):
      yield {axes[0]: size, **rest}

"""The function that studies in tests/old_records call."""

from collections.abc import Iterator, Mapping


def bowl(x: float, shape: str = "wide") -> Iterator[Mapping[str, float]]:
  """Three evaluations of a loss whose lowest value is at x = 0.25."""
  steepness = {"wide": 1.0, "narrow": 4.0}[shape]
  for step in range(3):
    yield {"loss": steepness * (x - 0.25) ** 2 + 1 / (step + 1)}

"""Functions of quick studies, and the studies: their values are known in closed form."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from trialbook.errors import InfeasibleError
from trialbook.tuning import Linear, Listed, Minimize, OneOf, Study

POINTS = (-0.5, 0.25, 0.5, 1.0)
"""Values of x; the last one is infeasible."""


def curve(x: float) -> Iterator[Mapping[str, float]]:
  """Six evaluations, of which the fourth is a lucky one: best, last and smoothed loss rank the points differently."""
  if x > 0.75:
    raise InfeasibleError(f"x = {x} is too large")
  for loss in losses(x):
    yield {"loss": loss, "score": -(x**2)}


def losses(x: float) -> list[float]:
  """What `curve` yields."""
  bowl = (x - 0.25) ** 2
  return [bowl + 5, bowl + 4, bowl + 3, bowl - abs(x), bowl + 2, bowl + 2 + x]


def shaped(x: float, shape: str = "flat") -> Mapping[str, float]:
  """The distance of x from where a shape has its optimum; a flat one has none, and the function crashes."""
  optimum = {"wide": 0.5, "narrow": -0.5}[shape]
  return {"loss": (x - optimum) ** 2}


def half(x: float) -> Mapping[str, float]:
  """The loss of positive x; for a negative one the function crashes."""
  if x < 0:
    raise ValueError("x is negative")
  return {"loss": x**2}


def anything(**values: Any) -> Mapping[str, float]:
  """A loss of 0, whatever the hyperparameters."""
  return {"loss": 0.0}


def study(**changes: Any) -> Study:
  """A study of `curve`, of four trials."""
  found = Study(
    name="curves",
    goal="Where is the bottom | of the bowl?",
    objective=Minimize("loss"),
    function="quadratics:curve",
    nuisance={"x": Linear(-1.0, 1.0)},
    search=Listed([{"x": x} for x in POINTS]),
  )
  return dataclasses.replace(found, **changes)


def study_of_shapes(**changes: Any) -> Study:
  """A study of `shaped`, of eight trials."""
  found = Study(
    name="shapes",
    goal="Which shape has the deeper bottom?",
    objective=Minimize("loss"),
    function="quadratics:shaped",
    scientific={"shape": OneOf(["wide", "narrow"])},
    nuisance={"x": Linear(-1.0, 1.0)},
    trials=8,
  )
  return dataclasses.replace(found, **changes)

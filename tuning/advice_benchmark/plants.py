"""What is planted in a study, and how often a finding sees it."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence

from trialbook.tuning.findings import Finding
from trialbook.tuning.results import StudyResults


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plant:
  """Something that is wrong with a study, in several sizes.

  Attributes:
    name: in words.
    question: module of the findings that looks for it.
    unit: of the sizes, in words.
    sizes: from invisible to plain.
    reached: size from which at least nine of ten studies are to be found.
    why: why that size matters in practice.
    draw: returns the study of a seed and a size.
    seen: returns whether the findings name it, given the seed.
  """

  name: str
  question: str
  unit: str
  sizes: tuple[float, ...]
  reached: float
  why: str
  draw: Callable[[int, float], StudyResults]
  seen: Callable[[Sequence[Finding], int], bool]

  def is_seen(self, seed: int, size: float) -> bool:
    """Return whether the study of a seed and a size gets the finding."""
    return self.seen(found(self.question, self.draw(seed, size)), seed)


def found(question: str, results: StudyResults) -> list[Finding]:
  """Return what one module finds."""
  return importlib.import_module(f"trialbook.tuning.findings.{question}").find(results)


def rate(plant: Plant, size: float, seeds: Sequence[int]) -> float:
  """Return the share of seeds in which a size of a plant is seen."""
  return sum(plant.is_seen(seed, size) for seed in seeds) / len(seeds)

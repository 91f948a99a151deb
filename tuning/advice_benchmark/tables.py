"""The tables of the benchmark: the studies that each needs, and its rows."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from trialbook.tuning.advice_benchmark import curve_plants, planted_curves, point_plants
from trialbook.tuning.advice_benchmark.claims import CLAIMS, Claim
from trialbook.tuning.advice_benchmark.jobs import CURVE_CONTROLS, Job
from trialbook.tuning.advice_benchmark.plants import Plant
from trialbook.tuning.advice_benchmark.rates import Rate
from trialbook.tuning.findings import QUESTIONS

GROUPS = ("healthy", "winners", "harder", "points", "curves")
"""Words by which tables are chosen."""
CLAIM_PART, PLANT_PART = 4, 8
"""Parts of `--studies` that each size of a claim and of a plant gets: of 400, 100 and 50."""
EXCESSES = (0.3, 1.0)
"""Errors at the largest learning rate in healthy studies of all schedules, as shares of the error at the end."""

Results = Mapping[Job, Any]
Row = tuple[list[str], dict[str, Any]]
"""Cells, and the same in numbers for JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of rates.

  Attributes:
    group: one of `GROUPS`.
    title: what it shows.
    header: of its columns.
    names: of what its rows need, by which these can be chosen.
    jobs: returns the studies of a name, from the number of healthy studies and the first seed.
    rows: returns the rows of names from the results of their jobs.
  """

  group: str
  title: str
  header: tuple[str, ...]
  names: tuple[str, ...]
  jobs: Callable[[str, int, int], list[Job]]
  rows: Callable[[Sequence[str], Results], list[Row]]

  def chosen(self, word: str | None) -> list[str]:
    """Return the names that a word chooses: all if it is the group, or else those that contain it."""
    if word is None or word == self.group:
      return list(self.names)
    return [] if word in GROUPS else [name for name in self.names if word in name]

  def markdown(self, rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (self.header, *(cells for cells, _ in rows))]
    return "\n".join([lines[0], "|" + "---|" * len(self.header), *lines[1:]])


def _seeded(kind: str, name: str, sizes: Iterable[float], studies: int, first: int) -> list[Job]:
  return [Job(kind, name, size, seed) for size in sizes for seed in range(first, first + studies)]


def _rate(results: Results, kind: str, name: str, size: float) -> Rate:
  """Return how many studies of a size have a result that is true, or not empty."""
  found = [bool(result) for job, result in results.items() if job[:3] == (kind, name, size)]
  return Rate(sum(found), len(found))


def _by_part(kind: str) -> Callable[[Sequence[str], Results], list[Row]]:
  """Return the function that counts studies with something false in each part of all studies."""

  def rows(_: Sequence[str], results: Results) -> list[Row]:
    counts: dict[str, list[int]] = {}
    for job, result in results.items():
      for part in result["parts"] if job.kind == kind else ():
        count = counts.setdefault(part, [0, 0])
        count[0] += bool(result["false"])
        count[1] += 1
    order = sorted(counts, key=lambda part: (part != "all", part))
    rates = {part: Rate(*counts[part]) for part in order}
    return [([part, str(rate.studies), str(rate)], {"part": part, **rate.as_json()}) for part, rate in rates.items()]

  return rows


def _by_question(_: Sequence[str], results: Results) -> list[Row]:
  healthy = [result for job, result in results.items() if job.kind == "healthy"]
  false = collections.Counter(question for result in healthy for question in {one[0] for one in result["false"]})
  true = collections.Counter(question for result in healthy for question in result["true"])
  rates = {question: Rate(false[question], len(healthy)) for question in QUESTIONS}
  return [
    ([f"`{name}`", str(rate), str(true[name])], {"question": name, **rate.as_json(), "true": true[name]})
    for name, rate in rates.items()
  ]


def _of_claims(right: bool) -> Table:
  chosen = {
    f"{claim.name}: {claim.claim}": (str(place), claim) for place, claim in enumerate(CLAIMS) if claim.right == right
  }

  def jobs(name: str, studies: int, first: int) -> list[Job]:
    key, claim = chosen[name]
    return _seeded("claim", key, claim.sizes, max(studies // CLAIM_PART, 1), first)

  def row(key: str, claim: Claim, results: Results) -> Row:
    rates = {size: _rate(results, "claim", key, size) for size in claim.sizes}
    said = "; ".join(f"{size:g}: {rate}" if claim.unit else str(rate) for size, rate in rates.items())
    numbers = [{"size": size, **rate.as_json()} for size, rate in rates.items()]
    return [claim.name, claim.claim, claim.unit, said], {"name": claim.name, "claim": claim.claim, "sizes": numbers}

  return Table(
    group="harder",
    title="What is right to say of harder studies" if right else "What is wrong to say of harder studies",
    header=("planted", "right to say" if right else "wrong to say", "size", "said in"),
    names=tuple(chosen),
    jobs=jobs,
    rows=lambda names, results: [row(*chosen[name], results) for name in names],
  )


def _of_plants(group: str, plants: Sequence[Plant]) -> Table:
  by_name = {plant.name: plant for plant in plants}

  def jobs(name: str, studies: int, first: int) -> list[Job]:
    return _seeded("plant", name, by_name[name].sizes, max(studies // PLANT_PART, 1), first)

  def row(plant: Plant, results: Results) -> Row:
    rates = {size: _rate(results, "plant", plant.name, size) for size in plant.sizes}
    found = ", ".join(f"{size:g}: {rate.share:.0%}" for size, rate in rates.items())
    numbers = [{"size": size, **rate.as_json()} for size, rate in rates.items()]
    at = f"{plant.reached:g}: {rates[plant.reached]}"
    return [f"{plant.name} (`{plant.question}`)", plant.unit, found, at, plant.why], {
      "name": plant.name,
      "sizes": numbers,
    }

  return Table(
    group=group,
    title=f"What is planted in {group}, and found",
    header=("planted", "size", "found in", "at the size that matters", "why that size matters"),
    names=tuple(by_name),
    jobs=jobs,
    rows=lambda names, results: [row(by_name[name], results) for name in names],
  )


def _of_controls(group: str, kind: str, names: Iterable[str], sizes: Sequence[float], header: Sequence[str]) -> Table:
  def row(name: str, size: float, results: Results) -> Row:
    rate = _rate(results, kind, name, size)
    said = collections.Counter(
      question for job, result in results.items() if job[:3] == (kind, name, size) for question in result
    )
    by = ", ".join(f"{question} {count}" for question, count in sorted(said.items())) or "none"
    cells = [name, *([f"{size:g}"] if len(sizes) > 1 else []), str(rate), by]
    return cells, {"name": name, "size": size, **rate.as_json(), "by": dict(said)}

  return Table(
    group=group,
    title=f"Healthy controls of {group}: {header[0]}",
    header=(*header, "with a false alarm", "studies of each finding"),
    names=tuple(names),
    jobs=lambda name, studies, first: _seeded(kind, name, sizes, max(studies // PLANT_PART, 1), first),
    rows=lambda names, results: [row(name, size, results) for name in names for size in sizes],
  )


def _of_forms(group: str, kind: str, title: str, said: str, studies: str) -> Table:
  return Table(
    group=group,
    title=title,
    header=(studies, "studies", said),
    names=(kind,),
    jobs=lambda _, studies, first: _seeded(kind, "", (0.0,), studies, first),
    rows=_by_part(kind),
  )


HEALTHY = _of_forms("healthy", "healthy", "Healthy studies", "with a false alarm", "healthy studies")
WINNERS = _of_forms("winners", "winner", "Settings that are equally good", "with a winner", "equal settings")
TABLES = (
  HEALTHY,
  dataclasses.replace(
    HEALTHY,
    title="False alarms by question",
    header=("question", "studies with a false alarm of it", "studies in which it may warn"),
    rows=_by_question,
  ),
  WINNERS,
  _of_claims(right=True),
  _of_claims(right=False),
  _of_plants("points", point_plants.PLANTS),
  _of_controls("points", "point control", point_plants.CONTROLS, (0.0,), ("control",)),
  _of_plants("curves", curve_plants.PLANTS),
  _of_controls("curves", "curve control", CURVE_CONTROLS, (0.0,), ("control",)),
  _of_controls("curves", "schedule", planted_curves.SCHEDULES, EXCESSES, ("schedule", "excess")),
)
"""All tables, in the order in which they are printed."""

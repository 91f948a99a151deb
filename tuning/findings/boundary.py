"""Whether the best points lie at an edge of the space (PB-23), or right below an instability (PB-80).

The playbook: a search space is suspicious if the best points sit near its boundary; expand it there. If everything
above a learning rate is infeasible and the best sit right below, it is not the space but training that limits: mend the
instability first. Here: for each side of each numeric hyperparameter, the edge is the space's, or the cliff beyond
which points are infeasible (`tuning.findings.cliffs`); "at the edge" means that a quadratic through the good points
(`tuning.findings.surface`) still falls towards it there, by a one-sided t test over all sides, and that the best points
stand on that side. "Near the edge" means the same at the inner end of the outer part of the scale: the optimum is in
that part, or beyond. Studies too small for the fit are tested by how many of their best points lie in the outer part.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from tuning.findings import surface as surfaces
from tuning.findings.cliffs import before, cliffs_of
from tuning.findings.expansion import allowed, bound_of, expanded, places_of
from tuning.findings.finding import Finding, Severity
from tuning.findings.infeasible import Separation, separation
from tuning.findings.noise import Noise, noise_of
from tuning.findings.points import (
  Point,
  feasible,
  is_learning_rate,
  is_numeric,
  many,
  points_of,
  rounded,
  searched,
  shown,
  unit_of,
  units_of,
  value_at,
)
from tuning.results import StudyResults
from tuning.space import Hyperparameter, ReverseLog

LEVEL = 0.05
"""Of the tests of all sides together: an unneeded expansion costs density in all dimensions."""
LEAST_PLACES = 3
"""On a scale: of two, each is at an edge."""
LEAST = 8
"""Points with a value: of fewer, the best three are not told from the others."""
NEAR = 0.4
"""How far from the edge, as a share of the scale, half of the best points may lie: those of an optimum there lie in the
nearer third or so, as few points have landed right at it."""
BEST = 1 / 8
"""Of the points are the best ones, three at least."""
OUTER = 1 / 6
"""The outer part of a scale. The best points of usual studies spread by about a sixth (standard deviation) around the
optimum: an edge that is nearer cuts many of them off. In the test for small studies: three of three points there have
p = 0.005 by chance."""
AROUND = 2 * OUTER
"""How far from the edge half of the best points may lie to be near it: those of an optimum in the outer part, to both
sides of it."""
SHOWN = 3
"""Sides whose tests are named in one finding, the first ones: a reader sees what is asked."""
LEAST_STEP, MOST_STEP = 0.25, 0.5
"""By what share of the scale a side is moved out: to the fitted optimum and a tenth beyond, but less than a quarter is
not worth a study, and more than a half is guessed."""
MOST_TIMES = 4.0
"""As many points as there are: how many more would tell is not foreseen beyond."""


def find(results: StudyResults) -> list[Finding]:
  """For each side at which the best points lie: by how much to expand it, or that training is unstable beyond."""
  points = points_of(results)
  axes = [one for one in searched(results) if is_numeric(one)]
  if not axes:
    return [_finding("ok", "No numeric hyperparameter is varied: there is no edge to be near to", "Nothing to test.")]
  found: list[Finding] = []
  unknown = [one for one in axes if one.inferred]
  if unknown:
    names = ", ".join(one.name for one in unknown)
    found.append(
      _finding(
        "cannot_tell",
        f"The bounds of {names} are not known, so that nobody can tell whether the best trials lie at them",
        "Their scales were inferred from the trials' values.",
        action="Give min, max and scale of each: of tables in study.json, of other sources by `import --space=FILE`.",
      )
    )
  axes = [one for one in axes if not one.inferred]
  if binary := [one.name for one in axes if places_of(one) < LEAST_PLACES]:
    found.append(
      _finding(
        "cannot_tell",
        f"{', '.join(binary)} {'has' if len(binary) == 1 else 'have'} two values: there is no edge to test",
        "Of two values each is at an edge; that one is better does not say whether one beyond it is better still.",
        action="To learn that, give it a third value on the better side.",
      )
    )
  axes = [one for one in axes if places_of(one) >= LEAST_PLACES]
  if not axes:
    return found
  noise = noise_of(results)
  cliffs = {one.name: cliffs_of(one, points) for one in axes}
  kept = before(points, axes, cliffs)
  space = searched(results)
  surface = surfaces.fit(kept, space)
  short = []
  unsure: list[Side] = []
  numbers: dict[str, Any] = {}
  for one in axes:
    here = [point for point in feasible(kept) if math.isfinite(unit_of(one, point.values))]
    if len(here) < LEAST or len({unit_of(one, point.values) for point in here}) < LEAST_PLACES:
      short.append(one.name)
      continue
    for upper in (False, True):
      cliff = cliffs[one.name].get(upper)
      side = _side(one, upper, cliff, here, surface, space, 2 * len(axes), noise)
      numbers[f"{one.name} {'above' if upper else 'below'}"] = round(side.p, 6)
      said = None
      if side.limits or side.near is not None:
        said = _unstable(side) if side.cliff is not None else _expand(side, results, points)
      if said is not None:
        found.append(said)
      elif side.more is not None:
        unsure.append(side)
  if unsure:
    found.append(_unsure(unsure, len(feasible(kept)), LEVEL / 2 / len(axes)))
  if short:
    found.append(
      _finding(
        "cannot_tell",
        f"Too few points to tell whether the best lie at an edge of {', '.join(short)}",
        f"The test takes {LEAST} points with a value and {LEAST_PLACES} places on the scale.",
        action=f"Run until each has {LEAST} complete trials.",
      )
    )
  if not found:
    found.append(
      _finding(
        "ok",
        "No side of the space is shown to limit the best points",
        f"Towards none of {2 * len(axes)} sides do the good points still get better (p below"
        f" {LEVEL / 2 / len(axes):.2g} would tell).",
        numbers={"p": numbers},
      )
    )
  return found


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of one hyperparameter, and what was found there.

  Attributes:
    upper: which side.
    cliff: that it ends at; None: at the edge of the space.
    limits: whether the best points are limited by it.
    near: p of the test whether they lie near it, though it need not limit them; None if they do not.
    more: how many more points would tell, infinite if very many; None: it is told.
    p: of the test whether it limits them.
    distance: of the best points, at the median, as a share of the scale before the side.
    optimum: of the fit, on the scale; None if there is none.
    best: the points.
    how: that test was made, in a clause.
  """

  one: Hyperparameter
  upper: bool
  cliff: Separation | None
  limits: bool
  near: float | None
  more: float | None
  p: float
  distance: float
  optimum: float | None
  best: tuple[Point, ...]
  how: str

  @property
  def word(self) -> str:
    return "upper" if self.upper else "lower"

  @property
  def told(self) -> str:
    """What the test that found something says, in a clause."""
    if self.limits:
      return f"{self.how} (p = {self.p:.1g})"
    return f"a quadratic through the good points still falls a sixth of the scale before it (p = {self.near:.1g})"


def _side(
  one: Hyperparameter,
  upper: bool,
  cliff: Separation | None,
  here: Sequence[Point],
  surface: surfaces.Surface | None,
  space: Sequence[Hyperparameter],
  tests: int,
  noise: Noise | None,
) -> Side:
  edge = cliff.unit if cliff is not None else float(upper)
  inside = edge if upper else 1 - edge
  units = units_of(one, here)
  distances = (edge - units if upper else units - edge) / inside
  best = max(3, round(BEST * len(here)))
  distance = float(np.median(distances[:best]))
  optimum = more = beside = None
  level = LEVEL / tests

  def falls(place: float) -> tuple[float, float, bool]:
    """How steeply the fit falls outwards at a place, by standard errors; p that it does not; whether it matters."""
    assert surface is not None
    slope, error = surface.slope(one.name, place)
    fall = -slope if upper else slope
    # By the least step of an expansion it has to fall by more than noise.
    matters = noise is None or fall * LEAST_STEP > noise.deviation
    steep = fall / error if error > 0 else 0.0
    return steep, float(scipy.stats.t.sf(steep, surface.freedom)) if error > 0 else 1.0, matters

  if surface is not None:
    steep, p, matters = falls(edge)
    limits = matters and p < level and distance < NEAR
    optimum = surface.lowest(one.name)
    if matters and level <= p and steep > 0 and distance < NEAR:
      # Standard errors shrink by the root of the number of points.
      times = (float(scipy.stats.t.ppf(level, surface.freedom)) / steep) ** 2
      more = math.ceil((times - 1) * surface.points) if times <= MOST_TIMES else math.inf
    _, nearby, matters = falls(edge - OUTER * inside if upper else edge + OUTER * inside)
    beside = nearby if matters and nearby < level and distance < AROUND and not limits else None
    how = "a quadratic through the good points still falls towards it there"
  else:
    best = 3
    outer = distances <= OUTER
    chance = max(float(np.mean(outer)), OUTER)
    p = float(scipy.stats.binom.sf(int(outer[:best].sum()) - 1, best, chance))
    if chance**best >= level:
      # Not even if all of the best points were there.
      more = max(surfaces.needed(space) - len(here), 1)
    distance = float(np.median(distances[:best]))
    limits = p < level and distance < NEAR
    how = f"its outer sixth holds {int(outer[:best].sum())} of the best {best} points"
  return Side(one, upper, cliff, limits, beside, more, p, distance, optimum, tuple(here[:best]), how)


def _unstable(side: Side) -> Finding:
  cut = side.cliff
  assert cut is not None
  one = side.one
  beside, below, surely = ("right beside", "right", "is") if side.limits else ("near", "not far", "may be")
  shares = f"{cut.inside[0]} of {many(cut.inside[1], 'point')} with {cut.text} are infeasible or much worse"
  why = (
    f"{shares}, {cut.outside[0]} of {cut.outside[1]} others; the best points lie {beside} that cliff (median"
    f" distance {side.distance:.0%} of the scale before it), and {side.told}."
  )
  numbers = {
    "cliff": cut.value,
    "inside": list(cut.inside),
    "outside": list(cut.outside),
    "p": side.p if side.limits else side.near,
  }
  trials = tuple(sorted(number for point in side.best for number in point.trials))
  if is_learning_rate(one) and side.upper:
    return Finding(
      id="PB-80",
      question="boundary",
      severity="warning" if side.limits else "note",
      subject=one.name,
      title=f"Training is unstable at {cut.text}, and the best trials lie {below} below",
      why=f"{why} It {surely} instability that limits the learning rate, not the search space.",
      trials=trials,
      numbers=numbers,
      action="Do not expand the space. Look at the loss just above the cliff, then try warmup (PB-82), gradient"
      " clipping (PB-83), and the other remedies in their order (PB-84), and search again.",
      plot=f"axis:{one.name}",
    )
  return _finding(
    "note",
    f"The best trials lie {beside} the infeasible region, {cut.text}",
    why,
    subject=one.name,
    trials=trials,
    numbers=numbers,
    action="See why trials are infeasible there; expanding the space on that side gains nothing.",
    plot=f"axis:{one.name}",
  )


def _unsure(sides: Sequence[Side], count: int, level: float) -> Finding:
  """For sides of which the test could not have told, or does not yet."""
  names = list(dict.fromkeys(side.one.name for side in sides))
  more = max(side.more or 0 for side in sides)
  which = (
    f"the {sides[0].word} edge of {names[0]} limits the best points"
    if len(sides) == 1
    else f"the best points lie at an edge of {', '.join(names)}"
  )
  tests = "; ".join(
    f"on the {side.word} side of {side.one.name} {side.how} (p = {side.p:.2g})" for side in sides[:SHOWN]
  )
  return _finding(
    "cannot_tell",
    f"Whether {which} cannot be told from {many(count, 'point')}",
    f"The tests of all sides together take p below {level:.2g}; {tests}"
    + (f"; and {many(len(sides) - SHOWN, 'more side')}." if len(sides) > SHOWN else "."),
    subject=names[0] if len(names) == 1 else None,
    numbers={
      "p": {f"{side.one.name} {'above' if side.upper else 'below'}": round(side.p, 6) for side in sides},
      "more": None if math.isinf(more) else int(more),
    },
    action=f"It takes more than {MOST_TIMES:g} times as many points: look at the plot, and expand what looks cut off."
    if math.isinf(more)
    else f"Run {many(int(more), 'more trial')} at least.",
    plot=f"axis:{names[0]}",
  )


def _expand(side: Side, results: StudyResults, points: Sequence[Point]) -> Finding | None:
  """By how much to move an edge; None where the best points are only near it and the space should not grow there."""
  one = side.one
  beyond = None
  if side.optimum is not None:
    beyond = side.optimum - 1 if side.upper else -side.optimum
  step = LEAST_STEP if beyond is None else min(max(beyond + 0.1, LEAST_STEP), MOST_STEP)
  scale = expanded(one, side.upper, step)
  bound = bound_of(one.scale, side.upper)
  if scale is not None and not allowed(one, bound_of(scale, side.upper), side.best[0], results):
    scale = None
  if not side.limits:
    cut = separation(one, points, [not point.retrains for point in points])
    if scale is None or (cut is not None and cut.above == side.upper and cut.p < LEVEL):
      return None
  trials = tuple(sorted(number for point in side.best for number in point.trials))
  why = f"{side.told[0].upper()}{side.told[1:-1]}, tested on all sides); the best points lie at a median distance of"
  why += f" {side.distance:.0%} of the scale from it."
  if side.optimum is not None:
    optimum = value_at(one, min(max(side.optimum, -MOST_STEP), 1 + MOST_STEP))
    place = unit_of(one, {one.name: optimum})
    short = rounded(one, optimum, lambda new: abs(unit_of(one, {one.name: new}) - place) < LEAST_STEP / 4, 2)
    why += f" The fitted optimum is at {shown(one, short)}{' or beyond' if side.limits else ''}."
  title = (
    f"The best trials lie {'at' if side.limits else 'near'} the {side.word} edge of {one.name} ({shown(one, bound)})"
  )
  p = side.p if side.limits else side.near
  numbers = {"edge": bound, "side": side.word, "p": p, "distance": side.distance}
  plot = f"axis:{one.name}"
  if scale is None:
    return _finding(
      "note",
      f"{title}, which is the end of what it can be",
      why,
      subject=one.name,
      trials=trials,
      numbers=numbers,
      action="Nothing lies beyond: narrow the space to this side, or ask whether the extreme value itself is best.",
      plot=plot,
    )
  new = bound_of(scale, side.upper)
  numbers["new"] = new
  if bound > 0 and new > 0 and not isinstance(scale, ReverseLog):
    numbers["factor"] = new / bound
  by = f"by a factor of {max(new / bound, bound / new):.3g}, " if "factor" in numbers else ""
  reason = "better values may lie outside" if side.limits else "few trials lie beyond the best value"
  return _finding(
    "warning" if side.limits else "note",
    title,
    why if side.limits else f"{why} That better ones lie beyond is not shown.",
    subject=one.name,
    trials=trials,
    numbers=numbers,
    action=f"Expand {one.name} {by}to {shown(one, new)}, and search again: {reason}.",
    space={one.name: dataclasses.replace(one, scale=scale).as_json()},
    plot=plot,
  )


def _finding(severity: Severity, title: str, why: str, **more: Any) -> Finding:
  return Finding(id="PB-23", question="boundary", severity=severity, title=title, why=why, **more)

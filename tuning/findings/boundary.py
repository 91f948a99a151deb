"""Whether the best points lie at an edge of the space (PB-23), or right below an instability (PB-80).

The playbook: a search space is suspicious if the best points sit near its boundary; expand it there. If everything
above a learning rate is infeasible and the best sit right below, it is not the space but training that limits: mend the
instability first. Here: for each side of each numeric hyperparameter, the edge is the space's, or the cliff beyond
which points are infeasible; "at the edge" means that a quadratic through the good points (`tuning.findings.surface`)
still falls towards it there, by a one-sided t test over all sides, and that the best points stand on that side. Studies
too small for the fit are tested by how many of their best points lie in the outer part of the scale.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from trainer import UserError
from tuning.findings import surface as surfaces
from tuning.findings.finding import Finding, Severity
from tuning.findings.infeasible import Separation, separation
from tuning.findings.noise import noise_of
from tuning.findings.points import (
  Point,
  feasible,
  is_learning_rate,
  is_numeric,
  many,
  points_of,
  searched,
  units_of,
  value_at,
)
from tuning.results import StudyResults
from tuning.space import Discrete, Hyperparameter, Integer, Log, ReverseLog

LEVEL = 0.05
"""Of the tests of all sides together: an unneeded expansion costs density in all dimensions."""
LEAST = 8
"""Points with a value: of fewer, the best three are not told from the others."""
NEAR = 0.4
"""How far from the edge, as a share of the scale, half of the best points may lie: those of an optimum there lie in the
nearer third or so, as few points have landed right at it."""
BEST = 1 / 8
"""Of the points are the best ones, three at least."""
OUTER = 1 / 6
"""The outer part of a scale, in the test for small studies: three of three points there have p = 0.005 by chance."""
LEAST_STEP, MOST_STEP = 0.25, 0.5
"""By what share of the scale a side is moved out: to the fitted optimum and a tenth beyond, but less than a quarter is
not worth a study, and more than a half is guessed."""
CLIFF_INSIDE, CLIFF_OUTSIDE = 0.8, 0.15
"""Beyond a cliff this share is bad, and not more than that before it."""
CLIFF_POINTS = 3
"""Beyond a cliff: two may be chance."""
MUCH_WORSE = 10.0
"""Times the median excess of the better half: a trial that diverged and came back counts as beyond a cliff too. Smooth
valleys do not fall that far within a scale."""
SHARES = ("momentum", "beta1", "beta2", "decay", "dropout_rate", "label_smoothing", "probability", "rate_of")
"""Fields whose names end so are shares, from 0 to 1, by what they are."""


def find(results: StudyResults) -> list[Finding]:
  """For each side at which the best points lie: by how much to expand it, or that training is unstable beyond."""
  points = points_of(results)
  axes = [one for one in searched(results) if is_numeric(one)]
  if not axes:
    return [_finding("ok", "No numeric hyperparameter is varied: there is no edge to be near to.", "Nothing to test.")]
  found: list[Finding] = []
  unknown = [one for one in axes if one.inferred]
  if unknown:
    names = ", ".join(one.name for one in unknown)
    found.append(
      _finding(
        "cannot_tell",
        f"The bounds of {names} are not known, so that nobody can tell whether the best trials lie at them.",
        "Their scales were inferred from the trials' values.",
        action="Give min, max and scale of each in study.json.",
      )
    )
  axes = [one for one in axes if not one.inferred]
  cliffs = {one.name: _cliffs(one, points) for one in axes}
  kept = _before(points, axes, cliffs)
  surface = surfaces.fit(kept, searched(results))
  short = []
  numbers: dict[str, Any] = {}
  for one in axes:
    here = [point for point in feasible(kept) if math.isfinite(_unit(one, point))]
    if len(here) < LEAST or len({_unit(one, point) for point in here}) < 3:
      short.append(one.name)
      continue
    for upper in (False, True):
      cliff = cliffs[one.name].get(upper)
      side = _side(one, upper, cliff, here, surface, 2 * len(axes), results)
      numbers[f"{one.name} {'above' if upper else 'below'}"] = round(side.p, 6)
      if side.near:
        found.append(_unstable(side) if side.cliff is not None else _expand(side, results))
  if short:
    least = max(LEAST, 3)
    found.append(
      _finding(
        "cannot_tell",
        f"Too few points to tell whether the best lie at an edge of {', '.join(short)}.",
        f"The test takes {least} points with a value and three places on the scale.",
        action=f"Run until each has {least} complete trials.",
      )
    )
  if not found:
    found.append(
      _finding(
        "ok",
        "The best points lie inside of the search space, in every dimension.",
        f"Towards none of {2 * len(axes)} sides do the good points still get better (p below"
        f" {LEVEL / 2 / len(axes):.2g} would tell).",
        numbers={"p": numbers},
      )
    )
  return found


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of one hyperparameter, and what was found there."""

  one: Hyperparameter
  upper: bool
  cliff: Separation | None
  near: bool
  p: float
  distance: float
  optimum: float | None
  best: tuple[Point, ...]
  how: str

  @property
  def word(self) -> str:
    return "upper" if self.upper else "lower"


def _unit(one: Hyperparameter, point: Point) -> float:
  return float(units_of(one, [point])[0])


def _side(
  one: Hyperparameter,
  upper: bool,
  cliff: Separation | None,
  here: Sequence[Point],
  surface: surfaces.Surface | None,
  tests: int,
  results: StudyResults,
) -> Side:
  edge = cliff.unit if cliff is not None else float(upper)
  inside = edge if upper else 1 - edge
  units = units_of(one, here)
  distances = (edge - units if upper else units - edge) / inside
  best = max(3, round(BEST * len(here)))
  distance = float(np.median(distances[:best]))
  optimum = None
  if surface is not None:
    slope, error = surface.slope(one.name, edge)
    outward = slope if upper else -slope
    p = float(scipy.stats.t.cdf(outward / error, surface.freedom)) if error > 0 else 1.0
    noise = noise_of(results)
    # What an expansion by a quarter of the scale would gain at least has to be more than noise.
    matters = noise is None or -outward * LEAST_STEP > noise.deviation
    optimum = surface.lowest(one.name)
    how = "a quadratic through the good points still falls towards it there"
  else:
    best = 3
    outer = distances <= OUTER
    p = float(scipy.stats.binom.sf(int(outer[:best].sum()) - 1, best, max(float(np.mean(outer)), OUTER)))
    distance = float(np.median(distances[:best]))
    matters = True
    how = f"its outer sixth holds {int(outer[:best].sum())} of the best {best} points"
  near = matters and p < LEVEL / tests and distance < NEAR
  return Side(one, upper, cliff, near, p, distance, optimum, tuple(here[:best]), how)


def _cliffs(one: Hyperparameter, points: Sequence[Point]) -> dict[bool, Separation]:
  """By side (True: upper), the cut beyond which points are infeasible, or for a learning rate much worse."""
  found = feasible(points)
  if not found:
    return {}
  worse = math.inf
  if is_learning_rate(one):
    half = np.array([point.cost for point in found])[: (len(found) + 1) // 2]
    worse = found[0].cost + MUCH_WORSE * float(np.median(half - half[0])) if half[-1] > half[0] else math.inf
  kinds = [[not point.retrains for point in points]]
  if math.isfinite(worse):
    kinds.append([not point.retrains or point.cost > worse for point in points])
  cliffs: dict[bool, Separation] = {}
  for bad in kinds:
    cut = separation(one, points, bad)
    if cut is None or (bad is not kinds[0] and not cut.above):
      continue
    sharp = cut.inside[0] >= CLIFF_INSIDE * cut.inside[1] and cut.outside[0] <= CLIFF_OUTSIDE * cut.outside[1]
    if sharp and cut.inside[0] >= CLIFF_POINTS and 0.05 < cut.unit < 0.95 and cut.p < LEVEL:
      cliffs.setdefault(cut.above, cut)
  return cliffs


def _before(points: Sequence[Point], axes: Sequence[Hyperparameter], cliffs) -> list[Point]:
  """The points that lie beyond no cliff."""
  kept = list(points)
  for one in axes:
    for upper, cut in cliffs[one.name].items():
      kept = [p for p in kept if not ((_unit(one, p) > cut.unit) if upper else (_unit(one, p) < cut.unit))]
  return kept


def _unstable(side: Side) -> Finding:
  cut = side.cliff
  assert cut is not None
  one, beyond = side.one, "above" if side.upper else "below"
  shares = f"{cut.inside[0]} of {many(cut.inside[1], 'point')} {beyond} {cut.value:.2g} are infeasible or much worse"
  why = (
    f"{shares}, {cut.outside[0]} of {cut.outside[1]} others; the best points lie right beside that cliff (median"
    f" distance {side.distance:.0%} of the scale before it), and {side.how} (p = {side.p:.1g})."
  )
  numbers = {"cliff": cut.value, "inside": list(cut.inside), "outside": list(cut.outside), "p": side.p}
  trials = tuple(sorted(number for point in side.best for number in point.trials))
  if is_learning_rate(one) and side.upper:
    return Finding(
      id="PB-80",
      question="boundary",
      severity="warning",
      subject=one.name,
      title=f"Training is unstable at {one.name} above {cut.value:.2g}, and the best trials lie right below.",
      why=f"{why} It is instability that limits the learning rate, not the search space.",
      trials=trials,
      numbers=numbers,
      action="Do not expand the space. Look at the loss just above the cliff, then try warmup (PB-82), gradient"
      " clipping (PB-83), and the other remedies in their order (PB-84), and search again.",
      plot=f"axis:{one.name}",
    )
  return _finding(
    "note",
    f"The best trials lie right beside the infeasible region of {one.name} {beyond} {cut.value:.2g}.",
    why,
    subject=one.name,
    trials=trials,
    numbers=numbers,
    action="See why trials are infeasible there; expanding the space on that side gains nothing.",
    plot=f"axis:{one.name}",
  )


def _expand(side: Side, results: StudyResults) -> Finding:
  one = side.one
  beyond = None
  if side.optimum is not None:
    beyond = side.optimum - 1 if side.upper else -side.optimum
  step = LEAST_STEP if beyond is None else min(max(beyond + 0.1, LEAST_STEP), MOST_STEP)
  scale = _expanded(one, side.upper, step)
  bound = _bound(one.scale, side.upper)
  if scale is not None and not _allowed(one, _bound(scale, side.upper), side.best[0], results):
    scale = None
  trials = tuple(sorted(number for point in side.best for number in point.trials))
  why = f"{side.how[0].upper()}{side.how[1:]} (p = {side.p:.1g}, tested on all sides); the best points lie at a median"
  why += f" distance of {side.distance:.0%} of the scale from it."
  if side.optimum is not None:
    why += (
      f" The fitted optimum is at {value_at(one, min(max(side.optimum, -MOST_STEP), 1 + MOST_STEP)):.2g} or beyond."
    )
  title = f"The best trials lie at the {side.word} edge of {one.name} ({bound:.3g})."
  numbers = {"edge": bound, "side": side.word, "p": side.p, "distance": side.distance}
  plot = f"axis:{one.name}"
  if scale is None:
    return _finding(
      "note",
      f"{title[:-1]}, which is the end of what it can be.",
      why,
      subject=one.name,
      trials=trials,
      numbers=numbers,
      action="Nothing lies beyond: narrow the space to this side, or ask whether the extreme value itself is best.",
      plot=plot,
    )
  new = _bound(scale, side.upper)
  numbers["new"] = new
  if bound > 0 and new > 0 and not isinstance(scale, ReverseLog):
    numbers["factor"] = new / bound
  by = f"by a factor of {max(new / bound, bound / new):.3g}, " if "factor" in numbers else ""
  return _finding(
    "warning",
    title,
    why,
    subject=one.name,
    trials=trials,
    numbers=numbers,
    action=f"Expand it {by}to {new:.3g}, and search again: better values may lie outside.",
    space={one.name: dataclasses.replace(one, scale=scale).as_json()},
    plot=plot,
  )


def _bound(scale: Any, upper: bool) -> float:
  if isinstance(scale, Discrete):
    return scale.values[-1 if upper else 0]
  return scale.max if upper else scale.min


def _expanded(one: Hyperparameter, upper: bool, step: float) -> Any:
  """The scale with one side moved out by a share of its width; None where nothing lies beyond by its nature."""
  scale: Any = one.scale
  share = one.sets == "complement" or one.path.rpartition(".")[2].endswith(SHARES)
  if isinstance(scale, Discrete):
    values = list(scale.values)
    new = _next(values if upper else values[::-1])
    if (new < 0 <= min(values)) or (new == 0 < min(values)) or (share and not 0 <= new <= 1):
      return None
    return Discrete(tuple([*values, new] if upper else [new, *values]))
  value = value_at(one, 1 + step if upper else -step)
  if isinstance(scale, Integer):
    new = round(value) if upper else max(round(value), min(scale.min, 1))
    new = new if new != _bound(scale, upper) else new + (1 if upper else -1)
    if new < min(scale.min, 1):
      return None
  elif isinstance(scale, ReverseLog):
    new = 1 - float(f"{1 - value:.1g}")
    new = new if upper or not share else max(new, 0.0)
  else:
    new = float(f"{value:.{1 if isinstance(scale, Log) else 2}g}")
    # Whatever was searched among positive numbers is not negative.
    new = max(new, 0.0) if scale.min >= 0 else new
    new = min(new, 1.0) if share and scale.max <= 1 else new
  if (new <= scale.max) if upper else (new >= scale.min):
    return None
  return dataclasses.replace(scale, **{"max" if upper else "min": new})


def _next(values: Sequence[float]) -> float:
  """One more of a list: by its last factor where its factors are alike, else by its last difference."""
  last, before = values[-1], values[-2]
  if min(values) > 0 and len(values) > 2:
    factors = [b / a for a, b in itertools.pairwise(values)]
    if max(factors) / min(factors) < 1.5 and not math.isclose(last - before, before - values[-3]):
      new = float(f"{last * last / before:.3g}")
      return int(new) if all(isinstance(value, int) for value in values) and new == int(new) else new
  return last + (last - before)


def _allowed(one: Hyperparameter, value: float, point: Point, results: StudyResults) -> bool:
  """Whether the study's config takes a value, beside those of a good point; True where there is no config."""
  config = results.study.config
  if config is None:
    return True
  changes: dict[str, Any] = {}
  for other in results.space.values():
    if other.name in point.values and other.name != one.name:
      changes |= other.changes(point.values[other.name])
  try:
    config.override(changes)
  except UserError:
    return True  # The trouble is not this value.
  try:
    config.override({**changes, **one.changes(value)})
  except UserError:
    return False
  return True


def _finding(severity: Severity, title: str, why: str, **more: Any) -> Finding:
  return Finding(id="PB-23", question="boundary", severity=severity, title=title, why=why, **more)

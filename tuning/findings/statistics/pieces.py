"""The pieces of a curve between its discontinuities, as a learning rate that drops at once makes them.

A parabola through a drop leaves most of the drop, which is not noise, and a line through it foresees another drop. The
few evaluations in which a curve falls after a drop belong to neither piece.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, special

from trialbook.tuning.findings.statistics.relevance import TO_DEVIATION
from trialbook.tuning.once import by_any_objective
from trialbook.tuning.results import StudyResults, Trial

SIDE = 8
"""Most evaluations on each side of a place by which a jump is looked for: two lines through them leave twelve degrees
of freedom."""
LEAST_SIDE = 3
"""Fewest evaluations of a piece: fewer are a spike."""
LEAST_LINE = 5
"""Fewest evaluations of a piece that has a slope of its own in the test for a jump."""
CERTAIN = 1e-4
"""Largest p of a jump, corrected for the number of places. Noise of neighbours that is correlated by a half makes jumps
look 1.7 times as far from 0, which leaves a p of about 0.05."""
CERTAIN_OF_ALL = 0.05
"""The same of a jump of the median of several curves, in which the noise of neighbours is averaged too."""
SUSPECT = 2.0
"""Robust standard deviations of the differences of neighbours from which on a place is tested: a jump that is certain
makes one of twice as many. Of neighbours, the place of the largest difference is tested."""
LARGE = 4.0
"""Changes from one evaluation to the next, on either side, that a jump must be at least: a steep curve has none."""
DROPS = 1.5
"""Factor by which a logged learning rate must change from one value to the next."""
FLAT = 0.1
"""Share of the logarithm of that factor by which it may change before and after: a decay that bends is no step."""
SETTLES = (0, 1, 2, 3, 5)
"""Evaluations after a jump, not more, in which a curve may still fall fast; they are left out."""
SAME_PLACE = 0.03
"""Share of the steps within which jumps of several trials are the same one."""


@dataclasses.dataclass(frozen=True, order=True)
class Jump:
  """A discontinuity of a curve.

  Attributes:
    at: index of the first point after it.
    settled: index of the first point of the next piece; those between fall fast, and are in no piece.
  """

  at: int
  settled: int


def pieces(jumps: Sequence[Jump], points: int, first: int = 0) -> list[tuple[int, int]]:
  """Return the pieces of a curve of some points: first and last index, the latter excluded, counted from the point
  `first` on, before which nothing is looked at."""
  begins = [0, *(jump.settled for jump in jumps)]
  ends = [*(jump.at for jump in jumps), points]
  return [
    (max(begin, first) - first, end - first) for begin, end in zip(begins, ends, strict=True) if end > max(begin, first)
  ]


def jumps_of(steps: np.ndarray, values: np.ndarray, certain: float = CERTAIN) -> list[Jump]:
  """Return where values [points] at steps [points] jump, in order; `certain` is the largest p, corrected for the number
  of places.

  A jump is the difference, at a place, of two lines through what is before and after it: 0 for a curve that bends, or
  turns. It is tested by Student's t.
  """
  found: list[Jump] = []
  if len(values) < LEAST_SIDE + LEAST_LINE:
    return found
  level = certain / (2 * len(values) * len(SETTLES))
  differences = np.diff(values)
  away = np.abs(differences - np.median(differences))
  is_largest = away >= ndimage.maximum_filter1d(away, 2 * LEAST_SIDE - 1)
  places = 1 + np.flatnonzero((away > SUSPECT * TO_DEVIATION * float(np.median(away))) & (away > 0) & is_largest)
  # A curve may fall less in the first evaluation after a drop than in the second.
  suspects = np.union1d(places, places - 1)
  open_pieces = [(0, len(values))]
  while open_pieces:
    first, end = open_pieces.pop()
    inside = suspects[(suspects > first) & (suspects < end)] - first
    p, at, gap = _best_jump(steps[first:end], values[first:end], inside)
    if p < level:
      found.append(Jump(first + at, first + at + gap))
      open_pieces += [(first, first + at), (first + at + gap, end)]
  return sorted(found)


def _best_jump(steps: np.ndarray, values: np.ndarray, places: np.ndarray) -> tuple[float, int, int]:
  """Return the least p-value of a jump right before one of several points, which point that is, and after how many more
  points the curve has settled."""
  at, gaps = np.repeat(places, len(SETTLES)), np.tile(SETTLES, len(places))
  left, right = np.minimum(at, SIDE), np.minimum(len(values) - at - gaps, SIDE)
  can = (np.minimum(left, right) >= LEAST_SIDE) & (np.maximum(left, right) >= LEAST_LINE)
  ps = np.ones(len(at))
  for size in set(zip(left[can].tolist(), right[can].tolist(), strict=True)):
    some = can & (left == size[0]) & (right == size[1])
    ps[some] = _p_values(steps, values, at[some], gaps[some], *size)
  if not len(ps):
    return 1.0, 0, 0
  best = int(np.argmin(ps))
  return float(ps[best]), int(at[best]), int(gaps[best]) if ps[best] < 1 else 0


def _p_values(
  steps: np.ndarray, values: np.ndarray, at: np.ndarray, gaps: np.ndarray, left: int, right: int
) -> np.ndarray:
  """Return the p-values of jumps between `left` points before each place and `right` points that begin `gaps` after it:
  [places]; 1 for a jump that is not large."""
  offsets = np.arange(-left, right)
  after = (offsets >= 0).astype(float)
  here = at[:, None] + offsets + (offsets >= 0) * gaps[:, None]
  lengths = np.maximum(steps[here[:, -1]] - steps[here[:, 0]], 1)[:, None]
  time = (steps[here] - 0.5 * (steps[at - 1] + steps[at + gaps])[:, None]) / lengths
  columns = [np.ones_like(time), time, np.broadcast_to(after, time.shape)]
  if min(left, right) >= LEAST_LINE:
    columns.append(time * after)
  design = np.stack(columns, axis=2)
  # A pseudoinverse, as evaluations at one step make it singular.
  inverse = np.linalg.pinv(design.transpose(0, 2, 1) @ design)
  solved = (inverse @ (design.transpose(0, 2, 1) @ values[here][:, :, None]))[:, :, 0]
  residuals = values[here] - (design @ solved[:, :, None])[:, :, 0]
  freedom = left + right - design.shape[2]
  jumps, slopes = np.abs(solved[:, 2]), np.abs(solved[:, 1])
  if len(columns) > 3:
    slopes = np.maximum(slopes, np.abs(solved[:, 1] + solved[:, 3]))
  spacing = np.median(np.diff(time, axis=1), axis=1)
  noise = np.maximum((residuals**2).sum(axis=1) / freedom, (1e-9 * np.abs(values).max()) ** 2)
  errors = np.sqrt(np.maximum(noise * inverse[:, 2, 2], 1e-300))
  ps = 2 * special.stdtr(freedom, -jumps / errors)
  return np.where(jumps < LARGE * slopes * spacing * (gaps + 1), 1.0, ps)


def is_learning_rate_metric(name: str) -> bool:
  """Return whether a metric is a learning rate by its name: `learning_rate`, `train/lr`, `lr-AdamW/pg1`."""
  words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
  pairs = itertools.pairwise(words)
  return "lr" in words or "learningrate" in words or ("learning", "rate") in pairs


def learning_rate(trial: Trial) -> tuple[np.ndarray, np.ndarray]:
  """Return the steps and the values of the learning rate that a trial logged, [points] each; empty if none. Of several,
  as of groups of parameters, the first one that changes."""
  logged = [trial.curve(name) for name in sorted(trial.curves) if is_learning_rate_metric(name)]
  logged = [one for one in logged if len(one[1])]
  return next((one for one in logged if np.ptp(one[1]) > 0), logged[0] if logged else (np.zeros(0, int), np.zeros(0)))


def steps_of_rate(trial: Trial) -> list[int]:
  """Return the steps at which the logged learning rate of a trial changes at once: the first logged after it did."""
  steps, rates = learning_rate(trial)
  if len(rates) < 2 * LEAST_SIDE or (rates <= 0).any():
    kept = rates > 0
    steps, rates = steps[kept], rates[kept]
  if len(rates) < 2 * LEAST_SIDE:
    return []
  changes = np.abs(np.diff(np.log(rates)))
  found = []
  for at in np.flatnonzero(changes >= np.log(DROPS)):
    around = np.r_[changes[max(at - 2, 0) : at], changes[at + 1 : at + 3]]
    if (around <= FLAT * changes[at]).all():
      found.append(int(steps[at + 1]))
  return found


def all_jumps(results: StudyResults, curves: Sequence[tuple[Trial, np.ndarray, np.ndarray]]) -> list[list[Jump]]:
  """Return the jumps of each curve; curves are trials of the results with steps and values.

  A curve jumps where the learning rate that it logged does, where it is seen to, and where the median of all curves
  jumps, in which noise is smaller.
  """
  common = _common(curves)
  found = []
  for trial, steps, values in curves:
    own = [*by_any_objective(results, jumps_of, steps, values)]
    seen = {jump.at for jump in own}
    for step in [*steps_of_rate(trial), *(share * steps[-1] for share in common if len(steps))]:
      at = int(np.searchsorted(steps, step))
      if 0 < at < len(steps) and at not in seen:
        _, _, gap = _best_jump(steps, values, np.array([at]))
        own.append(Jump(at, at + gap))
    found.append(_apart(sorted(own), len(steps)))
  return found


def _apart(some: Sequence[Jump], points: int) -> list[Jump]:
  """Return jumps without those that are the same as the one before."""
  kept: list[Jump] = []
  for jump in some:
    if kept and jump.at <= max(kept[-1].settled, kept[-1].at + SAME_PLACE * points, kept[-1].at + 1):
      kept[-1] = Jump(kept[-1].at, max(kept[-1].settled, jump.settled))
    else:
      kept.append(jump)
  return kept


def _common(curves: Sequence[tuple[Trial, np.ndarray, np.ndarray]]) -> list[float]:
  """Return where the median of several curves jumps, as shares of their steps, between two evaluations. Each is taken
  from its own mean, since trials differ by more than a curve jumps."""
  whole = [(steps, values) for _, steps, values in curves if len(steps)]
  if len(whole) < 2:
    return []
  count = int(np.median([len(steps) for steps, _ in whole]))
  # Where evaluations of a usual trial are, so that a jump stays one.
  usual = min(whole, key=lambda one: abs(len(one[0]) - count))[0]
  at = usual / usual[-1]
  courses = np.array([np.interp(at * steps[-1], steps, values) for steps, values in whole])
  middle = np.median(courses - courses.mean(axis=1, keepdims=True), axis=0)
  return [float(0.5 * (at[jump.at - 1] + at[jump.at])) for jump in jumps_of(usual, middle, CERTAIN_OF_ALL)]

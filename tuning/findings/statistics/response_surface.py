"""The objective as a function of the hyperparameters, near its best values: a quadratic, fitted by robust regression.

Each numeric hyperparameter enters by the first two Legendre polynomials of where it is on its scale, each categorical
one by contrasts, each pair that earns it by a product. Polynomials that are orthogonal over the space make the
functional analysis of variance (Sobol's indices) a sum of squares of coefficients. Trials far from the best weigh
little: what matters is how the good ones differ, and a quadratic fits no divergence. Standard errors are robust to
errors of unequal size (HC2, MacKinnon and White 1985), since what a quadratic leaves is mostly its own misfit.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg
import scipy.stats

from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, is_numeric, units_of
from trialbook.tuning.space.scales import Hyperparameter

SPARE = 6
"""Points beyond the number of coefficients: fewer leave no estimate of what the fit does not explain."""
LEVEL_POINTS = 3
"""Fewest points of a value of a categorical hyperparameter: one with fewer joins the other values."""
PAIR_LEVEL = 0.01
"""Level of the test by which a product enters, divided by the number of products: one study in a hundred has a false
one."""
MOST_PAIRS = 6
"""Products: what one can act on."""
HALF_WEIGHT = 1.0
"""Excess cost at which a trial has half the weight, as a multiple of the excess of the median point over the best."""
TOP = 5
"""Points whose mean stands for the good region."""
DRAWS = 1000
"""Draws of the coefficients, for intervals: 25 lie outside of each end."""
EDGE = math.sqrt(3)
"""Largest value of the first Legendre polynomial, at an edge of the scale."""


@dataclasses.dataclass(frozen=True)
class Column:
  """One column of the design: a hyperparameter's polynomial or contrast, or the product of two hyperparameters."""

  names: tuple[str, ...]
  degree: int


@dataclasses.dataclass(frozen=True)
class ResponseSurface:
  """The fit.

  Attributes:
    columns: of the design, without the constant.
    coefficients: [columns], in units of the objective; smaller is better.
    covariance: [columns, columns].
    degrees_of_freedom: points less coefficients.
    points: that were fitted.
    explained: the share of the weighted variance that is explained in points left out one at a time.
    deviation: the standard deviation of good points around the fit: noise, and what a quadratic does not fit.
    centre: of the good points, by name: (2 unit - 1) sqrt(3), the first polynomial.
    levels: of each categorical hyperparameter: value -> its contrasts, by name.
    presence: the share of points in which a hyperparameter exists.
    pairs: p-values of the products that entered, corrected for how many were tried.
  """

  columns: tuple[Column, ...]
  coefficients: np.ndarray
  covariance: np.ndarray
  degrees_of_freedom: int
  points: int
  explained: float
  deviation: float
  centre: Mapping[str, float]
  levels: Mapping[str, Mapping[object, np.ndarray]]
  presence: Mapping[str, float]
  pairs: Mapping[tuple[str, str], float]

  def slope(self, name: str, unit: float) -> tuple[float, float]:
    """Return the slope of the cost along the scale of a numeric hyperparameter at `unit`, and its standard error."""
    direction = np.zeros(len(self.columns))
    x = 2 * unit - 1
    for position, column in enumerate(self.columns):
      if column.names == (name,):
        direction[position] = 2 * EDGE if column.degree == 1 else 6 * math.sqrt(5) * x
      elif len(column.names) == 2 and name in column.names:
        other = column.names[column.names[0] == name]
        direction[position] = 2 * EDGE * self.centre[other]
    return float(direction @ self.coefficients), math.sqrt(max(float(direction @ self.covariance @ direction), 0.0))

  def lowest(self, name: str) -> float | None:
    """Return where on the scale of a numeric hyperparameter the cost is lowest, the others at the centre, or None."""
    low, high = self.slope(name, 0.0)[0], self.slope(name, 1.0)[0]
    return -low / (high - low) if high > low else None

  def draws(self) -> np.ndarray:
    """Return draws of the coefficients by their covariance: [DRAWS, columns]."""
    rng = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(self.covariance)
    normal = rng.standard_normal((DRAWS, len(values))) * np.sqrt(np.clip(values, 0, None))
    # Student's t: few points leave the size of the errors uncertain too.
    shrink = np.sqrt(rng.chisquare(self.degrees_of_freedom, (DRAWS, 1)) / self.degrees_of_freedom)
    return self.coefficients + normal @ vectors.T / shrink

  def spans(self, name: str, coefficients: np.ndarray) -> np.ndarray:
    """Return the difference of the worst and the best value of a hyperparameter, the others at the centre: [draws]."""
    profile = coefficients @ self.profile(name)
    return profile.max(axis=1) - profile.min(axis=1)

  def profile(self, name: str) -> np.ndarray:
    """Return the columns along one hyperparameter, from end to end or for each value, the others at the centre.

    Returns: [columns, places].
    """
    own = [i for i, column in enumerate(self.columns) if column.names == (name,)]
    if name in self.levels:
      grid = np.array(list(self.levels[name].values()))
      design = np.zeros((len(self.columns), len(grid)))
      design[own] = grid.T
      return design
    x = np.linspace(-1, 1, 21)
    design = np.zeros((len(self.columns), len(x)))
    for position, column in enumerate(self.columns):
      if column.names == (name,):
        design[position] = EDGE * x if column.degree == 1 else math.sqrt(5) * (3 * x**2 - 1) / 2
      elif len(column.names) == 2 and name in column.names:
        design[position] = EDGE * x * self.centre[column.names[column.names[0] == name]]
    return design

  def effect_p(self, name: str) -> float:
    """Return the p-value of the test that a hyperparameter changes the cost at all: Wald's test of its columns."""
    own = [i for i, column in enumerate(self.columns) if column.names == (name,)]
    if not own:
      return 1.0
    part = self.coefficients[own]
    covariance = self.covariance[np.ix_(own, own)]
    statistic = float(part @ np.linalg.pinv(covariance) @ part) / len(own)
    return float(scipy.stats.f.sf(statistic, len(own), self.degrees_of_freedom))

  def variances(self, coefficients: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    """Return the parts of the variance over the space by hyperparameters: name or pair -> [draws]."""
    found: dict[tuple[str, ...], np.ndarray] = {}
    for position, column in enumerate(self.columns):
      share = math.prod(self.presence[name] for name in column.names)
      part = share * coefficients[:, position] ** 2
      found[column.names] = found.get(column.names, np.zeros(len(coefficients))) + part
    return found

  def differences(self, name: str, first: object, second: object, under: Sequence[str] = ()) -> tuple[float, float]:
    """Return the cost at one value of a categorical hyperparameter less that at another, and its standard error.

    `under`: hyperparameters that exist at the first value only; they are at the values that are best by the fit.
    """
    direction = np.zeros(len(self.columns))
    own = [i for i, column in enumerate(self.columns) if column.names == (name,)]
    direction[own] = self.levels[name][first] - self.levels[name][second]
    for child in under:
      if child in self.levels or child in self.centre:
        profile = self.profile(child)
        direction += profile[:, int(np.argmin(self.coefficients @ profile))]
    variance = direction @ self.covariance @ direction
    return float(direction @ self.coefficients), math.sqrt(max(float(variance), 0.0))


def needed(space: Sequence[Hyperparameter]) -> int:
  """Return the number of points with a value that the fit of a space takes, at least."""
  return 1 + sum(_columns(one) for one in space) + SPARE


def _columns(one: Hyperparameter) -> int:
  """Return the number of columns of a hyperparameter: a curve takes three values, a line two."""
  values = one.scale.as_json().get("values")
  if is_numeric(one):
    return 1 if values is not None and len(values) < 3 else 2
  return max(len(values or ()) - 1, 1)


def fit(points: Sequence[TriedPoint], space: Sequence[Hyperparameter]) -> ResponseSurface | None:
  """Return the surface through the points that have a value; None if they are too few, or equal."""
  found = feasible(points)
  if len(found) < SPARE + 2:
    return None
  costs = np.array([point.cost for point in found])
  excess = costs - costs[0]
  scale = HALF_WEIGHT * float(np.median(excess)) or float(np.mean(excess))
  if not scale > 1e-12 * max(abs(costs[0]), 1e-300):
    return None
  # Of a metric like a log-likelihood the zero is arbitrary, and often far away.
  costs = excess
  weights = 1 / (1 + (excess / scale) ** 2)
  blocks, columns, levels, presence = _design(found, space)
  if not blocks or len(found) < 1 + len(columns) + SPARE:
    return None
  first = {column.names[0]: block for column, block in zip(columns, blocks, strict=True) if column.degree == 1}
  design = np.column_stack([np.ones(len(found)), *blocks])
  design, columns, pairs = _with_pairs(design, columns, first, np.sqrt(weights), costs)
  coefficients, covariance, explained, deviation = _regression(design, weights, costs)
  # Of a categorical one the mean of its first contrast, which is what enters products.
  centre = {name: float(np.mean(values[:TOP])) for name, values in first.items()}
  return ResponseSurface(
    tuple(columns),
    coefficients[1:],
    covariance[1:, 1:],
    len(found) - design.shape[1],
    len(found),
    explained,
    deviation,
    centre,
    levels,
    presence,
    pairs,
  )


def _design(found: Sequence[TriedPoint], space: Sequence[Hyperparameter]):
  """Return the columns of main effects; a hyperparameter that does not exist in a point adds nothing there."""
  blocks: list[np.ndarray] = []
  columns: list[Column] = []
  levels: dict[str, dict[object, np.ndarray]] = {}
  presence: dict[str, float] = {}
  for one in space:
    if is_numeric(one):
      units = units_of(one, found)
      there = np.isfinite(units)
      x = np.where(there, 2 * np.clip(units, -0.5, 1.5) - 1, 0.0)
      distinct = len(np.unique(x[there]))
      if distinct < 2:
        continue
      presence[one.name] = float(np.mean(there))
      blocks.append(np.where(there, EDGE * x, 0.0))
      columns.append(Column((one.name,), 1))
      if distinct > 2:
        blocks.append(np.where(there, math.sqrt(5) * (3 * x**2 - 1) / 2, 0.0))
        columns.append(Column((one.name,), 2))
      continue
    values = [repr(point.values[one.name]) if one.name in point.values else None for point in found]
    kept = [v for v in dict.fromkeys(values) if v is not None and values.count(v) >= LEVEL_POINTS]
    if len(kept) < 2:
      continue
    # Helmert's contrasts are orthonormal over equally frequent values, as the polynomials are over the scale.
    contrasts = scipy.linalg.helmert(len(kept)).T * math.sqrt(len(kept))
    levels[one.name] = dict(zip(kept, contrasts, strict=True))
    presence[one.name] = float(np.mean([value is not None for value in values]))
    zero = np.zeros(len(kept) - 1)
    rows = np.array([levels[one.name].get(value, zero) for value in values])
    for degree in range(len(kept) - 1):
      blocks.append(rows[:, degree])
      columns.append(Column((one.name,), degree + 1))
  return blocks, columns, levels, presence


def _with_pairs(design, columns, first, roots, costs):
  """Return the design with the products that explain the residuals: the best one first, each by an F test."""
  columns, pairs = list(columns), {}
  names = [name for name in first if len({*first[name]}) > 2]
  candidates = {pair: first[pair[0]] * first[pair[1]] for pair in itertools.combinations(names, 2)}
  tried = len(candidates)
  while candidates and len(pairs) < MOST_PAIRS and len(costs) > design.shape[1] + SPARE:
    basis = np.linalg.qr(design * roots[:, None])[0]
    left = roots * costs - basis @ (basis.T @ (roots * costs))
    products = np.array(list(candidates.values())).T * roots[:, None]
    products = products - basis @ (basis.T @ products)
    sizes = np.sum(products**2, axis=0)
    usable = sizes > 1e-6 * np.sum(roots**2)
    explained = np.where(usable, (left @ products) ** 2 / np.where(usable, sizes, 1.0), 0.0)
    position = int(np.argmax(explained))
    degrees_of_freedom = len(costs) - design.shape[1] - 1
    remaining = max(float(left @ left) - float(explained[position]), 1e-300)
    p = tried * float(scipy.stats.f.sf(explained[position] / (remaining / degrees_of_freedom), 1, degrees_of_freedom))
    if p >= PAIR_LEVEL:
      break
    pair = list(candidates)[position]
    pairs[pair] = p
    columns.append(Column(pair, 1))
    design = np.column_stack([design, candidates.pop(pair)])
  return design, columns, pairs


def _regression(design: np.ndarray, weights: np.ndarray, costs: np.ndarray):
  """Return the coefficients, their HC2 covariance, the share of variance explained in points that are left out, and the
  standard deviation around the fit."""
  weighted = design * weights[:, None]
  # Collinear columns get a large standard error instead of an exception.
  inverse = np.linalg.inv(design.T @ weighted + 1e-9 * np.sum(weights) * np.eye(design.shape[1]))
  coefficients = inverse @ (weighted.T @ costs)
  leverage = np.clip(np.sum((weighted @ inverse) * design, axis=1), 0, 0.99)
  residuals = costs - design @ coefficients
  left_out = residuals / (1 - leverage)
  half = weighted @ inverse * (residuals / np.sqrt(1 - leverage))[:, None]
  mean = np.average(costs, weights=weights)
  explained = 1 - float(np.sum(weights * left_out**2) / max(np.sum(weights * (costs - mean) ** 2), 1e-300))
  freedom = max(len(costs) - design.shape[1], 1) / len(costs)
  deviation = math.sqrt(float(np.average(residuals**2, weights=weights)) / freedom)
  return coefficients, half.T @ half, explained, deviation

"""Studies drawn at random whose truth is known, on which the findings are tested.

`healthy(seed)` is a study in which nothing is wrong, with the noise and the untidiness of real ones: evaluations that
vary with the examples, the learning rate and the seed, at other steps in some trials, sometimes missing or NaN, and
sometimes a trial that was cut short. A fault is planted by changing a part:

  surface     the error that a trial converges to, from where it is in the space [0, 1] for each hyperparameter
  diverges    whether a trial is infeasible, from the same
  reshape     its curves, metric -> (steps, values), after they were drawn and before noise

Everything depends on the seed. Make it harder: smaller effects, more noise, fewer trials.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.tuning import Halton, Log, Minimize, StudyResults
from trialbook.tuning.curves import Logged
from trialbook.tuning.records import StudyRecord
from trialbook.tuning.results import Trial
from trialbook.tuning.space.scales import Hyperparameter, active
from trialbook.tuning.study import Objective

Units = Mapping[str, float]
"""Where a trial is on the scale of each hyperparameter that it has: from 0 to 1."""
Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""Metric -> steps and values, [evaluations] each."""


def nuisance(name: str, low: float, high: float) -> Hyperparameter:
  """Return a nuisance hyperparameter on a log scale."""
  return Hyperparameter(name=name, path=name, scale=Log(low, high), role="nuisance")


SPACE = (
  nuisance("optimizer.learning_rate", 1e-4, 1.0),
  nuisance("optimizer.one_minus_momentum", 1e-3, 1.0),
  nuisance("optimizer.weight_decay", 1e-6, 1e-2),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """What a study is drawn from.

  Attributes:
    space: its hyperparameters.
    trials: how many.
    steps: of each training.
    evaluations: at equal distances over the steps, and one before the first.
    validation_examples: in the validation set: a lucky or unlucky draw of them is in every evaluation.
    floor: the lowest error that any trial can converge to.
    retrain: standard deviation of that error from seed to seed.
    jitter: standard deviation of the error from evaluation to evaluation at the full learning rate, which decays.
    surface: see above; None: a bowl whose bottom is well inside the space, in each dimension.
    diverges: see above; None: no trial does.
    reshape: see above; None: as drawn.
    untidy: evaluations are missing, off the grid, or NaN, and a trial is cut short, now and then.
    cooling: share of the jitter at a time from 0 to 1: it shrinks with the learning rate.
  """

  space: tuple[Hyperparameter, ...] = SPACE
  trials: int = 48
  steps: int = 20_000
  evaluations: int = 50
  validation_examples: int = 10_000
  floor: float = 0.08
  retrain: float = 0.0015
  jitter: float = 0.004
  surface: Callable[[Units, np.random.Generator], float] | None = None
  diverges: Callable[[Units, np.random.Generator], bool] | None = None
  reshape: Callable[[Curves, Units, np.random.Generator], Curves] | None = None
  untidy: bool = True
  cooling: Callable[[np.ndarray], np.ndarray] = lambda time: 1 - 0.9 * time


def healthy(seed: int, **changes: Any) -> StudyResults:
  """Return a study drawn from `World(**changes)`."""
  return draw(seed, World(**changes))


def bowl(world: World, rng: np.random.Generator) -> Callable[[Units, np.random.Generator], float]:
  """Return a surface with its bottom in the middle of each dimension that rises by 0.05 to 0.4 towards the edges."""
  centres = {one.name: rng.uniform(0.3, 0.7) for one in world.space}
  heights = {one.name: rng.uniform(0.2, 1.0) for one in world.space}

  def surface(units: Units, _: np.random.Generator) -> float:
    return world.floor + sum(heights[name] * (unit - centres[name]) ** 2 for name, unit in units.items())

  return surface


def draw(seed: int, world: World) -> StudyResults:
  """Return the study of a seed."""
  rng = np.random.default_rng(seed)
  surface = world.surface or bowl(world, rng)
  points = Halton(seed=seed).points(list(world.space), 0, world.trials)
  trials = []
  for number, values in enumerate(points):
    here = active(world.space, values)
    units = {one.name: one.scale.unit(here[one.name]) for one in world.space if one.name in here}
    if world.diverges is not None and world.diverges(units, rng):
      trials.append(_diverged(number, here, world, rng))
      continue
    error = min(surface(units, rng) + rng.normal(0, world.retrain), 0.85)
    curves = curves_of(error, world, rng)
    if world.reshape is not None:
      curves = world.reshape(curves, units, rng)
    curves = noisy(curves, world, rng)
    if world.untidy:
      curves = untidied(curves, world, rng)
    trials.append(_trial(number, here, curves, world))
  return results(trials, world.space)


OBJECTIVE = Minimize("validation/error")


def results(
  trials: Sequence[Trial],
  space: Sequence[Hyperparameter],
  objective: Objective = OBJECTIVE,
  *,
  source: str | None = None,
) -> StudyResults:
  """Return a study of these trials, each valued by the objective. `source`: what it was imported from."""
  record = StudyRecord(
    name="planted",
    goal="Is what was planted found?",
    objective=objective,
    config=None,
    function=None,
    hyperparameters={one.name: one.as_json() for one in space},
    search={"name": "Halton", "seed": 0},
    trials=len(trials),
    cores_per_trial=1,
    devices_per_trial=1,
    max_attempts=3,
    command="",
    commit=None,
    diff="",
    created=0.0,
    warnings=(),
    source=source,
  )
  study = StudyResults(folder=pathlib.Path("planted"), study=record, objective=objective, trials=tuple(trials))
  return study.by(objective)


def trial(
  number: int,
  values: Mapping[str, Any],
  curves: Mapping[str, tuple[Iterable[Any], Iterable[Any]]],
  *,
  state: str = "complete",
  reason: str | None = None,
  examples: Mapping[str, int] | None = None,
) -> Trial:
  """Return a trial that logged such curves."""
  points = {
    name: [(int(step), float(value)) for step, value in zip(steps, values_, strict=True)]
    for name, (steps, values_) in curves.items()
  }
  return Trial(
    trial=number,
    state=state,
    reason=reason,
    values=values,
    changes=values,
    objective=None,
    step=None,
    folder=pathlib.Path("planted"),
    log=Logged(curves=points, examples=examples or {}),
    recorded=(state, reason),
  )


def curves_of(error: float, world: World, rng: np.random.Generator) -> Curves:
  """Return errors and losses without noise, which are within a thousandth of their end at about 80% of the steps."""
  steps = np.linspace(0, world.steps, world.evaluations + 1).round()
  time = steps / world.steps
  left = np.exp(-((time / rng.uniform(0.03, 0.07)) ** 0.7))
  chance = 0.9
  validation = error + (chance - error) * left
  # The gap between training and validation opens as training goes on, and stays.
  training = validation - error * rng.uniform(0.2, 0.6) * (1 - left)
  logged = np.linspace(1, world.steps, 4 * world.evaluations).round()
  norm = rng.uniform(0.5, 3.0) * (1 + 2 * np.exp(-logged / (0.05 * world.steps)))
  at = np.interp(logged, steps, training)
  return {
    "validation/error": (steps, validation),
    "validation/loss": (steps, 3.0 * validation),
    "train_subset/error": (steps, training),
    "train_subset/loss": (steps, 3.0 * training),
    "train/loss": (logged, 3.0 * at),
    "grad_norm": (logged, norm),
  }


def noisy(curves: Curves, world: World, rng: np.random.Generator) -> Curves:
  """Return curves with the noise of evaluations."""
  found = {}
  wobble: dict[int, np.ndarray] = {}
  for name, (steps, values) in curves.items():
    if len(steps) not in wobble:
      wobble[len(steps)] = _autocorrelated(len(steps), rng)
    # What the learning rate makes of it is common to all metrics of an evaluation.
    jitter = world.jitter * world.cooling(steps / max(steps[-1], 1)) * wobble[len(steps)]
    if name == "grad_norm":
      values = values * np.exp(rng.normal(0, 0.25, len(values)))
    elif name.endswith("error"):
      share = np.clip(values, 0.0, 1.0)
      values = (
        values + jitter + rng.normal(0, 1, len(values)) * np.sqrt(share * (1 - share) / world.validation_examples)
      )
      values = np.clip(values, 0.0, 1.0)
    elif name == "train/loss":
      values = values * np.exp(rng.normal(0, 0.1, len(values))) + 3 * jitter
    else:
      values = values + 3 * jitter + rng.normal(0, 1.5 / np.sqrt(world.validation_examples), len(values))
    found[name] = (steps, values)
  return found


def _autocorrelated(count: int, rng: np.random.Generator) -> np.ndarray:
  """Standard normal, each a little like the one before."""
  values = rng.normal(0, 1, count)
  for position in range(1, count):
    values[position] = 0.3 * values[position - 1] + np.sqrt(1 - 0.3**2) * values[position]
  return values


def untidied(curves: Curves, world: World, rng: np.random.Generator) -> Curves:
  """Return curves as real logs have them: evaluations missing, off the grid or NaN, and now and then cut short."""
  off_grid, short = rng.random() < 0.1, rng.random() < 0.02
  end = world.steps * rng.uniform(0.6, 0.95) if short else world.steps
  found = {}
  for name, (steps, values) in curves.items():
    kept = (rng.random(len(steps)) > 0.01) & (steps <= end)
    kept[0] = True
    steps, values = steps[kept], values[kept].copy()
    if off_grid:
      shift = rng.uniform(-0.4, 0.4, len(steps)) * world.steps / world.evaluations
      steps = np.clip(steps + np.where(steps > 0, shift, 0), 0, end).round()
      steps, first = np.unique(steps, return_index=True)
      values = values[first]
    if rng.random() < 0.02:
      values[rng.integers(1, len(values))] = np.nan
    found[name] = (steps, values)
  return found


def _trial(number: int, values: Mapping[str, Any], curves: Curves, world: World) -> Trial:
  return trial(number, values, curves, examples={"validation": world.validation_examples})


def _diverged(number: int, values: Mapping[str, Any], world: World, rng: np.random.Generator) -> Trial:
  """It becomes NaN somewhere in the first third."""
  curves = noisy(curves_of(0.5, world, rng), world, rng)
  end = rng.uniform(0.02, 0.33) * world.steps
  curves = {name: (steps[steps <= end], values_[steps <= end]) for name, (steps, values_) in curves.items()}
  return trial(number, values, curves, state="infeasible", reason=f"train/loss = nan at step {int(end)}")

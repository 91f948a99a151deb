"""Studies with a planted truth about their points.

Trials have one evaluation after step 0, with the noise that the best of many evaluations is left with. To make the
studies harder, change one of these functions, or `shape`, the form of every valley.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trialbook.tuning import Halton, Maximize, Minimize, StudyResults
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.advice_benchmark.planted import SPACE, World, nuisance
from trialbook.tuning.results import Trial
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Linear, OneOf, active

FIVE = (*SPACE, nuisance("dropout_rate", 0.01, 0.5), nuisance("label_smoothing", 0.001, 0.3))
RATE = "optimizer.learning_rate"


def quick(seed: int, world: World, *, better: str = "min", skip: int = 0) -> StudyResults:
  """As `planted.draw`, with one evaluation a trial. `skip`: the points of the search that come before."""
  rng = np.random.default_rng((seed, skip))
  surface = world.surface or planted.bowl(world, np.random.default_rng(seed))
  trials: list[Trial] = []
  metric = "validation/error" if better == "min" else "validation/accuracy"
  for number, values in enumerate(Halton(seed=seed).points(list(world.space), skip, skip + world.trials)):
    here = active(world.space, values)
    units = {one.name: one.scale.unit(here[one.name]) for one in world.space if one.name in here}
    if world.diverges is not None and world.diverges(units, rng):
      trials.append(planted.trial(number, here, {}, state="infeasible", reason=f"train/loss = nan at step {number}"))
      continue
    error = min(surface(units, rng) + rng.normal(0, world.retrain), 0.85)
    share = np.clip(error, 0, 1)
    error += rng.normal(0, np.hypot(0.1 * world.jitter, np.sqrt(share * (1 - share) / world.validation_examples)))
    curve = np.array([0.9, np.clip(error, 0, 0.899)])
    curves = {metric: (np.array([0, world.steps]), curve if better == "min" else 1 - curve)}
    trials.append(planted.trial(number, here, curves, examples={"validation": world.validation_examples}))
  objective = Minimize(metric) if better == "min" else Maximize(metric)
  return planted.results(trials, world.space, objective)


def shape(seed: int, space: Sequence[Hyperparameter], **given: tuple[float, float]):
  """A valley: in each dimension a power between 1.5 and 3 of the distance to its bottom; steeper on one side.

  `given` has bottom and height of some dimensions by position: d0=(1.1, 0.5).
  """
  rng = np.random.default_rng((seed, 1))
  parts = {}
  for position, one in enumerate(space):
    centre, depth = rng.uniform(0.3, 0.7), rng.uniform(0.2, 1.0)
    power, skew = rng.uniform(1.5, 3.0), rng.uniform(0.7, 1.4)
    centre, depth = given.get(f"d{position}", (centre, depth))
    parts[one.name] = centre, depth, power, skew

  def surface(units: planted.Units, _: np.random.Generator) -> float:
    total = 0.08
    for name, unit in units.items():
      if name in parts:
        centre, depth, power, skew = parts[name]
        total += depth * (abs(unit - centre) * (skew if unit > centre else 1)) ** power
    return total

  return surface


def height(seed: int) -> float:
  """Return how much a dimension that is planted changes the error at most."""
  return float(np.random.default_rng((seed, 2)).uniform(0.2, 1.0))


def dimension(seed: int) -> int:
  """Return which dimension is used: they go round with the seed, as the sides do."""
  return seed % len(SPACE)


def side(seed: int) -> str:
  """Return which side of the dimension is used."""
  return "upper" if seed // 3 % 2 == 0 else "lower"


def edge(seed: int, effect: float) -> StudyResults:
  """The bottom is `effect` of the scale beyond an edge."""
  upper = side(seed) == "upper"
  bottom = 1 + effect if upper else -effect
  surface = shape(seed, SPACE, **{f"d{dimension(seed)}": (bottom, height(seed))})
  return quick(seed, World(surface=surface))


def cliff(seed: int, effect: float) -> StudyResults:
  """Above some learning rate all trials diverge; the bottom is `effect` of the scale above that."""
  at = np.random.default_rng((seed, 3)).uniform(0.5, 0.8)
  surface = shape(seed, SPACE, d0=(at + effect, height(seed)))
  return quick(seed, World(surface=surface, diverges=lambda units, _: units[RATE] > at))


def few(seed: int, effect: float) -> StudyResults:
  """`effect` trials."""
  return quick(seed, World(surface=shape(seed, SPACE), trials=int(effect)))


def needle(seed: int, effect: float) -> StudyResults:
  """All is equally bad but for a hole around some place, and the `effect` points next to it are in the hole."""
  centre = np.random.default_rng((seed, 4)).uniform(0.3, 0.7, 3)
  points = Halton(seed=seed).points(list(SPACE), 0, 48)
  away = [
    np.linalg.norm([one.scale.unit(p[one.name]) - c for one, c in zip(SPACE, centre, strict=True)]) for p in points
  ]
  radius = np.sort(away)[int(effect) - 1] + 1e-9

  def surface(units: planted.Units, rng: np.random.Generator) -> float:
    inside = np.linalg.norm(np.array(list(units.values())) - centre) < radius
    return 0.1 + rng.uniform(0, 0.02) if inside else 0.3 + abs(rng.normal(0, 0.02))

  return quick(seed, World(surface=surface))


def region(seed: int, effect: float) -> StudyResults:
  """The outer `effect` of a dimension is infeasible in 9 of 10 trials, and 1 of 50 elsewhere."""
  name, upper = SPACE[dimension(seed)].name, side(seed) == "upper"

  def diverges(units: planted.Units, rng: np.random.Generator) -> bool:
    outside = units[name] > 1 - effect if upper else units[name] < effect
    return bool(rng.random() < (0.9 if outside else 0.02))

  return quick(seed, World(surface=shape(seed, SPACE), diverges=diverges))


def everywhere(seed: int, effect: float) -> StudyResults:
  """`effect` of the trials are infeasible, wherever they are."""
  return quick(seed, World(surface=shape(seed, SPACE), diverges=lambda _, rng: bool(rng.random() < effect)))


def idle(seed: int, effect: float) -> StudyResults:
  """A dimension changes the error by `effect` of what the others do."""
  surface = shape(seed, SPACE, **{f"d{dimension(seed)}": (0.5, effect * height(seed))})
  return quick(seed, World(surface=surface))


FEATURE = (
  Hyperparameter(name="dropout.present", path="dropout", scale=OneOf([False, True]), role="nuisance", sets="presence"),
  Hyperparameter(
    name="dropout", path="dropout", scale=Linear(0.0, 0.9), role="nuisance", parent=("dropout.present", True)
  ),
)


def feature(seed: int, effect: float) -> StudyResults:
  """A feature changes the error by `effect` at its best strength, 0.1; there it hurts by up to 0.3 at others."""
  valley = shape(seed, SPACE[:2])

  def surface(units: planted.Units, rng: np.random.Generator) -> float:
    error = valley(units, rng) + 0.1
    return error + effect + 0.5 * (0.9 * units["dropout"] - 0.1) ** 2 if "dropout" in units else error

  return quick(seed, World(space=(*SPACE[:2], *FEATURE), surface=surface))


def pair(seed: int, effect: float) -> StudyResults:
  """The best value of one dimension moves by `effect` of its scale while another one goes from end to end."""
  valley = shape(seed, SPACE)
  first, second = (SPACE[(dimension(seed) + k) % 3].name for k in range(2))

  def surface(units: planted.Units, rng: np.random.Generator) -> float:
    return valley({**units, first: units[first] + effect * (units[second] - 0.5)}, rng)

  return quick(seed, World(surface=surface))


def contest(seed: int, effect: float, shares: float = 1.0, trials: int = 64) -> StudyResults:
  """Two settings, each with a valley of its own of the same kind; that of the first is `effect` deeper.

  `shares`: how many trials one has for each of the other.
  """
  option = Hyperparameter(
    name="model.activation", path="model.activation", scale=OneOf(["relu", "gelu"]), role="scientific"
  )
  rng = np.random.default_rng((seed, 5))
  surfaces = [shape(1000 * seed + 1, SPACE), shape(1000 * seed + 2, SPACE)]
  world = World(space=SPACE, trials=trials)
  counts = [round(trials * shares / (1 + shares)), round(trials / (1 + shares))]
  found: list[Trial] = []
  for number, (value, surface, count) in enumerate(zip(("relu", "gelu"), surfaces, counts, strict=True)):
    lower = effect if number == 0 else 0.0
    own = quick(
      2 * seed + number,
      dataclasses.replace(world, trials=count, surface=lambda u, r, s=surface, d=lower: s(u, r) - d + 0.03),
    )
    found += [dataclasses.replace(t, values={**t.values, option.name: value}) for t in own.trials]
  order = rng.permutation(len(found))
  renumbered = [dataclasses.replace(found[old], trial=new) for new, old in enumerate(order.tolist())]
  return planted.results(renumbered, (option, *SPACE))


OPTIMIZER = Hyperparameter(
  name="optimizer.name", path="optimizer.name", scale=OneOf(["adam", "sgd"]), role="scientific"
)
LAYERS = Hyperparameter(name="model.layers", path="model.layers", scale=Discrete((2, 8)), role="scientific")


def crossed(seed: int, share: float = 0.5, *, effect: float = 0.0, depth: float = 0.05) -> StudyResults:
  """Two things are compared: two layers are worse than eight by `depth`, and sgd worse than adam by `effect`.

  `share`: of the trials with eight layers that have adam, and of those with two that have sgd: 0.5 are drawn
  independently, with 1 nothing can tell the layers from the optimizer.
  """
  valley = shape(seed, SPACE)
  rng = np.random.default_rng((seed, 6))
  drawn = quick(
    seed,
    World(space=(LAYERS, *SPACE), trials=64, surface=lambda u, r: valley(u, r) + depth * (u[LAYERS.name] < 0.5)),
  )
  found = []
  for one in drawn.trials:
    adam = rng.random() < (share if one.values[LAYERS.name] == 8 else 1 - share)
    logged = {name: one.curve(name) for name in one.log.curves}
    curves = {name: (steps, worth + effect * (not adam)) for name, (steps, worth) in logged.items()}
    values = {OPTIMIZER.name: "adam" if adam else "sgd", **one.values}
    found.append(planted.trial(one.trial, values, curves, examples=one.log.examples))
  return planted.results(found, (OPTIMIZER, LAYERS, *SPACE))


def equals(seed: int) -> StudyResults:
  """Two settings that are the same, and a nuisance of three kinds, of which the last is worse by 0.05."""
  method = Hyperparameter(name="method", path="method", scale=OneOf(["one", "other"]), role="scientific")
  kind = Hyperparameter(name="kind", path="kind", scale=OneOf(["a", "b", "c"]), role="nuisance")
  valley = shape(seed, SPACE)
  surface = lambda units, rng: valley(units, rng) + 0.05 * (units[kind.name] > 2 / 3)  # noqa: E731
  return quick(seed, World(space=(method, kind, *SPACE), trials=64, surface=surface))


def flat(seed: int, effect: float) -> StudyResults:
  """All differences of the space, as a share of those of other plants."""
  valley = shape(seed, SPACE)
  return quick(seed, World(surface=lambda units, rng: 0.08 + effect * (valley(units, rng) - 0.08)))

"""Studies with a planted truth about their points, and how often it is found.

Each `Plant` draws a study from a seed and the size of an effect, and says whether a finding names what was planted: the
hyperparameter and the side, too, not only that something is wrong. Trials have one evaluation after step 0, with the
noise that the best of many evaluations is left with; controls are drawn with whole, untidy curves by `planted.draw`,
too. To make it harder, change a plant, or `shape`, the form of every valley.

    PYTHONPATH=. .venv/bin/python tests/tuning/planted_points.py [FIRST COUNT]

prints the table of docs/findings.md, of COUNT seeds from FIRST on.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import planted
from planted import SPACE, World, nuisance

from trialbook.tuning import Halton, Maximize, Minimize, StudyResults
from trialbook.tuning.findings import Finding, boundary, comparison, density, importance, infeasible, stopping
from trialbook.tuning.results import Trial
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Linear, OneOf, active

Find = Callable[[StudyResults], list[Finding]]
FIVE = (*SPACE, nuisance("dropout_rate", 0.01, 0.5), nuisance("label_smoothing", 0.001, 0.3))
RATE = "optimizer.learning_rate"
EDGES = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.4)
"""Of the scale, from the edge to the optimum: at -0.2 it is well inside."""


@dataclasses.dataclass(frozen=True)
class Plant:
  """What is planted.

  Attributes:
    name: in words.
    find: the question that is asked.
    effects: sizes, the first as small as can be.
    unit: of the sizes, in words.
    draw: the study of a seed and a size.
    found: whether the findings name it, given the seed.
    why: the size that matters, and why.
  """

  name: str
  find: Find
  effects: tuple[float, ...]
  unit: str
  draw: Callable[[int, float], StudyResults]
  found: Callable[[Sequence[Finding], int], bool]
  why: str


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
    centre, height = rng.uniform(0.3, 0.7), rng.uniform(0.2, 1.0)
    power, skew = rng.uniform(1.5, 3.0), rng.uniform(0.7, 1.4)
    centre, height = given.get(f"d{position}", (centre, height))
    parts[one.name] = centre, height, power, skew

  def surface(units: planted.Units, _: np.random.Generator) -> float:
    total = 0.08
    for name, unit in units.items():
      if name in parts:
        centre, height, power, skew = parts[name]
        total += height * (abs(unit - centre) * (skew if unit > centre else 1)) ** power
    return total

  return surface


def _height(seed: int) -> float:
  return float(np.random.default_rng((seed, 2)).uniform(0.2, 1.0))


# The dimension and the side that are used go round with the seed.
def _dimension(seed: int) -> int:
  return seed % len(SPACE)


def edge(seed: int, effect: float) -> StudyResults:
  """The bottom is `effect` of the scale beyond an edge."""
  upper = seed // 3 % 2 == 0
  bottom = 1 + effect if upper else -effect
  surface = shape(seed, SPACE, **{f"d{_dimension(seed)}": (bottom, _height(seed))})
  return quick(seed, World(surface=surface))


def _edge_found(findings: Sequence[Finding], seed: int, severities: Sequence[str] = ("warning", "note")) -> bool:
  side = "upper" if seed // 3 % 2 == 0 else "lower"
  return any(
    one.id == "PB-23" and one.subject == SPACE[_dimension(seed)].name and one.numbers.get("side") == side
    for one in findings
    if one.severity in severities
  )


def _ends(findings: Sequence[Finding], seed: int) -> bool:
  """Whether it says that the optimum is at the end of what the hyperparameter can be."""
  return any("the end of what it can be" in one.title for one in findings) and _edge_found(findings, seed)


def cliff(seed: int, effect: float) -> StudyResults:
  """Above some learning rate all trials diverge; the bottom is `effect` of the scale above that."""
  at = np.random.default_rng((seed, 3)).uniform(0.5, 0.8)
  surface = shape(seed, SPACE, d0=(at + effect, _height(seed)))
  return quick(seed, World(surface=surface, diverges=lambda units, _: units[RATE] > at))


def _cliff_found(findings: Sequence[Finding], _: int) -> bool:
  return any(one.id == "PB-80" and one.subject == RATE for one in findings) and not any(
    one.subject == RATE and one.space for one in findings
  )


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
  side = np.sort(away)[int(effect) - 1] + 1e-9

  def surface(units: planted.Units, rng: np.random.Generator) -> float:
    inside = np.linalg.norm(np.array(list(units.values())) - centre) < side
    return 0.1 + rng.uniform(0, 0.02) if inside else 0.3 + abs(rng.normal(0, 0.02))

  return quick(seed, World(surface=surface))


def _warned(findings: Sequence[Finding], _: int) -> bool:
  return any(one.severity in ("warning", "problem") for one in findings)


def region(seed: int, effect: float) -> StudyResults:
  """The outer `effect` of a dimension is infeasible in 9 of 10 trials, and 1 of 50 elsewhere."""
  name, upper = SPACE[_dimension(seed)].name, seed // 3 % 2 == 0

  def diverges(units: planted.Units, rng: np.random.Generator) -> bool:
    outside = units[name] > 1 - effect if upper else units[name] < effect
    return bool(rng.random() < (0.9 if outside else 0.02))

  return quick(seed, World(surface=shape(seed, SPACE), diverges=diverges))


def _region_found(findings: Sequence[Finding], seed: int) -> bool:
  return any(one.subject == SPACE[_dimension(seed)].name and "most of them at" in one.title for one in findings)


def everywhere(seed: int, effect: float) -> StudyResults:
  """`effect` of the trials are infeasible, wherever they are."""
  return quick(seed, World(surface=shape(seed, SPACE), diverges=lambda _, rng: bool(rng.random() < effect)))


def _bug_found(findings: Sequence[Finding], _: int) -> bool:
  return any(one.severity == "problem" and one.subject is None for one in findings)


def idle(seed: int, effect: float) -> StudyResults:
  """A dimension changes the error by `effect` of what the others do."""
  surface = shape(seed, SPACE, **{f"d{_dimension(seed)}": (0.5, effect * _height(seed))})
  return quick(seed, World(surface=surface))


def _idle_found(findings: Sequence[Finding], seed: int) -> bool:
  return any(
    ("hardly matters" in one.title or "matters less" in one.title) and one.subject == SPACE[_dimension(seed)].name
    for one in findings
  )


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


def _feature_removed(findings: Sequence[Finding], _: int) -> bool:
  return any("does not help" in one.title and one.subject == "dropout.present" for one in findings)


def pair(seed: int, effect: float) -> StudyResults:
  """The best value of one dimension moves by `effect` of its scale while another one goes from end to end."""
  valley = shape(seed, SPACE)
  first, second = (SPACE[(_dimension(seed) + k) % 3].name for k in range(2))

  def surface(units: planted.Units, rng: np.random.Generator) -> float:
    return valley({**units, first: units[first] + effect * (units[second] - 0.5)}, rng)

  return quick(seed, World(surface=surface))


def _pair_found(findings: Sequence[Finding], seed: int) -> bool:
  wanted = {SPACE[(_dimension(seed) + k) % 3].name for k in range(2)}
  return any({one.subject, one.numbers.get("with")} == wanted for one in findings)


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


def _luck_found(findings: Sequence[Finding], _: int) -> bool:
  return any("luck" in one.title for one in findings)


def _winner_found(findings: Sequence[Finding], _: int) -> bool:
  return any(one.severity == "ok" and one.subject == "relu" for one in findings)


def flat(seed: int, effect: float) -> StudyResults:
  """All differences of the space, as a share of those of other plants."""
  valley = shape(seed, SPACE)
  return quick(seed, World(surface=lambda units, rng: 0.08 + effect * (valley(units, rng) - 0.08)))


PLANTS = (
  Plant(
    "optimum near an edge, or beyond",
    boundary.find,
    EDGES,
    "of the scale beyond",
    edge,
    _edge_found,
    "at 0.2 beyond the edge the error is lower by 0.015, five times the noise; in one study of six the edge is the end"
    " of what the hyperparameter can be, and that the best are near it is no finding",
  ),
  Plant(
    "optimum beyond an edge, warned of",
    boundary.find,
    EDGES,
    "of the scale beyond",
    edge,
    lambda findings, seed: _edge_found(findings, seed, ("warning",)) or _ends(findings, seed),
    "beyond the edge the error is lower by 0.07 (median), as much as its floor",
  ),
  Plant(
    "instability near the best, or under it",
    boundary.find,
    EDGES,
    "of the scale",
    cliff,
    _cliff_found,
    "the same distance, cut off by divergence: stable training would reach it",
  ),
  Plant(
    "instability under the best, warned of",
    boundary.find,
    EDGES,
    "of the scale",
    cliff,
    lambda findings, seed: _cliff_found([one for one in findings if one.severity == "warning"], seed),
    "as beyond an edge",
  ),
  Plant(
    "too few points",
    density.find,
    (24, 16, 12, 10, 6),
    "trials, 3 dimensions",
    few,
    _warned,
    "a valley in 3 dimensions has 7 coefficients: 10 points leave 3 degrees of freedom, of which nothing is sure",
  ),
  Plant(
    "best point alone",
    density.find,
    (8, 4, 2, 1),
    "of 48 points",
    needle,
    _warned,
    "half of the study would have missed it every other time",
  ),
  Plant(
    "infeasible region",
    infeasible.find,
    (0.05, 0.1, 0.2, 0.3, 0.5),
    "of a scale",
    region,
    _region_found,
    "a fifth of the trials are lost there, the share from which a finding warns",
  ),
  Plant(
    "infeasible everywhere",
    infeasible.find,
    (0.05, 0.1, 0.2, 0.3, 0.5),
    "of the trials",
    everywhere,
    _bug_found,
    "crashes at random that cost a third of the budget; fewer pass as a note",
  ),
  Plant(
    "no effect",
    importance.find,
    (0.3, 0.1, 0.03, 0.01, 0.0),
    "of the others",
    idle,
    _idle_found,
    "a hundredth of what the others do: it is said to matter less; one of twelve idle ones is said to hardly matter:"
    " 48 trials seldom rule out 2% of the error",
  ),
  Plant(
    "useless feature",
    importance.find,
    (-0.05, -0.01, 0.0, 0.02, 0.05),
    "higher error with it",
    feature,
    _feature_removed,
    "a quarter of the valley's floor of 0.08; a feature that helps at its best strength must never be removed",
  ),
  Plant(
    "two interact",
    importance.find,
    (0.0, 0.2, 0.4, 0.6, 0.8),
    "of the scale",
    pair,
    _pair_found,
    "the best value moves by most of the scale: fixing one and tuning the other misses the valley",
  ),
  Plant(
    "winner by luck",
    comparison.find,
    (0.04, 0.02, 0.01, 0.0),
    "lower error",
    contest,
    _luck_found,
    "the best of 32 varies by 0.014 from study to study: settings closer than that must not be called apart",
  ),
  Plant(
    "real winner",
    comparison.find,
    (0.0, 0.02, 0.04, 0.06, 0.08, 0.1),
    "lower error",
    contest,
    _winner_found,
    "five standard deviations of the difference of two bests of 32 (0.019); at 0.04 every third one is told",
  ),
  Plant(
    "unequal effort",
    comparison.find,
    (1.0, 1.5, 2.0, 3.0),
    "times the trials",
    lambda seed, effect: contest(seed, 0.2, shares=effect),
    lambda found, _: any("effort" in one.numbers for one in found),
    "the best of twice as many is better by about 0.006 by effort alone",
  ),
  Plant(
    "search saturated",
    stopping.find,
    (1.0, 0.3, 0.1, 0.03),
    "of the differences",
    flat,
    lambda found, _: any("stop" in one.title for one in found),
    "doubling gains 0.0015, half of the noise; of the whole differences it gains 0.0048",
  ),
)

CONTROLS: Mapping[str, Callable[[int], StudyResults]] = {
  "48 trials, whole untidy curves": lambda seed: planted.healthy(seed, evaluations=8),
  "48 trials, skewed valleys": lambda seed: quick(seed, World(surface=shape(seed, SPACE))),
  "24 trials": lambda seed: quick(seed, World(surface=shape(seed, SPACE), trials=24)),
  "5 dimensions": lambda seed: quick(seed, World(space=FIVE, surface=shape(seed, FIVE))),
  "noise of 0.01": lambda seed: quick(seed, World(surface=shape(seed, SPACE), retrain=0.01, validation_examples=2000)),
  "accuracy": lambda seed: quick(seed, World(surface=shape(seed, SPACE)), better="max"),
  "96 trials": lambda seed: quick(seed, World(surface=shape(seed, SPACE), trials=96)),
  "two equal settings": lambda seed: contest(seed, 0.0),
  "two equal settings, a categorical nuisance": lambda seed: equals(seed),
  "two optimizers alike, and layers that matter": crossed,
  "two optimizers alike, nine of ten with layers of their own": lambda seed: crossed(seed, 0.9),
}
"""Studies in which nothing is wrong, and no setting is better, but for the number of layers."""


def alarms(results: StudyResults) -> set[str]:
  """The questions whose findings say of a healthy study that something is wrong, or claim what is not there."""
  found = {
    question.__name__.rpartition(".")[2]: question.find(results)
    for question in (infeasible, boundary, density, stopping, comparison, importance)
  }
  return {name for name, findings in found.items() if any(_alarm(one) for one in findings)}


def _alarm(one: Finding) -> bool:
  if one.question == "comparison":
    # Of settings that are equal "not told apart" is the truth; a winner or unequal effort is not.
    return (one.severity == "ok" and one.numbers["hyperparameter"] != LAYERS.name) or "effort" in one.numbers
  return one.severity in ("warning", "problem") or (one.severity == "note" and one.question != "stopping")


def detections(plant: Plant, seeds: Sequence[int]) -> list[float]:
  """The share of seeds in which each size is found."""
  return [
    float(np.mean([plant.found(plant.find(plant.draw(seed, effect)), seed) for seed in seeds]))
    for effect in plant.effects
  ]


def false_alarms(control: str, seeds: Sequence[int]) -> dict[str, float]:
  """The share of seeds in which each question raises one, of those that do."""
  raised = [alarms(CONTROLS[control](seed)) for seed in seeds]
  names = sorted(set().union(*raised))
  return {name: float(np.mean([name in one for one in raised])) for name in names}


def table(seeds: Sequence[int]) -> str:
  """Detection by size, and false alarms, in Markdown."""
  lines = ["| planted | size | found in | 0.9 reached at | why that size |", "|---|---|---|---|---|"]
  for plant in PLANTS:
    rates = detections(plant, seeds)
    enough = [e for e, rate in zip(plant.effects, rates, strict=True) if rate >= 0.9]
    sizes = ", ".join(f"{effect:g}" for effect in plant.effects)
    shares = ", ".join(f"{rate:.2f}" for rate in rates)
    reached = f"{enough[0]:g}" if enough else "none"
    lines.append(f"| {plant.name} | {sizes} ({plant.unit}) | {shares} | {reached} | {plant.why} |")
  lines += ["", "| control | false alarms |", "|---|---|"]
  for control in CONTROLS:
    rates = false_alarms(control, seeds)
    lines.append(f"| {control} | {', '.join(f'{name} {rate:.2f}' for name, rate in rates.items()) or 'none'} |")
  return "\n".join(lines)


def main(arguments: Sequence[str]) -> Any:
  """`FIRST COUNT`: the seeds; those of the test are 0 50."""
  first, count = (int(one) for one in (*arguments, "0", "50")[:2]) if len(arguments) == 2 else (0, 50)
  sys.stdout.write(table(range(first, first + count)) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])

"""Healthy studies of every form: each seed draws its own, and says which warnings are true of it.

Points lie evenly, at random, on a grid or adaptively, with 1 to 5 seeds each; there are 12 to 128 trials and 1 to 15
hyperparameters, a metric with a natural zero or without, any usual schedule, and any of what real studies have: one
point at which nothing trains, trials that a rule pruned, that were cut short, or that were stopped at a target, and
tables of final values without curves. The best values are well inside of the space, and training is stable elsewhere.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import planted, samplers, spaces
from trialbook.tuning.advice_benchmark.forms import ENOUGH_POINTS, LEARNING_RATES, Form, form_of
from trialbook.tuning.advice_benchmark.metrics import METRICS, measured
from trialbook.tuning.advice_benchmark.planted import Curves, Units, World
from trialbook.tuning.advice_benchmark.runs import (
  Run,
  cut_short,
  diverged,
  last_step,
  pruned,
  stopped_at_target,
  study_of,
)
from trialbook.tuning.advice_benchmark.samplers import Sampler
from trialbook.tuning.findings import Finding
from trialbook.tuning.space.scales import Discrete, Hyperparameter, OneOf, active
from trialbook.tuning.study import Objective

METHOD = "method"
"""Name of the scientific hyperparameter, where there is one."""
FEWEST_COMPARED = 24
"""Trials of a study that compares settings, at least."""
FEWEST_POINTS = 4
"""Points of a study at least, where retrains would leave fewer."""
BEST, FEWEST_BEST = 0.25, 4
"""Share of the trials, the best ones, whose order somebody looks at, and how many these are at least."""
NOISY = 0.75
"""Standard deviations between the true errors of the best trials from which on it is true that the noise of an
evaluation decides their order: one evaluation of each orders at most four of five pairs correctly."""
UNEXPLAINED = 0.5
"""Part of the noise by the draw of examples that the learning rate's must reach to be a fault of training."""
END = 0.1
"""Share of a training that is its end."""
UNTIDY = 0.5
"""Share of the trials whose logs are untidy."""
COOLEST = 0.1
"""Share of the jitter that is left where the learning rate is zero; a constant one is low enough for as little."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
  """A study in the making, before its trials end in other ways than at their last step.

  Attributes:
    form: what its seed drew.
    runs: its trials.
    space: its hyperparameters, as it records them.
    objective: what it ranks by.
    world: noise and length of its curves.
    rng: for what comes next.
  """

  form: Form
  runs: Sequence[Run]
  space: tuple[Hyperparameter, ...]
  objective: Objective
  world: World
  rng: np.random.Generator

  def study(self, runs: Sequence[Run]) -> StudyResults:
    """Return the study of these runs."""
    examples = {"validation": self.form.examples} if METRICS[self.form.metric].counts else None
    return study_of(runs, self.space, self.objective, examples)


@dataclasses.dataclass(frozen=True)
class Healthy:
  """A healthy study.

  Attributes:
    results: of it.
    form: what its seed drew.
    true: why a warning of a question is true of it, by question.
  """

  results: StudyResults
  form: Form
  true: Mapping[str, str]

  def is_false(self, one: Finding) -> bool:
    """Return whether a finding is a false alarm: a warning or a problem that is not true of the study."""
    return one.severity in ("warning", "problem") and one.question not in self.true


def draw(seed: int, **changes: Any) -> Healthy:
  """Return the healthy study of a seed, of a form with these changes."""
  made = making(seed, **changes)
  runs = _ended(made)
  results = made.study(runs)
  return Healthy(results, made.form, _true(made, results, runs))


def draw_equal_settings(seed: int) -> Healthy:
  """Return the study of a seed that compares two or three settings, none of which is better."""
  form = form_of(np.random.default_rng((seed, 1)))
  return draw(
    seed,
    settings=2 + seed % 2,
    sampler="halton" if form.sampler == "grid" else form.sampler,
    trials=max(form.trials, FEWEST_COMPARED),
    dimensions=1 + form.dimensions // 2,
  )


def making(seed: int, **changes: Any) -> Making:
  """Return the study of a seed before any trial ended early, of a form with these changes."""
  rng = np.random.default_rng((seed, 1))
  form = dataclasses.replace(form_of(rng), **changes)
  space, sampler, count = _search(form, seed, rng)
  surface, world = _surface(space, form, rng), _world(form)
  metric = METRICS[form.metric]
  runs: list[Run] = []
  history: list[tuple[Units, float]] = []
  for _ in range(count):
    units = sampler(history)
    values = active(space, {one.name: one.scale.at(units[one.name]) for one in space})
    here = {name: units[name] for name in values}
    errors = [min(surface(here) + rng.normal(0, form.noise), 0.85) for _ in range(form.retrains)]
    for number, error in enumerate(errors):
      own = {**values, "seed": number} if form.retrains > 1 else values
      curves = measured(_curves(error, form, world, rng), metric)
      runs.append(Run(values=own, units=here, curves=curves, error=error))
    history.append((units, float(np.mean(errors))))
  if form.bad_point:
    # That with the largest learning rate, as it usually is.
    first = max(range(count), key=lambda place: history[place][0][spaces.RATE]) * form.retrains
    runs[first : first + form.retrains] = [diverged(run, rng) for run in runs[first : first + form.retrains]]
  objective = dataclasses.replace(metric.objective, value=form.value)
  return Making(form=form, runs=runs, space=_recorded(space, form), objective=objective, world=world, rng=rng)


def _surface(space: Sequence[Hyperparameter], form: Form, rng: np.random.Generator) -> spaces.Surface:
  """Return the errors; those of every second setting are mirrored on each numeric scale, so that all are as good."""
  valley = spaces.valley([one for one in space if one.name != METHOD], rng)
  numeric = {one.name for one in space if not isinstance(one.scale, OneOf)}

  def surface(units: Units) -> float:
    others = {name: unit for name, unit in units.items() if name != METHOD}
    if form.settings and int(units[METHOD] * form.settings) % 2:
      others = {name: 1 - unit if name in numeric else unit for name, unit in others.items()}
    return valley(others)

  return surface


def _search(form: Form, seed: int, rng: np.random.Generator) -> tuple[Sequence[Hyperparameter], Sampler, int]:
  """Return the space, the sampler, and the number of points."""
  space = spaces.space_of(form.dimensions, rng)
  if form.settings:
    values = [f"method {number}" for number in range(1, form.settings + 1)]
    space = Hyperparameter(name=METHOD, path=METHOD, scale=OneOf(values), role="scientific"), *space
  count = max(form.trials // form.retrains, FEWEST_POINTS)
  if form.sampler == "grid":
    drawn = [int(rng.integers(5, 8))] if len(space) == 1 else [int(rng.integers(4, 7)), int(rng.integers(3, 6))]
    counts = [
      len(one.scale.values) if isinstance(one.scale, OneOf | Discrete) else number
      for one, number in zip(space, drawn, strict=True)
    ]
    return space, samplers.grid(space, counts), int(np.prod(counts))
  if form.sampler == "halton":
    return space, samplers.halton(space, seed, count), count
  if form.sampler == "uniform":
    return space, samplers.uniform(space, rng), count
  return space, samplers.adaptive(space, count, rng), count


def _recorded(space: Sequence[Hyperparameter], form: Form) -> tuple[Hyperparameter, ...]:
  """Return the hyperparameters as the study records them."""
  if form.retrains == 1:
    return tuple(space)
  return *space, Hyperparameter(name="seed", path="seed", scale=OneOf(range(form.retrains)), role="nuisance")


def _world(form: Form) -> World:
  factor = LEARNING_RATES[form.schedule]
  constant = form.schedule == "constant"
  return World(
    evaluations=form.evaluations,
    validation_examples=form.examples,
    jitter=form.jitter,
    cooling=lambda time: np.maximum(0.0 * time if constant else factor(time), COOLEST),
  )


def _curves(error: float, form: Form, world: World, rng: np.random.Generator) -> Curves:
  """Return what a trial logs that converges to an error."""
  curves = planted.curves_of(error, world, rng)
  factor = LEARNING_RATES[form.schedule]
  for name, (steps, values) in curves.items():
    if name != "grad_norm":
      curves[name] = steps, values + form.excess * values[-1] * factor(steps / world.steps)
  curves = planted.noisy(curves, world, rng)
  if form.evaluations > 1:
    curves = planted.untidied(curves, world, rng) if rng.random() < UNTIDY else curves
  else:
    curves = {name: (steps[-1:], values[-1:]) for name, (steps, values) in curves.items()}
  if form.logged != "all":
    curves.pop("grad_norm")
  if form.logged == "none":
    return {name: curve for name, curve in curves.items() if name.startswith("validation/")}
  if form.evaluations > 1 and form.logged == "all":
    steps = curves["train/loss"][0]
    curves["learning_rate"] = steps, factor(steps / world.steps)
  return curves


def _ended(made: Making) -> Sequence[Run]:
  """Return the runs as they ended."""
  form = made.form
  if form.ends == "pruned":
    return pruned(made.runs, made.objective)
  if form.ends == "cut short":
    return cut_short(made.runs, form.share, made.rng, "stopped" if form.says_state else "complete")
  if form.ends == "target":
    return stopped_at_target(made.runs, made.objective, form.share)
  return made.runs


def _true(made: Making, results: StudyResults, runs: Sequence[Run]) -> dict[str, str]:
  """Return why a warning of a question is true, by question."""
  true, form = {}, made.form
  if form.ends == "cut short":
    true["outcomes"] = "trials were cut short"
  tried = [trials for trials in results.points if any(trial.state in ("complete", "pruned") for trial in trials)]
  if len(tried) < ENOUGH_POINTS * form.dimensions:
    true["density"] = "there are too few points"
  best = [runs[trial.trial] for trial in results.ranked]
  best = best[: max(math.ceil(BEST * len(best)), FEWEST_BEST)]
  if len(best) > 1:
    spread = float(np.std([run.error for run in best], ddof=1))
    level = float(np.median([run.error for run in best]))
    share = level * (1 - level) if METRICS[form.metric].counts else 0.25
    sampling = math.sqrt(share / form.examples)
    jitter = form.jitter * float(np.mean([_cooling_at_end(run, made.world) for run in best]))
    if math.hypot(sampling, jitter) > NOISY * spread:
      true["late_noise"] = "evaluations are as noisy as the best trials differ"
      if jitter > UNEXPLAINED * sampling:
        true["optimization"] = true["late_noise"]
  return true


def _cooling_at_end(run: Run, world: World) -> float:
  """Return the share of the jitter in the last tenth of what a run has logged, by root mean square."""
  time = np.linspace(1 - END, 1, 20) * last_step(run) / world.steps
  return float(np.sqrt(np.mean(np.square(world.cooling(time)))))

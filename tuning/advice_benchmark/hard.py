"""Studies with something wrong that is harder to see: retrains, corners, collapses, censored trials, schedules.

Each function takes a seed and a size and returns the study with what was planted. What is not planted is drawn by
`healthy`, so that noise, metric, sampler and schedule differ from seed to seed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import healthy, planted, spaces
from trialbook.tuning.advice_benchmark.healthy import Making
from trialbook.tuning.advice_benchmark.runs import Run, cut_short, diverged, last_step, pruned, until
from trialbook.tuning.space.scales import OneOf


@dataclasses.dataclass(frozen=True)
class Planted:
  """A study with what was planted in it.

  Attributes:
    results: the study.
    trials: numbers of the trials that it is planted in.
    names: of the hyperparameters that it depends on.
  """

  results: StudyResults
  trials: frozenset[int] = frozenset()
  names: tuple[str, ...] = ()


def _making(seed: int, **changes: Any) -> Making:
  """Return a study of trials that all ran to their end, with curves."""
  rng = np.random.default_rng((seed, 2))
  plain = {
    "sampler": str(rng.choice(["halton", "uniform", "adaptive"])),
    "trials": int(rng.integers(32, 97)),
    "dimensions": int(rng.integers(2, 7)),
    "retrains": 1,
    "ends": "all",
    "bad_point": False,
    "evaluations": int(rng.choice([20, 50, 100])),
    "value": "best",
  }
  return healthy.making(seed, **{**plain, **changes})


def _spoilt(made: Making, places: Sequence[int], spoil: Callable[[Run], Run], *names: str) -> Planted:
  """Return the study in which the trials at these places are spoilt."""
  chosen = frozenset(int(place) for place in places)
  runs = [spoil(run) if place in chosen else run for place, run in enumerate(made.runs)]
  return Planted(made.study(runs), chosen, names)


def _some(made: Making, share: float) -> list[int]:
  """Return the places of a share of the trials, at random."""
  return made.rng.permutation(len(made.runs))[: round(share * len(made.runs))].tolist()


def bad_point(seed: int, points: float) -> Planted:
  """Of so many points of five retrains each, that with the largest learning rate diverges in all five."""
  made = _making(seed, retrains=5, trials=5 * int(points), sampler="halton", bad_point=True)
  bad = frozenset(place for place, run in enumerate(made.runs) if run.state == "infeasible")
  return Planted(made.study(made.runs), bad, (spaces.RATE,))


def corner(seed: int, share: float) -> Planted:
  """A share of the trials diverges: those in which the learning rate and another one are both large."""
  made = _making(seed, sampler="halton")
  numeric = [one.name for one in made.space if not isinstance(one.scale, OneOf) and one.parent is None]
  if len(numeric) < 2:
    return corner(seed + 100_000, share)
  sums = [run.units[spaces.RATE] + run.units[numeric[1]] for run in made.runs]
  places = np.argsort(sums)[len(sums) - round(share * len(sums)) :].tolist()
  return _spoilt(made, places, lambda run: diverged(run, made.rng), *sorted(numeric[:2]))


def seeds_die(seed: int, share: float) -> Planted:
  """Of ten points with five seeds each, a share of the seeds dies, wherever it is: each by NaN or by a collapse."""
  made = _making(seed, retrains=5, trials=50, logged="all")

  def die(run: Run) -> Run:
    return diverged(run, made.rng) if made.rng.random() < 0.5 else _collapsed(made, run)

  return _spoilt(made, _some(made, share), die)


def collapses(seed: int, share: float) -> Planted:
  """A share of the trials falls back to what it began with, at a step between 30% and 80%, and stays there."""
  made = _making(seed)
  return _spoilt(made, _some(made, share), lambda run: _collapsed(made, run))


def _collapsed(made: Making, run: Run) -> Run:
  at = made.rng.uniform(0.3, 0.8) * last_step(run)
  curves = {
    name: (steps, np.where(steps >= at, values[0], values)) if "/" in name else (steps, values)
    for name, (steps, values) in run.curves.items()
  }
  return dataclasses.replace(run, curves=curves)


def stays_at_chance(seed: int, share: float) -> Planted:
  """A share of the trials, wherever they are, never learns anything."""
  made = _making(seed)

  def stay(run: Run) -> Run:
    curves = {}
    for name, (steps, values) in run.curves.items():
      noise = 0.005 * abs(values[0] - values[-1]) * made.rng.normal(0, 1, len(values))
      curves[name] = (steps, values[0] + noise * (steps > 0)) if "/" in name else (steps, values)
    return dataclasses.replace(run, curves=curves)

  return _spoilt(made, _some(made, share), stay)


def preempted(seed: int, share: float) -> Planted:
  """A share of the trials ended for no reason of theirs, and is recorded as complete."""
  made = _making(seed)
  runs = cut_short(made.runs, share, made.rng)
  short = frozenset(place for place, (run, old) in enumerate(zip(runs, made.runs, strict=True)) if run is not old)
  return Planted(made.study(runs), short)


def dies_at_once(seed: int, share: float) -> Planted:
  """A share of the trials logs nothing after a hundredth of the steps, and is recorded as complete."""
  made = _making(seed, logged="all", evaluations=100)
  return _spoilt(made, _some(made, share), lambda run: until(run, 0.011 * last_step(run)))


def pruned_settings(seed: int, depth: float) -> Planted:
  """Two settings of which one is worse by a depth, so that more of its trials are pruned; both are tried as often."""
  made = _making(seed, settings=2, sampler="halton", trials=80, evaluations=50)
  sign, metric = made.objective.sign, made.objective.metric
  scale = float(np.median([abs(run.curves[metric][1][0] - run.curves[metric][1][-1]) for run in made.runs]))
  runs = []
  for run in made.runs:
    steps, values = run.curves[metric]
    worse = sign * depth * scale * (run.values[healthy.METHOD] == "method 2") * (steps > 0)
    runs.append(dataclasses.replace(run, curves={**run.curves, metric: (steps, values + worse)}))
  return Planted(made.study(pruned(runs, made.objective)), names=(healthy.METHOD,))


def one_finished(seed: int, count: float) -> Planted:
  """All but so many trials were cut short, before the last tenth of the steps."""
  made = _making(seed)
  places = made.rng.permutation(len(made.runs))[int(count) :].tolist()
  return _spoilt(made, places, lambda run: until(run, made.rng.uniform(0.1, 0.6) * last_step(run)))


def rising_loss(seed: int, share: float, *, everywhere: bool = False, called: str = "loss") -> Planted:
  """In a share of the trials the training loss, called so, rises by 60% in the last third: those of the largest
  learning rates, or any."""
  steady = {"schedule": "constant", "excess": 0.0}  # A decay would hide the rise.
  made = _making(
    seed, logged="all", sampler="halton", metric="error" if seed % 2 or called != "loss" else "loss", **steady
  )
  count = round(share * len(made.runs))
  order = np.argsort([run.units[spaces.RATE] for run in made.runs]).tolist()
  places = _some(made, share) if everywhere else order[len(order) - count :]

  def rise(run: Run) -> Run:
    curves = {}
    for name, (steps, values) in run.curves.items():
      train = name.startswith("train") and name.endswith(("loss", "error"))
      grown = 1 + 1.8 * np.maximum(steps / steps[-1] - 2 / 3, 0)
      curves[name] = (steps, values * grown) if train else (steps, values)
    return dataclasses.replace(run, curves=curves)

  made = dataclasses.replace(made, runs=[_renamed(run, "loss", called) for run in made.runs])
  return _spoilt(made, places, rise, spaces.RATE)


def _renamed(run: Run, last: str, called: str) -> Run:
  """Return a run whose metrics of training examples with this last part of the name are called otherwise."""
  curves = {}
  for name, curve in run.curves.items():
    split, _, own = name.rpartition("/")
    curves[f"{split}/{called}" if split.startswith("train") and own == last else name] = curve
  return dataclasses.replace(run, curves=curves)


def first_steps_only(seed: int, share: float) -> Planted:
  """Gradient norms and training losses are logged in a first share of the steps only."""
  made = _making(seed, logged="all", metric="error")

  def stop(run: Run) -> Run:
    curves = {}
    for name, (steps, values) in run.curves.items():
      early = name in ("grad_norm", "train/loss", "learning_rate")
      steps_there = np.arange(100) * max(share * last_step(run) / 100, 1.0) if early else steps
      curves[name] = (steps_there, np.resize(values, 100)) if early else (steps, values)
    return dataclasses.replace(run, curves={n: c for n, c in curves.items() if not n.startswith("train_subset/")})

  return _spoilt(made, range(len(made.runs)), stop)


def schedule(seed: int, excess: float, name: str, *, logged: str = "none") -> Planted:
  """A healthy study with a schedule, at the largest learning rate of which the error is larger by a share of itself."""
  made = _making(seed, schedule=name, excess=excess, logged=logged)
  return Planted(made.study(made.runs))


def one_recovers(seed: int, size: float) -> Planted:
  """The best trial falls steadily over its last half by a share of its error; the others are flat there."""
  made = _making(seed, schedule="constant", excess=0.0, logged="all")
  sign, metric = made.objective.sign, made.objective.metric
  best = min(range(len(made.runs)), key=lambda place: sign * made.runs[place].curves[metric][1][-1])

  def recover(run: Run) -> Run:
    steps, values = run.curves[metric]
    fall = sign * size * abs(values[0] - values[-1]) * np.clip(1.5 - steps / steps[-1], 0.5, 1.0)
    return dataclasses.replace(run, curves={**run.curves, metric: (steps, values + fall - fall[-1])})

  return _spoilt(made, [best], recover)


def shifted(results: StudyResults, by: float, times: float = 1.0) -> StudyResults:
  """Return the same study with another zero and scale of its objective; mirrored where `times` is negative."""
  metric = results.objective.metric
  trials = []
  for one in results.trials:
    curves = {name: (np.array(points)[:, 0], np.array(points)[:, 1]) for name, points in one.curves.items()}
    split = metric.rpartition("/")[2]
    curves = {
      name: (steps, times * values + by) if name.rpartition("/")[2] == split else (steps, values)
      for name, (steps, values) in curves.items()
    }
    trials.append(planted.trial(one.trial, one.values, curves, state=one.recorded[0], reason=one.recorded[1]))
  mode = results.objective.mode if times > 0 else {"min": "max", "max": "min"}[results.objective.mode]
  objective = dataclasses.replace(results.objective, mode=mode)
  return planted.results(trials, list(results.space.values()), objective, source="planted")

"""Bayesian optimization: the next point of a study from the results so far (PB-43), by Optuna's samplers.

Nothing is kept between calls: every `ask` gives Optuna all observations anew, in memory, and asks for one point. So a
study may be stopped and resumed, its observations may come from any search, and the same ones give the same point.

The input that Optuna gets, and why. The numbers are means over 4 to 6 seeds, of the best after 24 quasi-random points
and 16 or 20 more, on functions of three hyperparameters with 37 % of the space infeasible and the optimum near it or at
its edge (the best possible is 0.040 to 0.042):

- Places in the unit interval of a hyperparameter's own scale, and the numbers of values that are listed.
- Infeasible trials as complete ones that violate a constraint (1, the others have -1; with 0 there the model sees the
  edge too far inside: 0.061 against 0.047). Failed ones samplers ignore, and go back there. Optuna models the objective
  at these, too, and needs a number for it: the median of the feasible ones, which says nothing. With the worst of them
  the model has a cliff where the constraint is, and shuns the good points beside it (0.046 against 0.040, and 0.048
  against 0.047 where the optimum is at the edge). Four of five points are feasible then, instead of nineteen of twenty.
- Objectives no further above the median than the best one is below it. One that is a hundred times as large as the
  others, as close to divergence, would leave the model nothing to see in those (0.060 without, 0.042 with).
- A space with conditional hyperparameters one branch at a time: the values of those that have others under them are
  the quasi-random point's, and the model is of the trials with these values. So each branch is tuned further, as
  often as in a quasi-random search. One model of all branches, with 0.5 for what is absent, went to the branch that
  was best so far, which may be so by chance: 0.041 in the mean and 0.060 with one seed, against 0.037 and 0.038
  (three branches of two or three hyperparameters, 20 points more; quasi-random 0.044; possible 0.035).
"""

import contextlib
import dataclasses
import importlib.util
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
from threadpoolctl import threadpool_limits

from trialbook.tuning.search.halton import Halton
from trialbook.tuning.search.protocol import Point
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf, Scale

if TYPE_CHECKING:
  from optuna.distributions import BaseDistribution
  from optuna.samplers import BaseSampler
  from optuna.trial import FrozenTrial

MAX_LISTED_INTEGERS = 64
"""Whole numbers of more values are a continuum to the model, which looks at each value otherwise."""

RETRIES = 64
"""Quasi-random points that are looked at in place of a proposal that was tried already."""


@dataclasses.dataclass(frozen=True)
class Observation:
  """A trial as the model sees it: where it was, and what came of it.

  Attributes:
    values: of the hyperparameters that exist there.
    state: `infeasible` is one that diverged, or could not be run with these values.
    objective: finite, smaller is better; None unless complete.
  """

  values: Mapping[str, Any]
  state: Literal["complete", "infeasible", "running"]
  objective: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BayesianOptimization:
  """Points where a model of the results expects an improvement; `pip install 'trialbook[bayes]'`.

  For the last trials, in a space that a quasi-random search has shown to be right (PB-43). Where hyperparameters stand
  under a value, each such value gets its share of the trials; of a scientific hyperparameter without any under it, the
  better values get more. To tune each alike, make a study of each: `by_scientific_value`.

  Attributes:
    seed: of the quasi-random points, and with a trial's index of the sampler's own randomness.
    sampler: "gp" is a Gaussian process with constrained expected improvement, and takes a third of a second for a point
      after 100 results, two thirds after 300; "tpe" compares densities of good and bad points, needs no torch, takes
      hundredths, and is coarser: in a branch of less than some twenty results no better than quasi-random points.
    explore: number of first trials, which are those of `Halton(seed)`. So are later ones while a branch has fewer
      feasible results than hyperparameters and one. In three dimensions 12 to 24 of 40 did equally well, and of four
    seeds with 8 one got stuck at 1.8 times the optimum; so some more than 12, for more dimensions.
    earlier: folders of earlier studies. Their trials that this study could have made, with the same training but
      for the seed, are results from the start, and count among the first trials.
  """

  seed: int = 0
  sampler: Literal["gp", "tpe"] = "gp"
  explore: int = 16
  earlier: tuple[str, ...] = ()

  def ask(
    self,
    hyperparameters: Sequence[Hyperparameter],
    observations: Sequence[Observation],
    index: int,
    earlier: Sequence[Observation] = (),
  ) -> Point:
    """Return the values for trial `index`.

    Args:
      hyperparameters: parents before what is under them.
      observations: of the other trials, in the order of their indices. Where one runs already, no other is proposed.
      index: of the trial in its study, from 0 on.
      earlier: of trials of earlier studies.
    """
    observations = [*earlier, *observations]
    search = Halton(self.seed)
    [point] = search.points(hyperparameters, index, index + 1)
    if index + len(earlier) < self.explore:
      return point
    parents = {one.parent[0] for one in hyperparameters if one.parent is not None}
    branch = {name: value for name, value in point.items() if name in parents}
    inside = [one for one in hyperparameters if one.name in point and one.name not in parents]
    # What has the branch's values has all of the branch's hyperparameters, and no others.
    there = [observation for observation in observations if branch.items() <= observation.values.items()]
    if sum(observation.state == "complete" for observation in there) <= len(inside):
      return point
    found = self._propose(inside, there, index)
    point = {name: found.get(name, value) for name, value in point.items()}
    return point if _is_new(point, observations) else _untried(search, hyperparameters, observations, index) or point

  def problems(self, hyperparameters: Sequence[Hyperparameter]) -> list[str]:
    """Return what is wrong, in sentences; a missing package counts."""
    found = []
    for name in ("seed", "explore"):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 0:
        found.append(f"{self}: {name} should be a whole number from 0 on")
    if isinstance(self.earlier, str) or not all(isinstance(folder, str) for folder in self.earlier):
      found.append(f"{self}: earlier should be folders of studies, such as ('runs/first_study',)")
    if self.sampler not in ("gp", "tpe"):
      found.append(f"{self}: the sampler should be 'gp' or 'tpe'")
    if importlib.util.find_spec("optuna") is None:
      found.append("BayesianOptimization needs Optuna, which is missing: pip install 'trialbook[bayes]'")
    elif self.sampler == "gp" and importlib.util.find_spec("torch") is None:
      found.append(
        "BayesianOptimization with a Gaussian process needs torch, which is missing: pip install 'trialbook[bayes]';"
        ' without it there is BayesianOptimization(sampler="tpe")'
      )
    return found

  def as_json(self) -> dict[str, Any]:
    fields = dataclasses.asdict(self)
    earlier = fields.pop("earlier")
    return {"name": "bayesian_optimization", **fields, **({"earlier": list(earlier)} if earlier else {})}

  def _propose(
    self, hyperparameters: Sequence[Hyperparameter], observations: Sequence[Observation], index: int
  ) -> Point:
    """Return a point of a space without conditions; at least one of its observations is complete."""
    import optuna

    sampler = self._sampler(index)
    # The matrices are small: threads make it two to five times slower, and the bits depend on how many there are.
    with _quiet(), threadpool_limits(1):
      study = optuna.create_study(sampler=sampler)
      distributions = {one.name: _distribution(one.scale) for one in hyperparameters}
      study.add_trials(_trials(hyperparameters, distributions, observations))
      places = study.ask(distributions).params
    return {one.name: _value(one.scale, places[one.name]) for one in hyperparameters}

  def _sampler(self, index: int) -> "BaseSampler":
    import optuna

    [seed] = np.random.SeedSequence([self.seed, index]).generate_state(1).tolist()
    if self.sampler == "tpe":
      return optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
    # Optuna would import it later, and only of what is loaded can the threads be limited.
    import torch  # noqa: F401  # pyright: ignore[reportMissingImports]

    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)


def _trials(
  hyperparameters: Sequence[Hyperparameter],
  distributions: "Mapping[str, BaseDistribution]",
  observations: Sequence[Observation],
) -> "Iterator[FrozenTrial]":
  from optuna.trial import TrialState, create_trial

  objectives = [_objective(observation) for observation in observations if observation.state == "complete"]
  middle = statistics.median(objectives)
  limit = middle + (middle - min(objectives))
  # Without an infeasible trial there is nothing to learn of the constraint.
  constrained = any(observation.state == "infeasible" for observation in observations)
  for observation in observations:
    told: dict[str, Any] = {
      "params": {one.name: _place(one.scale, observation.values[one.name]) for one in hyperparameters},
      "distributions": dict(distributions),
    }
    if observation.state == "running":
      told |= {"state": TrialState.RUNNING}
    elif observation.state == "complete":
      told |= {
        "value": min(_objective(observation), limit),
        "constraints": {"infeasible": -1.0} if constrained else None,
      }
    else:
      told |= {"value": middle, "constraints": {"infeasible": 1.0}}
    yield create_trial(**told)


def _objective(observation: Observation) -> float:
  assert observation.objective is not None
  return observation.objective


def _distribution(scale: Scale) -> "BaseDistribution":
  from optuna import distributions

  if isinstance(scale, OneOf):
    return distributions.CategoricalDistribution(range(len(scale.values)))
  if isinstance(scale, Discrete):
    return distributions.IntDistribution(0, len(scale.values) - 1)
  if _is_listed_integer(scale):
    # Optuna puts whole numbers, also those on a log scale, where `Integer.unit` does.
    return distributions.IntDistribution(scale.min, scale.max, log=scale.log)
  return distributions.FloatDistribution(0.0, 1.0)


def _place(scale: Scale, value: Any) -> float:
  """Return where Optuna has a value."""
  if isinstance(scale, OneOf | Discrete):
    return list(scale.values).index(value)
  # A value that was rounded may be outside by its last digit.
  return value if _is_listed_integer(scale) else min(max(scale.unit(value), 0.0), 1.0)


def _value(scale: Scale, place: Any) -> Any:
  """Return the inverse of `_place`."""
  if isinstance(scale, OneOf | Discrete):
    return scale.values[place]
  return place if _is_listed_integer(scale) else scale.at(place)


def _is_listed_integer(scale: Scale) -> TypeGuard[Integer]:
  return isinstance(scale, Integer) and scale.max - scale.min < MAX_LISTED_INTEGERS


def _is_new(point: Point, observations: Sequence[Observation]) -> bool:
  return all(observation.values != point for observation in observations)


def _untried(
  search: Halton, hyperparameters: Sequence[Hyperparameter], observations: Sequence[Observation], index: int
) -> Point | None:
  """Return the first of the next quasi-random points that no trial has; None if most have been tried."""
  points = search.points(hyperparameters, index, index + RETRIES)
  return next((point for point in points if _is_new(point, observations)), None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keep Optuna from logging, even that it made a study."""
  from optuna import logging

  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.CRITICAL)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)

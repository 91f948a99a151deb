"""Bayesian optimization: better than more quasi-random points, out of infeasible places, from the records alone."""

import importlib.util
import json
import math
import warnings

import numpy as np
import pytest

from tuning.bayesian import BayesianOptimization, Record
from tuning.search import Halton
from tuning.space import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, ReverseLog

HAS_OPTUNA = importlib.util.find_spec("optuna") is not None
HAS_TORCH = HAS_OPTUNA and importlib.util.find_spec("torch") is not None
needs_optuna = pytest.mark.skipif(not HAS_OPTUNA, reason="Optuna is not installed: pip install 'trialbook[bayes]'")
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed: pip install 'trialbook[bayes]'")
SAMPLERS = [pytest.param("gp", marks=needs_torch), pytest.param("tpe", marks=needs_optuna)]
EXPLORED, FURTHER = 24, 20


def hyperparameter(name, scale, parent=None):
  return Hyperparameter(name=name, path=name, scale=scale, role="nuisance", parent=parent)


TRAINING = [
  hyperparameter("learning_rate", Log(1e-4, 1.0)),
  hyperparameter("one_minus_momentum", Log(1e-3, 1.0)),
  hyperparameter("weight_decay", Log(1e-6, 1e-1)),
]
EDGE = -0.75
"""Of log10(learning rate / sqrt(1 - momentum)): what is above diverges, 37 % of the space."""


def training_error(values):
  """None where it diverges; the smallest value, 0.04 + 0.15² · 0.08, is at the edge, and better ones would be beyond."""
  rate, rest, decay = (math.log10(values[one.name]) for one in TRAINING)
  effective = rate - 0.5 * rest
  if effective > EDGE:
    return None
  return 0.04 + 0.08 * (effective + 0.6) ** 2 + 0.02 * (rest + 1) ** 2 + 0.01 * (decay + 4) ** 2


def record(values, function):
  objective = function(values)
  return Record(values, "infeasible" if objective is None else "complete", objective)


def explored(hyperparameters, function, seed, count=EXPLORED):
  return [record(point, function) for point in Halton(seed).points(hyperparameters, 0, count)]


def further(search, hyperparameters, function, records, count=FURTHER):
  """The records of the next points, each asked for with all before it complete."""
  found = []
  for index in range(len(records), len(records) + count):
    found.append(record(search.ask(hyperparameters, [*records, *found], index), function))
  return found


def best(records):
  return min(one.objective for one in records if one.state == "complete")


def distance(one, other, hyperparameters):
  return math.dist(*([scale.unit(values[name]) for name, scale in hyperparameters] for values in (one, other)))


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twenty_points_beat_what_they_start_from_and_twenty_quasi_random_ones_and_most_are_feasible(seed):
  records = explored(TRAINING, training_error, seed)
  quasi_random = explored(TRAINING, training_error, seed, EXPLORED + FURTHER)
  found = further(BayesianOptimization(seed=seed), TRAINING, training_error, records)
  print(seed, best(records), best(found), best(quasi_random), sum(one.state == "complete" for one in found))

import math

import pytest
import tiny

from trialbook.tuning import Discrete, Halton, Integer, Linear, Log, Maximize, Minimize, OneOf, Study
from trialbook.tuning.plan import balance, plan, trial_config, trial_count
from trialbook.tuning.search.grid import Grid
from trialbook.tuning.search.listed import Listed
from trialbook.tuning.study import check

OPTIMIZERS = {
  "optimizer": OneOf(
    {
      "nesterov": {"learning_rate": Log(1e-3, 10.0), "one_minus_momentum": Log(1e-3, 1.0)},
      "adam": {"learning_rate": Log(1e-5, 0.1)},
    }
  )
}


def study(**changes) -> Study:
  kept = {"name": "s", "goal": "Why?", "config": tiny.mlp(), "objective": Minimize("validation/error"), "trials": 4}
  return Study(**{**kept, **changes})


def planned(one: Study, *points):
  hyperparameters = check(one).hyperparameters
  return [plan(one, one.config, hyperparameters, trial, values) for trial, values in enumerate(points)]


def test_a_trial_changes_what_its_values_say():
  one = study(scientific=OPTIMIZERS, nuisance={"seed": Integer(0, 9)})
  values = {"optimizer": "nesterov", "optimizer.nesterov.one_minus_momentum": 0.25, "seed": 3}
  (found,) = planned(one, values)
  assert found.changes == {"optimizer.name": "nesterov", "optimizer.momentum": 0.75, "seed": 3}
  assert (found.trial, found.values, found.refusal) == (0, values, None)


def test_trials_that_differ_in_numbers_share_a_program_and_others_do_not():
  one = study(scientific=OPTIMIZERS, nuisance={"seed": Integer(0, 9), "model.widths": OneOf([(32,), (16,)])})
  slow = {"optimizer": "adam", "optimizer.adam.learning_rate": 0.001, "seed": 1, "model.widths": (32,)}
  fast = {**slow, "optimizer.adam.learning_rate": 0.1, "seed": 2}
  thin = {**slow, "model.widths": (16,)}
  other = {"optimizer": "nesterov", "optimizer.nesterov.learning_rate": 0.1, "seed": 1, "model.widths": (32,)}
  groups = [trial.group for trial in planned(one, slow, fast, thin, other)]
  assert groups[0] == groups[1]
  assert len(set(groups)) == 3


def test_a_trial_that_the_config_refuses_is_planned_with_the_reason():
  one = study(nuisance={"schedule.warmup_steps": Integer(0, 40)})
  possible, refused = planned(one, {"schedule.warmup_steps": 20}, {"schedule.warmup_steps": 21})
  assert possible.refusal is None
  assert refused.refusal == "schedule.warmup_steps = 21: should be at most the number of steps of the run, 20"


def test_a_trial_selects_its_checkpoint_by_the_objective_and_exports_nothing():
  config = trial_config(tiny.mlp(export=True), Maximize("train_subset/accuracy"))
  assert (config.selection.metric, config.selection.mode) == ("train_subset/accuracy", "max")
  assert not config.export


def test_a_selection_that_the_config_names_stays():
  config = trial_config(tiny.mlp(selection__metric="validation/loss"), Maximize("validation/accuracy"))
  selection = config.resolved().selection
  assert (selection.metric, selection.mode) == ("validation/loss", "min")


@pytest.mark.parametrize(
  ("search", "trials", "count"),
  [(Halton(), 7, 7), (Grid(per_dimension=3), None, 3), (Grid(per_dimension=3), 2, 2), (Listed([{}] * 5), None, 5)],
)
def test_a_study_has_its_own_number_of_trials_or_all_of_the_search(search, trials, count):
  one = study(search=search, trials=trials, nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)})
  assert trial_count(one, check(one).hyperparameters) == count


def halton(one: Study, trials: int):
  hyperparameters = check(one).hyperparameters
  return balance(hyperparameters, Halton().points(hyperparameters, 0, trials))


def test_the_balance_counts_the_nuisance_dimensions_that_a_trial_has_on_average():
  # Half of the trials have two dimensions under their optimizer and half one, and all have a seed beside it.
  found = halton(study(scientific=OPTIMIZERS, nuisance={"seed": Integer(0, 9)}), 64)
  assert (found.trials, found.combinations) == (64, 2)
  assert found.dimensions == pytest.approx(2.5)
  assert found.points == pytest.approx(32 ** (1 / 2.5))


def test_combinations_are_those_of_listed_scientific_values():
  scientific = {"batch_size": Discrete([16, 32]), "model.activation": OneOf(["relu", "gelu", "tanh"])}
  found = halton(study(scientific=scientific, nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)}), 60)
  assert (found.combinations, found.dimensions) == (6, 1)
  assert found.points == pytest.approx(10)


def test_a_continuous_scientific_hyperparameter_is_a_dimension_like_the_nuisance_ones():
  scientific = {"optimizer.weight_decay": Log(1e-6, 1e-2)}
  found = halton(study(scientific=scientific, nuisance={"optimizer.momentum": Linear(0.0, 0.9)}), 16)
  assert (found.combinations, found.dimensions, found.points) == (1, 2, pytest.approx(4))


def test_without_nuisance_hyperparameters_there_is_nothing_to_be_dense_in():
  found = halton(study(scientific={"batch_size": Discrete([16, 32])}), 4)
  assert (found.dimensions, found.points) == (0, math.inf)
  assert balance((), []).trials == 0

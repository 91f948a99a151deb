"""`finish` looks at the test set once, marks a further look, and folds the validation set into training on request."""

import numpy as np
import pytest
from json_lines import read_json_lines
from simulated_trainings import Simulation

from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning import Halton, Log, Minimize, Study
from trialbook.tuning.procedures import finish
from trialbook.tuning.procedures.lab import Lab

CONFIG = Config().override({"optimizer.learning_rate": 0.5, "max_train_steps": 200, "evaluation.every_steps": 10})
SELECTED = 120


def training() -> Simulation:
  """Return the simulation of an error that is lowest at a learning rate of 0.03, after `SELECTED` steps."""

  def curves(config: Config):
    rate = np.log10(config.optimizer.learning_rate)
    steps = np.arange(0, config.max_train_steps + 1, config.evaluation.every_steps)
    noise = np.random.default_rng([config.seed, int(1e7 * config.optimizer.learning_rate)]).normal(0, 0.001)
    values = 0.05 + 0.05 * (rate + 1.5) ** 2 + noise + 0.5 * np.abs(steps - SELECTED) / SELECTED
    return {"validation/error": (steps, values)}

  return Simulation(curves)


@pytest.fixture
def explored(tmp_path):
  simulation = training()
  study = Study(
    name="rates",
    goal="Which?",
    objective=Minimize("validation/error"),
    config=CONFIG,
    nuisance={"optimizer.learning_rate": Log(1e-3, 10.0)},
    trials=12,
    search=Halton(seed=0),
  )
  simulation(study, tmp_path / "rates")
  return simulation


def finished(tmp_path, simulation, name: str = "finish", **more):
  lab = Lab(folder=tmp_path / name, config=CONFIG, runner=simulation)
  return finish.run(lab, study=tmp_path / "rates", search="halton", trials=8, seeds=3, **more)


def test_the_validation_set_is_folded_in_for_the_steps_that_the_retrains_selected(tmp_path, explored):
  found = finished(tmp_path, explored, fold_validation=True)
  folded = explored.ran[-3:]
  assert all(config.fold_validation and config.evaluation.test for config in folded)
  assert {config.max_train_steps for config in folded} == {SELECTED}
  # The schedule is that of the retrains, whose decay ends later; and no evaluation on the way can select a step.
  assert {config.schedule.decay_steps for config in folded} == {200}  # pyright: ignore
  assert {config.evaluation.every_steps for config in folded} == {SELECTED}
  assert not any(config.fold_validation for config in explored.ran[:-3])
  assert found.changes is not None
  assert (found.changes["fold_validation"], found.changes["max_train_steps"]) == (True, SELECTED)
  recommended = stored_config(tmp_path / "finish" / "recommended")
  assert recommended.fold_validation
  assert recommended.evaluation.every_steps == SELECTED
  assert "Do not tune on this data again" in found.evidence[-1]
  # What was measured on validation examples that it was trained on is not shown.
  assert [row["validation/error"] is None for row in found.table] == [False] * 3 + [True] * 3
  looks = read_json_lines(tmp_path / "test_looks.jsonl")
  assert len(looks) == 2
  assert "This is look 2 at this test set" in found.evidence[-2]


def test_without_the_request_nothing_is_folded(tmp_path, explored):
  found = finished(tmp_path, explored)
  assert not any(config.fold_validation for config in explored.ran)
  assert "fold_validation" not in (found.changes or {})


def test_a_second_look_at_the_test_set_is_marked_and_the_same_call_is_no_second_look(tmp_path, explored):
  first = finished(tmp_path, explored)
  assert first.numbers["look"] == 1
  count = len(explored.ran)
  assert finished(tmp_path, explored).numbers["look"] == 1
  assert len(explored.ran) == count, "a finished trial was repeated"
  second = finished(tmp_path, explored, "again")
  assert second.numbers["look"] == 2
  assert "This is look 2 at this test set" in second.evidence[-1]


def test_a_look_is_recorded_before_it_is_made(tmp_path, explored):
  inner = explored._curves

  def looking(config: Config):
    if config.evaluation.test:
      assert len(read_json_lines(tmp_path / "test_looks.jsonl")) == 1
    return inner(config)

  explored._curves = looking
  finished(tmp_path, explored)


def test_folding_keeps_the_warmup_whole():
  config = CONFIG.override({"schedule": {"name": "cosine", "warmup_steps": 50}})
  assert finish.folded(config, [10, 20, 30]).max_train_steps == 50
  assert finish.folded(config, [60, 90, 100]).max_train_steps == 90


@pytest.mark.parametrize("every", [0, 1, 5])
def test_the_final_trainings_have_a_checkpoint_that_sees_the_test_set(every: int):
  explored = Config().override({"checkpointing.every_evaluations": every})
  final = explored.override(finish.final_changes(explored))
  assert final.evaluation.test
  assert final.checkpointing.every_evaluations == max(every, 1)


@pytest.mark.parametrize("dies", [False, True])
def test_fresh_seeds_choose_among_the_best_points_and_a_lucky_value_does_not(tmp_path, dies):
  lucky_rates = set()

  def curves(config: Config):
    found = training()._curves(config)
    assert found is not None
    rate = config.optimizer.learning_rate
    if not 0.001 < rate < 0.01:
      return found
    lucky_rates.add(rate)
    # Far from the best, these have a value below all others with the seed of the search, and only with that.
    if config.seed == CONFIG.seed:
      steps, values = found["validation/error"]
      return {"validation/error": (steps, values - values.min() + 0.01)}
    return None if dies else found

  simulation = Simulation(curves)
  study = Study(
    name="rates",
    goal="Which?",
    objective=Minimize("validation/error"),
    config=CONFIG,
    nuisance={"optimizer.learning_rate": Log(1e-3, 10.0)},
    trials=6,
    search=Halton(seed=0),
  )
  simulation(study, tmp_path / "rates")
  options = {"study": tmp_path / "rates", "search": "halton", "trials": 0, "seeds": 2}
  lab = Lab(folder=tmp_path / "one", config=CONFIG, runner=simulation)
  found = finish.run(lab, contenders=1, **options)
  assert found.changes is None if dies else (found.changes or {})["optimizer.learning_rate"] in lucky_rates
  count = len(simulation.ran)
  lab = Lab(folder=tmp_path / "three", config=CONFIG, runner=simulation)
  found = finish.run(lab, contenders=3, **options)
  assert (found.changes or {})["optimizer.learning_rate"] not in lucky_rates
  assert found.numbers["contender"] > 1
  # The seeds that chose are not those of the final trainings, and neither are those of the search.
  chose, final = (
    {config.seed for config in simulation.ran[count:] if config.evaluation.test == test} for test in (False, True)
  )
  assert len(chose) == 3
  assert not chose & final
  assert CONFIG.seed not in chose | final


def test_no_refined_search_is_run_if_none_is_asked_for(tmp_path, explored):
  lab = Lab(folder=tmp_path / "finish", config=CONFIG, runner=explored)
  count = len(explored.ran)
  finish.run(lab, study=tmp_path / "rates", search="halton", trials=0, contenders=2, seeds=2)
  assert len(explored.ran) == count + 2 * 3 + 2

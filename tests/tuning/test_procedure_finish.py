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

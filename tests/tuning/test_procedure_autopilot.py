"""The autopilot tunes a simulated training within its budget, resumes anywhere, and leaves the test set to the end."""

import pathlib

import numpy as np
import pytest
from json_lines import read_json_lines
from simulated_trainings import Simulation
from unstable_trainings import CONFIG as UNSTABLE
from unstable_trainings import Unstable
from unstable_trainings import simulation as unstable

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.procedures import autopilot, finish
from trialbook.tuning.procedures.config_changes import changed
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.results import read_results

CONFIG = Config().override({"optimizer.learning_rate": 0.5, "max_train_steps": 200, "evaluation.every_steps": 10})
SKIP = "batch-size,max-steps,stability"
SHORT = 30 * CONFIG.max_train_steps
"""A budget of few trainings, which has all stages but the adoption."""


def training(centre: float = -1.5, limit: float = np.inf, floor: float = 0.05) -> Simulation:
  """Return the simulation of an error that is lowest at a learning rate, 10 ** centre, and a momentum of 0.9."""

  def curves(config: Config):
    rate = np.log10(config.optimizer.learning_rate)
    if rate > np.log10(limit):
      return None
    momentum = np.log10(1 - config.optimizer.momentum)  # pyright: ignore
    rng = np.random.default_rng([config.seed, int(1e7 * config.optimizer.learning_rate)])
    end = min(floor + 0.05 * (rate - centre) ** 2 + 0.02 * (momentum + 1) ** 2 + rng.normal(0, 0.001), max(floor, 0.8))
    steps = np.arange(0, config.max_train_steps + 1, config.evaluation.every_steps)
    values = end + (0.9 - end) * np.exp(-((steps / config.max_train_steps / 0.05) ** 0.7))
    values += rng.normal(0, 0.0005, len(steps))
    return {"validation/error": (steps, values), "train_subset/loss": (steps, 2 * values)}

  return Simulation(curves)


def pilot(folder: pathlib.Path, simulation, steps: int | None = 20_000, **more):
  lab = Lab(folder=folder, config=CONFIG, runner=simulation)
  return autopilot.run(lab, steps=steps, search="halton", **{"skip": SKIP, **more})


def test_it_ends_near_the_best_within_its_budget(tmp_path):
  simulation = training()
  found = pilot(tmp_path, simulation)
  assert found.changes is not None
  assert abs(np.log10(found.changes["optimizer.learning_rate"]) + 1.5) < 0.5
  assert found.numbers["spent"] <= 20_000
  assert sum(config.max_train_steps for config in simulation.ran) <= 20_000
  assert found.numbers["mean"] < 0.07
  book = (tmp_path / "logbook.md").read_text()
  for stage in ("baseline", "round 1", "adopt", "finish"):
    assert stage in book
  # The test set is looked at in the end, once.
  tested = [number for number, config in enumerate(simulation.ran) if config.evaluation.test]
  assert tested == [*range(len(simulation.ran) - 3, len(simulation.ran))]
  assert len(read_json_lines(tmp_path / "test_looks.jsonl")) == 1


def test_it_moves_a_space_that_does_not_hold_the_best(tmp_path):
  found = pilot(tmp_path, training(centre=1.8), steps=40_000)
  assert found.changes is not None
  assert found.changes["optimizer.learning_rate"] > 10.0


@pytest.mark.parametrize("after", [7, 60, *(pytest.param(after, marks=pytest.mark.long) for after in (1, 30, 90))])
def test_stopped_anywhere_it_resumes_without_repeating_a_trial(tmp_path, after):
  expected = pilot(tmp_path / "whole", training())

  simulation = training()
  inner = simulation._curves
  count = 0

  def interrupted(config: Config):
    nonlocal count
    count += 1
    if count == after + 1:
      raise KeyboardInterrupt
    return inner(config)

  simulation._curves = interrupted
  with pytest.raises(KeyboardInterrupt):
    pilot(tmp_path / "stopped", simulation)
  found = pilot(tmp_path / "stopped", simulation)
  assert found.changes == expected.changes
  assert found.numbers["spent"] == expected.numbers["spent"]
  assert count == len(simulation.ran) == len({id(config) for config in simulation.ran})


def test_the_study_of_a_round_that_was_edited_is_run_as_edited(tmp_path):
  simulation = training()
  first = training()
  inner = first._curves

  def stops_after_the_baseline(config: Config):
    if config.optimizer.learning_rate != 0.5:
      raise KeyboardInterrupt
    return inner(config)

  first._curves = stops_after_the_baseline
  with pytest.raises(KeyboardInterrupt):
    pilot(tmp_path, first)
  path = tmp_path / "3_round_1" / "study.py"
  path.write_text(path.read_text().replace("Log(min=0.001, max=10.0)", "Log(min=0.01, max=0.1)"))
  pilot(tmp_path, simulation)
  rates = [config.optimizer.learning_rate for config in simulation.ran[:20]]
  assert min(rates) >= 0.01
  assert max(rates) <= 0.1


def test_bad_situations_recommend_nothing_and_say_what_to_try(tmp_path):
  found = pilot(tmp_path / "small", training(), steps=800)
  assert found.changes is None
  assert "too small" in found.verdict
  assert f"--steps={found.numbers['needed']}" in found.actions[0]
  found = pilot(tmp_path / "chance", training(floor=0.9))
  assert found.changes is None
  assert "baseline" in found.verdict
  for wrong, words in (({"steps": None}, "--steps=N, or --hours=H"), ({"skip": "lunch"}, "is no stage")):
    with pytest.raises(UserError, match=words):
      pilot(tmp_path / "wrong", training(), **wrong)  # pyright: ignore[reportArgumentType]


def test_finish_refines_the_space_around_the_best_points(tmp_path):
  simulation = training()
  pilot(tmp_path, simulation)
  explored = read_results(tmp_path / "3_round_1" / "study")
  for one in finish.refined(explored, feasible(points_of(explored))):
    own = explored.space[one.name].scale
    assert own.min <= one.scale.min < one.scale.max <= own.max  # pyright: ignore
    best = feasible(points_of(explored))[0].values[one.name]
    assert one.scale.min <= best <= one.scale.max  # pyright: ignore


@pytest.mark.parametrize("dies", [False, True])
def test_the_initial_configuration_stays_where_the_best_point_was_only_luck(tmp_path, dies):
  initial = CONFIG.override({"optimizer.learning_rate": 10**-1.5})
  simulation = training()
  inner = simulation._curves

  def lucky(config: Config):
    is_initial = config.optimizer.learning_rate == initial.optimizer.learning_rate
    if dies and not is_initial and config.seed != CONFIG.seed and config.seed % 2:
      return None
    curves = inner(config)
    if curves is None or is_initial:
      return curves
    steps, values = curves["validation/error"]
    # With the seed of the exploration all points look better than they are; those that die are better where they live.
    shift = -0.02 if dies or config.seed == CONFIG.seed else 0.02
    return {**curves, "validation/error": (steps, values + shift)}

  simulation._curves = lucky
  lab = Lab(folder=tmp_path, config=initial, runner=simulation)
  found = autopilot.run(lab, steps=20_000, search="halton", skip=SKIP)
  assert found.changes == {}
  assert "The initial configuration stays" in (tmp_path / "logbook.md").read_text()
  tested = [config for config in simulation.ran if config.evaluation.test]
  assert {config.optimizer.learning_rate for config in tested} == {initial.optimizer.learning_rate}


def first_points(folder: pathlib.Path) -> list[float]:
  """Return the learning rates of the first round's trials."""
  return [trial.values["optimizer.learning_rate"] for trial in read_results(folder / "3_round_1" / "study").trials]


def test_the_searches_have_the_seed_that_is_given_and_keep_it(tmp_path):
  pilot(tmp_path / "default", training(), steps=SHORT)
  pilot(tmp_path / "five", training(), steps=SHORT, search_seed=5)
  assert first_points(tmp_path / "default") != first_points(tmp_path / "five")
  simulation = training()
  again = pilot(tmp_path / "five", simulation, steps=SHORT)  # A call that resumes need not repeat it.
  assert simulation.ran == []
  assert again.numbers == pilot(tmp_path / "five", simulation, steps=SHORT, search_seed=5).numbers
  with pytest.raises(UserError, match=r"--search_seed=6: .* has begun with 5"):
    pilot(tmp_path / "five", simulation, steps=SHORT, search_seed=6)
  with pytest.raises(UserError, match="--search_seed=-1"):
    pilot(tmp_path / "new", simulation, search_seed=-1)
  assert not (tmp_path / "new").exists()


def test_without_a_seed_of_its_own_the_search_has_the_seed_of_the_config(tmp_path):
  for seed in (0, 5):
    lab = Lab(folder=tmp_path / str(seed), config=CONFIG.override({"seed": seed}), runner=training())
    autopilot.run(lab, steps=SHORT, skip=SKIP)
  pilot(tmp_path / "five", training(), steps=SHORT, search_seed=5)
  assert first_points(tmp_path / "0") != first_points(tmp_path / "5") == first_points(tmp_path / "five")


@pytest.mark.parametrize(
  ("truth", "remedy", "field"),
  [
    (Unstable(limit=0.15, warmup=40), "warmup", "schedule.warmup_steps"),
    (Unstable(limit=0.15, at=0.5, warmup=None, threshold=2.0), "clip", "clip_norm"),
  ],
)
def test_training_that_is_unstable_gets_the_remedy_that_the_playbook_has_for_it(tmp_path, truth, remedy, field):
  lab = Lab(folder=tmp_path, config=UNSTABLE, runner=unstable(truth))
  found = autopilot.run(lab, steps=120 * UNSTABLE.max_train_steps, skip="batch-size,max-steps")
  assert found.changes is not None
  # It ends at a learning rate that is out of reach without the remedy.
  assert found.changes[field] > 0
  assert found.changes["optimizer.learning_rate"] > 2 * truth.limit
  assert found.numbers["spent"] <= 120 * UNSTABLE.max_train_steps
  book = (tmp_path / "logbook.md").read_text()
  assert "## 3. stability" in book
  assert f"## 4. stability: {'warmup' if remedy == 'warmup' else 'clipping'}" in book
  before = read_results(tmp_path / "3_round_1" / "study").study.config
  after = read_results(tmp_path / "3_round_2" / "study").study.config
  assert before is not None
  assert after is not None
  assert field in changed(before, after)

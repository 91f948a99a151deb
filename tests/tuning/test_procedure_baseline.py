"""`baseline` tells a reasonable configuration from one that guesses, and what it can do without (PB-07)."""

import numpy as np
import pytest
from in_process import run_in_process
from simulated_trainings import Simulation

from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning import run_study
from trialbook.tuning.procedures import baseline
from trialbook.tuning.procedures.chance import Chance
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.simplicity import remarks, simplified, switched_on

SIMPLE = Config().override({"schedule": {"name": "constant"}, "max_train_steps": 100})
RICH = SIMPLE.override(
  {
    "schedule": {"name": "cosine", "warmup_steps": 10},
    "optimizer.weight_decay": 1e-4,
    "dataset.augmentation.crop_padding": 1,
    "model.dropout_rate": 0.1,
    "averaging.decay": 0.99,
  }
)
CHANCE = 0.9
"""About the error of the most frequent of ten digits."""


def simulation(given: float | None, without: float | None = None, seed_noise: float = 0.0):
  """Return trainings that reach an error with what is on, and another without; None: they diverge."""

  def curves(config: Config):
    best = without if config.schedule.name == "constant" and without is not None else given
    if best is None:
      return None
    noise = seed_noise * np.random.default_rng(config.seed).normal()
    at = np.arange(0, 101, 10)
    error = np.maximum(0.93 + (best - 0.93) * at / 100, 0) + noise * (at > 0)
    speed = np.full(len(at), 5000.0)
    return {"validation/error": (at, error), "examples_per_second": (at, speed), "data_wait_fraction": (at, 0 * speed)}

  return Simulation(curves)


def found(folder, trainings, config=SIMPLE, **more):
  return baseline.run(Lab(folder=folder, config=config, runner=trainings), **more)


def test_a_simple_configuration_that_beats_chance_is_recommended_as_it_is(tmp_path):
  trainings = simulation(0.1)
  conclusion = found(tmp_path, trainings)
  assert conclusion.changes == {}
  assert conclusion.verdict.startswith("A reasonable baseline: validation/error is 0.1, against 0.9 of")
  assert "always answering with the most frequent class" in conclusion.verdict
  assert conclusion.numbers["constant_learning_rate"]
  assert conclusion.numbers["standard_errors_better"] > 20
  assert conclusion.numbers["share_gained"] == pytest.approx(0.8 / 0.9)
  assert "That is little" not in " ".join(conclusion.actions)
  assert len(trainings.ran) == 1
  assert stored_config(tmp_path / "recommended") == SIMPLE


@pytest.mark.parametrize("value", [0.9, 0.87, 0.86])
def test_what_is_no_better_than_chance_by_its_standard_errors_is_no_baseline(tmp_path, value):
  # The two shares of 250 examples have a standard error of 0.03 together.
  conclusion = found(tmp_path, simulation(value))
  assert conclusion.changes is None
  assert conclusion.verdict.startswith(f"Not better than chance: validation/error is {value}")
  actions = " ".join(conclusion.actions)
  assert "trialbook train --debug" in actions
  assert "Sweep the learning rate" in actions
  assert not (tmp_path / "recommended").exists()


def test_little_better_than_chance_is_a_baseline_and_remarked_upon(tmp_path):
  conclusion = found(tmp_path, simulation(0.75))
  assert conclusion.changes == {}
  assert "It removes 17% of what chance gets wrong." in conclusion.evidence
  assert "That is little" in conclusion.actions[0]


def test_guessing_is_called_better_than_chance_as_rarely_as_is_said(tmp_path):
  """Of 400 models that guess at each of ten evaluations, one in forty at most."""
  objective, chance = (
    Lab(folder=tmp_path, config=SIMPLE).ranked_by,
    Chance(value=0.9, standard_error=0.019, predictor="", examples=250),
  )
  random = np.random.default_rng(0)
  best = (random.binomial(250, 0.9, (400, 10)) / 250).min(1)
  levels = [
    baseline.Level(
      name="", value=value, standard_error=0.019, step=1, evaluations=10, untrained=0.9, diverged=0, trainings=1,
      reason=None, seconds=1.0, examples_per_second=None, waiting=None,
    )
    for value in best
  ]  # fmt: skip
  assert sum(baseline.is_better(objective, level, chance) for level in levels) <= 10


def test_a_training_that_diverges_is_no_baseline(tmp_path):
  conclusion = found(tmp_path, simulation(None))
  assert conclusion.changes is None
  assert "no training came to its end (train/loss is not finite" in conclusion.verdict
  assert "Sweep the learning rate below" in " ".join(conclusion.actions)


@pytest.mark.parametrize(
  ("given", "without", "simplify"),
  [(0.1, 0.1, True), (0.1, 0.12, True), (0.1, 0.05, True), (0.1, 0.3, False), (0.1, 0.9, False), (0.9, 0.1, True)],
)
def test_what_is_on_is_turned_off_where_it_is_as_good_without(tmp_path, given, without, simplify):
  conclusion = found(tmp_path, simulation(given, without), RICH)
  assert conclusion.changes is not None
  assert bool(conclusion.changes) == simplify
  recommended = stored_config(tmp_path / "recommended")
  assert (recommended.schedule.name == "constant") == simplify
  evidence = " ".join(conclusion.evidence)
  for part in ("cosine learning rate after 10 steps of warmup", "weight decay of 0.0001", "crops", "dropout", "averag"):
    assert part in evidence
  if simplify:
    assert simplified(recommended) == {}
    assert recommended.model.name == RICH.model.name
  if given == 0.9:
    assert "once it is simplified" in conclusion.verdict


def test_where_chance_is_unknown_the_untrained_model_takes_its_place(tmp_path):
  def curves(config: Config):
    at = np.arange(0, 101, 10)
    return {"validation/loss": (at, 3.0 - config.optimizer.learning_rate * at / 100)}

  config = SIMPLE.override(
    {"dataset": {"name": "test_chance:targets"}, "task": {"name": "test_chance:Own"}, "model": {"name": "mlp"}}
  )
  conclusion = found(tmp_path / "a", Simulation(curves), config.override({"optimizer.learning_rate": 1.0}))
  assert conclusion.changes == {}
  assert "validation/loss is 2, against 3 of the untrained model" in conclusion.verdict
  conclusion = found(tmp_path / "b", Simulation(curves), config.override({"optimizer.learning_rate": 0.0}))
  assert conclusion.changes is None


def test_seeds_count_in_the_standard_error(tmp_path):
  once = found(tmp_path / "a", simulation(0.5, seed_noise=0.2))
  often = found(tmp_path / "b", simulation(0.5, seed_noise=0.2), seeds=4)
  assert once.numbers["standard_error"] == pytest.approx((0.5 * 0.5 / 250) ** 0.5, rel=0.15)
  values = [0.5 + 0.2 * np.random.default_rng(seed).normal() for seed in range(4)]
  expected = (np.var(values, ddof=1) / 4 + 0.03**2) ** 0.5
  assert often.numbers["standard_error"] == pytest.approx(expected, rel=0.1)


def test_a_second_call_runs_nothing_again(tmp_path):
  trainings = simulation(0.1)
  first = found(tmp_path, trainings, RICH)
  assert len(trainings.ran) == 2
  assert found(tmp_path, trainings, RICH).as_json() == first.as_json()
  assert len(trainings.ran) == 2


def test_what_is_on_and_what_is_large_is_named():
  assert switched_on(SIMPLE) == []
  assert simplified(SIMPLE) == {}
  assert switched_on(RICH.override({"averaging": None, "model.dropout_rate": None})) == [
    "a cosine learning rate after 10 steps of warmup",
    "random crops of 1",
    "weight decay of 0.0001",
  ]
  assert remarks(SIMPLE) == []
  large = SIMPLE.override({"model.stage_sizes": (3, 4, 23, 3), "model.block": "bottleneck", "gradient_accumulation": 4})
  assert remarks(large)[0].startswith("model: 99 layers are many")
  assert "gradient_accumulation = 4" in remarks(large)[1]


@pytest.mark.slow
def test_a_real_training_on_digits(tmp_path):
  config = Config().override(
    {
      "model": {"name": "mlp", "widths": (32,)},
      "schedule": {"name": "constant"},
      "max_train_steps": 60,
      "batch_size": 32,
      "evaluation.every_steps": 30,
      "compilation_cache": None,
      "export": False,
    }
  )

  def runner(study, folder, **_):
    return run_study(study, folder, executor=run_in_process)

  conclusion = baseline.run(Lab(folder=tmp_path, config=config, runner=runner))
  assert conclusion.changes == {}
  assert conclusion.numbers["value"] < 0.5
  assert conclusion.numbers["chance"] == pytest.approx(0.9, abs=0.01)
  assert conclusion.numbers["examples_per_second"] > 0
  frozen = config.override({"optimizer.learning_rate": 1e-9})
  conclusion = baseline.run(Lab(folder=tmp_path / "frozen", config=frozen, runner=runner))
  assert conclusion.changes is None
  assert conclusion.verdict.startswith("Not better than chance")

"""`steps-to-target` finds the critical batch size of simulated trainings, and measures real ones (PB-06)."""

import itertools
import math

import numpy as np
import pytest
from in_process import run_in_process
from simulated_trainings import Simulation

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning import run_study
from trialbook.tuning.procedures import critical_batch_size, steps_to_target
from trialbook.tuning.procedures.lab import Lab

CONFIG = Config().override({"max_train_steps": 20_000, "batch_size": 64, "model.virtual_batch_size": 4})
SIZES = [16, 32, 64, 128, 256, 512]
START, TARGET = 0.9, 0.1


class Trainings(Simulation):
  """Simulated trainings whose steps to the target are S(B) at the best effective learning rate, and more beside it.

  The best rate grows with the batch, as that of momentum does. A rate that is ten times too large diverges.

  Args:
    critical: B_critical.
    least: S_min.
    noise: standard deviation of the logarithm of the steps, from training to training.
    saturates: examples a second stop growing at this batch size.
    floor: no training gets below this error.
    largest_rate: above it, all diverge.
  """

  def __init__(
    self,
    critical: float,
    *,
    least: float = 100.0,
    noise: float = 0.0,
    saturates: int = 128,
    floor: float = 0.0,
    largest_rate: float = math.inf,
  ):
    def curves(config: Config):
      size, optimizer = config.batch_size, config.optimizer.model_dump()
      rate = optimizer["learning_rate"] / (1 - optimizer.get("momentum", 0.0))
      best = 1.0 * min(size, critical) / 64
      if rate > 10 * best or optimizer["learning_rate"] > largest_rate:
        return None
      random = np.random.default_rng([config.seed, size, int(1e6 * rate) % 2**31])
      needed = least * (1 + critical / size) * (1 + math.log10(rate / best) ** 2) * math.exp(noise * random.normal())
      at = np.arange(0, config.max_train_steps + 1, config.evaluation.every_steps)
      speed = 1000.0 * min(size, saturates)
      error = np.maximum(START * (TARGET / START) ** (at / needed), floor)
      return {"validation/error": (at, error), "examples_per_second": (at[1:], np.full(len(at) - 1, speed))}

    super().__init__(curves)


def found(folder, trainings, config=CONFIG, **more):
  lab = Lab(folder=folder, config=config, runner=trainings)
  return steps_to_target.run(lab, **{"sizes": SIZES, "target": TARGET, "trials": 12, **more})


@pytest.mark.slow
@pytest.mark.parametrize(("critical", "noise"), [(30.0, 0.0), (100.0, 0.1), (300.0, 0.1)])
def test_the_critical_batch_size_is_found(tmp_path, critical, noise):
  conclusion = found(tmp_path, Trainings(critical, noise=noise), trials=20)
  numbers = conclusion.numbers
  assert critical / 1.35 < numbers["critical_batch_size"] < critical * 1.35, conclusion.table
  assert numbers["low"] <= critical <= numbers["high"]
  assert "The critical batch size is" in conclusion.verdict
  # Perfect scaling ends before, where a quarter more examples are needed.
  assert numbers["perfect_until"] < critical


@pytest.mark.slow
def test_perfect_scaling_and_none_at_all_are_told_apart_from_a_curve(tmp_path):
  perfect = found(tmp_path / "a", Trainings(1e6, least=0.02), sizes=[16, 128, 512])
  assert perfect.numbers["perfect_until"] == 512
  assert "critical batch size is above 512" in perfect.verdict
  flat = found(tmp_path / "b", Trainings(1.0, least=1000), sizes=[16, 128, 512])
  assert flat.numbers["perfect_until"] == 16
  assert "critical batch size is below 16" in flat.verdict


@pytest.mark.slow
def test_the_size_of_the_least_time_is_recommended_with_its_own_optimizer(tmp_path):
  # Up to 128, time falls with the steps; beyond, throughput is the same and examples are wasted.
  conclusion = found(tmp_path, Trainings(300, saturates=128), sizes=[32, 128, 512])
  assert conclusion.changes is not None
  assert conclusion.changes["batch_size"] == 128
  recommended = stored_config(tmp_path / "recommended")
  assert recommended.batch_size == 128
  assert recommended.optimizer.learning_rate == conclusion.changes["optimizer.learning_rate"]
  assert recommended.schedule == CONFIG.schedule
  seconds = conclusion.numbers["seconds"]
  assert min(seconds, key=lambda size: seconds[size]) == 128
  assert (tmp_path / "steps_to_target.svg").exists()
  assert (tmp_path / "costs.svg").exists()


@pytest.mark.slow
def test_the_optimizer_is_tuned_again_at_each_size_and_everything_else_is_the_same(tmp_path):
  trainings = Trainings(100)
  config = CONFIG.override({"model.virtual_batch_size": None})
  conclusion = found(tmp_path, trainings, config, sizes=[16, 64, 256])
  by_size = {size: [one for one in trainings.ran if one.batch_size == size] for size in (16, 64, 256)}
  for size, ran in by_size.items():
    assert len(ran) == 12 + steps_to_target.SEEDS
    assert {one.model.virtual_batch_size for one in ran} == {16}  # pyright: ignore[reportAttributeAccessIssue]
    assert {one.schedule.name for one in ran} == {"constant"}
    assert len({one.optimizer.learning_rate for one in ran}) == 12
    assert {one.seed for one in ran} == {0, 1, 2, 3}
    assert all(one.evaluation.batch_size >= size for one in ran)
  # A budget of steps: a larger batch gets no more than the slack beyond what the one before needed.
  steps = conclusion.numbers["steps"]
  for before, after in itertools.pairwise(by_size):
    budget = by_size[after][0].max_train_steps
    assert budget == math.ceil(steps_to_target.SLACK * steps[before])
  assert conclusion.changes is not None
  assert conclusion.changes["model.virtual_batch_size"] == 16


@pytest.mark.slow
def test_without_a_target_one_is_taken_that_the_smallest_size_reaches(tmp_path):
  conclusion = found(tmp_path, Trainings(100), target=None, budget=3000, sizes=[16, 64, 256, 512], trials=20)
  first = conclusion.numbers["steps"][16]
  assert first is not None
  assert first <= 1500
  assert 100 / 1.6 < conclusion.numbers["critical_batch_size"] < 100 * 1.6
  assert conclusion.numbers["target"] < START / 2


@pytest.mark.slow
def test_a_size_that_does_not_reach_the_target_in_its_budget_gets_the_whole_one(tmp_path):
  class Lucky(Trainings):
    """At 32 the optimizer is worse tuned than at 16, so that it needs twice as many steps."""

    def __call__(self, study, folder, **more):
      own = self._curves
      if "batch_32" in folder.name:
        self._curves = lambda config: slow(own(config))
      try:
        return super().__call__(study, folder, **more)
      finally:
        self._curves = own

  def slow(curves):
    if curves is None:
      return None
    at, values = curves["validation/error"]
    return {**curves, "validation/error": (at, START * (values / START) ** 0.25)}

  conclusion = found(tmp_path, Lucky(100), sizes=[16, 32])
  assert (tmp_path / "batch_32_longer").is_dir()
  assert conclusion.numbers["steps"][32] > conclusion.numbers["steps"][16]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("trainings", "target", "budget", "told", "tried"),
  [
    (Trainings(100, largest_rate=0.0), None, 2000, "No target follows: of 12 trials", "trialbook train --debug"),
    (Trainings(100, largest_rate=0.0), TARGET, 2000, "no batch size reaches", "--budget=4000"),
    (Trainings(100, floor=0.5), TARGET, 2000, "no batch size reaches validation/error ≤ 0.1 in 2,000", "--budget=4000"),
    (Trainings(100), TARGET, 20, "no batch size reaches", "--budget=40"),
    (Trainings(100), 0.95, 2000, "is met before the first step", "--target"),
  ],
)
def test_what_allows_no_conclusion_gives_none(tmp_path, trainings, target, budget, told, tried):
  conclusion = found(tmp_path, trainings, target=target, budget=budget, sizes=[16, 64, 256])
  assert conclusion.changes is None
  assert told in conclusion.verdict
  assert tried in " ".join(conclusion.actions)
  assert not (tmp_path / "recommended").exists()


@pytest.mark.slow
def test_nothing_is_recommended_if_the_best_learning_rate_is_at_an_edge(tmp_path):
  # The best rate of 1,024 is 16, and the search ends at 10.
  config = CONFIG.override({"optimizer": {"name": "sgd"}})
  conclusion = found(tmp_path, Trainings(1e6, least=0.1, saturates=10**6), config, sizes=[256, 512, 1024])
  assert conclusion.changes is None
  assert "batch size 1,024 is at an edge of the search" in " ".join(conclusion.actions)


def test_sizes_that_cannot_be_run_are_refused_at_once(tmp_path):
  trainings = Trainings(100)
  with pytest.raises(UserError, match=r"--sizes: 6, 4096: each size must be a multiple of 4"):
    found(tmp_path, trainings, sizes=[6, 64, 4096])
  with pytest.raises(UserError, match="two batch sizes"):
    found(tmp_path, trainings, sizes=[64])
  assert not trainings.ran
  assert steps_to_target.batch_sizes(CONFIG.override({"batch_size": 512}), None, 4) == [128, 256, 512, 1024]


@pytest.mark.slow
def test_a_second_call_runs_nothing_again(tmp_path):
  trainings = Trainings(100, noise=0.05)
  first = found(tmp_path, trainings, sizes=[16, 64, 256])
  count = len(trainings.ran)
  assert found(tmp_path, trainings, sizes=[16, 64, 256]).as_json() == first.as_json()
  assert len(trainings.ran) == count


def test_the_interval_of_the_fit_covers_the_truth_as_often_as_it_says():
  inside = 0
  for draw in range(60):
    random = np.random.default_rng(draw)
    steps = {
      size: (100 * (1 + 80 / size) * np.exp(0.1 * random.normal(size=3))).tolist() for size in (8, 16, 32, 64, 128, 256)
    }
    fitted = critical_batch_size.fit(steps, 0.01)
    inside += fitted.low <= 80 <= fitted.high
  assert 47 <= inside <= 59
  with pytest.raises(ValueError, match="3 batch sizes"):
    critical_batch_size.fit({8: [1.0], 16: [2.0]}, 0.01)


@pytest.mark.long
def test_real_trainings_on_digits(tmp_path):
  config = Config().override(
    {
      "model": {"name": "mlp", "widths": (32,), "normalization": "batch"},
      "batch_size": 64,
      "max_train_steps": 100,
      "compilation_cache": None,
    }
  )

  def runner(study, folder, **_):
    return run_study(study, folder, executor=run_in_process)

  lab = Lab(folder=tmp_path, config=config, runner=runner)
  conclusion = steps_to_target.run(lab, sizes=[16, 64, 256], trials=6, seeds=1, target=0.15)
  steps = conclusion.numbers["steps"]
  assert steps[16] > steps[256]
  assert conclusion.changes is not None
  assert conclusion.numbers["seconds"][64] > 0
  assert stored_config(tmp_path / "recommended").model.virtual_batch_size == 16  # pyright: ignore

"""`warmup` finds the unstable learning rate and the shortest warmup, on trainings whose truth is known (PB-82)."""

import pytest
import residual_mlp
from in_process import run_in_process
from simulated_trainings import Simulation
from unstable_trainings import CONFIG, Unstable, simulation

from benchmarks import gallery
from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning import run_study
from trialbook.tuning.procedures import drawing, warmup
from trialbook.tuning.procedures.lab import Lab

LONG = CONFIG.override({"max_train_steps": 2000})


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
  monkeypatch.setattr(drawing, "write", lambda plots, folder: [])


def found(folder, truth: Unstable, config: Config = LONG, **more):
  return warmup.run(Lab(folder=folder, config=config, runner=simulation(truth)), **more)


@pytest.mark.parametrize(("limit", "needed"), [(0.012, 1), (0.4, 1), (0.4, 20), (0.012, 60), (0.4, 80), (0.012, 130)])
def test_the_shortest_warmup_to_ten_times_the_unstable_rate_is_found(tmp_path, limit, needed):
  # Training would be best at far more than the limit: only warmup gets there.
  conclusion = found(tmp_path, Unstable(limit, best=100 * limit, warmup=needed))
  numbers = conclusion.numbers
  assert limit < numbers["unstable_learning_rate"] <= 1.5 * limit
  assert numbers["peak_learning_rate"] == pytest.approx(10 * numbers["unstable_learning_rate"], rel=0.01)
  # A larger peak than ten times the limit needs more.
  needed *= numbers["unstable_learning_rate"] / limit
  assert numbers["warmup_steps"] == min(steps for steps in numbers["tried"] if steps >= needed)
  assert numbers["warmup_steps"] <= max(10, 3.3 * needed)
  assert numbers["value"] < numbers["without_warmup"]
  # The config's learning rate is 0.1.
  assert numbers["baseline"] is None if limit < 0.1 else numbers["value"] < numbers["baseline"]
  recommended = stored_config(tmp_path / "recommended")
  assert recommended.max_train_steps == 2000 + numbers["warmup_steps"]
  assert recommended.schedule.warmup_steps == numbers["warmup_steps"]
  assert recommended.schedule.decay_steps == 2000  # pyright: ignore[reportAttributeAccessIssue]
  assert recommended.optimizer.learning_rate == numbers["peak_learning_rate"]
  assert any("Train longer" in action for action in conclusion.actions) == (numbers["warmup_steps"] > 100)
  # The command that confirms it names both sides and a folder.
  confirm = next(action for action in conclusion.actions if "tune adopt" in action)
  assert all(flag in confirm for flag in ("--candidate=", "--config=", "--dir="))


def test_the_warmups_are_tried_as_the_playbook_says(tmp_path):
  trainings = simulation(Unstable(0.2, best=20.0, warmup=80))
  warmup.run(Lab(folder=tmp_path, config=LONG.override({"max_train_steps": 3000}), runner=trainings))
  short = [one for one in trainings.ran if one.schedule.name == "constant"]
  tried = [(one.schedule.warmup_steps, one.seed) for one in short]
  assert tried[:9] == [(steps, seed) for steps in (10, 100, 300) for seed in (0, 1, 2)]
  assert all(one.max_train_steps == 3 * one.schedule.warmup_steps for one in short)
  assert warmup.lengths(100) == [10]
  assert warmup.lengths(10_000) == [10, 100, 1000]
  assert warmup.lengths(99) == []


def test_a_peak_of_a_hundred_times_is_tried_in_the_same_folder(tmp_path):
  trainings = simulation(Unstable(0.012, best=10.0, warmup=10))
  lab = Lab(folder=tmp_path, config=LONG, runner=trainings)
  first = warmup.run(lab)
  assert any("--factor=100" in action for action in first.actions)
  count = len(trainings.ran)
  again = warmup.run(Lab(folder=tmp_path, config=LONG, runner=trainings), factor=100.0)
  assert again.numbers["peak_learning_rate"] == pytest.approx(10 * first.numbers["peak_learning_rate"], rel=0.01)
  assert again.numbers["warmup_steps"] > first.numbers["warmup_steps"]
  assert len(trainings.ran) <= count + 12 + 4


def test_the_warmup_that_a_config_has_is_replaced(tmp_path):
  config = LONG.override({"schedule.warmup_steps": 100})
  base = warmup.without_warmup(config)
  assert (base.max_train_steps, base.schedule.warmup_steps) == (1900, 0)
  assert base.schedule.decay_steps == 1900  # pyright: ignore[reportAttributeAccessIssue]
  conclusion = found(tmp_path, Unstable(0.012, best=1.2, warmup=8), config)
  assert stored_config(tmp_path / "recommended").max_train_steps == 1900 + conclusion.numbers["warmup_steps"]
  assert any("were taken away first" in line for line in conclusion.evidence)


def test_a_known_unstable_rate_saves_the_sweep(tmp_path):
  trainings = simulation(Unstable(0.1, best=10.0, warmup=8))
  conclusion = warmup.run(Lab(folder=tmp_path, config=LONG, runner=trainings), unstable=0.12)
  assert conclusion.numbers["peak_learning_rate"] == 1.2
  assert conclusion.numbers["warmup_steps"] == 10
  # Three lengths of warmup with three seeds each, the comparison, and two more seeds.
  assert len(trainings.ran) == 9 + 2 + 2


def test_the_next_longer_warmup_is_taken_if_the_whole_training_breaks(tmp_path):
  conclusion = found(tmp_path, Unstable(0.012, best=1.2, warmup=8, whole=50))
  assert conclusion.numbers["warmup_steps"] == 100
  assert any(
    "10 steps of warmup work in the short training, but not in the whole" in line for line in conclusion.evidence
  )


def test_a_warmup_that_one_seed_needs_is_not_enough(tmp_path):
  conclusion = found(tmp_path, Unstable(0.012, best=1.2, warmup=8, unlucky=5.0))
  assert conclusion.numbers["warmup_steps"] >= 5 * 8
  assert conclusion.table[0]["broken"] == "2 of 3 seeds"


@pytest.mark.parametrize(
  ("truth", "says"),
  [
    (Unstable(0.1, best=10.0, warmup=None), "No warmup of 10, 100 or 200 steps"),
    (Unstable(0.1, best=10.0, warmup=8, whole=100_000), "the whole training breaks"),
    (Unstable(0.1, best=0.05, warmup=8), "not better than the baseline"),
    (Unstable(0.9, best=0.5, warmup=8), "a learning rate of"),
    (Unstable(1e9, best=0.1), "is unstable, so there is nothing that warmup would fix"),
  ],
)
def test_nothing_is_recommended_without_evidence(tmp_path, truth, says):
  conclusion = found(tmp_path, truth)
  assert conclusion.changes is None
  assert says in conclusion.verdict
  assert conclusion.actions


def test_bad_situations_are_named(tmp_path):
  conclusion = warmup.run(Lab(folder=tmp_path / "a", config=LONG, runner=Simulation(lambda _: None)))
  assert conclusion.changes is None
  assert "has a value" in conclusion.verdict
  conclusion = found(tmp_path / "b", Unstable(0.1), LONG.override({"max_train_steps": 90}))
  assert conclusion.changes is None
  assert "90 steps are too few" in conclusion.verdict
  with pytest.raises(UserError, match="factor=1"):
    found(tmp_path / "c", Unstable(0.1), factor=1.0)


def test_a_second_call_runs_nothing_again(tmp_path):
  trainings = simulation(Unstable(0.13, best=13.0, warmup=30))
  first = warmup.run(Lab(folder=tmp_path, config=LONG, runner=trainings))
  count = len(trainings.ran)
  assert warmup.run(Lab(folder=tmp_path, config=LONG, runner=trainings)).as_json() == first.as_json()
  assert len(trainings.ran) == count


def in_process(study, folder, **_):
  return run_study(study, folder, executor=run_in_process)


@pytest.mark.slow
def test_a_real_training_on_digits(tmp_path):
  config = Config().override(
    {
      "model": {"name": "mlp", "widths": (32,)},
      "schedule": {"name": "constant"},
      "optimizer.learning_rate": 0.1,
      "max_train_steps": 100,
      "batch_size": 32,
      "evaluation.every_steps": 50,
      "checkpointing.every_evaluations": 0,
      "compilation_cache": None,
    }
  )
  conclusion = warmup.run(Lab(folder=tmp_path, config=config, runner=in_process))
  assert conclusion.numbers["peak_learning_rate"] >= 9.9 * conclusion.numbers["unstable_learning_rate"]
  assert conclusion.numbers["tried"] == [10]
  # Ten times what breaks a network without normalization breaks it after ten steps of warmup, too.
  assert conclusion.changes is None


@pytest.mark.long
def test_a_warmup_that_breaks_a_real_network_with_one_of_three_seeds_is_not_recommended(tmp_path, optimized):
  conclusion = warmup.run(Lab(folder=tmp_path, config=residual_mlp.config(), runner=in_process))
  assert conclusion.changes is None
  assert "No warmup of 10 or 100 steps makes a peak learning rate" in conclusion.verdict
  assert conclusion.numbers["peak_learning_rate"] >= 9.9 * conclusion.numbers["unstable_learning_rate"]
  assert conclusion.table[-1]["broken"] in ("1 of 3 seeds", "2 of 3 seeds")


@pytest.mark.long
def test_warmup_makes_a_real_network_stable_at_ten_times_the_unstable_rate_and_better(tmp_path):
  conclusion = warmup.run(Lab(folder=tmp_path, config=gallery.small_start(), runner=in_process))
  numbers = conclusion.numbers
  assert numbers["peak_learning_rate"] >= 9.9 * numbers["unstable_learning_rate"]
  assert numbers["value"] < 0.5 * numbers["baseline"]
  assert numbers["value"] < 0.5 * numbers["without_warmup"]
  assert conclusion.changes is not None
  assert conclusion.changes["schedule.warmup_steps"] == numbers["warmup_steps"] <= 100

"""`clip` finds the threshold and the learning rate that it allows, on trainings whose truth is known (PB-83)."""

import numpy as np
import pytest
import residual_mlp
from in_process import run_in_process
from simulated_trainings import Simulation
from unstable_trainings import CONFIG, Unstable, simulation

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning import run_study
from trialbook.tuning.procedures import clip, drawing
from trialbook.tuning.procedures.lab import Lab


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
  monkeypatch.setattr(drawing, "write", lambda plots, folder: [])


def found(folder, truth: Unstable, config: Config = CONFIG):
  return clip.run(Lab(folder=folder, config=config, runner=simulation(truth)))


@pytest.mark.parametrize("norm", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("breaks", ["diverges", "collapses"])
def test_the_threshold_is_the_90th_percentile_of_the_norms(tmp_path, norm, breaks):
  conclusion = found(tmp_path, Unstable(0.15, best=10.0, breaks=breaks, norm=norm, threshold=2 * norm))
  assert conclusion.changes is not None
  # Norms are log-normal with a standard deviation of 0.2.
  assert conclusion.numbers["threshold"] == pytest.approx(norm * np.exp(0.2 * 1.2816), rel=0.06)
  assert conclusion.numbers["targets"] == [0.2, 0.5, 1.0]
  assert conclusion.numbers["learning_rate"] == 1.0
  assert conclusion.numbers["value"] < conclusion.numbers["baseline"]
  assert 0.05 < conclusion.numbers["clipped"] < 0.35
  recommended = stored_config(tmp_path / "recommended")
  assert (recommended.optimizer.learning_rate, recommended.clip_norm) == (1.0, conclusion.numbers["threshold"])


def test_a_config_that_is_unstable_is_made_stable_at_its_own_learning_rate(tmp_path):
  conclusion = found(tmp_path, Unstable(0.06, best=1.0, threshold=2.0))
  assert conclusion.numbers["targets"] == [0.1, 0.2, 0.5, 1.0]
  assert conclusion.numbers["baseline"] is None
  assert conclusion.changes is not None
  assert conclusion.changes["clip_norm"] == conclusion.numbers["threshold"]
  assert "the baseline has no value" in conclusion.verdict


def test_a_smaller_threshold_is_tried_if_instability_remains(tmp_path):
  # The 90th percentile is about 1.3, the 75th 1.14, the 60th 1.05.
  conclusion = found(tmp_path, Unstable(0.15, best=10.0, threshold=1.2))
  assert conclusion.changes is not None
  assert conclusion.numbers["thresholds"] == pytest.approx([1.3, 1.1], abs=0.06)
  assert conclusion.numbers["threshold"] == pytest.approx(1.1, abs=0.06)


def test_the_learning_rate_is_cut_if_clipping_would_be_extremely_aggressive(tmp_path):
  # Half of the norms are below 1, so a threshold that helps would clip nearly all updates.
  conclusion = found(tmp_path, Unstable(0.06, best=0.03, threshold=0.1))
  assert conclusion.changes == {"optimizer.learning_rate": 0.03}
  assert "Cut the learning rate to 0.03 instead" in conclusion.verdict

  def aggressive(config: Config):
    truth = Unstable(0.06, best=0.03, threshold=2.0)
    curves = truth.curves(config)
    if config.clip_norm is not None:
      steps, _ = curves["train/loss"]
      curves["clip_fraction"] = (steps, np.arange(len(steps)) % 10 < 7)
    return curves

  conclusion = clip.run(Lab(folder=tmp_path / "aggressive", config=CONFIG, runner=Simulation(aggressive)))
  assert "70% of the updates are clipped, which is extremely aggressive" in conclusion.verdict
  assert conclusion.changes == {"optimizer.learning_rate": 0.03}


def test_what_is_clipped_already_is_clipped_harder(tmp_path):
  config = CONFIG.override({"clip_norm": 1.0})
  trainings = simulation(Unstable(0.15, best=10.0, threshold=0.6))
  clip.run(Lab(folder=tmp_path, config=config, runner=trainings))
  assert {one.clip_norm for one in trainings.ran} == {None, 1.0, 0.5}


@pytest.mark.parametrize(
  ("truth", "says"),
  [
    (Unstable(0.15, best=0.1, threshold=2.0), "not better than"),
    (Unstable(0.15, best=10.0, threshold=0.0), "Clipping does not help"),
    (Unstable(0.06, best=10.0, threshold=0.0), "Clipping does not help"),
  ],
)
def test_nothing_is_recommended_without_evidence(tmp_path, truth, says):
  conclusion = found(tmp_path, truth)
  assert says in conclusion.verdict
  assert conclusion.actions
  if truth.limit > 0.1:
    assert conclusion.changes is None


def test_a_threshold_that_helps_one_seed_only_is_not_recommended(tmp_path):
  conclusion = found(tmp_path, Unstable(0.15, best=10.0, threshold=2.0, unlucky=2.0))
  assert conclusion.changes is None
  assert "it breaks with other seeds" in conclusion.verdict
  assert any("2 of 2 trainings with other seeds break" in line for line in conclusion.evidence)


def test_bad_situations_are_named(tmp_path):
  conclusion = found(tmp_path / "stable", Unstable(1e9, best=0.1))
  assert conclusion.changes is None
  assert "There is nothing to clip" in conclusion.verdict
  conclusion = clip.run(Lab(folder=tmp_path / "none", config=CONFIG, runner=Simulation(lambda _: None)))
  assert conclusion.changes is None
  assert "has a value" in conclusion.verdict
  with pytest.raises(UserError, match="too few"):
    found(tmp_path / "short", Unstable(0.1), CONFIG.override({"max_train_steps": 20}))


def test_a_second_call_runs_nothing_again(tmp_path):
  trainings = simulation(Unstable(0.15, best=10.0, threshold=1.2))
  first = clip.run(Lab(folder=tmp_path, config=CONFIG, runner=trainings))
  count = len(trainings.ran)
  assert clip.run(Lab(folder=tmp_path, config=CONFIG, runner=trainings)).as_json() == first.as_json()
  assert len(trainings.ran) == count


def in_process(study, folder, **_):
  return run_study(study, folder, executor=run_in_process)


@pytest.mark.slow
def test_a_real_training_on_targets_with_outliers(tmp_path):
  config = Config().override(
    {
      "dataset": {"name": "residual_mlp:outliers"},
      "task.name": "regression",
      "model": {"name": "mlp", "widths": (16,)},
      "schedule": {"name": "cosine"},
      "optimizer.learning_rate": 0.03,
      "max_train_steps": 200,
      "batch_size": 32,
      "evaluation.every_steps": 20,
      "checkpointing.every_evaluations": 0,
      "compilation_cache": None,
    }
  )
  conclusion = clip.run(Lab(folder=tmp_path, config=config, runner=in_process))
  assert conclusion.changes is not None
  assert "clip_norm" in conclusion.changes
  assert conclusion.numbers["outliers"] >= 2
  assert conclusion.numbers["value"] < min(conclusion.numbers["baseline"], conclusion.numbers["unclipped"])


@pytest.mark.long
def test_a_network_without_zero_initialized_branches_trains_better_with_clipping(tmp_path, optimized):
  conclusion = clip.run(Lab(folder=tmp_path, config=residual_mlp.config(), runner=in_process))
  assert conclusion.changes is not None
  assert conclusion.changes["optimizer.learning_rate"] > residual_mlp.config().optimizer.learning_rate
  assert conclusion.numbers["value"] < min(conclusion.numbers["baseline"], conclusion.numbers["unclipped"]) - 0.02

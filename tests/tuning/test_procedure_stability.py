"""`stability` tells early, mid-training and no instability apart, on trainings whose truth is known (PB-80, PB-84)."""

import dataclasses
import json

import numpy as np
import pytest
from in_process import run_in_process
from simulated_trainings import Simulation
from unstable_trainings import CONFIG, Unstable, simulation

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning import run_study
from trialbook.tuning.procedures import drawing, stability
from trialbook.tuning.procedures.instability import behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.remedies import architecture, remedies


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch, request):
  """Drawing takes seconds, so one test does it."""
  if "pictures" not in request.node.name:
    monkeypatch.setattr(drawing, "write", lambda plots, folder: [])


def judged(folder, truth: Unstable, config: Config = CONFIG, **more):
  return stability.run(Lab(folder=folder, config=config, runner=simulation(truth)), **more)


@pytest.mark.parametrize("breaks", ["diverges", "collapses", "recovers"])
@pytest.mark.parametrize("limit", [0.012, 0.13, 0.9])
def test_an_early_instability_right_above_the_best_learning_rate_is_found(tmp_path, limit, breaks):
  # The best learning rate would be far above: instability is what limits it.
  found = judged(tmp_path, Unstable(limit, best=1000.0, breaks=breaks, at=0.02))
  if breaks == "recovers":
    # A training that recovers is not worse for it: the best learning rate lies above the limit.
    assert found.numbers["kind"] in ("early", None)
    return
  assert found.numbers["kind"] == "early"
  assert found.numbers["learning_rate"] <= limit < found.numbers["unstable_learning_rate"] <= 2 * limit
  assert found.numbers["confirmed"]
  assert found.numbers["remedies"][:2] == ["warmup", "clip"]
  assert found.numbers["remedies"][-1] == "learning_rate"
  assert found.verdict.startswith("Early instability at")
  assert stored_config(tmp_path / "recommended").optimizer.learning_rate == found.numbers["learning_rate"]


@pytest.mark.parametrize("breaks", ["diverges", "collapses"])
def test_an_instability_in_the_middle_of_training_is_found(tmp_path, breaks):
  # A training that collapses late is valued by its best evaluation before.
  found = judged(tmp_path, Unstable(0.13, best=1000.0 if breaks == "diverges" else 0.1, breaks=breaks, at=0.6))
  assert found.numbers["kind"] == "mid"
  assert abs(found.numbers["begins_at_step"] - 300) <= 40
  assert found.numbers["remedies"][:2] == ["clip", "warmup"]


def test_training_is_stable_if_only_far_larger_learning_rates_break(tmp_path):
  found = judged(tmp_path, Unstable(0.9, best=0.1))
  assert found.numbers["kind"] == "stable"
  assert found.numbers["learning_rate"] == 0.1
  assert found.numbers["remedies"] == []
  assert found.changes == {}
  assert "so instability does not limit it" in found.verdict
  assert not found.numbers["confirmed"] or found.table[-1]["training"] == "early"


def test_frequent_evaluation_shows_what_the_usual_one_misses(tmp_path):
  config = CONFIG.override({"evaluation.every_steps": 200})
  found = judged(tmp_path, Unstable(0.13, best=0.1, breaks="recovers", at=0.02), config)
  assert found.numbers["kind"] == "early"
  assert found.numbers["recovers"]
  assert found.numbers["missed_by_evaluation"]
  assert any("Evaluations every 200 steps miss it" in line for line in found.evidence)
  often = CONFIG.override({"evaluation.every_steps": 5})
  found = judged(tmp_path / "often", Unstable(0.13, best=0.1, breaks="recovers", at=0.02), often)
  assert not found.numbers["missed_by_evaluation"]


def test_the_short_run_keeps_the_schedule_of_the_whole(tmp_path):
  trainings = simulation(Unstable(0.9, best=0.1))
  config = CONFIG.override({"max_train_steps": 3000, "schedule.warmup_steps": 10})
  stability.run(Lab(folder=tmp_path, config=config, runner=trainings))
  short = [one for one in trainings.ran if one.evaluation.every_steps == 1]
  assert [(one.max_train_steps, one.schedule.decay_steps) for one in short] == [(500, 2990)]  # pyright: ignore
  assert short[0].optimizer.learning_rate == 0.2
  warm = config.override({"schedule.warmup_steps": 700})
  stability.run(Lab(folder=tmp_path / "warm", config=warm, runner=trainings))
  assert min(one.max_train_steps for one in trainings.ran) == 500
  assert trainings.ran[-1].max_train_steps == 700


def test_the_sweep_is_widened_until_the_best_learning_rate_lies_inside(tmp_path):
  trainings = simulation(Unstable(1e-4, best=1000.0))
  found = stability.run(Lab(folder=tmp_path, config=CONFIG, runner=trainings))
  assert found.numbers["learning_rate"] == pytest.approx(1e-4)
  assert found.numbers["kind"] == "early"
  assert (
    stability.run(Lab(folder=tmp_path / "edge", config=CONFIG, runner=simulation(Unstable(1e9, best=1e8)))).changes
    is None
  )


def test_nothing_is_recommended_if_everything_diverges_or_too_little_is_trained(tmp_path):
  trainings = Simulation(lambda _: None)
  found = stability.run(Lab(folder=tmp_path, config=CONFIG, runner=trainings))
  assert found.changes is None
  assert "none of 13 trials has a value" in found.verdict
  assert "bug" in found.actions[0]
  with pytest.raises(UserError, match="too few to show an instability"):
    judged(tmp_path / "short", Unstable(1.0), budget=20)
  with pytest.raises(UserError, match="learning_rate = 0"):
    judged(tmp_path / "zero", Unstable(1.0), CONFIG.override({"optimizer.learning_rate": 0.0}))


def test_a_second_call_runs_nothing_again(tmp_path):
  trainings = simulation(Unstable(0.13, best=1000.0))
  first = stability.run(Lab(folder=tmp_path, config=CONFIG, runner=trainings))
  count = len(trainings.ran)
  assert stability.run(Lab(folder=tmp_path, config=CONFIG, runner=trainings)).as_json() == first.as_json()
  assert len(trainings.ran) == count
  assert json.loads((tmp_path / "conclusion.json").read_text())["id"] == "PB-80"


def test_pictures_show_losses_and_gradient_norms(tmp_path):
  judged(tmp_path, Unstable(0.13, best=1000.0))
  for name in ("loss_curves", "gradient_norms", "first_steps", "gradient_norm_histogram"):
    assert (tmp_path / f"{name}.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
  ("model", "changes"),
  [
    ({"name": "mlp"}, [{}, {"model.normalization": "layer"}]),
    ({"name": "cnn"}, [{}]),
    ({"name": "resnet"}, [{}]),
    ({"name": "resnet", "zero_init_residual": False}, [{"model.zero_init_residual": True}]),
    ({"name": "wide_resnet"}, [{"model.zero_init_residual": True}]),
    (
      {"name": "vit", "norm_placement": "post"},
      [{"model.norm_placement": "pre"}, {"model.zero_init_residual": True}],
    ),
    ({"name": "some.module:Model"}, [{}]),
  ],
)
def test_advice_on_the_architecture_is_read_from_the_model(model, changes):
  config = Config().override({"model": model})
  assert [dict(remedy.changes) for remedy in architecture(config)] == changes
  for change in changes:
    config.override(change)


def test_advice_knows_what_the_config_does_already():
  config = CONFIG.override({"schedule.warmup_steps": 20, "clip_norm": 1.0, "optimizer.name": "adam"})
  found = remedies(config, "early")
  assert "Lengthen the warmup, which has 20 steps" in found[0].text
  assert "harder than at 1" in found[1].text
  assert "optimizer" not in [remedy.name for remedy in found]
  assert [remedy.name for remedy in remedies(CONFIG, "early")] == [
    *("warmup", "clip", "optimizer", "architecture", "learning_rate")
  ]
  assert "Does it have residual connections" in architecture(config.override({"model": {"name": "a:B"}}))[0].text


@dataclasses.dataclass
class FakeTrial:
  """A trial that has curves and a recorded state."""

  loss: np.ndarray
  recorded: tuple = ("complete", None)

  def curve(self, metric):
    assert metric == "train/loss"
    steps = np.arange(1, len(self.loss) + 1)
    return steps[np.isfinite(self.loss)], self.loss[np.isfinite(self.loss)]


def test_noise_single_spikes_and_slow_training_are_no_instability():
  steps = np.arange(400)
  fall = 2.3 * np.exp(-steps / 60) + 0.02
  wrong = []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    relative = fall * np.exp(rng.choice([0.02, 0.1, 0.3]) * rng.normal(size=400))
    # A loss that hardly falls, with noise as large as its gain.
    hard = 0.7 - 0.03 * (1 - np.exp(-steps / 100)) + 0.03 * rng.normal(size=400)
    wrong += [seed for loss in (relative, hard) if behaviour(FakeTrial(loss), 400).is_unstable]  # pyright: ignore
  assert len(wrong) <= 2
  spiked = fall.copy()
  spiked[[100, 200, 201, 300]] *= 50
  assert behaviour(FakeTrial(spiked), 400).kind == "stable"  # pyright: ignore[reportArgumentType]
  slow = FakeTrial(2.3 - 0.001 * steps)
  assert behaviour(slow, 400, FakeTrial(fall), may_be_slow=True).kind == "stable"  # pyright: ignore
  assert behaviour(slow, 400, FakeTrial(fall)).is_unstable  # pyright: ignore


def test_rises_ends_above_the_start_and_dead_networks_are():
  steps = np.arange(400)
  fall = 2.3 * np.exp(-steps / 60) + 0.02
  rng = np.random.default_rng(0)

  def seen(loss, reference=None, state=("complete", None)):
    loss = loss * np.exp(0.05 * rng.normal(size=len(loss)))
    other = None if reference is None else FakeTrial(reference)
    return behaviour(FakeTrial(loss, state), 400, other)  # pyright: ignore[reportArgumentType]

  found = seen(np.where((steps > 250) & (steps < 280), 2.0, fall))
  assert (found.kind, found.recovered) == ("mid", True)
  assert abs((found.step or 0) - 250) < 30
  found = seen(np.where((steps > 2) & (steps < 20), 8.0, fall))
  assert (found.kind, found.recovered) == ("early", True)
  found = seen(np.full(400, 2.3), fall)
  assert (found.kind, found.recovered) == ("early", False)
  assert seen(np.linspace(2.3, 4.0, 400)).kind == "early"
  assert seen(fall[:100], fall, ("infeasible", "train/loss is nan at step 101")).kind == "mid"
  assert seen(fall[:3], fall, ("infeasible", "train/loss is nan at step 4")).kind == "early"
  assert seen(fall, fall, ("failed", "out of memory")).kind == "unknown"


@pytest.mark.slow
def test_a_real_training_on_digits(tmp_path):
  config = Config().override(
    {
      "model": {"name": "mlp", "widths": (32,)},
      "schedule": {"name": "constant"},
      "max_train_steps": 60,
      "batch_size": 32,
      "evaluation.every_steps": 20,
      "checkpointing.every_evaluations": 0,
      "compilation_cache": None,
    }
  )

  def runner(study, folder, **_):
    return run_study(study, folder, executor=run_in_process)

  found = stability.run(Lab(folder=tmp_path, config=config, runner=runner))
  assert found.numbers["kind"] in ("stable", "early", "mid")
  assert found.changes is not None
  assert len(found.table) >= 9
  largest = found.table[-1]
  assert largest["training"] != "stable", "ten times the best learning rate breaks a network without normalization"

"""`max-steps` finds the steps of a simulated training, whose right answer is known, and of a real one (PB-60)."""

import json
import pathlib

import numpy as np
import pytest
from simulated_trainings import Simulation

from trialbook.input_pipeline import Augmentation
from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning.procedures import max_steps, simplicity
from trialbook.tuning.procedures.conclusion import Conclusion, markdown
from trialbook.tuning.procedures.lab import Lab

CONFIG = Config().override(
  {"optimizer.learning_rate": 0.1, "max_train_steps": 1000, "dataset.augmentation.crop_padding": 2}
)


def fitting(best: float, steps: float, limit: float = np.inf, floor: float = 0.0):
  """Return the simulation of a model that fits in `steps` at the best learning rate, and diverges above a limit."""

  def curves(config: Config):
    rate = config.optimizer.learning_rate
    if rate > limit:
      return None
    needed = steps * max(rate / best, best / rate) ** 0.5
    at = np.arange(0, config.max_train_steps + 1, config.evaluation.every_steps)
    return {"train_subset/error": (at, np.maximum(0.9 * (1 - at / needed), floor))}

  return Simulation(curves)


@pytest.mark.parametrize("best", [0.03, 0.1, 0.001, 5.0])
def test_the_steps_of_the_fastest_learning_rate_are_found_wherever_it_lies(tmp_path, best):
  simulation = fitting(best, 400)
  found = max_steps.run(Lab(folder=tmp_path, config=CONFIG, runner=simulation))
  assert found.changes is not None
  assert 400 <= found.changes["max_train_steps"] <= 400 * 10**0.125 + 20
  rates = sorted(config.optimizer.learning_rate for config in simulation.ran)
  assert rates[0] < found.numbers["learning_rate"] < rates[-1]
  for config in simulation.ran:
    assert (config.schedule.name, config.dataset.augmentation.crop_padding) == ("constant", 0)  # pyright: ignore
  recommended = stored_config(tmp_path / "recommended")
  assert recommended.max_train_steps == found.changes["max_train_steps"]
  assert recommended.evaluation.every_steps == recommended.max_train_steps // max_steps.LEAST_EVALUATIONS
  # With the config's own learning rate, so few steps would not fit.
  assert recommended.optimizer.learning_rate == found.numbers["learning_rate"]
  assert recommended.dataset.augmentation.crop_padding == 2  # pyright: ignore


def test_nothing_is_recommended_at_the_edge_of_the_widest_sweep(tmp_path):
  found = max_steps.run(Lab(folder=tmp_path, config=CONFIG, runner=fitting(1e-9, 1)))
  assert found.changes is None
  assert "is the smallest that was tried" in found.verdict


def test_a_sweep_in_which_all_diverge_or_nothing_fits_recommends_nothing(tmp_path):
  found = max_steps.run(Lab(folder=tmp_path / "a", config=CONFIG, runner=fitting(0.1, 400, limit=0.0)))
  assert found.changes is None
  assert "infeasible" in found.verdict
  found = max_steps.run(Lab(folder=tmp_path / "b", config=CONFIG, runner=fitting(0.1, 400, floor=0.05)))
  assert found.changes is None
  assert "0.05" in found.verdict
  assert "--budget=2000" in found.actions[0]


def test_a_second_call_runs_nothing_again(tmp_path):
  simulation = fitting(0.1, 400)
  first = max_steps.run(Lab(folder=tmp_path, config=CONFIG, runner=simulation))
  count = len(simulation.ran)
  assert max_steps.run(Lab(folder=tmp_path, config=CONFIG, runner=simulation)).as_json() == first.as_json()
  assert len(simulation.ran) == count
  assert json.loads((tmp_path / "conclusion.json").read_text())["procedure"] == "max-steps"
  assert "Recommended: `--set max_train_steps=" in pathlib.Path(tmp_path / "conclusion.md").read_text()


def test_large_numbers_of_a_table_are_written_out():
  table = [{"rate": 1e-5, "examples/s": 42561.7, "loss": 0.123456, "nothing": None}]
  found = Conclusion(procedure="max-steps", id="PB-60", verdict="Found.", table=table)
  assert "| 1e-05 | 42,562 | 0.1235 |  |" in markdown(found)


def test_every_augmentation_is_turned_off_and_named():
  on: dict[str, object] = {"function": "my_changes:noisy", "mixup_alpha": 0.5, "cutmix_alpha": 0.5}
  # Those that say how strong another one is, or how it draws.
  others = ("kwargs", "policy_magnitude", "policy_varies", "time_mask_size", "frequency_mask_size")
  for name, field in Augmentation.model_fields.items():
    if name not in (*on, *others):
      on[name] = 0.5 if isinstance(field.default, float) else 1
  config = Config().override({f"dataset.augmentation.{name}": value for name, value in on.items()})
  simple = config.override(simplicity.simplified(config)).dataset.augmentation
  assert simple is not None
  assert {name: getattr(simple, name) for name in on} == {name: getattr(Augmentation(), name) for name in on}
  said = ", ".join(simplicity.switched_on(config))
  assert all(words in said for words in ("mixup of 0.5", "CutMix of 0.5", "my_changes:noisy", "resized crops"))

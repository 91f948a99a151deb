"""All trials of a study have the same data: where they changed, the study says so, and no trial is condemned for it."""

import dataclasses
import json
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from in_process import run_in_process
from tiny import mlp

from trialbook.errors import UserError
from trialbook.input_pipeline import Data, PluginDataset, load
from trialbook.trainer.schedules import Constant
from trialbook.tuning import Discrete, Grid, Minimize, Study, run_study
from trialbook.tuning.records import read_trials

pytestmark = pytest.mark.slow


class Items:
  """Examples one at a time, of which one may be broken."""

  def __init__(self, count: int, broken: int):
    self._inputs = np.random.default_rng(0).standard_normal((count, 3)).astype(np.float32)
    self._broken = broken

  def __len__(self) -> int:
    return len(self._inputs)

  def __getitem__(self, index: int) -> dict[str, Any]:
    if index == self._broken:
      raise OSError(f"{index}.png is cut off")
    return {"inputs": self._inputs[index], "labels": index % 4}


@pytest.fixture(name="data")
def user_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
  """Sets how many examples of each split the study's dataset has, beside those that a trial asks for."""
  module = types.ModuleType("data_of_a_study")
  module.__file__ = "data_of_a_study.py"
  monkeypatch.setitem(sys.modules, "data_of_a_study", module)

  def hold(count: int, broken: int = -1) -> None:
    def build(more: int = 0) -> Data:
      return Data(splits={"train": Items(count + more, broken), "validation": Items(12, -1)}, num_classes=4)

    vars(module)["build"] = build

  hold(32)
  return hold


def study(path: str = "optimizer.learning_rate", values: tuple[float, ...] = (0.1, 0.2, 0.3)) -> Study:
  config = mlp(
    batch_size=8, max_train_steps=4, evaluation__every_steps=2, evaluation__batch_size=16, evaluation__train_examples=0
  )
  dataset = PluginDataset(name="data_of_a_study:build", kwargs={"more": 0})
  config = config.model_copy(update={"dataset": dataset, "schedule": Constant()})
  objective = Minimize("validation/error")
  return Study(
    name="s", goal="?", objective=objective, config=config, scientific={path: Discrete(values)}, search=Grid()
  )


def states(folder: pathlib.Path) -> list[str]:
  return [trial.state for trial in read_trials(folder).values()]


def test_trials_that_have_not_begun_are_not_trained_on_other_data(tmp_path: pathlib.Path, data: Callable[..., None]):
  folder = tmp_path / "study"
  run_study(study(), folder, trials=1, executor=run_in_process)
  before = (folder / "trials/0000/trial.json").read_bytes()
  data(31)
  for _ in range(2):
    with pytest.raises(UserError) as caught:
      run_study(study(), folder, trials=3, executor=run_in_process)
    first, second = caught.value.problems
    assert first.startswith("trial 1: the data have changed since the study began; bring back the data that it began")
    assert second == "train: the run has 32 examples, the data 31"
    assert "infeasible" not in states(folder)
  data(32)
  run_study(study(), folder, trials=3, executor=run_in_process)
  assert states(folder) == ["complete"] * 3
  assert (folder / "trials/0000/trial.json").read_bytes() == before


def test_a_trial_that_goes_on_is_not_condemned_for_other_data(tmp_path: pathlib.Path, data: Callable[..., None]):
  folder = tmp_path / "study"
  run_study(study(), folder, trials=1, executor=run_in_process)
  path = folder / "trials/0000/trial.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "stopped"}))
  data(31)
  with pytest.raises(UserError, match="trial 0: the data have changed"):
    run_study(study(), folder, trials=1, executor=run_in_process)
  assert states(folder) == ["stopped"]
  data(32)
  run_study(study(), folder, trials=1, executor=run_in_process)
  assert states(folder) == ["complete"]


def test_trials_may_choose_their_data(tmp_path: pathlib.Path, data: Callable[..., None]):
  del data
  choosing = study("dataset.kwargs.more", (0, 8))
  run_study(choosing, tmp_path / "study", executor=run_in_process)
  assert states(tmp_path / "study") == ["complete"] * 2


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_study_that_stopped_on_a_broken_example_says_what_repaired_data_needs(
  tmp_path: pathlib.Path, data: Callable[..., None], is_saved: bool
):
  folder, made = tmp_path / "study", study()
  assert made.config is not None
  # Longer than what is measured before the trials.
  config = made.config.override({"max_train_steps": 20, "checkpointing.every_evaluations": int(is_saved)})
  made = dataclasses.replace(made, config=config)
  data(160)
  with load(config.dataset, seed=0, batch_size=8) as dataset:
    rows = dataset.train_batch(16)["inputs"].tolist()
  # One that no sample of the start has.
  whole = Items(160, -1)
  broken = next(index for index in range(1, 160) if whole[index]["inputs"].tolist() in rows and index % 40 != 20)
  data(160, broken)
  with pytest.raises(UserError, match=f"trial 0: .*, train, example {broken}: OSError") as caught:
    run_study(made, folder, trials=2, executor=run_in_process)
  assert "--fork" not in str(caught.value)
  assert ("with repaired data, begin a new one (--dir)" in str(caught.value)) is is_saved
  data(159)
  if is_saved:
    with pytest.raises(UserError, match="the data have changed since the study began"):
      run_study(made, folder, trials=2, executor=run_in_process)
  else:
    run_study(made, folder, trials=2, executor=run_in_process)
    assert states(folder) == ["complete"] * 2

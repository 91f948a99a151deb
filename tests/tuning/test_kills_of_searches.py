"""Kills of studies whose points depend on results, and of reruns, change no point and no bit."""

import importlib.util
import os
import pathlib
import signal

import forked_commands
import pytest
from test_kills_of_studies import Coordinator, Start, check_same, ended, start, whole

from trialbook.tuning import read_results

__all__ = ["start"]

STUDY = """
import os, held, tiny
from trialbook.tuning import BayesianOptimization, Log, Minimize, Study

if "HELD" in os.environ:
  held.install(os.environ["HELD"])

def get_study():
  return Study(
    name="searched",
    goal="Which rate?",
    objective=Minimize("validation/error"),
    config=tiny.mlp(max_train_steps=20, evaluation__every_steps=4, optimizer__name="adam"),
    nuisance={{"optimizer.learning_rate": Log(1e-3, 1e-1), "optimizer.beta1": Log(0.5, 0.95)}},
    trials=9,
    search=BayesianOptimization(seed=1, sampler="{sampler}", explore=4),
    max_attempts=20,
  )
"""


@pytest.mark.evidence
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_kills_change_no_point_of_a_search_that_learns(tmp_path: pathlib.Path, start: Start, sampler: str):
  for module in ("optuna", *(["torch"] if sampler == "gp" else [])):
    if importlib.util.find_spec(module) is None:
      pytest.skip(f"needs {module}")
  study, folder = tmp_path / "study.py", tmp_path / "killed"
  study.write_text(STUDY.format(sampler=sampler))
  undisturbed = whole(study, tmp_path / "undisturbed", workers=1)
  assert len({trial.values["optimizer.learning_rate"] for trial in undisturbed.trials}) == 9
  # The coordinator while trials of the model run, and between them; workers too.
  for count, phase in ((4, "step"), (5, "committing"), (6, "compiling"), (7, "evaluating")):
    coordinator = start(study, folder, workers=1)
    coordinator.wait_until(lambda coordinator=coordinator, count=count: len(ended(coordinator.folder)) >= count)
    coordinator.hold.at(phase, 2)
    (worker,) = coordinator.held(1)
    if count % 2:
      os.kill(worker, signal.SIGKILL)
      coordinator.hold.release()
      coordinator.wait_until(lambda coordinator=coordinator, count=count: len(ended(coordinator.folder)) > count)
    coordinator.send(signal.SIGKILL)
    coordinator.hold.release()
  code, output = start(study, folder, workers=1).finish()
  assert code == 0, output
  check_same(read_results(folder), undisturbed)


RERUN = (
  STUDY.replace("BayesianOptimization, ", "Halton, ")
  .replace('BayesianOptimization(seed=1, sampler="{sampler}", explore=4)', "Halton(seed=0)")
  .replace("trials=9", "trials=2")
)


@pytest.mark.evidence
def test_kills_change_no_bit_of_a_rerun(tmp_path: pathlib.Path):
  study = tmp_path / "study.py"
  study.write_text(RERUN.format())
  whole(study, tmp_path / "undisturbed", workers=1)
  command = ("rerun", tmp_path / "undisturbed", "1", "--seeds=5", "--workers=2")
  folder = tmp_path / "undisturbed/reruns/trial_0001"

  def run(number: int):
    return forked_commands.start_new(*command, output=tmp_path / f"rerun_{number}.txt")

  process = run(0)
  assert process.wait() == 0, process.text()
  undisturbed = read_results(folder)
  folder.rename(tmp_path / "whole_rerun")
  for count, number in ((0, signal.SIGKILL), (1, signal.SIGTERM), (2, signal.SIGINT), (3, signal.SIGKILL)):
    coordinator = Coordinator.__new__(Coordinator)
    coordinator.folder, coordinator.process = folder, run(count + 1)
    coordinator.wait_until(lambda count=count: len(ended(folder)) >= count and any(folder.glob("trials/*/run.json")))
    coordinator.send(number)
  process = run(9)
  assert process.wait() == 0, process.text()
  assert "over 5 seeds: mean" in process.text()
  results = read_results(folder)
  assert [trial.objective for trial in results.trials] == [trial.objective for trial in undisturbed.trials]
  assert "over 5 seeds: mean" in (tmp_path / "rerun_0.txt").read_text()
  assert process.text().splitlines()[-1] == (tmp_path / "rerun_0.txt").read_text().splitlines()[-1]

"""What a mistake in a plug-in costs: its trial, or the study if all of the first trials have it."""

import pathlib
from typing import Any

import pytest
from in_process import run_in_process
from tiny import mlp

from trialbook.errors import UserError
from trialbook.tuning import Discrete, Listed, Log, Minimize, Study, run_study
from trialbook.tuning.records import read_trials

RATE = "optimizer.learning_rate"


def study(metric: str, *rates: float, **changes: Any) -> Study:
  settings: dict[str, Any] = {
    "name": "plugins",
    "goal": "What does a mistake cost?",
    "objective": Minimize("validation/error"),
    "config": mlp(evaluation__metrics=[f"mistaken_plugins:{metric}"]),
    "nuisance": {RATE: Log(1e-4, 10.0)},
    "search": Listed([{RATE: rate} for rate in rates]),
  }
  return Study(**{**settings, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
  ("metric", "told"),
  [
    ("in_some", "evaluation.metrics 'in_some': returned a NoneType; it must be a number"),
    ("raises_in_some", "evaluation.metrics 'raises_in_some': IndexError: list index out of range ("),
  ],
)
def test_a_metric_that_is_malformed_in_one_trial_costs_that_trial_only(tmp_path: pathlib.Path, metric: str, told: str):
  # The first trial has the mistake, also in the few steps that tell its cost.
  results = run_study(study(metric, 10.0, 0.01, 0.05, 8.0), tmp_path / "study", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["failed", "complete", "complete", "failed"]
  assert [trial.attempts for trial in results.trials] == [1] * 4
  for trial in (0, 3):
    assert (results.trials[trial].reason or "").startswith(told)


@pytest.mark.slow
def test_a_metric_that_is_malformed_in_the_first_trials_stops_the_study_and_the_others_run_later(
  tmp_path: pathlib.Path,
):
  with pytest.raises(UserError, match=r"'in_all': returned a ndarray of shape .*it must be a number") as caught:
    run_study(study("in_all", 0.01, 0.02, 0.05, 0.1), tmp_path / "all", executor=run_in_process)
  assert "All 3 trials that ended had this mistake, so the study stops here" in caught.value.problems[-1]
  assert [record.state for record in read_trials(tmp_path / "all").values()] == ["failed"] * 3
  # A mistake of the first values only does not block the others for good.
  some = study("in_some", 10.0, 9.0, 8.0, 0.01, 0.05)
  with pytest.raises(UserError, match="'in_some': returned a NoneType"):
    run_study(some, tmp_path / "some", executor=run_in_process)
  results = run_study(some, tmp_path / "some", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["failed"] * 3 + ["complete"] * 2


@pytest.mark.slow
def test_a_batch_that_only_some_trials_and_the_config_itself_have_too_large_costs_those_trials(tmp_path: pathlib.Path):
  # The training set has 1,297 examples, so a batch of 2,000 is refused, with which the study is declared as well.
  declared = study(
    "in_some",
    config=mlp(batch_size=2000, evaluation__batch_size=256),
    nuisance={"batch_size": Discrete([32, 64, 2000, 3000])},
    search=Listed([{"batch_size": size} for size in (2000, 32, 3000, 64)]),
  )
  results = run_study(declared, tmp_path / "study", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["infeasible", "complete", "infeasible", "complete"]
  assert "batch_size = 2000 is larger than the training set" in (results.trials[0].reason or "")

"""The autopilot's budget: in steps or hours, with what earlier calls used, and what it would need."""

import dataclasses
import pathlib

import numpy as np
import pytest
from commands import outcome
from simulated_trainings import Simulation
from test_procedure_autopilot import CONFIG, SKIP, training

from trialbook.errors import UserError
from trialbook.tuning.procedures import autopilot
from trialbook.tuning.procedures.autopilot_budget import Budget, worked_seconds
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.records import StudyRecord, TrialRecord, read_study
from trialbook.tuning.results import read_results


def flown(folder: pathlib.Path, simulation: Simulation, **more):
  lab = Lab(folder=folder, config=CONFIG, runner=simulation)
  return autopilot.run(lab, **{"skip": SKIP, "search": "halton", **more})


@pytest.fixture
def record(tmp_path) -> StudyRecord:
  flown(tmp_path, training(), steps=20_000)
  return read_study(tmp_path / "0_baseline" / "as_given")


def attempt(started: float, finished: float | None) -> TrialRecord:
  return TrialRecord(trial=0, values={}, changes={}, attempts=({"started": started, "finished": finished},))


def test_hours_are_those_of_all_sessions_and_a_killed_one_counts_until_its_last_sign_of_life(record):
  sessions = (
    {"started": 100.0, "finished": 160.0},
    {"started": 1000.0, "finished": None},
    {"started": 5000.0, "finished": 5010.0},
  )
  study = dataclasses.replace(record, sessions=sessions)
  # One ended in the first session; two were started in the second, whose end only the third one recorded.
  trials = [attempt(110.0, 150.0), attempt(1005.0, 1030.0), attempt(1031.0, 5000.0)]
  assert worked_seconds(study, trials) == 60.0 + 31.0 + 10.0
  assert worked_seconds(dataclasses.replace(record, sessions=()), trials[:2]) == 40.0 + 25.0


def test_a_budget_in_hours_is_kept_and_what_was_used_counts_after_a_resume(tmp_path):
  # A simulated trial takes a second.
  hours = 100 / 3600
  simulation = training()
  found = flown(tmp_path, simulation, hours=hours)
  assert found.changes is not None
  assert 60 <= found.numbers["spent"] <= 100
  assert len(simulation.ran) == found.numbers["spent"]
  assert "of 2 min" in (tmp_path / "logbook.md").read_text()
  with pytest.raises(UserError, match="has ended its exploration with another budget"):
    flown(tmp_path, simulation, hours=2 * hours)
  again = flown(tmp_path, simulation, hours=hours)
  assert again.numbers["spent"] == found.numbers["spent"] == len(simulation.ran)
  assert (again.verdict, again.changes) == (found.verdict, found.changes)


@pytest.mark.parametrize("budget", [{"steps": 900}, {"hours": 4 / 3600}])
def test_a_budget_too_small_for_a_round_is_refused_with_the_one_that_would_do(tmp_path, budget):
  found = flown(tmp_path / "small", training(), **budget)
  assert found.changes is None
  assert "is too small" in found.verdict
  [name] = budget
  assert f"--{name}={found.numbers['needed']:.12g}" in found.actions[0]
  assert found.numbers["needed"] > budget[name]
  assert "is too small" in (tmp_path / "small" / "logbook.md").read_text()
  enough = flown(tmp_path / "enough", training(), **{name: found.numbers["needed"]})
  assert enough.changes is not None


def test_a_budget_is_one_of_steps_and_hours():
  for steps, both in ((None, None), (5, 1.0)):
    with pytest.raises(UserError, match="--steps=N, or --hours=H"):
      Budget(steps, both)
  for hours in (0.0, -1.0, np.inf, np.nan):
    with pytest.raises(UserError, match="should be more than 0"):
      Budget(None, hours)


def test_a_study_that_is_extended_is_charged_once(tmp_path):
  simulation = training()
  flown(tmp_path, simulation, steps=20_000)
  results = read_results(tmp_path / "3_round_1" / "study")
  budget = Budget(20_000, None)
  part = dataclasses.replace(results, trials=results.trials[:5])
  assert budget.charge([part])[0] == budget.used_steps == 5 * 200
  whole = budget.charge([results])[0]
  assert whole == budget.used_steps == len(results.trials) * 200


def test_a_dry_run_of_a_budget_that_is_too_small_says_so(capsys):
  code, output, _ = outcome(capsys, "autopilot", "--steps=100", "--dry_run")
  assert code == 0
  assert "A budget of 100 steps is too small" in output

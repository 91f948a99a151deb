"""States of imported trials: what curves show overrules what was recorded, and what is not known is said."""

import json
import math
import pathlib

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from trialbook.tuning import Minimize, StudyResults, read_results
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.importers.trial_endings import not_finite_at_end

CASES = pathlib.Path(__file__).parent / "cases"
NAN = float("nan")

optuna.logging.set_verbosity(optuna.logging.ERROR)


def notes(results: StudyResults) -> str:
  return "\n".join(results.study.warnings)


def optimized(tmp_path, objective, trials: int = 12, **options) -> StudyResults:
  """A study of Optuna's in a journal, imported."""
  storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
  study = optuna.create_study(study_name="s", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0), **options)
  study.optimize(objective, n_trials=trials, catch=(ValueError,))
  return read_results(import_study("optuna", tmp_path / "optuna.log", tmp_path / "out")[0])


def diverges(trial) -> bool:
  return trial.suggest_float("lr", 1e-5, 1e-1, log=True) > 1e-2


def test_a_trial_of_optuna_that_reported_nan_and_returned_it_is_infeasible(tmp_path):
  def objective(trial):
    bad = diverges(trial)
    values = [NAN if bad and step > 2 else 1.0 / (step + 1) for step in range(6)]
    for step, value in enumerate(values):
      trial.report(value, step)
    return values[-1]

  results = optimized(tmp_path, objective)
  states = {trial.values["lr"] > 1e-2: trial.state for trial in results.trials}
  assert states == {True: "infeasible", False: "complete"}
  bad = next(trial for trial in results.trials if trial.state == "infeasible")
  assert bad.reason == "objective is not finite, for the first time at step 4 (recorded as FAIL)"
  assert "infeasible, although recorded otherwise" in notes(results)
  assert "as FAIL" in notes(results)


def test_a_trial_of_optuna_that_only_returned_nan_stays_failed_and_says_why_that_is_not_sure(tmp_path):
  def objective(trial):
    bad = diverges(trial)
    if trial.number == 0:
      trial.report(1.0, 3)
      raise ValueError("out of memory")
    return NAN if bad else 1.0

  results = optimized(tmp_path, objective)
  failed = [trial for trial in results.trials if trial.state == "failed"]
  assert all(trial.values["lr"] > 1e-2 for trial in failed[1:])
  assert failed[0].reason == "recorded as FAIL after step 3: an exception, or a returned NaN; Optuna stores neither"
  assert failed[1].reason == "recorded as FAIL: an exception, or a returned NaN; Optuna stores neither"
  assert f"{len(failed)} trials are recorded as FAIL" in notes(results)


def test_a_trial_that_a_pruner_ended_because_of_nan_is_infeasible(tmp_path):
  def objective(trial):
    bad = diverges(trial)
    for step in range(1, 6):
      trial.report(NAN if bad and step > 2 else 1.0 / step, step)
      if trial.should_prune():
        raise optuna.TrialPruned
    return 0.2

  results = optimized(tmp_path, objective, pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0))
  ends = {trial.reason for trial in results.trials if trial.state == "infeasible"}
  assert ends == {"objective is not finite, for the first time at step 3 (recorded as PRUNED)"}
  assert all(trial.values["lr"] > 1e-2 for trial in results.trials if trial.state == "infeasible")


def test_a_complete_trial_of_optuna_is_one_however_short_or_odd_its_reports_are(tmp_path):
  def objective(trial):
    trial.suggest_float("x", 0, 1)
    steps = 3 if trial.number == 2 else 30
    values = [1.0 / (step + 1) for step in range(steps)]
    if trial.number == 5:
      values[-1] = NAN
    for step, value in enumerate(values, start=1):
      trial.report(value, step)
    return min(value for value in values if not math.isnan(value))

  results = optimized(tmp_path, objective)
  assert [trial.state for trial in results.trials] == ["complete"] * 12


STATES = "trial,state,reason,lr\n" + "".join(
  f"{number},{state},{reason},0.{number + 1}\n"
  for number, (state, reason) in enumerate(
    (("finished", ""), ("finished", ""), ("FAILED", "rc 1"), ("pruned", ""), ("stopped", ""), ("", ""), ("running", ""))
  )
)


@pytest.mark.parametrize("last", ["nan", "inf", "-inf", ""])
def test_curves_that_end_in_nan_overrule_states(tmp_path, last):
  (tmp_path / "trials.csv").write_text(STATES)
  (tmp_path / "curves.csv").write_text(
    "trial,step,metric,value\n"
    + "".join(
      f"{trial},{step},val_loss,{last if step > 2 and trial else 1 / step}\n"
      for trial in range(7)
      for step in range(1, 5)
    )
  )
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert [trial.state for trial in results.trials] == ["complete", *["infeasible"] * 5, "running"]
  assert results.trials[1].reason == "validation/loss is not finite, for the first time at step 3"
  assert results.trials[2].reason == "validation/loss is not finite, for the first time at step 3 (rc 1)"
  assert (
    "4 trials are infeasible, although recorded otherwise (1 as complete, 1 as failed, 1 as pruned, 1 as stopped):"
    " the objective or the training loss is not finite at the end of 1, 2, 3, 4."
  ) in notes(results)


def test_nan_in_the_middle_or_after_the_best_of_a_failed_trial_is_told_apart(tmp_path):
  (tmp_path / "trials.csv").write_text("trial,state,lr\n0,complete,0.1\n1,failed,0.2\n")
  (tmp_path / "curves.csv").write_text(
    "trial,step,metric,value\n0,1,val_loss,1\n0,2,val_loss,nan\n0,3,val_loss,0.5\n1,1,val_loss,1\n1,2,val_loss,1\n"
  )
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert [trial.state for trial in results.trials] == ["complete", "failed"]


@pytest.mark.parametrize(
  ("metric", "tells"),
  [
    ("train/loss", True),
    ("train_subset/loss", True),
    ("train_subset/ctc_loss", True),
    ("train/grad_norm", False),
    ("test/loss", False),
  ],
)
def test_training_losses_of_any_name_show_a_divergence(metric, tells):
  curves = {"validation/wer": [(1, 0.5), (2, 0.4)], metric: [(1, 3.0), (2, math.inf)]}
  assert (not_finite_at_end(Minimize("validation/wer"), curves) is not None) == tells
  if tells:
    beside = {**curves, "train/loss": [(1, 3.0), (2, 1.0)]}
    assert (not_finite_at_end(Minimize("validation/wer"), beside) is not None) == (metric == "train_subset/loss")


def test_trials_of_algoperf_whose_cells_go_empty_are_infeasible_with_the_step(tmp_path):
  results = read_results(import_study("algoperf", CASES / "died_at_once_counted_complete", tmp_path / "out")[0])
  dead = [trial for trial in results.trials if trial.source and trial.source.endswith("trial_3")]
  assert {trial.state for trial in dead} == {"infeasible"}
  assert [trial.reason for trial in dead] == [
    "train/loss is not finite, for the first time at step 65",
    "train/loss is not finite, for the first time at step 56",
    "validation/loss is not finite, for the first time at step 170",
    "train/loss is not finite, for the first time at step 64",
    "train/loss is not finite, for the first time at step 81",
  ]
  assert [trial.state for trial in results.trials if trial not in dead] == ["complete"] * 5


def test_a_trial_of_algoperf_that_stops_logging_is_cut_short(tmp_path):
  header = "global_step,grad_norm,loss,validation/wer,score\n"
  for number in range(1, 6):
    trial = tmp_path / f"logs/study_0/librispeech_jax/trial_{number}"
    trial.mkdir(parents=True)
    (trial / "hparams.json").write_text(json.dumps({"learning_rate": 0.1 * number}))
    last = 65 if number == 3 else 78_000
    rows = [f"{step},,,{1 / (1 + step)},1.0\n" for step in range(13, last + 1, max(last // 20, 1))]
    (trial / "eval_measurements.csv").write_text(header + "".join(rows))
    # A metric of single steps that is absent beside others is not NaN.
    (trial / "measurements.csv").write_text(header + "".join(f"{step},0.5,,,\n" for step in range(0, 65, 5)))
  results = read_results(import_study("algoperf", tmp_path / "logs", tmp_path / "out")[0])
  assert [trial.state for trial in results.trials] == ["complete", "complete", "stopped", "complete", "complete"]
  assert (results.trials[2].reason or "").startswith("cut short at step ")
  assert "of the usual " in (results.trials[2].reason or "")


def test_trials_that_were_taken_away_are_cut_short_although_the_table_calls_them_complete(tmp_path):
  results = read_results(import_study("csv", CASES / "preempted_40_percent_not_said", tmp_path / "out")[0])
  short = [trial for trial in results.trials if trial.state == "stopped"]
  assert len(short) >= 7
  assert all(trial.last_step < 0.9 * 5000 and "of the usual 5,000" in (trial.reason or "") for trial in short)
  assert all(trial.objective is None for trial in short)
  assert "(cut short), because others are much longer" in notes(results)


def test_a_trial_that_is_called_complete_but_logged_nothing_has_failed(tmp_path):
  (tmp_path / "trials.csv").write_text("trial,state,lr\n0,complete,0.1\n1,complete,0.2\n")
  (tmp_path / "curves.csv").write_text("trial,step,metric,value\n0,1,val_loss,1\n")
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert (results.trials[1].state, results.trials[1].reason) == (
    "failed",
    "it is recorded as complete, but it logged nothing",
  )

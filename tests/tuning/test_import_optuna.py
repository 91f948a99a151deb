import math
import sqlite3
import sys
import warnings

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from trialbook.errors import UserError
from trialbook.tuning import Integer, Linear, Log, OneOf, read_results
from trialbook.tuning.importers.importing import import_study

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(params=["sqlite", "journal"])
def storage(request, tmp_path):
  """A new storage of Optuna's, and the source that names it."""
  path = tmp_path / "optuna.log"
  if request.param == "journal":
    return JournalStorage(JournalFileBackend(str(path))), str(path)
  return f"sqlite:///{path}", f"sqlite:///{path}"


def study(storage, name="tune", directions=("minimize",), metric_names=None):
  made = optuna.create_study(
    study_name=name, storage=storage, directions=list(directions), sampler=optuna.samplers.RandomSampler(seed=0)
  )
  if metric_names:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
      made.set_metric_names(metric_names)
  return made


def objective(trial) -> float:
  rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
  optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd", None])
  if optimizer == "sgd":
    trial.suggest_float("momentum", 0.0, 0.9)
  trial.suggest_int("layers", 1, 4)
  trial.suggest_int("units", 8, 256, log=True)
  trial.suggest_int("depth", 3, 3)
  values = [rate + more for more in (0.5, 0.1, 0.3, 0.2)]
  for epoch, value in enumerate(values):
    trial.report(value, epoch)
    if trial.number % 5 == 4 and epoch == 1:
      raise optuna.TrialPruned
  return values[-1]


@pytest.mark.slow
def test_trials_rank_as_in_optuna_with_its_scales_and_curves(storage, tmp_path):
  made = study(storage[0])
  made.optimize(objective, n_trials=10)
  (folder,) = import_study("optuna", storage[1], tmp_path / "out")
  results = read_results(folder)
  complete = [trial for trial in made.trials if trial.state == TrialState.COMPLETE]
  expected = sorted((trial.value, trial.number) for trial in complete)
  assert [(trial.objective, trial.trial) for trial in results.ranked] == expected
  assert (results.objective.metric, results.objective.value) == ("objective", "last")
  assert [trial.values for trial in results.trials] == [trial.params for trial in made.trials]
  assert {name: (one.scale, one.role, one.inferred) for name, one in results.space.items() if name != "depth"} == {
    "rate": (Log(1e-4, 1.0), "nuisance", False),
    "optimizer": (OneOf(["adam", "sgd", None]), "nuisance", False),
    "momentum": (Linear(0.0, 0.9), "nuisance", False),
    "layers": (Integer(1, 4), "nuisance", False),
    "units": (Integer(8, 256, log=True), "nuisance", False),
  }
  assert results.space["depth"].role == "fixed"
  pruned = results.trials[4]
  assert (pruned.state, pruned.reason, pruned.objective) == ("pruned", "pruned at step 2", None)
  reported = made.trials[4].intermediate_values
  assert pruned.curves == {"objective": [(epoch + 1, value) for epoch, value in reported.items()]}
  assert results.trials[0].seconds > 0


def test_a_returned_value_that_is_none_of_the_reported_ones_stands_alone(storage, tmp_path):
  def test_error(trial) -> float:
    rate = trial.suggest_float("rate", 0.0, 1.0)
    for step in (100, 200):
      trial.report(1 - rate, step)
    return rate

  made = study(storage[0])
  made.optimize(test_error, n_trials=6)
  results = read_results(import_study("optuna", storage[1], tmp_path / "out")[0])
  rate = made.trials[0].value
  assert rate is not None
  assert results.trials[0].curves["intermediate"] == [(100, 1 - rate), (200, 1 - rate)]
  assert results.trials[0].curves["objective"] == [(200, rate)]
  assert results.ranked[0].trial == made.best_trial.number
  other = import_study("optuna", storage[1], tmp_path / "other", objective="intermediate", mode="min")
  assert read_results(other[0]).ranked[-1].trial == made.best_trial.number


def test_the_best_of_the_reported_values_is_recognised(storage, tmp_path):
  def best_accuracy(trial) -> float:
    values = [trial.suggest_float("rate", 0.0, 1.0), 0.25]
    for step, value in enumerate(values, start=1):
      trial.report(value, step)
    return max(values)

  made = study(storage[0], directions=["maximize"], metric_names=["val_accuracy"])
  made.optimize(best_accuracy, n_trials=6)
  results = read_results(import_study("optuna", storage[1], tmp_path / "out")[0])
  assert (results.objective.metric, results.objective.mode, results.objective.value) == (
    "validation/accuracy",
    "max",
    "best",
  )
  assert results.metrics == ["validation/accuracy"]
  assert results.best is not None
  assert results.best.objective == made.best_value


def test_states_are_those_of_docs(storage, tmp_path):
  made = study(storage[0])

  def outcome(trial) -> float:
    trial.suggest_float("rate", 0.0, 1.0)
    if trial.number == 0:
      raise RuntimeError("no")
    if trial.number == 2:
      trial.set_constraint("memory", 1.0)
    return math.inf if trial.number == 1 else 1.0

  made.optimize(outcome, n_trials=4, catch=RuntimeError)
  made.ask()
  made.enqueue_trial({"rate": 0.5})
  results = read_results(import_study("optuna", storage[1], tmp_path / "out")[0])
  assert [(trial.state, trial.reason) for trial in results.trials] == [
    ("failed", "recorded as FAIL: an exception, or a returned NaN; Optuna stores neither"),
    ("infeasible", "objective = inf"),
    ("infeasible", "constraint violated: memory"),
    ("complete", None),
    ("running", None),
    ("pending", None),
  ]
  assert [trial.attempts for trial in results.trials] == [1, 1, 1, 1, 1, 0]


@pytest.mark.slow
def test_several_studies_have_folders_of_their_own_and_one_can_be_chosen(storage, tmp_path):
  for name in ("first", "second/try"):
    study(storage[0], name).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
  found = import_study("optuna", storage[1], tmp_path / "out")
  assert [folder.name for folder in found] == ["first", "second_try"]
  (only,) = import_study("optuna", storage[1], tmp_path / "only", study="first")
  assert only == tmp_path / "only"
  with pytest.raises(UserError, match="study 'frist' is not in it; did you mean 'first'"):
    import_study("optuna", storage[1], tmp_path / "none", study="frist")


def test_of_several_objectives_one_must_be_chosen(storage, tmp_path):
  made = study(storage[0], directions=["minimize", "maximize"], metric_names=["error", "speed"])
  made.optimize(lambda trial: (trial.suggest_float("x", 0, 1), trial.params["x"]), n_trials=4)
  with pytest.raises(UserError, match="study 'tune' has 2 objectives: choose one by its name or index"):
    import_study("optuna", storage[1], tmp_path / "out")
  with pytest.raises(UserError, match="'sped' is none of them"):
    import_study("optuna", storage[1], tmp_path / "out", objective="sped")
  for asked in ("speed", "1"):
    results = read_results(import_study("optuna", storage[1], tmp_path / "out", objective=asked)[0])
    assert (results.objective.metric, results.objective.mode) == ("speed", "max")
    assert results.metrics == ["error", "speed"]
    assert results.ranked[0].trial == max(made.trials, key=lambda trial: trial.values[1]).number


def test_files_that_are_no_storage_are_told_and_none_is_made(tmp_path):
  with pytest.raises(UserError, match="there is no such file"):
    import_study("optuna", f"sqlite:///{tmp_path / 'absent.db'}", tmp_path / "out")
  (tmp_path / "notes.txt").write_text("hello\nworld\n")
  with pytest.raises(UserError, match="is no storage of Optuna"):
    import_study("optuna", tmp_path / "notes.txt", tmp_path / "out")
  connection = sqlite3.connect(tmp_path / "other.db")
  connection.execute("create table t (x)")
  connection.commit()
  connection.close()
  with pytest.raises(UserError, match="is no storage of Optuna"):
    import_study("optuna", tmp_path / "other.db", tmp_path / "out")
  with pytest.raises(UserError, match=r"mysql://\.\.\.: should be the path of a file"):
    import_study("optuna", "mysql://user:secret@host/db", tmp_path / "out")
  assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "other.db"}


def test_a_source_is_not_written_to(storage, tmp_path):
  study(storage[0]).optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
  before = (tmp_path / "optuna.log").read_bytes()
  names = {path.name for path in tmp_path.iterdir()}
  import_study("optuna", storage[1], tmp_path / "out")
  assert (tmp_path / "optuna.log").read_bytes() == before
  assert {path.name for path in tmp_path.iterdir()} - names == {"out", "studies.csv", "studies.md"}


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "optuna", None)
  with pytest.raises(UserError, match=r"trialbook\[bayes\]"):
    import_study("optuna", tmp_path / "x.db", tmp_path / "out")

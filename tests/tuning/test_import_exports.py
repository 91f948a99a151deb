"""Tables with one row per run, as W&B, MLflow, Ray and Optuna export them (`exports/`; pandas wrote most of them)."""

import pathlib

import pytest
from commands import outcome

from trialbook.errors import UserError
from trialbook.tuning import Integer, Linear, Log, Maximize, Minimize, OneOf, StudyResults, read_results
from trialbook.tuning.findings import findings
from trialbook.tuning.importers.importing import import_study

HERE = pathlib.Path(__file__).parent
EXPORTS = HERE / "exports"
CASES = HERE / "cases"


@pytest.fixture
def imported(tmp_path):
  """The results of an import of a table: one of `exports`, or one of a text."""

  def imported(table: str, **options) -> StudyResults:
    source = EXPORTS / table
    if "\n" in table:
      source = tmp_path / "runs.csv"
      source.write_text(table)
    return read_results(import_study("csv", source, tmp_path / "out", **options)[0])

  return imported


def notes(results: StudyResults) -> str:
  return "\n".join(results.study.warnings)


def test_final_values_without_curves_rank_trials_and_none_is_infeasible(tmp_path):
  results = read_results(import_study("csv", CASES / "c_wide", tmp_path / "with_an_empty_table")[0])
  assert [trial.state for trial in results.trials] == ["complete"] * 6
  assert [(trial.trial, trial.objective) for trial in results.ranked][:2] == [(0, 0.5), (1, 0.51)]
  assert list(results.space) == ["lr"]
  alone = tmp_path / "alone"
  alone.mkdir()
  for name in ("trials.csv", "study.json"):
    (alone / name).write_bytes((CASES / "c_wide" / name).read_bytes())
  without = read_results(import_study("csv", alone, tmp_path / "without_a_table")[0])
  assert without.csv() == results.csv()
  assert "and no curve; findings about curves need curves.csv" in notes(without)


def test_what_curves_would_answer_is_asked_for_once(tmp_path):
  results = read_results(import_study("csv", CASES / "c_wide", tmp_path / "out")[0])
  [told] = [one for one in findings(results) if one.severity == "cannot_tell" and "urve" in one.title + one.why]
  assert told.id == "PB-25"
  assert all(id in told.why for id in ("PB-26", "PB-27", "PB-28", "PB-29", "PB-33", "PB-61", "PB-69", "PB-81"))
  assert "at least 30 times" in str(told.action)
  assert not [one for one in findings(results) if one.id == "PB-21" and one.severity in ("warning", "problem")]


def test_a_table_of_wandb(imported):
  results = imported("wandb.csv")
  assert results.objective == Minimize("validation/loss")
  states = [trial.state for trial in results.trials]
  assert states == [*["complete"] * 2, "infeasible", "failed", *["complete"] * 5, "failed", "stopped", "running"]
  assert results.trials[2].reason == "validation/loss is nan"
  assert "an empty cell may stand for NaN" in (results.trials[3].reason or "")
  assert {name: one.scale for name, one in results.space.items()} == {
    "batch_size": Integer(32, 128),
    "lr": Log(results.trials[11].values["lr"], results.trials[9].values["lr"]),
    "optimizer": OneOf(["adam", "sgd"]),
    "precision": Integer(16, 32),
  }
  best = results.best
  assert best is not None
  assert (best.source, best.objective, best.step) == ("sunny-8", 0.3017, 999)
  assert results.trials[1].step == 499
  assert (results.trials[0].seconds, results.trials[0].started) == (139.0, 1714564800.0)
  assert results.metrics == ["train/loss", "validation/accuracy", "validation/loss"]
  for said in (
    "Trials are named by the column 'Name'.",
    "State (state), Runtime (duration), Created (start)",
    "Columns left out: Notes, User, Tags, Sweep, _runtime, epoch (about the run).",
    "1 finished trial has no validation/loss and counts as failed",
    "1 trial is infeasible, although recorded otherwise (1 as complete)",
  ):
    assert said in notes(results)


SETTINGS = "Name,train/batch_size,train/dropout,train/samples_per_second,lr,val/loss\n" + "".join(
  f"run-{n},{32 * 2 ** (n % 2)},{0.1 * n},{100 + n},{10.0**-n},{1 + n}\n" for n in range(4)
)


def test_a_setting_under_the_name_of_a_split_is_a_hyperparameter(imported):
  results = imported(SETTINGS)
  assert list(results.space) == ["train/batch_size", "train/dropout", "lr"]
  assert results.metrics == ["train/samples_per_second", "validation/loss"]


def test_a_setting_under_the_name_of_a_split_is_one_in_a_log_too(imported):
  rows = [f"run-{n},{step},{32 * 2 ** (n % 2)},{1 + n + 1 / step}" for n in range(4) for step in (1, 2, 3)]
  results = imported("\n".join(["Name,step,train/batch_size,val/loss", *rows]))
  assert list(results.space) == ["train/batch_size"]
  assert results.metrics == ["validation/loss"]


def test_a_table_of_wandb_by_another_objective(imported):
  results = imported("wandb.csv", objective="val/accuracy")
  assert results.objective == Maximize("validation/accuracy")
  assert results.best is not None
  assert results.best.source == "sunny-8"


def test_dictionaries_of_wandbs_example_code_are_unpacked(imported):
  results = imported("wandb_api.csv")
  assert list(results.space) == ["lr", "model.depth", "model.name", "clip.present", "clip"]
  assert [trial.state for trial in results.trials].count("infeasible") == 1
  assert results.trials[2].reason == "validation/loss is nan"
  assert (results.trials[0].step, results.trials[0].source) == (99, "run-0")
  assert "dictionaries were unpacked into a column for each key: summary, config" in notes(results)


def test_a_table_of_mlflows_search(imported):
  results = imported("mlflow.csv")
  assert results.objective == Minimize("validation/loss")
  assert list(results.space) == ["clip.present", "clip", "batch_size", "lr", "use_ema"]
  assert results.trials[9].values == {
    "clip.present": False,
    "batch_size": 32,
    "lr": 0.03414016019207292,
    "use_ema": False,
  }
  assert results.trials[9].curves["train/loss"] == [(1, pytest.approx(0.142186075848168))]
  assert 0 < results.trials[0].seconds < 1
  assert "tags.mlflow.user" in notes(results)
  assert "Hyperparameters are the columns params.*, as MLflow writes them, without prefix." in notes(results)


@pytest.mark.parametrize("asked", ["metrics.train_loss", "train_loss", "train/loss"])
def test_a_result_can_be_named_with_or_without_its_prefix(imported, asked):
  assert imported("mlflow.csv", objective=asked).objective == Minimize("train/loss")


def test_a_renamed_result_keeps_its_prefix_out_of_the_way(imported):
  results = imported("mlflow.csv", rename={"metrics.val_loss": "validation/ppl"}, objective="validation/ppl")
  assert results.objective == Minimize("validation/ppl")


def test_a_table_of_mlflows_page(imported):
  results = imported("mlflow_ui.csv")
  assert list(results.space) == ["batch_size", "lr"]
  assert results.trials[0].seconds == 90
  assert results.trials[5].state == "failed"
  assert results.trials[5].reason == (
    "recorded as FAILED, without validation/loss: an error, or a value that was not a number"
  )
  assert results.trials[0].source == "id0"  # All have one name.


def test_a_table_of_ray(imported):
  results = imported("ray.csv")
  assert list(results.space) == ["lr", "batch_size", "model/name"]
  assert [trial.state for trial in results.trials] == ["stopped"] * 3 + ["complete"] * 9
  assert results.trials[0].reason == "cut short at step 1 of the usual 100"
  assert results.trials[0].curves["validation/loss"] == [(1, 0.3169)]
  assert results.ranked[0].source == "ab_00008"
  assert "pid, hostname" in notes(results)


def test_a_table_of_optuna(imported):
  with pytest.raises(UserError, match="logged: objective, test/accuracy"):
    imported("optuna.csv")
  for options in ({"mode": "min"}, {"mode": "min", "objective": "value"}):
    results = imported("optuna.csv", **options)
    assert results.objective == Minimize("objective")
    assert {name: type(one.scale) for name, one in results.space.items()} == {
      "clip.present": OneOf,
      "clip": Linear,
      "lr": Log,
      "momentum": Linear,
      "opt": OneOf,
    }
    assert (results.ranked[0].trial, results.ranked[0].objective) == (8, 0.10315172646526677)
    assert [trial.trial for trial in results.trials if trial.state == "pruned"] == [4, 9]
    assert results.trials[5].state == "failed"
    assert "a value that was not a number" in (results.trials[5].reason or "")
    # A pruned trial's value is that of a step which the table does not say.
    assert "objective" not in results.trials[4].curves
    assert "2 trials that did not finish have no objective here" in notes(results)
    # Its momentum is explained by the optimizer, its clip is not.
    assert "momentum" not in results.trials[0].values
    assert "momentum.present" not in results.space
    assert results.trials[7].values["clip.present"] is False


@pytest.mark.parametrize(
  ("column", "named"),
  [
    ("trial", ["a", "b"]),
    ("Name", ["a", "b"]),
    ("run_id", ["a", "b"]),
    ("number", ["7", "9"]),
    ("trial_id", ["7", "9"]),
  ],
)
def test_trials_may_be_named_by_other_columns(imported, column, named):
  results = imported(f"{column},lr,val_loss\n{named[0]},0.1,1\n{named[1]},0.2,2\n")
  assert [trial.source for trial in results.trials] == named
  assert ("Trials are named by" in notes(results)) == (column != "trial")


def test_without_names_trials_are_numbered(imported):
  results = imported("Name,lr,val_loss\nsame,0.1,1\nsame,0.2,2\n")
  assert list(results.space) == ["lr"]
  assert [trial.source for trial in results.trials] == [None, None]
  assert "does not name its trials: they are numbered from 0 on" in notes(results)


def test_of_runs_with_equal_names_the_identifiers_count(imported):
  results = imported("Name,ID,lr,val_loss\nsame,x,0.1,1\nsame,y,0.2,2\n")
  assert [trial.source for trial in results.trials] == ["x", "y"]


@pytest.mark.parametrize("column", ["step", "_step", "training_iteration", "epoch", "global_step"])
def test_a_value_stands_at_the_step_that_a_column_says(imported, column):
  results = imported(f"trial,lr,{column},val_loss\n0,0.1,30,1\n1,0.2,0,2\n")
  assert [trial.step for trial in results.trials if trial.objective is not None] in ([30, 1], [30])
  assert list(results.space) == ["lr"]


def test_steps_that_differ_do_not_cut_finished_runs_short(imported):
  rows = "".join(f"{n},finished,{0.1 * n},{100 if n % 4 else 10},{n}\n" for n in range(12))
  results = imported(f"trial,state,lr,_step,val_loss\n{rows}")
  assert [trial.state for trial in results.trials] == ["complete"] * 12


def test_nan_of_a_pruned_trial_is_no_divergence_and_of_a_failed_one_is(imported):
  results = imported("trial,state,lr,val_loss\n0,COMPLETE,0.1,1\n1,PRUNED,0.2,nan\n2,FAIL,0.3,nan\n3,FAIL,0.4,\n")
  assert [trial.state for trial in results.trials] == ["complete", "pruned", "infeasible", "failed"]


def test_a_value_at_the_end_stands_beside_curves(tmp_path):
  (tmp_path / "trials.csv").write_text("trial,lr,test_acc,val_loss\n0,0.1,0.9,5\n1,0.2,0.8,6\n")
  (tmp_path / "curves.csv").write_text("trial,step,metric,value\n0,10,val_loss,1\n1,20,val_loss,2\n")
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert list(results.space) == ["lr"]
  assert results.trials[1].curves == {"validation/loss": [(20, 2.0)], "test/accuracy": [(20, 0.8)]}
  assert "Columns left out, because curves have the same metrics: val_loss." in notes(results)


def test_a_result_of_no_known_name_is_one_if_the_objective_names_it(imported):
  table = "trial,lr,score\n0,0.1,5\n1,0.2,6\n"
  with pytest.raises(UserError, match=r"no column is known to hold results.*columns: trial, lr, score"):
    imported(table)
  results = imported(table, objective="score", mode="max")
  assert results.objective == Maximize("score")
  assert list(results.space) == ["lr"]
  assert results.ranked[0].trial == 1


def test_the_only_result_with_a_known_direction_ranks(imported):
  assert imported("lr,loss\n0.1,1\n0.2,2\n").objective == Minimize("loss")
  assert imported("lr,loss,val_loss\n0.1,1,2\n0.2,2,1\n").metrics == ["train/loss", "validation/loss"]
  with pytest.raises(UserError, match="say which metric trials are ranked by"):
    imported("lr,auc,top1_acc\n0.1,1,2\n0.2,2,1\n")


def test_what_is_declared_is_a_hyperparameter_whatever_its_name(imported, tmp_path):
  space = tmp_path / "space.json"
  space.write_text('{"hyperparameters": {"epoch": {"min": 1, "max": 5}, "Notes": {"role": "scientific"}}}')
  rows = "".join(f"{n},{n % 3 + 1},{'ab'[n % 2]},{n}\n" for n in range(6))
  results = imported(f"trial,epoch,Notes,val_loss\n{rows}", space=space)
  assert {name: one.role for name, one in results.space.items()} == {"epoch": "nuisance", "Notes": "scientific"}
  space.write_text('{"hyperparameters": {"batch_size": {"min": 8, "max": 64}, "params.lr": {"min": 1e-5, "max": 1}}}')
  (folder,) = import_study("csv", EXPORTS / "mlflow.csv", tmp_path / "mlflow", space=space)
  results = read_results(folder)
  assert results.space["batch_size"].scale == Integer(8, 64)
  assert results.space["params.lr"].scale == Log(1e-5, 1)


def test_dates_and_a_text_in_each_trial_are_no_hyperparameters(imported):
  rows = "".join(f"0.{n},2024-01-{n + 1:02d},about {n},{n}\n" for n in range(1, 13))
  results = imported(f"lr,when,why,val_loss\n{rows}")
  assert list(results.space) == ["lr"]
  assert "Columns left out: when (dates); why (another text in each trial)." in notes(results)


@pytest.mark.parametrize(
  ("table", "told"),
  [
    ("", "runs.csv: is empty; its first line should name the columns"),
    ("trial,lr,score\n0,0.1,high\n1,0.2,3\n", "line 2, column score: 'high' should be a number, nan, inf, or empty"),
    ("trial,state,score\n0,fnished,1\n", "line 2, column state: 'fnished' is not a state; did you mean 'finished'?"),
    (
      "trial,lr,score\n0,0,1,2\n",
      "line 2: should have 3 cells, as the header has; it has 4; put cells that have commas",
    ),
    ("trail,lr,score\n0,0.1,5\n", "line 1: column 'trial' is missing; did you mean 'trail'?"),
  ],
)
def test_bad_tables_are_told_by_the_command_and_nothing_is_written(capsys, tmp_path, table, told):
  (tmp_path / "runs.csv").write_text(table)
  code, _, printed = outcome(
    capsys, "import", "csv", tmp_path / "runs.csv", tmp_path / "out", "--objective=score", "--mode=max"
  )
  assert code == 2
  assert told in printed
  assert {path.name for path in tmp_path.iterdir()} == {"runs.csv"}


def test_the_command_lists_what_was_decided(capsys, tmp_path):
  code, printed, _ = outcome(capsys, "import", "csv", EXPORTS / "ray.csv", tmp_path / "out")
  assert code == 0
  for said in (
    "Trials are named by the column 'trial_id'.",
    "Columns left out: checkpoint_dir_name, done",
    "Scales and bounds, from the values of the trials: lr log from 0.0001019 to 0.06383;",
    "batch_size integer from 32 to 64",
    "model/name is one of a, b.",
  ):
    assert said in printed

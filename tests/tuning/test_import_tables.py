import csv
import json
import math
import pathlib
import random

import pyarrow
import pytest
from pyarrow import parquet

from trialbook.errors import UserError
from trialbook.tuning import Discrete, Integer, Linear, Log, Minimize, OneOf, ReverseLog, read_results, report
from trialbook.tuning.importers.importing import import_study

TRIALS = "trial,state,learning_rate,optimizer\nt0,complete,0.001,adam\nt1,complete,0.1,sgd\n"
CURVES = (
  "trial,step,metric,value\nt0,10,validation/error,0.5\nt0,20,validation/error,0.25\nt1,10,validation/error,0.375\n"
)


@pytest.fixture
def tables(tmp_path):
  """Writes the tables of a study, and returns their folder."""

  def tables(trials=TRIALS, curves=CURVES, study=None) -> pathlib.Path:
    folder = tmp_path / "tables"
    folder.mkdir(exist_ok=True)
    for name, text in (("trials.csv", trials), ("curves.csv", curves)):
      if text is not None:
        (folder / name).write_text(text)
    if study is not None:
      (folder / "study.json").write_text(study if isinstance(study, str) else json.dumps(study))
    return folder

  return tables


@pytest.fixture
def imported(tables, tmp_path):
  """The results of an import of such tables."""

  def imported(*args, **options):
    names = {name: options.pop(name) for name in ("trials", "curves", "study") if name in options}
    return read_results(import_study("csv", tables(*args, **names), tmp_path / "out", **options)[0])

  return imported


def test_tables_become_a_study_with_their_values_curves_and_names(imported):
  results = imported()
  assert [trial.values for trial in results.trials] == [
    {"learning_rate": 0.001, "optimizer": "adam"},
    {"learning_rate": 0.1, "optimizer": "sgd"},
  ]
  assert results.trials[0].curves == {"validation/error": [(10, 0.5), (20, 0.25)]}
  assert results.objective == Minimize("validation/error")
  assert [(trial.trial, trial.objective, trial.step) for trial in results.ranked] == [(0, 0.25, 20), (1, 0.375, 10)]
  stored = json.loads((results.folder / "trials/0001/trial.json").read_text())
  assert stored["summary"]["source"] == "t1"
  assert results.trials[1].source == "t1"
  assert (results.folder / "trials.csv").read_text() == results.csv()
  assert results.study.source == f"csv: {(results.folder.parent / 'tables').resolve()}"
  assert "import csv" in results.study.command


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("metric", ["learning_rate", "lr"])
def test_a_learning_rate_that_is_logged_too_stays_a_hyperparameter(imported, metric, declared):
  study = {"hyperparameters": {"learning_rate": {"scale": "log", "min": 1e-4, "max": 1.0}}} if declared else None
  results = imported(curves=f"{CURVES}t0,10,{metric},0.0005\n", study=study)
  assert {one.name for one in results.varied} == {"learning_rate", "optimizer"}
  assert results.trials[0].curves["learning_rate"] == [(10, 0.0005)]
  assert results.study.warnings == ()
  assert report(results).stat().st_size


def test_columns_that_are_metrics_are_named_and_what_is_declared_is_set(imported):
  trials = "trial,val_loss,bleu,dropout\nt0,0.5,1.0,0.1\nt1,0.25,2.0,0.2\n"
  curves = CURVES + "".join(f"t0,10,{metric},0.5\n" for metric in ("val_loss", "bleu", "dropout"))
  study = {"hyperparameters": {"dropout": {"min": 0.0, "max": 0.5}}}
  results = imported(trials, curves, study)
  assert [one.name for one in results.varied] == ["dropout"]
  assert "Columns left out, because curves have the same metrics: val_loss, bleu." in results.study.warnings


def test_a_larger_study_ranks_as_its_tables_do(imported):
  rng = random.Random(0)
  lines, worth = [], {}
  for trial in range(40):
    for step in rng.sample(range(1, 200), 30):
      value = math.nan if rng.random() < 0.05 else rng.random()
      lines.append(f"{trial},{step},val_loss,{value!r}\n")
      if math.isfinite(value):
        worth[trial] = min(worth.get(trial, math.inf), value)
    lines.append(f"{trial},200,val_loss,1\n")
  rng.shuffle(lines)
  results = imported(
    "trial,state,rate\n" + "".join(f"{trial},complete,{trial + 1}\n" for trial in range(40)),
    "trial,step,metric,value\n" + "".join(lines),
  )
  assert results.objective == Minimize("validation/loss")
  assert results.study.search["renamed"] == {"val_loss": "validation/loss"}
  expected = sorted(worth.items(), key=lambda item: item[1])
  assert [(trial.trial, trial.objective) for trial in results.ranked] == expected
  steps = [step for step, _ in results.trials[0].curves["validation/loss"]]
  assert steps == sorted(steps)
  again = results.by(results.objective)
  assert [trial.trial for trial in again.ranked] == [trial.trial for trial in results.ranked]


def test_a_trials_csv_of_ours_can_be_imported(imported, tables, tmp_path):
  first = imported()
  rows = ["trial,step,metric,value"]
  rows += [f"{row['trial']},{row['step']},{row['metric']},{row['value']}" for row in first.curve_rows()]
  folder = tables((first.folder / "trials.csv").read_text(), "\n".join(rows) + "\n")
  second = read_results(import_study("csv", folder, tmp_path / "second")[0])
  assert list(second.space) == ["learning_rate", "optimizer"]
  assert second.csv() == first.csv()


def test_of_two_values_at_one_step_the_later_row_wins_and_an_empty_one_is_nan(imported):
  curves = CURVES + "t0,20,validation/error,0.125\nt1,20,validation/error,\nt1,30,validation/error,inf\n"
  results = imported(curves=curves)
  assert results.trials[0].curves["validation/error"] == [(10, 0.5), (20, 0.125)]
  (_, (_, nan), (_, inf)) = results.trials[1].curves["validation/error"]
  assert math.isnan(nan)
  assert inf == math.inf


def test_the_last_value_is_that_of_the_last_step_wherever_its_row_is(imported):
  declared = {"objective": {"metric": "validation/error", "mode": "min", "value": "last"}}
  results = imported(curves=CURVES + "t0,5,validation/error,0.125\n", study=declared)
  assert (results.trials[0].objective, results.trials[0].step) == (0.25, 20)


def test_states_are_told_by_the_curves_where_the_table_does_not(imported):
  trials = "trial,state,reason,seconds\na,,,2.5\nb,,,\nc,,,\nd,Failed,out of disk,\ne,pruned,,\nf,infeasible,,\n"
  curves = (
    "trial,step,metric,value\na,1,validation/error,0.5\na,2,validation/error,0.4\n"
    "b,1,validation/error,0.1\nb,2,validation/error,nan\ne,1,validation/error,0.3\n"
  )
  results = imported(trials, curves)
  states = [(trial.state, trial.reason) for trial in results.trials]
  assert states == [
    ("complete", None),
    ("infeasible", "validation/error is not finite, for the first time at step 2"),
    ("failed", "it logged nothing"),
    ("failed", "out of disk"),
    ("pruned", None),
    ("infeasible", None),
  ]
  assert [trial.trial for trial in results.ranked] == [0]
  assert results.trials[0].seconds == 2.5
  assert not results.space


def test_a_trial_that_was_never_better_than_at_initialization_is_infeasible_as_ours_are(imported):
  results = imported(curves=CURVES + "t1,0,validation/error,0.3\n")
  assert [trial.state for trial in results.trials] == ["complete", "infeasible"]


def test_declared_scales_are_taken_and_others_inferred(imported):
  trials = "trial,rate,layers,optimizer,warmup,decay,width,fused,seed\n" + "".join(
    f"{n},{10.0**-n},{n + 1},{'adam' if n % 2 else 'sgd'},{0.1 * n},{1 - 0.4 * 10.0**-n},{4**n},{n > 1},{n}\n"
    for n in range(4)
  )
  curves = "trial,step,metric,value\n" + "".join(f"{n},1,validation/error,0.{n + 1}\n" for n in range(4))
  declared = {
    "name": "rates",
    "goal": "Which rate?",
    "objective": {"metric": "validation/error", "mode": "min", "value": "last"},
    "hyperparameters": {
      "rate": {"role": "nuisance", "scale": "log", "min": 1e-4, "max": 10},
      "optimizer": {"role": "scientific", "values": ["sgd", "adam", "lamb"]},
      "layers": {"role": "scientific", "values": [1, 2, 3, 4, 8]},
      "warmup": {"parent": {"name": "optimizer", "value": "adam"}, "min": 0, "max": 0.5},
    },
  }
  results = imported(trials, curves, declared)
  found = {name: (one.scale, one.role, one.inferred) for name, one in results.space.items()}
  assert found == {
    "rate": (Log(1e-4, 10), "nuisance", False),
    "layers": (Discrete((1, 2, 3, 4, 8)), "scientific", False),
    "optimizer": (OneOf(["sgd", "adam", "lamb"]), "scientific", False),
    "warmup": (Linear(0, 0.5), "nuisance", False),
    "decay": (ReverseLog(0.6, 1 - 0.4e-3), "nuisance", True),
    "width": (Integer(1, 64, log=True), "nuisance", True),
    "fused": (OneOf([False, True]), "nuisance", True),
    "seed": (Integer(0, 3), "nuisance", True),
  }
  assert results.space["warmup"].parent == ("optimizer", "adam")
  assert (results.study.name, results.study.goal) == ("rates", "Which rate?")
  assert results.objective.value == "last"
  assert results.trials[2].values["fused"] is True
  assert results.trials[2].values["width"] == 16


def test_retrains_that_differ_in_their_seed_are_one_point(imported):
  results = imported(
    "trial,rng_seed,rate\n0,0,0.1\n1,1,0.1\n2,0,0.2\n",
    "trial,step,metric,value\n" + "".join(f"{n},1,validation/error,0.{n + 1}\n" for n in range(3)),
  )
  assert [[trial.trial for trial in point] for point in results.points] == [[0, 1], [2]]


def test_what_pandas_makes_of_a_column_with_gaps_is_read(imported):
  results = imported(
    "trial,units\n0.0,16.0\n1.0,\n", "trial,step,metric,value\n0,10.0,validation/error,0.5\n1.0,10,validation/error,1\n"
  )
  assert [trial.values for trial in results.trials] == [{"units": 16.0}, {}]
  assert [trial.objective for trial in results.trials] == [0.5, 1.0]


def test_a_study_without_trials_is_imported_if_its_objective_is_told(imported, tables, tmp_path):
  results = imported("trial,rate\n", "trial,step,metric,value\n", {"objective": {"metric": "loss", "mode": "min"}})
  assert results.trials == ()
  assert results.best is None
  (tmp_path / "tables/study.json").unlink()
  with pytest.raises(UserError, match="objective: say which metric"):
    import_study("csv", tmp_path / "tables", tmp_path / "other")


def test_parquet_tables_are_the_same_study(imported, tables, tmp_path):
  first = imported()
  folder = tmp_path / "columns"
  folder.mkdir()
  for name in ("trials", "curves"):
    with (tmp_path / f"tables/{name}.csv").open(newline="") as file:
      header, *rows = csv.reader(file)
    columns: dict[str, list] = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    for number in ("learning_rate", "value"):
      if number in columns:
        columns[number] = list(map(float, columns[number]))
    if "step" in columns:
      columns["step"] = list(map(int, columns["step"]))
    parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
  second = read_results(import_study("csv", folder, tmp_path / "second")[0])
  assert second.csv() == first.csv()
  assert second.curve_rows() == first.curve_rows()
  assert second.space == first.space


MISTAKES = {
  "a column is missing": (
    {"trials": "trail,rate\n0,1\n"},
    ["trials.csv, line 1: column 'trial' is missing; did you mean 'trail'?"],
  ),
  "columns of curves are missing": (
    {"curves": "trial,epoch,metric\n"},
    ["curves.csv, line 1: column 'step' is missing", "curves.csv, line 1: column 'value' is missing"],
  ),
  "a column is there twice": ({"trials": "trial,rate,rate\nt0,1,2\nt1,1,2\n"}, ["column 'rate' is there twice"]),
  "there are neither curves nor results": (
    {"curves": None},
    ["trials.csv: no column is known to hold results, and there is no curves.csv; name the column to rank by"],
  ),
  "the table of trials is missing": (
    {"trials": None},
    ["has no trials.csv (or trials.parquet), a table with a row for each trial; it has curves.csv"],
  ),
  "a trial twice, one without a name": (
    {"trials": TRIALS + "t0,complete,1.0,adam\n,complete,1.0,adam\n"},
    [
      "trials.csv, line 4, column trial: 't0' stands in line 2 already",
      "trials.csv, line 5, column trial: is empty",
    ],
  ),
  "an unknown state": (
    {"trials": TRIALS.replace("complete,0.1", "compelte,0.1")},
    ["line 3, column state: 'compelte'"],
  ),
  "an unknown trial": (
    {"curves": CURVES + "t8,10,validation/error,0.5\n"},
    ["curves.csv, line 5, column trial: 't8' is no trial of the other table; did you mean 't"],
  ),
  "wrong types of cells": (
    {"curves": CURVES + "t0,ten,validation/error,0.5\nt0,-1,validation/error,0.5\nt0,30,validation/error,low\n"},
    [
      "curves.csv, line 5, column step: 'ten' should be a whole number from 0 on",
      "curves.csv, line 6, column step: '-1' should be a whole number from 0 on",
      "curves.csv, line 7, column value: 'low' should be a number, nan, inf, or empty",
    ],
  ),
  "a word among numbers": (
    {"trials": "trial,rate\nt0,0.1\nt1,O.2\nt2,0.3\n"},
    ["trials.csv, line 3, column rate: 'O.2' should be a finite number"],
  ),
  "a row with too many cells": (
    {"trials": TRIALS + "t2,complete,1,2,3\n"},
    ["trials.csv, line 4: should have 4 cells, as the header has; it has 5"],
  ),
  "bounds the wrong way round": (
    {"study": {"hyperparameters": {"learning_rate": {"scale": "log", "min": 1.0, "max": 0.1}}}},
    ["study.json, hyperparameters.learning_rate: min = 1.0 should be smaller than max = 0.1"],
  ),
  "all that is wrong with a declaration": (
    {
      "study": {
        "gaol": "",
        "objective": {"metric": "validation/error", "mode": "minimum"},
        "hyperparameters": {
          "learning_rate": {"role": "nuisanse", "scale": "logarithmic"},
          "optimiser": {"values": ["adam"]},
          "optimizer": {"values": ["adam", "lamb"]},
        },
      }
    },
    [
      "unknown key 'gaol'; did you mean 'goal'?",
      "objective.mode: 'minimum' should be one of min, max",
      "hyperparameters.learning_rate.role: 'nuisanse'; did you mean 'nuisance'?",
      "hyperparameters.learning_rate.scale: 'logarithmic'; available: categorical",
      "hyperparameters.optimiser: is no column of the trials; did you mean 'optimizer'?",
      "hyperparameters.optimizer: the trials have 'sgd', outside of adam, lamb",
    ],
  ),
  "values outside of bounds": (
    {"study": {"hyperparameters": {"learning_rate": {"scale": "log", "min": 0.01, "max": 1.0}}}},
    ["hyperparameters.learning_rate: the trials have 0.001, outside of 0.01 to 1.0"],
  ),
  "values outside of bounds without a scale": (
    {"study": {"hyperparameters": {"learning_rate": {"min": 0.01, "max": 1.0}}}},
    ["hyperparameters.learning_rate: the trials have 0.001, outside of 0.01 to 1.0"],
  ),
  "a log scale of zero": (
    {"study": {"hyperparameters": {"learning_rate": {"scale": "log", "min": 0, "max": 1.0}}}},
    ["a log scale needs min > 0"],
  ),
  "no JSON": ({"study": "{"}, ["study.json cannot be read"]),
  "an objective that nobody logged": (
    {"study": {"objective": {"metric": "validation/eror", "mode": "min"}}},
    ["objective: 'validation/eror' was logged by no trial; did you mean 'validation/error'?"],
  ),
  "only the state before training": (
    {"curves": "trial,step,metric,value\nt0,0,validation/error,0.5\n"},
    ["objective: 'validation/error' was logged at step 0 only"],
  ),
  "no objective": (
    {"curves": CURVES.replace("validation/error", "score")},
    ["objective: say which metric trials are ranked by, --objective=METRIC --mode=min or --mode=max; logged: score"],
  ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_told_with_its_place_and_nothing_is_written(mistake, tables, tmp_path):
  files, expected = MISTAKES[mistake]
  with pytest.raises(UserError) as caught:
    import_study("csv", tables(**files), tmp_path / "out")
  assert len(caught.value.problems) == len(expected), caught.value.problems
  for text, problem in zip(expected, caught.value.problems, strict=True):
    assert text in problem
  assert {path.name for path in tmp_path.iterdir()} == {"tables"}


def test_of_many_problems_of_one_kind_some_are_told_and_the_others_counted(tables, tmp_path):
  rows = "".join(f"t0,x{number},validation/error,1\n" for number in range(50))
  with pytest.raises(UserError) as caught:
    import_study("csv", tables(curves=CURVES + rows), tmp_path / "out")
  assert len(caught.value.problems) == 21
  assert "and 30 problems more" in caught.value.problems[-1]

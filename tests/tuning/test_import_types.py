"""Types of columns that an import infers, each with a note; cells as spreadsheets and people write them."""

import csv
import json
import pathlib

import pyarrow
import pytest
from pyarrow import parquet

from trialbook.errors import UserError
from trialbook.tuning import Discrete, Integer, Linear, Log, OneOf, StudyResults, read_results
from trialbook.tuning.importers import inferred
from trialbook.tuning.importers.cells import numbers
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.importers.times_of_runs import moment, seconds

CASES = pathlib.Path(__file__).parent / "cases"


@pytest.fixture
def imported(tmp_path):
  """The results of an import: of a case; or of a column `x` of cells, beside a val_loss."""

  def imported(source: str | list, declared=None, separator=",") -> StudyResults:
    folder = CASES / str(source)
    if isinstance(source, list):
      folder = tmp_path / "tables"
      folder.mkdir(exist_ok=True)
      with (folder / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["trial", "x", "val_loss"])
        writer.writerows([n, cell, n] for n, cell in enumerate(source))
      stored = {} if declared is None else {"hyperparameters": {"x": declared}}
      (folder / "study.json").write_text(json.dumps(stored))
    return read_results(import_study("csv", folder, tmp_path / "out")[0])

  return imported


def notes(results: StudyResults) -> str:
  return "\n".join(results.study.warnings)


def test_whole_numbers_that_pandas_wrote_as_floats_are_integers(imported):
  results = imported("pdf")
  assert results.space["batch_size"].scale == Integer(16, 256, log=True)
  assert results.space["num_layers"].scale == Integer(1, 8)
  assert {type(trial.values["num_layers"]) for trial in results.trials} == {int}
  assert "batch_size: whole numbers that are written as floats (128.0) are read as integers." in notes(results)


@pytest.mark.parametrize(
  ("name", "cells", "declared", "kind"),
  [
    ("x", ["1.0", "2.0", "4.0"], None, int),
    ("x", ["1.0", "2.5", "4.0"], None, float),
    ("x", ["1e1", "1e2", "1e3"], None, float),
    ("x", ["1.0", "2.0", "4.0"], {"scale": "log", "min": 1, "max": 10}, float),
    ("x", ["1.0", "2.0", "4.0"], {"min": 0.5, "max": 10}, float),
    ("x", ["1.0", "2.0", "4.0"], {"scale": "integer", "min": 1, "max": 10}, int),
  ],
)
def test_floats_stay_floats_where_they_may_be(imported, name, cells, declared, kind):
  results = imported(cells, declared)
  assert {type(trial.values[name]) for trial in results.trials} == {kind}


def test_a_learning_rate_is_no_count(tmp_path):
  (tmp_path / "trials.csv").write_text("lr,momentum,val_loss\n1.0,0.0,1\n10.0,1.0,2\n")
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert results.space["lr"].scale == Linear(1.0, 10.0)
  assert results.space["momentum"].scale == Linear(0.0, 1.0)


def test_zeros_among_a_log_scale_switch_it_off(imported):
  results = imported("wd0")
  present, inside = results.space["weight_decay.present"], results.space["weight_decay"]
  assert (present.scale, present.sets) == (OneOf([False, True]), "presence")
  assert inside.parent == ("weight_decay.present", True)
  assert isinstance(inside.scale, Log)
  off = [trial for trial in results.trials if trial.values["weight_decay.present"] is False]
  assert len(off) == 15
  assert all("weight_decay" not in trial.values for trial in off)
  assert "weight_decay is 0 in 15 of 60 trials, and on a log scale in the others." in notes(results)


@pytest.mark.parametrize(
  ("cells", "scale"),
  [
    ([0, 0.1, 0.2, 0.3, 0.5, 0], Linear(0, 0.5)),
    ([0, 100], Integer(0, 100)),
    ([0, 1, 2, 3, 4], Integer(0, 4)),
    ([0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], Linear(0, 0.6)),
  ],
)
def test_zeros_on_a_linear_scale_are_numbers(imported, cells, scale):
  assert imported(cells).space["x"].scale == scale


@pytest.mark.parametrize(
  ("cells", "scale"),
  [
    ([0, 100, 1000, 10000], Integer(100, 10000, log=True)),
    ([0.0, 1e-4, 1e-3, 1e-2], Log(1e-4, 1e-2)),
    ([0, "1e-6", "1e-5", "1e-2", 0], Log(1e-6, 1e-2)),
  ],
)
def test_zeros_beside_powers_of_ten_switch_off(imported, cells, scale):
  results = imported(cells)
  assert results.space["x"].scale == scale
  assert results.trials[0].values == {"x.present": False}


def test_what_is_declared_of_zeros_wins(imported):
  cells = [0, 1e-4, 1e-3, 1e-2]
  assert imported(cells, {"scale": "linear", "min": 0, "max": 0.01}).space["x"].scale == Linear(0, 0.01)
  results = imported(cells, {"scale": "log", "min": 1e-5, "max": 0.1, "role": "scientific"})
  assert results.space["x"].scale == Log(1e-5, 0.1)
  assert (results.space["x.present"].role, results.space["x"].role) == ("scientific", "nuisance")
  assert not results.space["x"].inferred
  with pytest.raises(UserError, match=r"the trials have 0(\.0)?, outside of 0\.1 to 0\.9"):
    imported([0, 0.2, 0.5], {"scale": "linear", "min": 0.1, "max": 0.9})


def test_a_declared_bound_of_zero_is_off_where_trials_have_zeros_among_a_log_scale(imported):
  results = imported([0, 1e-4, 1e-3, 1e-2], {"min": 0, "max": 0.1})
  assert results.space["x"].scale == Log(1e-4, 0.1)
  assert results.trials[0].values == {"x.present": False}
  assert imported([1e-4, 1e-3, 1e-2], {"min": 0, "max": 0.1}).space["x"].scale == Linear(0, 0.1)


@pytest.mark.parametrize("declared", [{"min": 16.0, "max": 64.0}, {"min": 16.0, "max": 64.0, "scale": "integer"}])
def test_bounds_of_whole_numbers_may_be_written_as_floats(imported, declared):
  assert imported(["16.0", "32.0"], declared).space["x"].scale == Integer(16, 64)


@pytest.mark.parametrize(("case", "count"), [("clipnone", 36), ("clipnone2", 15)])
def test_texts_for_nothing_among_numbers_are_absence(imported, case, count):
  results = imported(case)
  assert results.space["clip"].scale == Log(
    *(
      edge(t.values["clip"] for t in results.trials if "clip" in t.values)  # The smallest and the largest.
      for edge in (min, max)
    )
  )
  assert sum(trial.values["clip.present"] is False for trial in results.trials) == count
  assert f"clip is None or empty in {count} of 60 trials, and numbers in the others." in notes(results)


@pytest.mark.parametrize("nothing", ["None", "none", "null", "NULL", "nan", "NaN", "N/A", "<NA>", ""])
def test_all_ways_to_write_nothing_are_one(imported, nothing):
  results = imported([0.1, nothing, 0.5, nothing, 1.5, nothing])
  assert [trial.values["x.present"] for trial in results.trials] == [True, False] * 3
  assert results.space["x"].scale == Log(0.1, 1.5)
  chosen = imported([0.1, nothing or "-", 0.5], {"values": [0.1, nothing or "-", 0.5]})
  assert chosen.space["x"].scale == OneOf([0.1, nothing or "-", 0.5])


def test_nothing_among_words_is_a_word_and_among_truths_a_third_value(imported):
  assert imported(["cosine", "None", "linear"]).space["x"].scale == OneOf(["cosine", "None", "linear"])
  assert imported(["True", "None", "False"]).space["x"].scale == OneOf([True, None, False])


def test_what_another_hyperparameter_explains_is_not_switched_off(tmp_path):
  rows = "".join(f"{n},{'sgd' if n % 2 else 'adam'},{0.1 * n if n % 2 else ''},{n}\n" for n in range(12))
  (tmp_path / "trials.csv").write_text(f"trial,optimizer,momentum,val_loss\n{rows}")
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert list(results.space) == ["optimizer", "momentum"]


def test_a_presence_that_a_table_has_already_is_the_parent(tmp_path):
  rows = "".join(f"{n},{n % 2 == 0},{0.1 * n + 0.1 if n % 2 == 0 else ''},{n}\n" for n in range(8))
  (tmp_path / "trials.csv").write_text(f"trial,clip.present,clip,val_loss\n{rows}")
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert results.space["clip"].parent == ("clip.present", True)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_decimal_commas_are_numbers_and_said(imported, separator):
  results = imported(["0,1", "0,25", "1e-2", "3"], separator=separator)
  assert [trial.values["x"] for trial in results.trials] == [0.1, 0.25, 0.01, 3]
  assert "x: 2 numbers have decimal commas ('0,1' is 0.1)." in notes(results)


def test_decimal_commas_of_the_case_are_numbers(imported):
  results = imported("c_comma")
  assert results.space["lr"].scale == Linear(0.1, 0.6)
  assert "lr: 6 numbers have decimal commas ('0,1' is 0.1)." in notes(results)


def test_a_spreadsheet_with_semicolons_is_read_in_both_tables(tmp_path):
  (tmp_path / "trials.csv").write_text("sep=;\ntrial;lr;units\n0;0,001;1,024\n1;0,1;2,5\n")
  (tmp_path / "curves.csv").write_text(
    "trial;step;metric;value\n0;1000;val_loss;0,51\n0;2000;val_loss;5,1e-1\n1;1000;val_loss;1\n1;2000;val_loss;\n"
  )
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  assert [trial.values for trial in results.trials] == [{"lr": 0.001, "units": 1.024}, {"lr": 0.1, "units": 2.5}]
  assert results.trials[0].curves["validation/loss"] == [(1000, 0.51), (2000, 0.51)]
  assert results.trials[1].state == "infeasible"
  assert "curves.csv: 2 numbers have decimal commas ('0,51' is 0.51)." in notes(results)


@pytest.mark.parametrize(
  ("cells", "told"),
  [
    (["1,024", "2,048", "512"], "line 2, column x: '1,024' may be a decimal comma or a thousands separator"),
    (["0,1", "0.2", "0.3"], "line 2, column x: '0,1' has a decimal comma, and other cells have a decimal point"),
    (["0.1", "O.2", "0.3"], "line 3, column x: 'O.2' should be a finite number"),
  ],
)
def test_doubtful_numbers_are_refused_with_their_place(imported, cells, told):
  with pytest.raises(UserError) as caught:
    imported(cells)
  assert len(caught.value.problems) == 1
  assert told in caught.value.problems[0]


def test_one_rule_for_underscores_holds_in_trials_and_curves(imported, tmp_path):
  results = imported("c_under")
  assert results.trials[0].values["lr"] == 1000
  assert "lr: 1 number has underscores ('1_000' is 1000)." in notes(results)
  (tmp_path / "trials.csv").write_text("trial,lr\n0,1\n1,2\n")
  (tmp_path / "curves.csv").write_text(
    "trial,step,metric,value\n0,500,val_loss,2_000.5\n0,1_000,val_loss,3\n1,500,val_loss,4\n"
  )
  curves = read_results(import_study("csv", tmp_path, tmp_path / "curves")[0])
  assert curves.trials[0].curves["validation/loss"] == [(500, 2000.5), (1000, 3.0)]
  assert "curves.csv: 1 number has underscores ('1_000' is 1000)." in notes(curves)
  for column in ("1_0,val_loss,2", "10,val_loss,1_0"):
    (tmp_path / "curves.csv").write_text(f"trial,step,metric,value\n0,5,val_loss,1\n0,{column}\n")
    with pytest.raises(UserError, match="line 3, column"):
      import_study("csv", tmp_path, tmp_path / "other")


def test_codes_with_underscores_are_words(imported):
  assert imported(["128_128", "256_256", "512_128"]).space["x"].scale == OneOf(["128_128", "256_256", "512_128"])


def test_mixed_truths_are_true_and_false(imported):
  results = imported(["True", "true", "1", "yes", "no", "0", "False"])
  assert [trial.values["x"] for trial in results.trials] == [True] * 4 + [False] * 3
  assert "x: True, true, 1, yes, no, 0 and False are read as true or false." in notes(results)
  assert imported([0, 1, 1]).space["x"].scale == Integer(0, 1)


def test_percentages_are_numbers(imported):
  results = imported(["10%", "20%", "7.5%"])
  assert results.space["x"].scale == Linear(7.5, 20)
  assert "x: 3 numbers have a percent sign ('10%' is 10)." in notes(results)


def test_equal_rows_are_merged_and_different_values_said(imported, tmp_path):
  results = imported("c_dup")
  assert (
    "curves.csv: 2 values were given twice, and differently; the later row counts"
    " (trial 0, val_loss, step 100: 0.51, then 99 in line 20;"
    " trial 0, val_loss, step 300: 0.503333, then 0.0001 in line 21)."
  ) in notes(results)
  (tmp_path / "trials.csv").write_text("trial,lr\n0,0.1\n0,0.1\n1,0.2\n")
  (tmp_path / "curves.csv").write_text(
    "trial,step,metric,value\n0,1,val_loss,1\n0,1,val_loss,1.0\n1,1,val_loss,nan\n1,1,val_loss,\n1,2,val_loss,5\n"
  )
  merged = read_results(import_study("csv", tmp_path, tmp_path / "merged")[0])
  assert len(merged.trials) == 2
  assert "trials.csv: 1 row repeats another one and was merged (line 3)." in notes(merged)
  assert "curves.csv: 2 rows repeat earlier ones and were merged (line 3, line 5)." in notes(merged)
  (tmp_path / "trials.csv").write_text("trial,lr\n0,0.1\n0,0.3\n1,0.2\n")
  with pytest.raises(UserError, match=r"line 3, column trial: '0' stands in line 2 already, with other cells"):
    import_study("csv", tmp_path, tmp_path / "other")


def test_equal_rows_without_names_are_kept_and_said(tmp_path):
  (tmp_path / "runs.csv").write_text("lr,val_loss\n0.1,1\n0.1,1\n0.2,2\n")
  results = read_results(import_study("csv", tmp_path / "runs.csv", tmp_path / "out")[0])
  assert len(results.trials) == 3
  assert "runs.csv: rows that are equal were kept as trials of their own (line 2, line 3)." in notes(results)


def test_a_parquet_table_has_the_same_types(tmp_path):
  columns = {
    "trial": [0, 1, 2, 3, 4, 5],
    "units": [16.0, None, 32.0, None, 64.0, 16.0],
    "decay": [0.0, 1e-4, 1e-3, 1e-2, 0.0, 1e-5],
    "fused": [True, False, True, False, True, False],
    "Runtime": [1.5] * 6,
    "note": ["a"] * 6,
    "val_loss": [0.5, 0.25, float("nan"), 0.125, 1.0, 2.0],
  }
  parquet.write_table(pyarrow.table(columns), tmp_path / "runs.parquet")
  results = read_results(import_study("csv", tmp_path / "runs.parquet", tmp_path / "out")[0])
  assert {name: one.scale for name, one in results.space.items()} == {
    "units.present": OneOf([True, False]),
    "units": Integer(16, 64),
    "decay.present": OneOf([False, True]),
    "decay": Log(1e-5, 1e-2),
    "fused": OneOf([True, False]),
  }
  assert [trial.state for trial in results.trials][1:4] == ["complete", "infeasible", "complete"]
  assert results.trials[0].seconds == 1.5
  assert "units: whole numbers that are written as floats (16.0) are read as integers." in notes(results)


def test_log_and_linear_are_told_apart_by_how_values_lie():
  uniform = [0.6 * (n + 0.5) / 40 for n in range(40)]
  near_the_top = [0.9**n for n in range(40)]
  cases = {
    ("dropout", tuple(uniform)): Linear(uniform[0], uniform[-1]),
    ("layers", tuple(range(1, 13))): Integer(1, 12),
    ("width", (16, 32, 64, 128, 256, 512)): Integer(16, 512, log=True),
    ("x", tuple(near_the_top)): Log(near_the_top[-1], 1.0),
    ("optimizer.lr", (1e-3, 0.5, 0.6, 0.7, 0.8, 0.9)): Log(1e-3, 0.9),
    ("x", (1e-3, 0.5, 0.6, 0.7, 0.8, 0.9)): Linear(1e-3, 0.9),
    ("lr", tuple(n / 10 for n in range(1, 14))): Linear(0.1, 1.3),
    ("keep", tuple(1 - value / 1.2 for value in reversed(uniform))): Linear(
      1 - uniform[-1] / 1.2, 1 - uniform[0] / 1.2
    ),
    ("training.seed", (3, 3)): Discrete((3,)),
  }
  for (name, values), scale in cases.items():
    one = inferred.hyperparameter(name, values)
    assert one is not None
    assert one.scale == scale, name
  assert inferred.path_of("training.seed") == "seed"


def test_numbers_of_a_column_are_read_by_one_rule():
  assert numbers({1: "1,000,000", 2: "2,000.5"}).values == {1: 1e6, 2: 2000.5}
  assert numbers({1: "1.000,5", 2: "2,5"}).values == {1: 1000.5, 2: 2.5}
  assert numbers({1: "1,000", 2: "2,500"}, decimal_comma=True).values == {1: 1.0, 2: 2.5}
  assert numbers({1: "0,125", 2: "0,250"}).values == {1: 0.125, 2: 0.25}
  assert numbers({1: "1,000", 2: "0.5"}).values == {1: 1000.0, 2: 0.5}
  assert numbers({1: "1_000", 2: "2_000"}).values == {1: 1000.0, 2: 2000.0}
  assert numbers({1: "1_000", 2: "12_34"}).wrong == {1: "", 2: ""}
  assert numbers({1: True, 2: "a"}).wrong == {1: "", 2: ""}
  assert numbers({1: "7", 2: "9007199254740993"}).is_whole


def test_times_of_runs_are_read_as_programs_write_them():
  durations = {
    "62": 62.0,
    "0 days 00:01:02.5": 62.5,
    "1 day, 1:00:00": 90000.0,
    "1:02:03": 3723.0,
    "3.5min": 210.0,
    "1h 2m 3s": 3723.0,
    "250ms": 0.25,
    "soon": None,
    "-1": None,
    "": None,
  }
  assert {text: seconds(text) for text in durations} == durations
  moments = {
    "2024-05-01T12:00:00.000Z": 1714564800.0,
    "2024-05-01 12:00:00+00:00": 1714564800.0,
    "2024-05-01_12-00-00": 1714564800.0,
    "1714564800": 1714564800.0,
    "1714564800000": 1714564800.0,
    "12": None,
    "yesterday": None,
  }
  assert {text: moment(text) for text in moments} == moments

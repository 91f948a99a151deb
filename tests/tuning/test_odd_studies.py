"""Files that no program of ours writes: told with the place, and nothing else is lost."""

import json

import optuna
import pytest
from csv_studies import rates

from trialbook.errors import UserError
from trialbook.tuning import read_results, report, tracking
from trialbook.tuning.curves import read_log
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.reporting.report import text_of


@pytest.mark.parametrize(
  "line",
  [
    '{"step": 1, "validation/num_examples": null}',
    '{"step": 1, "validation/num_examples": "NaN"}',
    '{"step": 1, "validation/class_examples": "abc"}',
    '{"step": 1, "validation/class_examples": [1, null]}',
    '{"step": true, "a": 1}',
    '{"a": 1}',
    "[1]",
  ],
)
def test_a_line_of_a_log_that_cannot_be_read_is_told_with_file_and_line(tmp_path, line):
  (tmp_path / "metrics.jsonl").write_text(f'{{"step": 0, "a": 1}}\n{line}\n')
  with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
    read_log(tmp_path)


@pytest.mark.parametrize("steps", [(5, 2, 7), (2, 2, 5)])
def test_lines_that_are_not_in_the_order_of_steps_are_told(tmp_path, steps):
  (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "a": {step}}}\n' for step in steps))
  with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 .* moved"):
    read_log(tmp_path)


def test_json_that_is_too_deep_is_told_and_its_neighbours_are_listed(tmp_path):
  rates(tmp_path / "runs/good")
  (tmp_path / "runs/deep").mkdir()
  (tmp_path / "runs/deep/study.json").write_text("[" * 100_000)
  with pytest.raises(UserError, match=r"deep/study\.json cannot be read"):
    read_results(tmp_path / "runs/deep")
  assert len(tracking.read(tmp_path / "runs").rows) == 1


@pytest.mark.parametrize(
  ("study", "told"),
  [
    ({"hyperparameters": {"rate": {"path": 5}}}, "path: 5 should be a string"),
    ({"name": "\ud800"}, "half of one"),
  ],
)
def test_a_declaration_that_would_fail_later_is_refused_at_once(tmp_path, study, told):
  source = tmp_path / "tables"
  source.mkdir()
  (source / "trials.csv").write_text("trial,rate\na,0.1\nb,0.2\n")
  (source / "curves.csv").write_text("trial,step,metric,value\na,1,validation/error,0.5\nb,1,validation/error,0.4\n")
  (source / "study.json").write_text(json.dumps(study))
  with pytest.raises(UserError, match=told):
    import_study("csv", source, tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", ["1_0", "9007199254740993", "-1", "1.5"])
def test_a_step_that_is_none_is_told(tmp_path, step):
  (tmp_path / "trials.csv").write_text("trial,rate\na,0.1\nb,0.2\n")
  (tmp_path / "curves.csv").write_text(f"trial,step,metric,value\na,{step},validation/error,0.5\n")
  with pytest.raises(UserError, match="line 2, column step"):
    import_study("csv", tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_the_smallest_number_there_is_can_be_drawn(tmp_path):
  (tmp_path / "trials.csv").write_text(
    "trial,rate\n" + "".join(f"{n},{r}\n" for n, r in enumerate(("5e-324", 0.1, 1e308)))
  )
  (tmp_path / "curves.csv").write_text(
    "trial,step,metric,value\n" + "".join(f"{n},1,validation/error,{0.1 + n / 10}\n" for n in range(3))
  )
  (folder,) = import_study("csv", tmp_path, tmp_path / "out")
  assert text_of(read_results(folder), "html")
  assert report(folder, format="svg").is_dir()


@pytest.mark.slow
def test_studies_of_a_storage_whose_names_make_one_folder_have_folders_of_their_own(tmp_path):
  storage = f"sqlite:///{tmp_path / 'studies.db'}"
  for worth, name in enumerate(("a/b", "a_b", "A_B", "..", "study", "x" * 300), start=1):
    study = optuna.create_study(storage=storage, study_name=name)
    study.add_trial(optuna.trial.create_trial(value=float(worth)))
  folders = import_study("optuna", tmp_path / "studies.db", tmp_path / "out")
  assert len({str(folder).lower() for folder in folders}) == 6
  best = [read_results(folder).best for folder in folders]
  assert {trial.objective for trial in best if trial is not None} == {1, 2, 3, 4, 5, 6}


def test_trials_that_failed_are_told_with_their_reasons_and_what_is_to_be_done(tmp_path):
  rows = "a,failed,out of paper,0.1\nb,failed,out of paper,0.2\nc,complete,,0.3\n"
  (tmp_path / "trials.csv").write_text(f"trial,state,reason,rate\n{rows}")
  (tmp_path / "curves.csv").write_text("trial,step,metric,value\nc,1,validation/error,0.5\n")
  (folder,) = import_study("csv", tmp_path, tmp_path / "out")
  told = json.loads(text_of(read_results(folder), "json"))
  failed = next(one for one in told["findings"] if one["title"] == "2 of 3 trials failed")
  assert (failed["id"], failed["severity"], failed["trials"]) == ("PB-21", "warning", [0, 1])
  assert "out of paper (2)" in failed["why"]
  assert failed["action"].startswith("Read the log of trial 0")
  assert told["states"] == {"complete": 1, "failed": 2}


def test_a_folder_of_tables_is_told_how_it_becomes_a_study(tmp_path):
  for name in ("trials.csv", "curves.csv"):
    (tmp_path / name).touch()
  with pytest.raises(UserError, match="first make a study of them, trialbook tune import csv"):
    read_results(tmp_path)


@pytest.mark.slow
def test_what_makes_a_study_doubtful_is_said_in_every_format(tmp_path):
  folder = rates(tmp_path / "out")
  stored = json.loads((folder / "study.json").read_text())
  stored["search"] = {"name": "bayesian_optimization"}
  (folder / "study.json").write_text(json.dumps(stored))
  results = read_results(folder)
  for text in (text_of(results, "html"), text_of(results, "md"), text_of(results, "json")):
    assert "treat points as independent" in " ".join(text.split())


@pytest.mark.slow
def test_hyperparameters_may_have_the_names_of_javascripts_own(tmp_path):
  (tmp_path / "trials.csv").write_text(
    "trial,constructor,__proto__\n" + "".join(f"{n},{n + 1},{2 * n}\n" for n in range(9))
  )
  (tmp_path / "curves.csv").write_text(
    "trial,step,metric,value\n" + "".join(f"{n},1,validation/error,{0.1 + n / 10}\n" for n in range(9))
  )
  (folder,) = import_study("csv", tmp_path, tmp_path / "out")
  assert len(list(report(folder, format="svg").glob("axis_*.svg"))) == 2

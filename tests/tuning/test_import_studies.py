import json

import pytest
from commands import changes, outcome

from trialbook.errors import UserError
from trialbook.tuning import read_results, records
from trialbook.tuning.importers import inferred, metric_names
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.importers.metric_names import parse_renames
from trialbook.tuning.space.scales import Discrete, Integer, Linear, Log, OneOf, ReverseLog


@pytest.fixture
def source(tmp_path):
  """The tables of a small study."""
  folder = tmp_path / "tables"
  folder.mkdir()
  (folder / "trials.csv").write_text("trial,rate\na,0.1\nb,0.2\n")
  (folder / "curves.csv").write_text(
    "trial,step,metric,value\na,1,top1,0.5\nb,1,top1,0.75\na,1,val_loss,2\nb,1,val_loss,3\na,1,lr,0.1\n"
  )
  return folder


def test_well_known_names_become_ours():
  names = {
    "val_loss": "validation/loss",
    "valid.acc": "validation/accuracy",
    "eval/accuracy": "validation/accuracy",
    "Validation_Error": "validation/Error",
    "train_loss": "train/loss",
    "training/ppl": "train/perplexity",
    "train_subset/loss": "train_subset/loss",
    "test_error_rate": "test/error",
    "loss": "train/loss",
    "lr": "learning_rate",
    "gradient_norm": "grad_norm",
    "value_loss": "value_loss",
    "trainer_restarts": "trainer_restarts",
    "accuracy": "accuracy",
    "validation/num_examples": "validation/num_examples",
  }
  assert {name: metric_names.ours(name) for name in names} == names


def test_no_two_metrics_become_one():
  assert metric_names.mapping(["val_loss", "validation/loss", "valid_loss"], {}, {}) == {
    "val_loss": "val_loss",
    "validation/loss": "validation/loss",
    "valid_loss": "valid_loss",
  }
  assert metric_names.mapping(["val_loss", "top1"], {}, {"top1": "validation/loss"}) == {
    "val_loss": "val_loss",
    "top1": "validation/loss",
  }
  for given in ({"a": "x", "b": "x"}, {"a": "c"}):
    with pytest.raises(UserError, match="rename: 'a' cannot be"):
      metric_names.mapping(["a", "b", "c"], {}, given)


def test_renamed_metrics_are_recorded_and_the_objective_has_either_name(source, tmp_path):
  renames = parse_renames(["top1=validation/accuracy"])
  for asked in ("top1", "validation/accuracy"):
    (folder,) = import_study("csv", source, tmp_path / "out", rename=renames, objective=asked)
    results = read_results(folder)
    assert (results.objective.metric, results.objective.mode) == ("validation/accuracy", "max")
    assert [trial.trial for trial in results.ranked] == [1, 0]
    assert results.metrics == ["learning_rate", "validation/accuracy", "validation/loss"]
    assert results.study.search["renamed"] == {
      "top1": "validation/accuracy",
      "val_loss": "validation/loss",
      "lr": "learning_rate",
    }
    assert results.study.command == (
      f"trialbook tune import csv {source} {folder} --rename=top1=validation/accuracy --objective={asked}"
    )


def test_wrong_options_are_told(source, tmp_path):
  problems = {
    "rename: 'topp1' was logged by no trial; did you mean 'top1'?": {"rename": {"topp1": "validation/accuracy"}},
    "objective: say which direction of 'top1' is better": {"objective": "top1"},
    "objective: 'val_los' was logged by no trial": {"objective": "val_los", "mode": "min"},
    "unknown kind of source 'csvs'; did you mean 'csv'?": {"kind": "csvs"},
    "only an Optuna storage has studies": {"study": "tune"},
  }
  for text, options in problems.items():
    with pytest.raises(UserError) as caught:
      import_study(options.pop("kind", "csv"), source, tmp_path / "out", **options)
    assert text in str(caught.value)
  with pytest.raises(UserError, match="--rename=top1: should be METRIC=NAME"):
    parse_renames(["top1", "a=b"])
  assert not (tmp_path / "out").exists()


def test_scales_are_inferred_by_the_documented_rules():
  cases = [
    ([0.5, 0.5], Discrete((0.5,)), "fixed"),
    (["adam"], OneOf(["adam"]), "fixed"),
    (["sgd", "adam", "sgd"], OneOf(["sgd", "adam"]), "nuisance"),
    ([True, False], OneOf([True, False]), "nuisance"),
    ([4, 1, 8], Integer(1, 8), "nuisance"),
    ([16, 512, 64], Integer(16, 512, log=True), "nuisance"),
    ([0, 100], Integer(0, 100), "nuisance"),
    ([1e-3, 0.5], Log(1e-3, 0.5), "nuisance"),
    ([0.9, 0.999], ReverseLog(0.9, 0.999), "nuisance"),
    ([0.9, 0.95], Linear(0.9, 0.95), "nuisance"),
    ([0.0, 0.5], Linear(0.0, 0.5), "nuisance"),
    ([-1.0, 100.0], Linear(-1.0, 100.0), "nuisance"),
    ([1, 2.5], Linear(1, 2.5), "nuisance"),
  ]
  for values, scale, role in cases:
    one = inferred.hyperparameter("x", values)
    assert one is not None
    assert (one.scale, one.role, one.inferred) == (scale, role, True), values
    for value in values:
      assert 0 <= one.scale.unit(value) <= 1
  assert inferred.hyperparameter("notes", [f"try {number}" for number in range(51)]) is None


def test_a_column_of_notes_is_no_hyperparameter(source, tmp_path):
  (source / "trials.csv").write_text(
    "trial,rate,label\n" + "".join(f"{'ab'[n] if n < 2 else n},0.{n + 1},label {n // 2}\n" for n in range(120))
  )
  results = read_results(import_study("csv", source, tmp_path / "out")[0])
  assert list(results.space) == ["rate"]
  assert results.study.warnings == ("Columns left out: label (more than 50 different texts).",)


def test_an_import_is_replaced_only_by_one_of_the_same_source(source, tmp_path):
  (folder,) = import_study("csv", source, tmp_path / "out")
  (folder / "report.html").write_text("mine")
  (source / "trials.csv").write_text("trial,rate\nb,0.2\n")
  (source / "curves.csv").write_text("trial,step,metric,value\nb,1,val_loss,3\n")
  import_study("csv", source, folder)
  assert len(read_results(folder).trials) == 1
  assert (folder / "report.html").read_text() == "mine"
  other = tmp_path / "other"
  source.rename(other)
  before = (folder / "study.json").read_bytes()
  with pytest.raises(UserError, match="holds what was imported from csv: "):
    import_study("csv", other, folder)
  (tmp_path / "full").mkdir()
  (tmp_path / "full/thesis.tex").write_text("")
  with pytest.raises(UserError, match=r"is not empty and holds no study \(thesis.tex"):
    import_study("csv", other, tmp_path / "full")
  with pytest.raises(UserError, match="is a file; name a folder"):
    import_study("csv", other, tmp_path / "full/thesis.tex")
  assert (folder / "study.json").read_bytes() == before
  (tmp_path / "empty").mkdir()
  assert import_study("csv", other, tmp_path / "empty") == [tmp_path / "empty"]


def test_an_import_that_fails_leaves_nothing_behind(source, tmp_path, monkeypatch):
  (folder,) = import_study("csv", source, tmp_path / "out")
  before = sorted(path.name for path in tmp_path.iterdir())

  def fails(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("trialbook.tuning.tracking.write_trials", fails)
  with pytest.raises(UserError, match="No space left"):
    import_study("csv", source, folder)
  assert sorted(path.name for path in tmp_path.iterdir()) == before
  assert read_results(folder).best is not None


def test_a_study_run_here_is_not_replaced_by_an_import(source, curve_study):
  with pytest.raises(UserError, match="holds a study that was run here"):
    import_study("csv", source, curve_study.folder)


def test_an_import_is_not_run_also_where_nothing_came_to_an_end(source, tmp_path, capsys, curves):
  (source / "trials.csv").write_text("trial,state,rate\na,running,0.1\nb,pending,0.2\n")
  code, _, _ = outcome(capsys, "import", "csv", source, tmp_path / "out", "--objective=val_loss")
  assert code == 0
  before = changes(tmp_path / "out")
  for command, told in (
    (["run", f"--study={curves()}", f"--dir={tmp_path / 'out'}"], "holds a study that was imported from csv: "),
    (["rerun", tmp_path / "out", 0], "was imported from csv: "),
    (["trial", tmp_path / "out", 0], "was imported from csv: "),
  ):
    code, _, printed = outcome(capsys, *command)
    assert (code, told in printed) == (2, True), printed
  assert {path: at for path, at in changes(tmp_path / "out").items() if "exit.json" not in path.name} == before
  code, printed, _ = outcome(capsys, "status", tmp_path / "out")
  assert "imported from csv" in printed
  assert "goes on" not in printed


def test_records_without_a_source_are_of_studies_run_here(source, tmp_path):
  (folder,) = import_study("csv", source, tmp_path / "out")
  stored = json.loads((folder / "study.json").read_text())
  imported = records.read_study(folder)
  assert stored.pop("source") == imported.source == f"csv: {source.resolve()}"
  (folder / "study.json").write_text(json.dumps(stored))
  assert records.read_study(folder).source is None
  assert records.differences(imported, records.read_study(folder)) == [f"source: {imported.source!r} there, None here"]


def test_a_hyperparameter_with_the_name_of_a_column_of_ours_gets_another(tmp_path):
  trial = tmp_path / "logs/study_0/ogbg_jax/trial_1"
  trial.mkdir(parents=True)
  (trial / "hparams.json").write_text('{"step": 3, "rate": NaN}')
  (trial / "eval_measurements.csv").write_text(
    "global_step,validation/mean_average_precision,validation/num_examples\n1,0.5,\n2,0.75,10\n"
  )
  results = read_results(import_study("algoperf", tmp_path / "logs", tmp_path / "out")[0])
  assert results.trials[0].values == {"hyperparameter.step": 3, "rate": "nan"}
  assert results.rows()[0]["step"] == 2
  assert results.trials[0].log.examples == {"validation": 10}

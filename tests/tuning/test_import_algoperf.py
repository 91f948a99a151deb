import json
import math
import os
import pathlib
from collections import Counter

import pytest

from trialbook.errors import UserError
from trialbook.tuning import Log, Maximize, read_results
from trialbook.tuning.importers.importing import import_study

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOGS = pathlib.Path(os.environ.get("TRIALBOOK_ALGOPERF_LOGS", ROOT.parent / "shared/algoperf_logs"))

TIMES = ("accumulated_submission_time", "total_duration", "preemption_count")
EVALUATED = ("test/ssim", "train/loss", "train/ssim", "validation/loss", "validation/num_examples", "validation/ssim")


def write_trial(folder: pathlib.Path, hparams: dict | None, evaluations: str | None, single: str | None) -> None:
  folder.mkdir(parents=True)
  if hparams is not None:
    (folder / "hparams.json").write_text(json.dumps(hparams))
  if evaluations is not None:
    (folder / "eval_measurements.csv").write_text(f"{','.join(('global_step', *TIMES, *EVALUATED))}\n{evaluations}")
  if single is not None:
    (folder / "measurements.csv").write_text(f"{','.join(('global_step', 'grad_norm', 'loss', *EVALUATED))}\n{single}")


@pytest.fixture
def tree(tmp_path):
  """A submission's tree, as untidy as real ones: rows out of order, a short trial, NaN, files that are missing."""
  root = tmp_path / "logs"
  point = {"learning_rate": 0.001, "nesterov": True}
  first = "1,5,9,0,0.2,0.9,0.2,0.9,3554,0.25\n"
  good = f"{first}200,30,40,0,0.6,0.2,0.7,0.3,3554,0.625\n100,20,25,0,0.5,0.3,0.6,0.4,3554,0.5\n"
  empty = "," * len(EVALUATED)
  write_trial(root / "study_0/fastmri_jax/trial_1", point, good, f"100,0.5,0.75{empty}\n0,1.5,0.875{empty}\n")
  write_trial(root / "study_1/fastmri_jax/trial_1", point, good.replace("0.625", "0.6875"), None)
  write_trial(root / "study_0/fastmri_jax/trial_10", {**point, "learning_rate": 0.1}, None, None)
  # Its values are no longer finite, and the writer of such tables leaves NaN empty; then the job was killed.
  bad = f"{first}90,9,12,0,,nan,,,3554,\n11,1"
  write_trial(root / "study_0/fastmri_jax/trial_2", {**point, "learning_rate": 0.01, "power": 2.0}, bad, None)
  (root / "README.md").write_text("logs\n")
  return root


def test_the_studies_of_a_workload_become_one_with_retrains_of_its_points(tree, tmp_path):
  (folder,) = import_study("algoperf", tree, tmp_path / "out")
  assert folder == tmp_path / "out"
  results = read_results(folder)
  assert results.objective == Maximize("validation/ssim")
  sources = [
    json.loads((trial.folder / "trial.json").read_text())["summary"]["source"].replace("/fastmri_jax", "")
    for trial in results.trials
  ]
  assert sources == ["study_0/trial_1", "study_0/trial_2", "study_0/trial_10", "study_1/trial_1"]
  assert [[trial.trial for trial in point] for point in results.points] == [[0, 3], [1], [2]]
  assert [(trial.trial, trial.objective, trial.step) for trial in results.ranked] == [(3, 0.6875, 200), (0, 0.625, 200)]
  assert [trial.state for trial in results.trials] == ["complete", "infeasible", "failed", "complete"]
  assert results.space["nesterov"].role == "fixed"
  assert "power" not in results.trials[0].values


def test_a_null_in_some_trials_means_that_it_is_off_there(tmp_path):
  for number, clip in enumerate((None, 0.5, 1.0, None), start=1):
    row = f"1,1,1,0,0,2.0,0.1,2.5,10,0.{number}\n"
    write_trial(tmp_path / f"logs/study_0/fastmri_jax/trial_{number}", {"grad_clip": clip, "power": None}, row, None)
  results = read_results(import_study("algoperf", tmp_path / "logs", tmp_path / "out")[0])
  assert list(results.space) == ["grad_clip.present", "grad_clip"]
  assert [trial.values["grad_clip.present"] for trial in results.trials] == [False, True, True, False]


def test_metrics_have_our_names_and_time_is_no_metric(tree, tmp_path):
  results = read_results(import_study("algoperf", tree, tmp_path / "out")[0])
  assert results.trials[0].curves == {
    "grad_norm": [(0, 1.5), (100, 0.5)],
    "train/loss": [(0, 0.875), (100, 0.75)],
    "test/ssim": [(1, 0.2), (100, 0.5), (200, 0.6)],
    "train_subset/loss": [(1, 0.9), (100, 0.3), (200, 0.2)],
    "train_subset/ssim": [(1, 0.2), (100, 0.6), (200, 0.7)],
    "validation/loss": [(1, 0.9), (100, 0.4), (200, 0.3)],
    "validation/ssim": [(1, 0.25), (100, 0.5), (200, 0.625)],
  }
  assert results.trials[0].log.examples == {"validation": 3554}
  assert results.trials[0].seconds == 40
  assert results.trials[0].training_seconds == 30
  assert results.study.search["renamed"]["loss"] == "train/loss"


def test_what_was_not_finite_or_is_missing_is_kept_and_told(tree, tmp_path):
  results = read_results(import_study("algoperf", tree, tmp_path / "out")[0])
  bad = results.trials[1]
  for metric in ("validation/ssim", "train_subset/loss", "test/ssim"):
    assert [step for step, _ in bad.curves[metric]] == [1, 90]
    assert math.isnan(bad.curves[metric][-1][1])
  assert bad.reason == "validation/ssim is not finite, for the first time at step 90"
  assert set(results.study.warnings) >= {
    "study_0/fastmri_jax/trial_2/eval_measurements.csv, line 4 is cut short, and left out",
    "study_1/fastmri_jax/trial_1 has no measurements.csv",
    "study_0/fastmri_jax/trial_10 has no eval_measurements.csv",
  }


def test_several_workloads_and_submissions_have_folders_of_their_own(tree, tmp_path):
  write_trial(tree / "study_0/wmt_jax/trial_1", {"learning_rate": 1.0}, "1,1,1,0,0,2.0,0.1,2.5,10,0.1\n", None)
  with pytest.raises(UserError) as caught:
    import_study("algoperf", tree, tmp_path / "out")
  assert [problem.partition("; ")[0] for problem in caught.value.problems] == [
    "wmt_jax: objective: 'validation/bleu' was logged by no trial"
  ]
  found = import_study("algoperf", tree, tmp_path / "out", objective="validation/loss", name="mine")
  assert [folder.relative_to(tmp_path / "out").as_posix() for folder in found] == ["fastmri_jax", "wmt_jax"]
  assert [read_results(folder).study.name for folder in found] == ["mine_fastmri_jax", "mine_wmt_jax"]
  both = tmp_path / "both"
  for name in ("adam", "sgd"):
    write_trial(both / f"{name}/study_0/ogbg_pytorch/trial_1", {"lr": 1.0}, "1,1,1,0,0,2.0,0.1,2.5,10,0.1\n", None)
  found = import_study("algoperf", both, tmp_path / "out2", objective="validation/ssim")
  assert [folder.relative_to(tmp_path / "out2").as_posix() for folder in found] == [
    "adam/ogbg_pytorch",
    "sgd/ogbg_pytorch",
  ]
  assert [read_results(folder).study.name for folder in found] == ["adam_ogbg_pytorch", "sgd_ogbg_pytorch"]


def test_files_that_are_no_logs_are_told_all_at_once(tree, tmp_path):
  trial = tree / "study_0/fastmri_jax/trial_1"
  (trial / "hparams.json").write_text("{")
  (trial / "eval_measurements.csv").write_text("step,loss\n1,2\n")
  (trial / "measurements.csv").write_text("global_step,loss\nx,1\n3,low\n")
  with pytest.raises(UserError) as caught:
    import_study("algoperf", tree, tmp_path / "out")
  for text, problem in zip(
    [
      "line 2, column global_step: 'x' is no",
      "line 3, column loss: 'low' is no",
      "'global_step'",
      "hparams.json cannot",
    ],
    caught.value.problems,
    strict=True,
  ):
    assert text in problem
  assert not (tmp_path / "out").exists()
  with pytest.raises(UserError, match="holds no study_N/WORKLOAD/trial_M folder"):
    import_study("algoperf", tree / "study_0", tmp_path / "out")


def test_roles_scales_and_bounds_may_be_said_in_a_file(tree, tmp_path):
  space = tmp_path / "space.json"
  space.write_text('{"hyperparameters": {"learning_rate": {"scale": "log", "min": 1e-4, "max": 1.0}}}')
  results = read_results(import_study("algoperf", tree, tmp_path / "out", space=space)[0])
  assert results.space["learning_rate"].scale == Log(1e-4, 1.0)
  assert not results.space["learning_rate"].inferred
  assert results.space["power"].inferred
  assert f"--space={space}" in results.study.command
  for text, problem in {
    '{"hyperparameters": {"learning_rat": {"min": 1e-4, "max": 1.0}}}': "did you mean 'learning_rate'",
    '{"hyperparameters": {"learning_rate": {"min": 0.05, "max": 1.0}}}': "the trials have 0.001, outside of",
    '{"goal": "Which?"}': "say --goal",
    "{": "cannot be read",
  }.items():
    space.write_text(text)
    with pytest.raises(UserError, match=problem):
      import_study("algoperf", tree, tmp_path / "other", space=space)
  write_trial(tree / "study_0/ogbg_jax/trial_1", {"dropout": 0.1}, None, None)
  space.write_text('{"hyperparameters": {"learning_rate": {"min": 1e-4, "max": 1.0}, "dropout": {"min": 0, "max": 1}}}')
  both = [read_results(folder) for folder in import_study("algoperf", tree, tmp_path / "both", space=space)]
  assert [{name for name, one in of.space.items() if not one.inferred} for of in both] == [
    {"learning_rate"},
    {"dropout"},
  ]
  with pytest.raises(UserError, match="there is no such file"):
    import_study("algoperf", tree, tmp_path / "other", space=tmp_path / "none.json")
  assert not (tmp_path / "other").exists()


@pytest.mark.long
@pytest.mark.skipif(not LOGS.is_dir(), reason="the logs are not here")
def test_real_logs_are_three_workloads_of_two_submissions_with_five_retrains_of_five_points(tmp_path):
  found = import_study("algoperf", LOGS, tmp_path / "out")
  assert [folder.relative_to(tmp_path / "out").as_posix() for folder in found] == [
    f"{submission}/{workload}"
    for submission in ("baseline", "nadamp")
    for workload in ("fastmri_jax", "imagenet_resnet_jax", "ogbg_jax")
  ]
  targets = {"fastmri_jax": "ssim", "imagenet_resnet_jax": "accuracy", "ogbg_jax": "mean_average_precision"}
  for folder in found:
    results = read_results(folder)
    assert Counter(map(len, results.points)) == {5: 5}
    column = f"validation/{targets[folder.name]}"
    expected = []
    for study in range(5):
      for trial in range(1, 6):
        path = LOGS / folder.parent.name / f"study_{study}" / folder.name / f"trial_{trial}/eval_measurements.csv"
        header, *rows = [line.split(",") for line in path.read_text().split()]
        place = header.index(column)
        best = max(float(row[place]) for row in rows if float(row[place]) == float(row[place]))
        expected.append((-best, 5 * study + trial - 1))
    assert [(-(trial.objective or 0), trial.trial) for trial in results.ranked] == sorted(expected)

import contextlib
import csv
import re
import shutil
import statistics

import pytest
import quadratics
from commands import TRAINING, changes, outcome
from in_process import InProcess

from trialbook.trainer import load_config, run
from trialbook.tuning import read_results
from trialbook.tuning.execution import coordinator
from trialbook.tuning.flags import main

pytestmark = pytest.mark.usefixtures("no_workers")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """The folder of a study of two trainings."""
  folder = tmp_path_factory.mktemp("trained")
  (folder / "study.py").write_text(TRAINING)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(coordinator, "LocalWorkers", InProcess)
    assert main(["run", f"--study={folder / 'study.py'}", f"--dir={folder / 'rate'}"]) == 0
  return folder / "rate"


def test_run_says_what_is_planned_what_ended_and_what_was_best(capsys, tmp_path, curves):
  code, out, err = outcome(capsys, "run", f"--study={curves()}", f"--dir={tmp_path / 'runs/curves'}")
  assert code == 0
  assert "nuisance: x" in err
  assert "4 trials; 1 hyperparameter to tune: as dense as a grid of 4 values per hyperparameter" in err
  assert "trial 3: infeasible: x = 1.0 is too large" in err
  assert "4/4 trials" in err
  assert "program" not in err
  assert "3 complete, 1 infeasible" in out
  assert "best: trial 2, loss -0.4375 at step 4" in out
  for name in ("curves/study.json", "curves/trials.csv", "studies.csv", "studies.md"):
    assert (tmp_path / "runs" / name).exists()


def test_the_same_command_runs_nothing_again_and_a_larger_number_extends(capsys, tmp_path, curves):
  study = curves("search=Halton(), trials=2")
  folder = tmp_path / "runs"
  assert outcome(capsys, "run", f"--study={study}", f"--dir={folder}")[0] == 0
  first = read_results(folder)
  code, _, err = outcome(capsys, "run", f"--study={study}", f"--dir={folder}")
  assert code == 0
  assert "resumes; 2 of 2 trials are done" in err
  assert read_results(folder).trials == first.trials
  assert outcome(capsys, "run", f"--study={study}", f"--dir={folder}", "--trials=4")[0] == 0
  assert read_results(folder).trials[:2] == first.trials
  assert len(read_results(folder).trials) == 4
  code, _, err = outcome(capsys, "run", f"--study={study}", f"--dir={folder}", "--trials=3")
  assert code == 2
  assert "has trial 3 already" in err


@pytest.mark.slow
def test_warnings_of_the_roles_are_printed_with_the_plan(capsys, write):
  batch_size = TRAINING.replace('"optimizer.learning_rate": Log(1e-3, 1.0)', '"batch_size": OneOf([16, 32])')
  study = write(batch_size.replace("import Halton", "import OneOf, Halton"))
  code, out, _ = outcome(capsys, "run", f"--study={study}", "--dry_run")
  assert code == 0
  assert "warning: batch_size is varied" in out
  assert "2 programs to compile" in out


@pytest.mark.slow
def test_a_dry_run_prints_the_trials_and_their_cost_and_writes_nothing(capsys, tmp_path, write):
  study = write(TRAINING)
  before = changes(tmp_path)
  code, out, _ = outcome(capsys, "run", f"--study={study}", "--dry_run", f"--dir={tmp_path / 'rate'}", "--workers=2")
  assert code == 0
  assert out.count("learning_rate=") == 2
  assert "1 program to compile" in out
  assert re.search(r"Estimated time: about [\d.]+ (s|min) with 2 workers \([^)]+ a trial, plus start-up\)", out)
  assert changes(tmp_path) == before


def test_a_dry_run_of_a_function_knows_no_cost(capsys, curves):
  code, out, _ = outcome(capsys, "run", f"--study={curves()}", "--dry_run")
  assert code == 0
  assert "x=-0.5" in out
  assert "about" not in out


def test_a_study_of_infeasible_trials_alone_leaves_with_3(capsys, tmp_path, curves):
  study = curves("search=Listed([{'x': 0.9}, {'x': 1.0}])")
  code, out, _ = outcome(capsys, "run", f"--study={study}", f"--dir={tmp_path / 'runs'}")
  assert code == 3
  assert "2 infeasible" in out
  assert "no trial has a value yet" in out


def test_a_failed_trial_leaves_with_1_and_is_tried_again_when_asked(capsys, tmp_path, write, monkeypatch):
  study = write(
    "import quadratics\ndef get_study(): return quadratics.study(function='quadratics:half', max_attempts=2)\n"
  )
  arguments = ["run", f"--study={study}", f"--dir={tmp_path / 'runs'}"]
  code, out, err = outcome(capsys, *arguments)
  assert code == 1
  assert " failed" in out
  assert "crashed 2 times; the last: ValueError: x is negative" in err
  assert outcome(capsys, *arguments)[0] == 1
  monkeypatch.setattr(quadratics, "half", quadratics.curve)
  assert outcome(capsys, *arguments, "--retry_failed")[0] == 0
  assert read_results(tmp_path / "runs").count("failed") == 0


@pytest.mark.slow
def test_list_shows_the_studies_and_how_to_repeat_them(capsys, tmp_path, curve_study):
  shutil.copytree(curve_study.folder, tmp_path / "curves")
  code, out, _ = outcome(capsys, "list", tmp_path)
  assert code == 0
  assert quadratics.study().goal in out
  assert "loss -0.4375 (trial 2, step 4)" in out
  assert "curves: curves/study.json; again: " in out
  for root, message in ((tmp_path / "none", "there is no such folder"), (tmp_path / "curves", "has no studies")):
    code, _, err = outcome(capsys, "list", root)
    assert code == 2
    assert message in err


def test_status_shows_states_and_the_last_trials(capsys, curve_study):
  for flags in ([], ["--watch"]):
    code, out, _ = outcome(capsys, "status", curve_study.folder, *flags)
    assert code == 0
    assert "curves: 3 complete, 1 infeasible" in out
    assert "best: trial 2, loss -0.4375" in out


def ranked(out: str) -> list[str]:
  """The first column of a table of trials."""
  return re.findall(r"^ +(\d+) +(?:complete|infeasible)", out, re.MULTILINE)


def test_best_ranks_by_any_logged_metric_and_any_of_its_values(capsys, curve_study):
  best = lambda *flags: outcome(capsys, "best", curve_study.folder, *flags)[1]  # noqa: E731
  assert ranked(best()) == ["2", "1", "0", "3"]
  last = [quadratics.losses(x)[-1] for x in quadratics.POINTS[:3]]
  assert ranked(best("--value=last"))[:3] == [str(trial) for trial in sorted(range(3), key=last.__getitem__)]
  assert "best: trial 1, loss 2.25 at step 6" in best("--value=smoothed")
  assert ranked(best("--objective=score", "--mode=max"))[0] == "1"
  code, _, err = outcome(capsys, "best", curve_study.folder, "--objective=score")
  assert code == 2
  assert "--objective=score: say which direction is better, --mode=min or --mode=max" in err
  assert ranked(best("--mode=max"))[:3] == ["0", "2", "1"]
  assert "and 3 more: " in best("--rows=1")


def test_an_objective_that_was_not_logged_is_told(capsys, curve_study):
  code, out, err = outcome(capsys, "best", curve_study.folder, "--objective=lose")
  assert (code, out) == (2, "")
  assert "objective 'lose' was logged by no trial; did you mean 'loss'?" in err
  code, _, err = outcome(capsys, "best", curve_study.folder, "--value=bets")
  assert code == 2
  assert "argument --value: invalid choice: 'bets'" in err


def test_ranking_by_the_test_set_is_warned_of(capsys, tmp_path, curve_study):
  folder = tmp_path / "curves"
  shutil.copytree(curve_study.folder, folder)
  for trial in range(3):
    path = folder / "trials" / f"{trial:04d}" / "metrics.jsonl"
    path.write_text(path.read_text().replace("score", "test/accuracy"))
  code, out, err = outcome(capsys, "best", folder, "--objective=test/accuracy")
  assert code == 0
  assert "warning: ranking by test/accuracy selects on the test set" in err
  assert "best: trial 1, test/accuracy -0.0625" in out


@pytest.mark.slow
def test_show_tells_all_about_a_trial(capsys, curve_study, trained):
  code, out, _ = outcome(capsys, "show", curve_study.folder, 3)
  assert code == 0
  assert "curves, trial 3: infeasible: x = 1.0 is too large" in out
  code, out, _ = outcome(capsys, "show", curve_study.folder, 2, "--value=last")
  assert f"loss {quadratics.losses(0.5)[-1]:.4g} at step 6" in out
  code, out, _ = outcome(capsys, "show", trained, 1)
  assert f"again: trialbook train --config={trained}/trials/0001/config.json" in out
  for trial, message in ((9, "has no trial 9; it has 4, from 0"), ("x", "argument trial: invalid int value: 'x'")):
    code, _, err = outcome(capsys, "show", curve_study.folder, trial)
    assert code == 2
    assert message in err


@pytest.mark.parametrize(
  "command", [["status"], ["best"], ["show", "0"], ["rerun", "0"]], ids=lambda command: command[0]
)
def test_a_folder_without_a_study_is_told(capsys, tmp_path, command):
  name, *rest = command
  for folder in (tmp_path, tmp_path / "none"):
    code, _, err = outcome(capsys, name, folder, *rest)
    assert code == 2
    assert f"{folder} holds no study: there is no study.json" in err


@pytest.mark.slow
def test_the_best_trials_command_repeats_it(tmp_path, trained):
  best = read_results(trained).best
  assert best is not None
  again = run(load_config(best.folder / "config.json"), tmp_path / "again")
  assert (again.best["validation/error"], again.best_step) == (best.objective, best.step)


@pytest.mark.slow
def test_rerun_tells_the_spread_over_seeds_and_more_seeds_extend_it(capsys, tmp_path, trained):
  folder = tmp_path / "rate"
  shutil.copytree(trained, folder)
  code, out, _ = outcome(capsys, "rerun", folder, 1, "--seeds=2")
  assert code == 0
  results = read_results(folder / "reruns" / "trial_0001")
  assert [trial.changes for trial in results.trials] == [{"seed": 1}, {"seed": 2}]
  config = results.study.config
  assert config is not None
  assert config.optimizer.learning_rate == read_results(folder).trials[1].values["optimizer.learning_rate"]
  values = [trial.objective for trial in results.trials if trial.objective is not None]
  spread = f"mean {statistics.mean(values):.4g}, standard deviation {statistics.stdev(values):.4g}"
  assert f"validation/error over 2 seeds: {spread}" in out
  assert outcome(capsys, "rerun", folder, 1, "--seeds=3")[0] == 0
  extended = read_results(folder / "reruns" / "trial_0001").trials
  assert extended[:2] == results.trials
  assert extended[2].changes == {"seed": 3}


def test_a_trial_that_cannot_be_rerun_is_told(capsys, tmp_path, curve_study, trained):
  for folder, trial, flags, message in (
    (curve_study.folder, 0, [], "its trials call quadratics:curve, which has no seed to change"),
    (trained, 9, [], "has no trial 9; it has 2, from 0"),
    (trained, 0, ["--seeds=1"], "seeds = 1: a variance needs 2 at least"),
  ):
    code, _, err = outcome(capsys, "rerun", folder, trial, *flags)
    assert code == 2
    assert message in err
  assert not (trained / "reruns").exists()


ROUND = """
import quadratics
from trialbook.tuning import by_scientific_value

def get_study():
  return by_scientific_value(quadratics.study_of_shapes(trials=3))
"""


def test_a_round_is_run_shown_and_compared(capsys, tmp_path, write):
  folder = tmp_path / "shapes"
  code, out, _ = outcome(capsys, "run", f"--study={write(ROUND)}", f"--dir={folder}")
  assert code == 0
  found = {name: read_results(folder / name).ranked for name in ("shapes_wide", "shapes_narrow")}
  winner = min(found, key=lambda name: found[name][0].objective or 0.0)
  assert re.findall(r"shapes_\w+", out)[0] == winner
  for command in ("status", "best"):
    code, again, _ = outcome(capsys, command, folder)
    assert code == 0
    assert again == out
  code, _, err = outcome(capsys, "show", folder, 0)
  assert code == 2
  assert "holds a round; name one of its studies: " in err
  with (tmp_path / "studies.csv").open() as file:
    assert {row["study"] for row in csv.DictReader(file)} == {f"shapes/{name}" for name in found}
  assert outcome(capsys, "best", folder / winner)[0] == 0


def test_a_dry_run_of_a_round_is_one_of_each_study(capsys, tmp_path, write):
  endless = write(ROUND.replace("trials=3", "trials=None"))
  code, out, _ = outcome(capsys, "run", f"--study={endless}", "--dry_run", "--trials=2")
  assert code == 0
  assert out.count("2 trials; ") == 2
  study = write(
    ROUND.replace("return ", "one = ")
    + "  return __import__('trialbook').Round(name='r', goal='g', studies=one.studies[:1] * 2)\n"
  )
  code, _, err = outcome(capsys, "run", f"--study={study}", "--dry_run")
  assert code == 2
  assert "two studies are named 'shapes_wide'" in err


def test_help_lists_every_command(capsys):
  with contextlib.suppress(SystemExit):
    main(["--help"])
  out = capsys.readouterr().out
  for command in ("run", "list", "status", "best", "show", "rerun", "trial"):
    assert f"\n    {command} " in out

import dataclasses
import json
import shutil

import csv_studies
import pytest
import quadratics
from commands import outcome
from in_process import run_in_process

from trialbook import files
from trialbook.errors import ConfigError, UserError
from trialbook.tuning import (
  Linear,
  Log,
  Maximize,
  Minimize,
  OneOf,
  by_scientific_value,
  read_results,
  report,
  run_round,
)
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.comparing import merged, read_any, read_compared
from trialbook.tuning.records import study_lock
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Role, Scale


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """The folders of two studies of one hyperparameter."""
  root = tmp_path_factory.mktemp("compared")
  narrow = {"hyperparameters": {"learning_rate": {"scale": "log", "min": 1e-3, "max": 1e-1}}}
  wide = {"hyperparameters": {"learning_rate": {"scale": "log", "min": 1e-5, "max": 1e-2}}}
  return [
    csv_studies.imported(
      root / name,
      [{"learning_rate": rate} for rate in values],
      {number: {"validation/error": csv_studies.bowl(rate)} for number, rate in enumerate(values)},
      declared,
      name=name,
    )
    for name, declared, values in (("narrow", narrow, (0.002, 0.02, 0.05)), ("wide", wide, (2e-5, 0.004)))
  ]


def together(*studies, **changes):
  return merged(studies, **{"name": "both", "goal": "Which?", "folder": studies[0].folder.parent} | changes)


def study(
  values, scale: Scale, *, name="study", role: Role = "nuisance", hyperparameter="x", metric="validation/error"
):
  """A study in memory whose trials had such values."""
  one = Hyperparameter(name=hyperparameter, path=hyperparameter, scale=scale, role=role)
  trials = [
    planted.trial(number, {hyperparameter: value}, {metric: ([1, 2], [1.0, 0.5 + number / 10])})
    for number, value in enumerate(values)
  ]
  found = planted.results(trials, (one,), Minimize(metric))
  return dataclasses.replace(found, study=dataclasses.replace(found.study, name=name))


def test_trials_of_all_studies_are_numbered_anew_and_ranked_together(two):
  found = read_compared(two)
  apart = [read_results(folder) for folder in two]
  assert [trial.trial for trial in found.trials] == [0, 1, 2, 3, 4]
  assert [trial.values["study"] for trial in found.trials] == ["narrow"] * 3 + ["wide"] * 2
  assert [trial.folder for trial in found.trials] == [trial.folder for one in apart for trial in one.trials]
  worth = [trial.objective or 0.0 for one in apart for trial in one.trials]
  assert [trial.trial for trial in found.ranked] == sorted(range(5), key=lambda number: worth[number])
  assert [trial.source for trial in found.trials] == ["narrow 0", "narrow 1", "narrow 2", "wide 0", "wide 1"]
  assert found.study.trials == 5
  assert found.folder == two[0].parent.resolve()


def test_the_study_is_what_is_scientific_and_bounds_hold_those_of_both(two):
  space = read_compared(two).space
  assert {name: one.role for name, one in space.items()} == {"study": "scientific", "learning_rate": "nuisance"}
  assert space["study"].scale == OneOf(["narrow", "wide"])
  assert space["learning_rate"].scale == Log(1e-5, 1e-1)
  assert space["learning_rate"].inferred


def test_studies_of_one_name_are_told_apart_by_their_folders(tmp_path):
  folders = [csv_studies.rates(tmp_path / place, 2, name="same") for place in ("a", "b")]
  assert read_compared(folders).space["study"].scale == OneOf([str(folder) for folder in folders])


def test_the_first_study_says_by_what_all_are_ranked(tmp_path):
  first = csv_studies.rates(tmp_path / "first", 3)
  second = csv_studies.rates(tmp_path / "second", 3, objective="validation/loss")
  assert read_compared([first, second]).objective == Minimize("validation/error")
  found = read_compared([second, first])
  assert found.objective == Minimize("validation/loss")
  expected = [
    trial.objective for folder in (second, first) for trial in read_results(folder).by(found.objective).trials
  ]
  assert [trial.objective for trial in found.trials] == expected


@pytest.mark.parametrize(
  ("first", "second", "expected"),
  [
    ((Log(1e-3, 0.1), [0.01, 0.02]), (Log(1e-4, 0.01), [0.001, 0.01]), Log(1e-4, 0.1)),
    ((Log(1e-3, 0.1), [0.01, 0.02]), (Linear(0.0, 0.5), [0.0, 0.4]), Linear(0.0, 0.5)),
    ((Integer(1, 8), [1, 8]), (Integer(1, 64, log=True), [64, 2]), Linear(1, 64)),
    ((Discrete((1, 4)), [1, 4]), (Discrete((2, 4)), [2, 4]), Discrete((1, 2, 4))),
    ((OneOf(["sgd"]), ["sgd"]), (OneOf(["adam", "sgd"]), ["adam"]), OneOf(["sgd", "adam"])),
    ((OneOf([(8,), (16,)]), [(8,), (16,)]), (OneOf([(8,), (8, 8)]), [(8, 8)]), OneOf([(8,), (16,), (8, 8)])),
    ((Log(1e-3, 0.1), [0.01, 0.02]), (Discrete((0.0, 5.0)), [0.0, 5.0]), Linear(0.0, 5.0)),
    ((Log(1e-3, 0.1), [0.01, 0.02]), (OneOf(["auto"]), ["auto"]), OneOf(["auto", 0.01, 0.02])),
    ((OneOf(["auto"]), ["auto"]), (Log(1e-3, 0.1), [0.01, 0.02]), OneOf(["auto", 0.01, 0.02])),
  ],
)
def test_one_hyperparameter_of_two_scales_holds_the_values_of_both(first, second, expected):
  found = together(*(study(values, scale, name=str(number)) for number, (scale, values) in enumerate((first, second))))
  assert found.space["x"].scale == expected
  assert found.space["x"].inferred
  for trial in found.trials:
    assert 0 <= found.space["x"].scale.unit(trial.values["x"]) <= 1


def test_what_is_fixed_in_one_study_and_tuned_in_another_is_on_one_axis():
  off = study([0.0, 0.0], Discrete((0.0,)), name="off", role="fixed")
  found = together(off, study([1e-5, 1e-3], Log(1e-6, 1e-2), name="on"))
  assert found.space["x"].scale == Linear(0.0, 1e-2)
  # What is fixed in both differs with the study only.
  assert "x" not in together(off, study([1.0], Discrete((1.0,)), name="one", role="fixed")).space


def test_a_hyperparameter_that_is_named_study_keeps_its_values():
  found = together(study([1, 2], Integer(1, 4), name="a", hyperparameter="study"), study([1], Integer(1, 4), name="b"))
  assert [trial.values["study"] for trial in found.trials] == ["a", "a", "b"]
  assert [trial.values.get("a.study") for trial in found.trials] == [1, 2, None]


def test_reruns_go_with_their_trial():
  again = study([1, 2, 3], Integer(0, 9), hyperparameter="seed")
  second = dataclasses.replace(study([0.1, 0.2], Log(0.1, 1.0), name="second"), reruns={1: again})
  found = together(study([0.1], Log(0.1, 1.0), name="first"), second)
  assert found.reruns == {2: again}
  assert found.trials[2].values == {"study": "second", "x": 0.2}


WRONG = {
  "another direction": (lambda: [study([1], Integer(0, 9)), _maximized()], "takes max of validation/error"),
  "another metric": (
    lambda: [study([1], Integer(0, 9)), study([1], Integer(0, 9), metric="validation/loss")],
    "ranks by validation/loss, best, and never logged validation/error",
  ),
}


def _maximized():
  return dataclasses.replace(study([1], Integer(0, 9)), objective=Maximize("validation/error"))


@pytest.mark.parametrize("name", WRONG)
def test_studies_that_cannot_be_compared_are_told(name):
  make, problem = WRONG[name]
  with pytest.raises(ConfigError, match=f"{problem}.*; compare studies of one objective"):
    together(*make())


def test_all_that_keeps_studies_from_comparison_is_told_at_once(two):
  others = [study([1], Integer(0, 9), metric="validation/loss"), _maximized()]
  with pytest.raises(ConfigError) as caught:
    together(study([1], Integer(0, 9)), *others)
  assert len(caught.value.problems) == 2
  with pytest.raises(UserError) as caught:
    read_compared([two[0], two[0] / ".", two[0] / "nothing", two[0].parent])
  problems = caught.value.problems
  assert len(problems) == 3
  assert f"{two[0] / 'nothing'} holds no study" in problems[0]
  assert f"{two[0].parent} holds no study" in problems[1]
  assert problems[2] == "a comparison needs two different studies at least"


@pytest.mark.slow
def test_the_command_compares_at_equal_budgets_and_writes_a_report(capsys, two, tmp_path):
  page = tmp_path / "page.html"
  code, out, err = outcome(capsys, "compare", *two, f"--output={page}")
  assert (code, err) == (0, "")
  rows = {
    cells[0]: cells[1:] for line in out.splitlines() if (cells := line.split()) and cells[0] in ("narrow", "wide")
  }
  for folder in two:
    results = read_results(folder)
    assert results.best is not None
    assert rows[folder.name][:2] == [str(len(results.trials)), f"{results.best.objective:.4g}"]
  assert "best of 2: median" in " ".join(out.split())
  assert "(PB-30)" in out
  assert f"report: {page}" in out
  assert "Which is best: narrow, wide?" in page.read_text()
  assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_comparison_may_rank_by_another_metric(capsys, tmp_path):
  folders = [csv_studies.rates(tmp_path / name, 3) for name in ("a", "b")]
  code, out, _ = outcome(capsys, "compare", *folders, "--objective=validation/loss", "--value=last")
  assert code == 0
  assert "validation/loss" in out


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_comparison_that_cannot_be_made_leaves_with_2(capsys, two, tmp_path, count):
  page = tmp_path / "page.html"
  code, out, err = outcome(capsys, "compare", *two[:1] * count, f"--output={page}")
  assert (code, out) == (2, "")
  assert ("two different studies" in err) if count else ("dir" in err)
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def round_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("rounds") / "shapes"
  run_round(by_scientific_value(quadratics.study_of_shapes(trials=3)), folder, executor=run_in_process)
  return folder


def test_a_round_is_reported_as_a_whole(capsys, round_folder):
  found = read_any(round_folder)
  assert [trial.values["study"] for trial in found.trials] == ["shapes_wide"] * 3 + ["shapes_narrow"] * 3
  assert found.study.goal == "Which shape has the deeper bottom?"
  code, out, err = outcome(capsys, "report", round_folder, "--format=json", "--output=-")
  assert (code, err) == (0, "")
  told = json.loads(out)
  assert told["complete"] is True
  assert told["best"]["trial"] == found.ranked[0].trial
  assert {one["question"] for one in told["findings"]} >= {"comparison", "variance"}
  assert report(round_folder, format="md") == round_folder / "report.md"


def test_the_studies_of_a_round_are_compared_with_others(capsys, round_folder, tmp_path):
  other = shutil.copytree(round_folder / "shapes_wide", tmp_path / "other")
  assert read_compared([round_folder, other]).space["study"].scale == OneOf(
    [str(round_folder / "shapes_wide"), "shapes_narrow", str(other)]
  )
  code, out, err = outcome(capsys, "compare", round_folder)
  assert (code, err) == (0, "")
  assert {"shapes_wide", "shapes_narrow"} <= set(out.split())
  code, out, err = outcome(capsys, "compare", round_folder, round_folder / "shapes_wide")
  assert (code, out) == (2, "")
  assert "two different studies" in err


def test_a_round_runs_while_one_of_its_studies_does(round_folder, tmp_path):
  found = read_any(round_folder)
  longer = dataclasses.replace(found, study=dataclasses.replace(found.study, trials=8))
  path = report(longer, tmp_path / "report.md", format="md")
  assert "Not running (rerun the same command to resume): 6 of 8 trials have ended." in path.read_text()
  with files.locked(study_lock(round_folder / "shapes_narrow"), "it"):
    assert "> Running: 6 of 8 trials" in report(longer, path, format="md").read_text()


def test_a_round_of_which_one_study_began_says_what_has_not(tmp_path, round_folder):
  folder = tmp_path / "round"
  folder.mkdir()
  (folder / "round.json").write_bytes((round_folder / "round.json").read_bytes())
  with pytest.raises(UserError, match="no study of this round has begun"):
    read_any(folder)
  (folder / "shapes_wide").symlink_to(round_folder / "shapes_wide")
  found = read_any(folder)
  assert len(found.trials) == 3
  assert "of this round, shapes_narrow has not begun" in found.study.warnings


def test_trials_that_were_cut_short_elsewhere_do_not_go_on_in_a_comparison_either(two):
  imported = together(*map(read_results, two))
  assert imported.study.source is not None
  assert all(str(folder.with_name(f".{folder.name}_tables")) in imported.study.source for folder in two)
  own = study([1, 2], Integer(1, 4), name="here")
  assert together(read_results(two[0]), own).study.source is None

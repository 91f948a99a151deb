import csv
import dataclasses

import pytest
import quadratics
from in_process import run_in_process

from trialbook.errors import UserError
from trialbook.tuning import Log, Maximize, Round, by_scientific_value, rounds, run_round
from trialbook.tuning.records import read_trials

SHAPES = by_scientific_value(quadratics.study_of_shapes(trials=3))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """The folder of a round and its results."""
  folder = tmp_path_factory.mktemp("rounds") / "shapes"
  return folder, run_round(SHAPES, folder, executor=run_in_process)


def test_each_study_has_a_folder_of_its_name_and_all_of_its_trials(done):
  folder, results = done
  assert list(results) == ["shapes_wide", "shapes_narrow"]
  for name, found in results.items():
    assert found.folder == folder / name
    assert [trial.state for trial in found.trials] == ["complete"] * 3
    assert {trial.values["shape"] for trial in found.trials} == {name.removeprefix("shapes_")}
  # Each shape is tried at the same points, so that none is lucky.
  points = [[trial.values["x"] for trial in found.trials] for found in results.values()]
  assert points[0] == points[1]


def test_a_round_is_read_back(done):
  folder, results = done
  stored, studies = rounds.read_round(folder)
  assert (stored["name"], stored["goal"]) == (SHAPES.name, SHAPES.goal)
  assert studies == list(results.values())


def test_its_studies_stand_in_the_tables_of_both_folders(done):
  folder, _ = done
  for root, prefix in ((folder, ""), (folder.parent, "shapes/")):
    with (root / "studies.csv").open() as file:
      assert {row["config"]: row["trials"] for row in csv.DictReader(file)} == {
        f"{prefix}shapes_{shape}/study.json": "3 of 3" for shape in ("wide", "narrow")
      }


def test_the_same_round_goes_on_and_runs_nothing_twice(done):
  folder, results = done
  longer = run_round(dataclasses.replace(SHAPES, goal="In other words?"), folder, trials=4, executor=run_in_process)
  for name, found in longer.items():
    assert len(found.trials) == 4
    assert found.trials[:3] == results[name].trials
  assert rounds.read_round(folder)[0]["goal"] == "In other words?"


def test_another_round_does_not_go_into_the_folder(done):
  folder, _ = done
  other = dataclasses.replace(SHAPES, name="forms")
  with pytest.raises(UserError, match=r"holds another round, 'shapes' of \['shapes_wide', 'shapes_narrow'\]"):
    run_round(other, folder, executor=run_in_process)
  assert rounds.read_round(folder)[0]["name"] == "shapes"


def test_a_round_of_which_no_trial_was_run_may_be_corrected(tmp_path):
  (tmp_path / "round.json").write_text('{"format": 1, "name": "shaeps", "goal": "", "studies": ["shapes_wid"]}')
  run_round(SHAPES, tmp_path, trials=1, executor=run_in_process)
  assert rounds.read_round(tmp_path)[0]["name"] == "shapes"


def test_a_folder_of_anything_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(UserError, match="is not empty and holds no round"):
    run_round(SHAPES, tmp_path, executor=run_in_process)
  assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


WRONG = {
  "no study": (Round(name="r", goal="g", studies=()), "round r: it has no study"),
  "one name": (Round(name="r", goal="g", studies=SHAPES.studies[:1] * 2), "two studies are named 'shapes_wide'"),
  "objectives": (
    Round(
      name="r",
      goal="g",
      studies=(SHAPES.studies[0], dataclasses.replace(SHAPES.studies[1], objective=Maximize("loss"))),
    ),
    "different objectives, so they cannot be compared",
  ),
  "no tuple": (
    Round(name="r", goal="g", studies=SHAPES.studies[0]),  # pyright: ignore[reportArgumentType]
    "studies should be a tuple of trialbook.Study",
  ),
  "a study": (
    Round(name="r", goal="g", studies=(SHAPES.studies[0], quadratics.study(nuisance={"x": Log(0.0, 1.0)}))),
    "study curves: nuisance['x']: Log(min=0.0, max=1.0): a log scale needs min > 0",
  ),
}


@pytest.mark.parametrize(("round_", "problem"), WRONG.values(), ids=WRONG)
def test_a_wrong_round_is_told_before_anything_is_written(tmp_path, round_, problem):
  with pytest.raises(UserError) as error:
    run_round(round_, tmp_path / "round", executor=run_in_process)
  assert any(problem in text for text in error.value.problems), error.value.problems
  assert not (tmp_path / "round").exists()


def test_studies_without_a_number_of_trials_take_it_from_the_call(tmp_path):
  endless = tuple(dataclasses.replace(study, trials=None) for study in SHAPES.studies)
  with pytest.raises(UserError, match="`trials` is required"):
    run_round(dataclasses.replace(SHAPES, studies=endless), tmp_path / "round", executor=run_in_process)
  results = run_round(
    dataclasses.replace(SHAPES, studies=endless), tmp_path / "round", trials=1, executor=run_in_process
  )
  assert [len(read_trials(found.folder)) for found in results.values()] == [1, 1]


def test_a_folder_without_a_round_is_told(tmp_path):
  with pytest.raises(UserError, match=r"holds no round: there is no round\.json"):
    rounds.read_round(tmp_path)

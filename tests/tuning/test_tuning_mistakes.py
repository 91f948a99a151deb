import re

import pytest
from commands import TRAINING, changes, outcome

from trialbook import files
from trialbook.tuning import read_results
from trialbook.tuning.records import study_lock

pytestmark = pytest.mark.usefixtures("no_workers")

UNKNOWN = TRAINING.replace("optimizer.learning_rate", "optimizer.learning_rat")
MISTAKES = {
  "unknown hyperparameter": (UNKNOWN, [], "unknown field 'optimizer.learning_rat'; did you mean 'learning_rate'"),
  "range outside the field's": (
    TRAINING.replace("Log(1e-3", "Linear(-1.0").replace("import Halton", "import Halton, Linear"),
    [],
    "optimizer.learning_rate = -1.0: should be greater than or equal to 0",
  ),
  "log over zero": (TRAINING.replace("1e-3", "0.0"), [], "a log scale needs min > 0"),
  "every value refused": (
    TRAINING.replace('"optimizer.learning_rate": Log(1e-3, 1.0)', '"schedule.warmup_steps": Integer(30, 40)').replace(
      "import Halton", "import Integer, Halton"
    ),
    [],
    "the config refuses every point of the space that was tried",
  ),
  "two problems": (TRAINING.replace("1e-3", "0.0").replace("Which rate?", ""), [], "trialbook tune run: 2 problems:"),
  "no get_study": (
    "x = 1\n",
    [],
    "has no function get_study(); it must return a trialbook.Study or a trialbook.Round",
  ),
  "no study": (
    "def get_study(): return 3\n",
    [],
    "get_study() returned int, not a trialbook.Study or a trialbook.Round",
  ),
  "an error": ("def get_study():\n  return 1 / 0\n", [], "study.py:2: ZeroDivisionError: division by zero"),
  "no Python": ("def get_study(:\n", [], "study.py:1: invalid syntax"),
  "no trials": (TRAINING, ["--trials=0"], "argument --trials: '0' should be a whole number of at least 1"),
  "workers": (TRAINING, ["--workers=many"], "argument --workers: 'many' should be a whole number of at least 1"),
  "unknown flag": (TRAINING, ["--worker=1"], "unknown flag --worker; did you mean '--workers'?"),
  "option of another": (TRAINING, ["--slurm=minutes=60"], "--slurm is for --executor=slurm"),
}


@pytest.mark.parametrize(("text", "flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message_and_nothing_is_written(capsys, tmp_path, write, text, flags, message):
  study = write(text)
  code, _, err = outcome(capsys, "run", f"--study={study}", f"--dir={tmp_path / 'runs/rate'}", *flags)
  assert code == 2
  assert message in err
  assert not (tmp_path / "runs").exists()


def test_a_missing_file_or_folder_is_told(capsys, tmp_path, write, curves):
  study = write(TRAINING)
  code, _, err = outcome(capsys, "run", f"--study={tmp_path / 'studi.py'}", f"--dir={tmp_path / 'rate'}")
  assert code == 2
  assert "there is no such file; did you mean " in err
  code, _, err = outcome(capsys, "run", f"--study={study}")
  assert code == 2
  assert "--dir is missing: name a folder" in err
  code, _, err = outcome(capsys, "run", f"--study={study}", f"--dir={study}")
  assert code == 2
  assert f"--dir={study} is a file; name a folder" in err
  code, _, err = outcome(capsys, "run", f"--study={study}", f"--dir={tmp_path}")
  assert code == 2
  assert f"{tmp_path} is not empty and holds no study: name another folder" in err
  code, _, err = outcome(capsys, "run", f"--study={curves()}", f"--dir={study}/below")
  assert code == 2
  assert f"{study}/below: Not a directory" in err
  assert [path.name for path in tmp_path.iterdir()] == ["study.py"]


@pytest.mark.slow
def test_an_objective_that_no_evaluation_writes_is_told_and_the_corrected_study_runs_in_the_folder(
  capsys, tmp_path, write
):
  study = write(TRAINING.replace("validation/error", "validation/eror"))
  code, _, err = outcome(capsys, "run", f"--study={study}", f"--dir={tmp_path / 'rate'}")
  assert code == 2
  assert "'validation/eror' is not evaluated; did you mean 'validation/error'?" in err
  assert not (tmp_path / "rate" / "trials").exists()
  code, _, _ = outcome(capsys, "run", f"--study={write(TRAINING)}", f"--dir={tmp_path / 'rate'}")
  assert code == 0
  assert read_results(tmp_path / "rate").count("complete") == 2


def test_a_metric_that_a_function_does_not_return_is_told(capsys, tmp_path, curves):
  study = curves("objective=Minimize('lose')")
  code, _, err = outcome(capsys, "run", f"--study={study}", f"--dir={tmp_path / 'runs'}")
  assert code == 2
  assert "returned no 'lose'; it returned loss, score" in err


def test_a_folder_of_another_study_is_refused_with_what_differs(capsys, tmp_path, curves):
  arguments = ["run", f"--study={curves()}", f"--dir={tmp_path / 'runs'}"]
  assert outcome(capsys, *arguments)[0] == 0
  before = changes(tmp_path / "runs")
  curves("nuisance={'x': Linear(-1.0, 2.0)}, function='quadratics:shaped'")
  code, _, err = outcome(capsys, *arguments)
  assert code == 2
  assert "holds another study, of which trials have been run; name another folder. What differs:" in err
  assert "hyperparameters.x.max: 1.0 there, 2.0 here" in err
  assert "function: 'quadratics:curve' there, 'quadratics:shaped' here" in err
  assert changes(tmp_path / "runs") == before


def test_a_study_that_another_coordinator_works_on_is_refused(capsys, tmp_path, curves):
  with files.locked(study_lock(tmp_path / "runs"), str(tmp_path / "runs")):
    code, _, err = outcome(capsys, "run", f"--study={curves()}", f"--dir={tmp_path / 'runs'}")
  assert code == 2
  assert re.search(r"runs is in use by process \d+ on \S+", err)
  assert not (tmp_path / "runs" / "study.json").exists()

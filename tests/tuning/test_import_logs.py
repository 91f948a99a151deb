"""A table with a row for each step of each trial is a log: its trials and curves are told apart, and never its rows."""

import pytest

from trialbook.errors import UserError
from trialbook.tuning import StudyResults, read_results
from trialbook.tuning.importers.importing import import_study

RATES = {"a": 0.001, "b": 0.01, "c": 0.1}
STEPS = 20
CUT = 8
"""Steps of trial c, which was cut short."""


def error(name: str, step: int) -> float:
  return 0.1 + 30 * abs(RATES[name] - 0.02) ** 2 + 0.5 * 0.8**step


def steps(name: str) -> range:
  return range(1, (CUT if name == "c" else STEPS) + 1)


def wide(names: str, *, extra: bool = False) -> str:
  head, *_ = lines = [names + (",note,lr_now" if extra else "")]
  del head
  for name, rate in RATES.items():
    for step in steps(name):
      cells = [name, str(step), f"{rate}", "adam" if name == "a" else "sgd", f"{error(name, step):.5f}"]
      lines.append(",".join([*cells, *([f"at {step}", f"{rate / step:.3g}"] if extra else [])]))
  return "\n".join(lines) + "\n"


def melted() -> str:
  lines = ["trial,step,lr,metric,value"]
  for name, rate in RATES.items():
    for step in steps(name):
      lines += [f"{name},{step},{rate},{metric},{error(name, step)}" for metric in ("val_error", "train_loss")]
  return "\n".join(lines) + "\n"


def imported(tmp_path, text: str, name: str = "log.csv") -> StudyResults:
  (tmp_path / name).write_text(text)
  return read_results(import_study("csv", tmp_path / name, tmp_path / "out")[0])


def check(results: StudyResults, optimizer: bool = True) -> None:
  assert [trial.source for trial in results.trials] == ["a", "b", "c"]
  assert [trial.values["lr"] for trial in results.trials] == list(RATES.values())
  assert not optimizer or [trial.values["opt"] for trial in results.trials] == ["adam", "sgd", "sgd"]
  assert [trial.last_step for trial in results.trials] == [STEPS, STEPS, CUT]
  assert results.objective.metric == "validation/error"
  assert [trial.state for trial in results.trials] == ["complete", "complete", "stopped"]
  assert results.trials[1].objective == pytest.approx(error("b", STEPS), abs=1e-5)


@pytest.mark.parametrize(
  "names",
  [
    "run_id,epoch,lr,opt,val_error",
    "run,step,lr,opt,val_error",
    "trial,iteration,lr,opt,val_error",
    "Name,_step,lr,opt,val_error",
  ],
)
def test_a_row_for_each_step_is_no_trial(tmp_path, names):
  results = imported(tmp_path, wide(names))
  check(results)
  assert any("log.csv is a log: its 48 rows are the steps" in note for note in results.study.warnings)


def test_what_varies_within_a_trial_is_a_curve_or_left_out_by_name(tmp_path):
  results = imported(tmp_path, wide("run_id,epoch,lr,opt,val_error", extra=True))
  check(results)
  assert "lr_now" in results.trials[0].curves
  assert any("were left out: note" in note for note in results.study.warnings)


def test_a_row_for_each_value_is_no_trial(tmp_path):
  results = imported(tmp_path, melted())
  check(results, optimizer=False)
  assert {"validation/error", "train/loss"} <= {*results.trials[0].curves}


def test_curves_may_have_a_column_for_each_metric(tmp_path):
  lines = ["trial,step,val_error,train_loss"]
  for name in RATES:
    lines += [f"{name},{step},{error(name, step)},{'' if step % 2 else 1.0}" for step in steps(name)]
  (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
  (tmp_path / "trials.csv").write_text("trial,lr,opt\n" + "a,0.001,adam\nb,0.01,sgd\nc,0.1,sgd\n")
  results = read_results(import_study("csv", tmp_path, tmp_path / "out")[0])
  check(results)
  assert len(results.trials[0].curves["train/loss"]) == STEPS // 2


def test_names_that_repeat_without_steps_are_still_refused(tmp_path):
  with pytest.raises(UserError, match="stands in line 2 already, with other cells"):
    imported(tmp_path, "trial,lr,val_error\na,0.1,0.5\na,0.1,0.4\nb,0.2,0.3\n")


def test_a_chart_has_no_hyperparameters_and_says_what_to_export(tmp_path):
  text = (
    "Step,r0 - val/loss,r0 - val/loss__MIN,r0 - val/loss__MAX,r1 - val/loss\n1,0.5,0.5,0.5,0.6\n2,0.4,0.4,0.4,0.5\n"
  )
  with pytest.raises(UserError, match="is a chart with a column for each run"):
    imported(tmp_path, text)

"""Debug mode lets healthy configs pass, and finds each planted bug by the check that is about it, and no other."""

import pathlib
from typing import Any

import jax
import numpy as np
import planted_bugs
import pytest
import tiny

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.config import ParameterGroup
from trialbook.trainer.debug import checks, data_checks, layer_calls, learning_checks, model_checks
from trialbook.trainer.debug.session import Session, open_session

TEXT = {
  "model.name": "planted_bugs:TextModel",
  "dataset.name": "planted_bugs:text",
  "task.name": "language_model",
}
PAIRS = {
  "model.name": "planted_bugs:PairModel",
  "dataset.name": "planted_bugs:pairs",
  "task.name": "planted_bugs:Denoising",
  "task.traced.noise": 0.3,
}
LINE = {"dataset.name": "planted_bugs:line", "task.name": "regression"}


def config(**changes: Any) -> Config:
  """A small network on digits with Adam, both of `planted_bugs`, with changes by path."""
  small = {
    "model.name": "planted_bugs:Mlp",
    "dataset.name": "planted_bugs:digits",
    "optimizer.name": "adam",
    "batch_size": 32,
    "compilation_cache": None,
  }
  return Config().override(small | changes)


def session(**changes: Any) -> Session:
  return open_session(config(**changes), eager=False)


@pytest.mark.slow
def test_a_healthy_config_passes_and_nothing_is_written(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  monkeypatch.chdir(tmp_path)
  assert checks.main(tiny.mlp()) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[-1] == "none of 13 checks failed"
  assert [line[:6] for line in lines[-14:-1]] == ["pass  "] * 13
  assert any(line.startswith("hidden/0/linear/kernel  64×32 ") for line in lines)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_healthy_config_with_everything_in_it_passes_and_its_parameters_are_told():
  report = checks.debug(tiny.resnet())
  assert (report.failed, {check.passed for check in report.checks}) == ((), {True})
  rows = {row.name: row for row in report.table}
  assert rows["stem/conv/kernel"][1:4] == ((3, 3, 1, 8), "float32", 3 * 3 * 8 * 4)
  assert (rows["stem/norm/scale"].mean, rows["stem/norm/scale"].std) == (1, 0)
  # He initialization of 3 × 3 × 8 inputs: the deviation of 576 draws.
  assert rows["blocks/0/hidden/0/conv/kernel"].std == pytest.approx(np.sqrt(2 / 72), rel=0.15)
  assert [step["step"] for step in report.steps] == [0, 1, 2, 3, 4, 5]
  assert all("validation/error" in step for step in report.steps)
  # Warmup of two steps.
  assert report.steps[1]["learning_rate"] == pytest.approx(0.0015)


@pytest.mark.slow
def test_a_healthy_language_model_passes():
  report = checks.debug(config(**TEXT))
  names = [check.name for check in report.checks if check.passed]
  assert not report.failed
  assert "labels are the next inputs" in names
  assert "outputs do not depend on later positions" in names


PLANTED = {
  "images and labels from different rows": (
    {"dataset.kwargs.bug": "rows"},
    "inputs predict labels of unseen examples",
    "check that inputs and labels of a row belong together",
  ),
  "softmax in the model": (
    {"model.kwargs.bug": "softmax"},
    "outputs are logits",
    "the model's outputs are probabilities (between 0 and 1, with sum 1)",
  ),
  "a layer without gradient": (
    {"model.kwargs.bug": "no_gradient"},
    "gradients reach every parameter",
    "no gradient reaches first/bias, first/kernel, middle/norm/scale",
  ),
  "batch leakage at evaluation": (
    {"model.kwargs.bug": "leak"},
    "examples do not influence one another",
    "first in the code of Mlp, before it calls output (Linear); check over which axes",
  ),
  "wrong normalization axis": (
    {"model.kwargs.bug": "wrong_axis"},
    "examples do not influence one another",
    "first in middle/norm (Normalize)",
  ),
  "a NaN in a named layer": (
    {"model.kwargs.bug": "nan"},
    "all numbers are finite",
    "at step 0, first in middle/root (Root): NaN in ",
  ),
  "a learning rate 1000x too high": (
    {"optimizer.learning_rate": 1.0},
    "the learning rate is not too high",
    "optimizer.learning_rate = 1 is too high; start with 0.1 or less",
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_fails_its_check_and_no_other(bug: str):
  changes, name, told = PLANTED[bug]
  report = checks.debug(config(**changes))
  assert [check.name for check in report.failed] == [name]
  assert told in f"{report.failed[0].seen}; {report.failed[0].remedy}"


@pytest.mark.slow
def test_targets_that_are_a_language_models_inputs_are_found(capsys: pytest.CaptureFixture[str]):
  assert checks.main(config(**TEXT, **{"dataset.kwargs.bug": "copied"})) == 1
  lines = capsys.readouterr().out.splitlines()
  failed = [line for line in lines if line.startswith("FAIL")]
  assert len(failed) == 1
  assert failed[0].startswith("FAIL  labels are the next inputs: labels are the next input at ")
  assert failed[0].endswith("the input itself at 100%")
  assert lines[lines.index(failed[0]) + 1].startswith("      to fix: shift the labels by one position")
  assert lines[-1] == "1 of 13 checks failed"


@pytest.mark.slow
def test_a_healthy_task_of_several_inputs_and_outputs_without_labels_passes_what_applies_to_it():
  report = checks.debug(config(**PAIRS))
  assert [check.passed for check in report.checks] == [True] * 8, report.checks
  assert {check.name for check in report.checks} == {
    "inputs have a usual scale",
    "all numbers are finite",
    "gradients reach every parameter",
    "a training step is reproducible",
    "an evaluation is reproducible",
    "examples do not influence one another",
    "the model can overfit a few examples",
    "the learning rate is not too high",
  }
  last = report.steps[-1]
  assert last["validation/loss"] == pytest.approx(last["validation/left"] + last["validation/right"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("bug", "name", "told"),
  [
    (
      "leak",
      "examples do not influence one another",
      "first in the code of PairModel, before it calls hidden (Linear)",
    ),
    ("no_gradient", "gradients reach every parameter", "no gradient reaches code/bias, code/kernel"),
  ],
)
def test_a_bug_in_a_model_of_several_inputs_and_outputs_is_told_with_its_place(bug: str, name: str, told: str):
  report = checks.debug(config(**PAIRS, **{"model.kwargs.bug": bug}))
  assert [check.name for check in report.failed] == [name]
  assert told in report.failed[0].seen


@pytest.mark.long
def test_without_jit_a_model_may_look_at_numbers():
  changes = {"model.kwargs.bug": "python"}
  with pytest.raises(UserError, match="model 'planted_bugs:Mlp' fails"):
    checks.debug(config(**changes))
  report = checks.debug(config(**changes), eager=True)
  assert not report.failed
  assert sum(check.passed is None for check in report.checks) == 2


DATA = {
  "scale": data_checks.inputs_are_scaled,
  "constant": data_checks.inputs_are_scaled,
  "from_one": data_checks.labels_are_plausible,
  "one_class": data_checks.labels_are_plausible,
  "shared": data_checks.splits_are_apart,
}


@pytest.mark.parametrize("bug", DATA)
def test_a_bug_in_the_data_is_found_by_its_check_and_by_no_other_of_the_data(bug: str):
  opened = session(**{"dataset.kwargs.bug": bug})
  verdicts = {judge: judge(opened) for judge in set(DATA.values())}
  assert {judge for judge, verdict in verdicts.items() if verdict is None or not verdict.passed} == {DATA[bug]}


def test_rows_of_a_text_and_of_real_targets_that_do_not_belong_together_are_found():
  for bug, fits in (("", True), ("rows", False)):
    text = data_checks.labels_are_next(session(**TEXT, **{"dataset.kwargs.bug": bug}))
    assert text is not None
    assert text.passed == fits
  for bug, fits in (("", True), ("scale", False)):
    line = data_checks.labels_are_plausible(session(**LINE, **{"dataset.kwargs.bug": bug}))
    assert line is not None
    assert line.passed == fits


@pytest.mark.parametrize(("bug", "fits"), [("", True), ("rows", False)])
def test_a_target_is_predicted_if_rows_belong_together(bug: str, fits: bool):
  # In eager mode the probe alone decides.
  verdict = learning_checks.inputs_predict(open_session(config(**LINE, **{"dataset.kwargs.bug": bug}), eager=True))
  assert verdict is not None
  assert verdict.passed == fits


@pytest.mark.slow
def test_a_task_that_applies_softmax_a_second_time_is_found():
  verdict = model_checks.gives_logits(session(**{"task.name": "planted_bugs:SoftmaxTwice"}))
  assert verdict is not None
  assert not verdict.passed
  # Softmax of one 50 and nine 0 is 1 and nine 0; of these, the logarithm of the first is 1 - log(e + 9).
  assert f"the loss of confident, correct outputs is {np.log(np.e + 9) - 1:.2g}, that of a guess 2.3" in verdict.seen


@pytest.mark.slow
@pytest.mark.parametrize(
  ("bug", "judge", "told"),
  [
    ("nan_code", model_checks.is_finite, "first in the code of Mlp, before it calls output (Linear): NaN in 100%"),
    ("nan_gradient", model_checks.is_finite, "the gradient of first/bias, first/kernel, middle/norm/scale; the loss"),
    ("random", model_checks.evaluation_repeats, "are random, first in dropout (Dropout)"),
    ("moving", model_checks.evaluation_repeats, "an evaluation changes calls"),
  ],
)
def test_a_bug_in_a_model_is_told_with_its_place(bug: str, judge: Any, told: str):
  verdict = judge(session(**{"model.kwargs.bug": bug}))
  assert not verdict.passed
  assert told in verdict.seen


@pytest.mark.slow
def test_a_language_model_that_sees_what_is_to_come_is_found():
  verdict = model_checks.positions_are_causal(session(**TEXT, **{"model.kwargs.bug": "time_axis"}))
  assert verdict is not None
  assert not verdict.passed
  assert "first in norm (TextNorm)" in verdict.seen


def test_frozen_parameters_need_no_gradient():
  groups = (ParameterGroup(parameters="first/*", frozen=True), ParameterGroup(parameters="*"))
  opened = session(parameter_groups=groups)
  assert opened.is_frozen("first/kernel")
  assert not opened.is_frozen("second/kernel")


def test_a_config_that_no_run_would_take_is_refused_with_all_problems():
  with pytest.raises(UserError) as refused:
    checks.debug(config(**{"model.kwargs.widht": 3, "task.name": "regression"}))
  assert len(refused.value.problems) == 2


@pytest.mark.slow
def test_the_first_layer_that_is_not_finite_is_named_within_stacked_layers_too():
  small = {"model.name": "transformer", "model.width": 8, "model.depth": 2, "model.heads": 2}
  opened = session(**TEXT | small)
  state = jax.tree.map(lambda leaf: leaf, opened.state)
  layer = state["params"]["blocks"]["layer"]["hidden"]
  layer["kernel"] = layer["kernel"].at[1, 0, 0].set(np.inf)
  place = layer_calls.first_not_finite(opened.forward(state, opened.probed, train=False))
  assert place is not None
  assert place.startswith("blocks/layer[1]/hidden (Linear): ")
  assert layer_calls.first_not_finite(opened.forward(opened.state, opened.probed, train=False)) is None


def test_layers_are_as_before_when_they_are_no_longer_watched():
  call = planted_bugs.Mlp.__call__

  def run() -> None:
    assert planted_bugs.Mlp.__call__ is not call
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    layer_calls.moments(run)
  assert planted_bugs.Mlp.__call__ is call

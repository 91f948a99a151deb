"""A rule that ends trials early: its decisions depend on the values alone, whoever makes them, and when."""

import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pruned_functions
import pytest
from commands import outcome
from in_process import run_in_process
from json_lines import read_json_lines
from tiny import mlp

from trialbook.errors import UserError
from trialbook.tuning import (
  BayesianOptimization,
  Integer,
  Log,
  Maximize,
  Minimize,
  QuantileStopping,
  StudyResults,
  read_results,
  run_study,
)
from trialbook.tuning.early_stopping import OPEN, Standing, Verdict, verdicts
from trialbook.tuning.execution.observations import observations
from trialbook.tuning.records import read_study, read_trials, trial_folder


def naive(
  rule: QuantileStopping, costs: Sequence[Sequence[float]], since: int = 0
) -> list[tuple[int, float, int] | None]:
  """The rule in NumPy, on complete knowledge: position, limit and number of earlier trials of each decision."""
  seen = np.array(costs, float)
  found: list[tuple[int, float, int] | None] = []
  for index in range(len(seen)):
    decision = None
    for at in range(seen.shape[1]):
      earlier = seen[:index, at]
      earlier = earlier[~np.isnan(earlier)]
      if index < since or len(earlier) < rule.after or not np.isfinite(seen[index, at]):
        continue
      limit = float(np.quantile(earlier, rule.quantile, method="higher"))
      if seen[index, at] > limit:
        decision = at, limit, len(earlier)
        seen[index, at + 1 :] = np.inf
        break
    found.append(decision)
  return found


def drawn(rng: np.random.Generator, trials: int, steps: int) -> np.ndarray:
  """Costs of trials that cross, with ties; some are infeasible from a step on, and some failed."""
  costs = np.round(rng.normal(size=(trials, 1)) + rng.normal(scale=0.7, size=(trials, steps)), 1)
  for trial in range(trials):
    if rng.random() < 0.3:
      costs[trial, rng.integers(steps + 1) :] = rng.choice([np.inf, np.nan])
  return costs


@pytest.mark.parametrize("seed", range(20))
def test_decisions_are_those_of_the_plain_rule_and_nothing_that_is_not_known_yet_changes_them(seed: int):
  rng = np.random.default_rng(seed)
  steps = int(rng.integers(1, 4))
  rule = QuantileStopping(quantile=float(rng.choice([0.25, 0.5, 0.6, 0.75])), at=(0.2,), after=int(rng.integers(1, 8)))
  costs, since = drawn(rng, 40, steps), int(rng.choice([0, 0, 15]))
  own = [int(np.isfinite(row).sum()) for row in costs]
  whole = verdicts(rule, [Standing(tuple(row.tolist()), count) for row, count in zip(costs, own, strict=True)], since)
  expected = naive(rule, costs.tolist(), since)
  assert [(isinstance(one, Verdict) and (one.at, one.limit, one.among)) or one for one in whole] == expected
  assert any(one is not None for one in expected)
  for _ in range(30):
    # What is known at some moment: of each trial its first steps.
    known = []
    for row, count in zip(costs.tolist(), own, strict=True):
      until = int(rng.integers(steps + 1))
      known.append(Standing((*row[:until], *[None] * (steps - until)), min(count, until)))
    for now, final in zip(verdicts(rule, known, since), whole, strict=True):
      assert now in (OPEN, final)


def test_decisions_do_not_depend_on_zero_scale_or_direction_of_the_metric():
  costs = drawn(np.random.default_rng(0), 40, 2)
  rule = QuantileStopping()

  def decided(values: np.ndarray) -> list[int | None]:
    found = verdicts(rule, [Standing(tuple(row.tolist()), 2) for row in values])
    return [one.at if isinstance(one, Verdict) else None for one in found]

  expected = decided(costs)
  assert any(one is not None for one in expected)
  for changed in (costs * 1e-6, 1000 * costs, costs - 5000, np.exp(costs)):
    assert decided(changed) == expected


def check_same(one: StudyResults, other: StudyResults, *, logs: Callable[[pathlib.Path], Any]) -> None:
  """States, reasons, values, what was reached and what was logged."""
  assert len(one.trials) == len(other.trials)
  mine, theirs = read_trials(one.folder), read_trials(other.folder)
  for trial in mine:
    for name in ("state", "reason", "values"):
      assert getattr(mine[trial], name) == getattr(theirs[trial], name), trial
    for name in ("step", "reached", "objective", "best_step"):
      assert mine[trial].summary.get(name) == theirs[trial].summary.get(name), (trial, name)
    assert logs(trial_folder(one.folder, trial)) == logs(trial_folder(other.folder, trial)), trial
  assert [trial.objective for trial in one.trials] == [trial.objective for trial in other.trials]


def lines(folder: pathlib.Path) -> list[Any]:
  return read_json_lines(folder / "metrics.jsonl")


def steps_of(results: StudyResults) -> int:
  return sum(trial.last_step for trial in results.trials)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return tmp_path_factory.mktemp("pruned")


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path) -> StudyResults:
  """The study without a rule."""
  return run_study(pruned_functions.study(stopping=None), folder / "whole", executor=run_in_process)


@pytest.fixture(scope="module")
def pruned(folder: pathlib.Path) -> StudyResults:
  """The study, its trials one after the other."""
  return run_study(pruned_functions.study(), folder / "pruned", executor=run_in_process)


def test_a_trial_is_ended_where_it_is_worse_than_the_quantile_of_those_before_it(
  whole: StudyResults, pruned: StudyResults
):
  rule, at = pruned_functions.study().stopping, (3, 6)
  assert rule is not None
  costs = []
  for trial in whole.trials:
    steps, values = trial.curve("loss")
    final = {"complete": trial.objective, "infeasible": math.inf}[trial.state]
    # A trial that is not finite, or did not come there, counts as worse; one that was complete before, with its value.
    costs.append([min(values[steps <= step], default=math.inf) if trial.last_step >= step else final for step in at])
  expected = naive(rule, costs)
  assert {one[0] for one in expected if one is not None} == {0, 1}
  for trial, decision, before in zip(pruned.trials, expected, whole.trials, strict=True):
    if decision is None:
      assert (trial.state, trial.objective, lines(trial.folder)) == (
        before.state,
        before.objective,
        lines(before.folder),
      )
      continue
    position, limit, among = decision
    step = at[position]
    value = costs[trial.trial][position]
    assert (trial.state, trial.objective) == ("pruned", None)
    told = f"pruned at step {step}: loss {value:.4g} is worse than the median {limit:.4g} of {among} earlier trials"
    assert trial.reason == told
    assert trial.curves["loss"] == [point for point in before.curves["loss"] if point[0] <= step]
    record = read_trials(pruned.folder)[trial.trial]
    assert record.summary["step"] == step
    assert record.summary["reached"][position] == (step, value)
    assert record.attempts[-1]["end"] == "pruned"
  assert not any(trial.state == "pruned" for trial in pruned.trials[: rule.after])
  saved = 1 - steps_of(pruned) / steps_of(whole)
  assert 0.15 < saved < 0.5
  assert pruned.best is not None
  assert whole.best is not None
  assert pruned.best.objective == whole.best.objective


def test_a_larger_value_is_better_where_the_objective_says_so(folder: pathlib.Path, pruned: StudyResults):
  mirrored = pruned_functions.study(objective=Maximize("negative"))
  results = run_study(mirrored, folder / "mirrored", executor=run_in_process)
  assert [trial.state for trial in results.trials] == [trial.state for trial in pruned.trials]


def test_the_last_value_and_other_quantiles_are_compared_as_asked(folder: pathlib.Path, whole: StudyResults):
  declared = pruned_functions.study(
    objective=Minimize("loss", "last"), stopping=QuantileStopping(quantile=0.75, at=(4,), after=4)
  )
  results = run_study(declared, folder / "last", executor=run_in_process)
  ended = [trial for trial in results.trials if trial.state == "pruned"]
  assert 2 <= len(ended) < 10
  for trial in ended:
    assert re.search(r" is worse than \S+, which 75% of \d+ earlier trials reach$", trial.reason or "")


def test_a_function_that_only_returns_is_never_ended_early(tmp_path: pathlib.Path):
  rule = QuantileStopping(at=(3,), after=1)
  declared = pruned_functions.study(function="pruned_functions:at_once", stopping=rule, trials=6)
  results = run_study(declared, tmp_path / "study", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["complete"] * 6


def test_more_trials_change_no_decision_on_the_first_ones(folder: pathlib.Path, pruned: StudyResults):
  path = folder / "extended"
  run_study(pruned_functions.study(), path, trials=12, executor=run_in_process)
  results = run_study(pruned_functions.study(), path, executor=run_in_process)
  check_same(results, pruned, logs=lines)


def test_another_rule_is_refused_and_a_new_one_holds_for_further_trials(folder: pathlib.Path, whole: StudyResults):
  path = folder / "added"
  run_study(pruned_functions.study(stopping=None), path, trials=14, executor=run_in_process)
  before = read_trials(path)
  results = run_study(pruned_functions.study(), path, executor=run_in_process)
  assert dict(read_study(path).stopping or {}) == {"quantile": 0.5, "at": [3, 6], "after": 6, "since": 14}
  assert {trial: record.state for trial, record in read_trials(path).items() if trial < 14} == {
    trial: record.state for trial, record in before.items()
  }
  assert results.count("pruned") > 2
  for changed, told in (
    (QuantileStopping(quantile=0.75, at=(3, 6), after=6), "stopping.quantile: 0.5 there, 0.75 here"),
    (None, "stopping.quantile: 0.5 there, None here"),
  ):
    with pytest.raises(UserError, match=told):
      run_study(pruned_functions.study(stopping=changed), path, executor=run_in_process)
  assert [trial.state for trial in run_study(pruned_functions.study(), path, executor=run_in_process).trials] == [
    trial.state for trial in results.trials
  ]


FUNCTION: dict[str, Any] = {"stopping": QuantileStopping(at=(3,))}
TRAINING: dict[str, Any] = {"function": None, "config": mlp(max_train_steps=40, evaluation__every_steps=10)}
WRONG: dict[str, Any] = {"share": 0.5, "mixed": (0, "x")}
RATE = {"optimizer.learning_rate": Log(1e-3, 1.0)}


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"stopping": QuantileStopping(quantile=1.5, at=(3,))}, ["quantile = 1.5: should be a number between 0 and 1"]),
    ({"stopping": QuantileStopping(quantile=True, at=(3,))}, ["quantile = True: should be a number between 0 and 1"]),
    ({"stopping": QuantileStopping(at=(3,), after=0)}, ["after = 0: should be a whole number of at least 1"]),
    ({"stopping": QuantileStopping(at=())}, [r"at = \(\): should be a tuple of shares of the steps"]),
    ({"stopping": QuantileStopping(at=WRONG["share"])}, ["at = 0.5: should be a tuple"]),
    (
      {"stopping": QuantileStopping(at=WRONG["mixed"])},
      ["at = 0: should be a share", "at = 'x': should be a share"],
    ),
    ({"stopping": QuantileStopping()}, ["at = 0.25: how many values a function yields is not known", r"at=\(10,\)"]),
    ({"stopping": 0.5}, [r"stopping = 0.5: should be a rule, for example QuantileStopping\(quantile=0.5\)"]),
    ({**TRAINING, "nuisance": RATE, "stopping": QuantileStopping(at=(31,))}, ["no evaluation is between step 31 and"]),
    ({**TRAINING, "nuisance": RATE, "stopping": QuantileStopping(at=(0.9,))}, ["no evaluation is between step 36 and"]),
    (
      {**TRAINING, "nuisance": {**RATE, "max_train_steps": Integer(30, 50)}, "stopping": QuantileStopping()},
      ["max_train_steps is varied, but trials are compared at the same step; fix it"],
    ),
  ],
)
def test_mistakes_in_a_rule_are_told_with_the_others_before_anything_runs(
  tmp_path: pathlib.Path, changes: dict[str, Any], told: list[str]
):
  settings: dict[str, Any] = {"objective": Minimize("validation/error")} if "config" in changes else {}
  declared = pruned_functions.study(goal="" if "stopping" in told[0] else "Which x?", **settings, **changes)
  with pytest.raises(UserError) as caught:
    run_study(declared, tmp_path / "study", executor=run_in_process)
  for text in told:
    assert [problem for problem in caught.value.problems if re.search(text, problem)], text
  assert not (tmp_path / "study").exists()


@pytest.mark.usefixtures("no_workers")
def test_the_command_prints_the_rule_and_which_trials_it_ended(capsys, write, tmp_path: pathlib.Path):
  file = write("import pruned_functions\ndef get_study():\n  return pruned_functions.study()\n")
  code, out, _ = outcome(capsys, "run", f"--study={file}", "--dry_run")
  assert code == 0
  where = "ends a trial at its first evaluation from step 3 or 6 on"
  rule = f"early stopping: {where} if it is worse there than the median of the trials before it"
  assert f"{rule}; the first 6 run to their end" in out
  code, out, err = outcome(capsys, "run", f"--study={file}", f"--dir={tmp_path / 'study'}")
  assert code == 0
  assert rule in err
  pruned = [trial for trial in read_results(tmp_path / "study").trials if trial.state == "pruned"]
  for trial in pruned:
    assert f"trial {trial.trial}: {trial.reason}" in err
  assert f"{len(pruned)} pruned" in out
  code, out, _ = outcome(capsys, "show", tmp_path / "study", pruned[0].trial)
  assert (code, str(pruned[0].reason) in out) == (0, True)
  code, out, err = outcome(capsys, "trial", tmp_path / "study", pruned[0].trial)
  assert (code, err) == (0, f"trialbook tune trial: {pruned[0].reason}\n")
  assert outcome(capsys, "status", tmp_path / "study")[0] == 0


def test_a_search_by_results_sees_pruned_trials_as_no_better_than_the_quantile(pruned: StudyResults):
  records = read_trials(pruned.folder).values()
  seen = observations(records, pruned_functions.study())
  complete = sorted(trial.objective for trial in pruned.trials if trial.objective is not None)
  for record, one in zip(records, seen, strict=True):
    if record.state == "pruned":
      assert (one.state, one.objective) == ("complete", np.quantile(complete, 0.5, method="higher"))
    else:
      known = record.summary.get("objective") if record.state == "complete" else None
      assert (one.state, one.objective) == (record.state, known)
  declared = pruned_functions.study(search=BayesianOptimization(sampler="tpe", explore=10), trials=20)
  results = run_study(declared, pruned.folder.parent / "tpe", executor=run_in_process)
  assert results.count("pruned") > 1
  again = run_study(declared, pruned.folder.parent / "tpe again", executor=run_in_process)
  check_same(results, again, logs=lines)


def test_a_rule_counts_shares_of_the_steps_and_steps():
  rule = QuantileStopping(quantile=0.75, at=[0.25, 50])  # pyright: ignore[reportArgumentType]
  config = mlp(max_train_steps=100, evaluation__every_steps=10)
  assert rule.problems(config, ["optimizer.learning_rate"]) == []
  assert rule.steps(100) == QuantileStopping.from_json(rule.as_json()).steps(100) == (25, 50)

import dataclasses
import json
import math
import statistics

import numpy as np
import pytest

from trialbook.tuning import Linear, Log, Maximize, Minimize, Objective, OneOf, ReverseLog
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.curves import Logged
from trialbook.tuning.findings import findings
from trialbook.tuning.reporting import charts
from trialbook.tuning.reporting.page_data import (
  CURVE_POINTS,
  FEWEST_POINTS,
  objectives_of,
  page_data,
  short_names,
  trial_columns,
)
from trialbook.tuning.reporting.plain import plain
from trialbook.tuning.space.scales import Hyperparameter

METHOD = Hyperparameter(name="method", path="method", scale=OneOf(["a", "b"]), role="scientific")
CLOSE = 1e-4
"""Relative: the page has five digits."""


@pytest.fixture(scope="module")
def study():
  """Two methods, 14 trials of which two diverged, one never logged anything and one has NaN among its evaluations."""

  def diverges(units, _):
    return units[planted.SPACE[0].name] > 0.85

  space = (METHOD, planted.SPACE[0])
  found = planted.healthy(3, space=space, trials=14, evaluations=12, diverges=diverges)
  trials = list(found.trials)
  trials[2] = planted.trial(2, trials[2].values, {})
  curves = dict(trials[4].log.curves)
  examples = trials[4].log.examples
  curves["validation/error"] = [(step, math.nan if step % 3 else value) for step, value in curves["validation/error"]]
  curves["test/error"] = curves["validation/loss"]
  curves["validation/accuracy"] = [(step, 1 - value) for step, value in curves["validation/error"]]
  trials[4] = dataclasses.replace(trials[4], log=Logged(curves=curves, examples=examples), _arrays={})
  assert sum(trial.state == "infeasible" for trial in trials) in (1, 2, 3)
  return planted.results(trials, space)


@pytest.fixture(scope="module")
def page(study):
  return page_data(study, objectives_of(study))


def values_of(results, objective) -> dict[int, float]:
  """What each complete trial is worth, from its curve by the definition."""
  found = {}
  for trial in results.trials:
    points = [(s, v) for s, v in trial.log.curves.get(objective.metric, ()) if math.isfinite(v) and s > 0]
    if trial.recorded[0] != "complete" or not points:
      continue
    values = [value for _, value in points]
    pick = {"best": min if objective.mode == "min" else max, "last": lambda of: of[-1]}
    pick["smoothed"] = lambda of: statistics.median(of[-5:])
    found[trial.trial] = pick[objective.value](values)
  return found


@pytest.mark.slow
def test_the_page_ranks_by_every_objective_as_numpy_does(study, page):
  assert len(page["views"]) == len(page["objectives"]) > 8
  for objective, view in zip(objectives_of(study), page["views"], strict=True):
    worth = values_of(study, objective)
    # A trial that never was better than before its first step is infeasible by this objective.
    order = [trial for trial in sorted(worth, key=lambda n: (objective.sign * worth[n], n)) if trial in view["order"]]
    assert view["order"] == order
    assert set(worth) - set(order) == {
      trial for trial in worth if view["tables"]["trials"]["state"][trial] == "infeasible"
    }
    assert view["best"] == order[0]
    shown = view["tables"]["trials"]
    assert shown["objective"] == [pytest.approx(worth[n], rel=CLOSE) if n in order else None for n in range(14)]
    assert shown["worth"] == [None if v is None else objective.sign * v for v in shown["objective"]]
    assert shown["best"] == [n == order[0] for n in range(14)]


def test_the_best_of_k_of_each_setting_is_what_drawing_again_and_again_gives(study, page):
  rng = np.random.default_rng(0)
  objective, view = objectives_of(study)[0], page["views"][0]
  worth = values_of(study, objective)
  table = view["tables"]["best_of_k"]
  for method in ("a", "b"):
    trials = [trial.trial for trial in study.trials if trial.values["method"] == method]
    states = [view["tables"]["trials"]["state"][trial] for trial in trials]
    values = [worth[t] if t in view["order"] else math.inf for t, s in zip(trials, states, strict=True)]
    # The trial that never logged anything counts as infeasible by the rule of the objective.
    for k, median in [
      (k, m) for s, k, m in zip(*(table[n] for n in ("setting", "k", "median")), strict=True) if s == method
    ]:
      draws = np.sort(rng.choice(values, (20_001, k)).min(axis=1))
      # The median of draws may be a neighbour of the true one.
      low, high = draws[9_600], draws[10_400]
      assert (math.inf if median is None else median) >= low * (1 - CLOSE)
      assert (math.inf if median is None else median) <= high * (1 + CLOSE)


def test_settings_are_compared_by_their_best_at_equal_budgets(study, page):
  for objective, view in zip(objectives_of(study), page["views"], strict=True):
    worth, table = values_of(study, objective), view["tables"]["settings"]
    for place, method in enumerate(table["setting"]):
      own = [n for n in view["order"] if study.trials[n].values["method"] == method]
      assert table["trial"][place] == own[0]
      assert table["objective"][place] == pytest.approx(worth[own[0]], rel=CLOSE)
      assert table["winner"][place] == (own[0] == view["best"])
    assert len(set(table["budget"])) == 1


def test_plots_draw_points_as_the_findings_do_and_count_only_what_ended(monkeypatch):
  monkeypatch.setattr(charts, "plots", lambda *_: [])
  space = (METHOD, planted.SPACE[0], Hyperparameter(name="seed", path="seed", scale=OneOf([0, 1]), role="nuisance"))
  # (method, rate, seed) and worth: two retrains of a point of "a" have the mean 0.3, and its best point has 0.25.
  had = [("a", 0.1, 0, 0.1), ("a", 0.1, 1, 0.5), ("a", 0.2, 0, 0.25), ("b", 0.1, 0, 0.4), ("b", 0.2, 0, 0.45)]
  states = {5: "running", 6: "failed", 7: "infeasible"}
  had += [("b", 0.3 + 0.1 * number, 0, 0.9) for number in states]
  trials = [
    planted.trial(
      number,
      {"method": method, planted.SPACE[0].name: rate, "seed": seed},
      {"validation/error": ([1, 2], [0.95, worth])},
      state=states.get(number, "complete"),
    )
    for number, (method, rate, seed, worth) in enumerate(had)
  ]
  study = planted.results(trials, space)
  tables = page_data(study, [study.objective])["views"][0]["tables"]
  shown = tables["settings"]
  assert (shown["setting"], shown["trial"], shown["winner"]) == (["a", "b"], [2, 3], [True, False])
  assert shown["objective"] == [0.25, 0.4]
  assert shown["budget"] == [2, 2]
  ks = list(zip(tables["best_of_k"]["setting"], tables["best_of_k"]["k"], strict=True))
  assert ks == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]
  assert tables["best_of_k"]["p95"][0] == pytest.approx(0.3)


def test_findings_and_states_are_those_of_each_objective(study, page):
  for objective, view in zip(objectives_of(study), page["views"], strict=True):
    results = study.by(objective)
    assert view["findings"] == json.loads(
      json.dumps([plain({**one.as_json(), "paste": one.paste}) for one in findings(results)])
    )
    assert view["states"] == {
      state: count for state in ("complete", "infeasible") if (count := sum(t.state == state for t in results.trials))
    }


def test_objectives_are_offered_once_and_those_of_the_test_set_with_a_warning(study, page):
  offered = objectives_of(study)
  assert len(set(offered)) == len(offered)
  assert offered[0] == study.objective
  metrics = {one.metric for one in offered}
  # Accuracy is one minus the error; `train/loss` is of single batches, and `train_subset/loss` is there.
  assert metrics == {
    "validation/error", "validation/loss", "train_subset/error", "train_subset/loss", "test/error"
  }  # fmt: skip
  for one in page["objectives"]:
    assert bool(one["warning"]) == one["metric"].startswith("test/")
  accuracy = study.by(Maximize("validation/accuracy"))
  assert "validation/error" not in {one.metric for one in objectives_of(accuracy)}


def test_the_page_is_strict_json(page):
  def refuse(text):
    raise AssertionError(text)

  assert json.loads(json.dumps(page, allow_nan=False), parse_constant=refuse)["format"] == 1


def test_curves_of_the_page_are_those_of_the_logs_without_what_is_not_finite(study, page):
  drawn = page["curves"]
  for metric in ("validation/error", "train_subset/loss", "grad_norm"):
    for trial in study.trials:
      points = [(s, v) for s, v in trial.log.curves.get(metric, ()) if math.isfinite(v)]
      if not points:
        assert trial.trial not in drawn["values"][metric]
        continue
      place, values = drawn["values"][metric][trial.trial]
      assert len(values) == len(drawn["steps"][place])
      kept = dict(points)
      for step, value in zip(drawn["steps"][place], values, strict=True):
        assert value == pytest.approx(kept[step], rel=CLOSE, abs=1e-12)
      if len(points) <= FEWEST_POINTS:
        assert len(values) == len(points)


def test_long_curves_are_thinned_and_keep_the_step_that_was_chosen(monkeypatch):
  monkeypatch.setattr(charts, "plots", lambda *_: [])
  study = planted.healthy(1, trials=30, evaluations=300)
  page = page_data(study, objectives_of(study)[:1])
  drawn = page["curves"]
  points = sum(len(values) for curves in drawn["values"].values() for _, values in curves.values())
  assert 0.5 * CURVE_POINTS < points <= CURVE_POINTS
  for trial, step in zip(study.trials, page["views"][0]["tables"]["trials"]["step"], strict=True):
    if trial.objective is not None:
      place, _ = drawn["values"]["validation/error"][trial.trial]
      assert step in drawn["steps"][place]


def test_names_are_as_short_as_they_tell_hyperparameters_apart():
  names = ["optimizer.learning_rate", "schedule.learning_rate", "model.dropout", "averaging.present", "augment.present"]
  space = tuple(Hyperparameter(name=name, path=name, scale=Linear(0.0, 9.0), role="nuisance") for name in names)
  curve = {"validation/error": ([1], [0.5])}
  trials = [planted.trial(number, dict.fromkeys(names, float(number)), curve) for number in range(2)]
  assert short_names(planted.results(trials, space)) == [
    "optimizer.learning_rate", "schedule.learning_rate", "dropout", "averaging.present", "augment.present"
  ]  # fmt: skip


def test_what_trials_are_called_where_they_were_made_is_shown_where_it_differs(study):
  assert "source" not in trial_columns(study, [])
  named = [dataclasses.replace(trial, source=f"worker_{trial.trial}") for trial in study.trials]
  columns = trial_columns(dataclasses.replace(study, trials=tuple(named)), [])
  assert columns["source"] == [f"worker_{number}" for number in columns["trial"]]


def test_axes_show_one_minus_a_decay_and_slices_of_it_have_names_of_their_own():
  one = Hyperparameter(name="beta", path="beta", scale=ReverseLog(0.9, 0.9999), role="nuisance")
  values = [one.scale.at((number + 0.5) / 10) for number in range(10)]
  curve = {"validation/error": ([1, 2], [0.9, 0.5])}
  study = planted.results([planted.trial(n, {"beta": value}, curve) for n, value in enumerate(values)], (one,))
  columns = page_data(study, [study.objective])["trials"]
  assert columns["h0"] == pytest.approx([1 - value for value in values])
  assert columns["o0"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
  assert len(set(columns["b0"])) == 5


def test_numbers_that_json_lacks_are_left_out(monkeypatch):
  monkeypatch.setattr(charts, "plots", lambda *_: [])
  one = Hyperparameter(name="clip", path="clip", scale=OneOf([1.0, math.inf]), role="nuisance")
  curve = {"validation/error": ([1, 2], [0.9, 0.5])}
  trials = [planted.trial(number, {"clip": value}, curve) for number, value in enumerate((1.0, math.inf))]
  trials[0] = dataclasses.replace(trials[0], seconds=math.nan)
  study = planted.results(trials, (one,))
  page = json.loads(json.dumps(page_data(study, [study.objective]), allow_nan=False))
  assert page["trials"]["seconds"] == [None, 0]
  assert page["trials"]["h0"] == ["1", "inf"]


def test_what_reruns_say_of_the_variance_is_in_the_page_by_each_objective(monkeypatch):
  monkeypatch.setattr(charts, "plots", lambda *_: [])
  values = [0.31, 0.32, 0.35, 0.30, 0.33]
  seed = Hyperparameter(name="seed", path="seed", scale=OneOf([1, 2, 3, 4, 5]), role="nuisance")

  def trial(number, hyperparameters, value):
    losses = ([1, 2, 3], [9.0, 9 * value, 10 * value])
    return planted.trial(
      number, hyperparameters, {"validation/error": ([1, 2], [0.9, value]), "validation/loss": losses}
    )

  again = planted.results([trial(n, {"seed": n + 1}, value) for n, value in enumerate(values)], (seed,))
  space = (Hyperparameter(name="rate", path="rate", scale=Log(0.1, 1.0), role="nuisance"),)
  study = planted.results([trial(n, {"rate": rate}, rate) for n, rate in enumerate((0.3, 0.5, 0.8))], space)
  chosen = [Minimize("validation/error"), Objective("validation/loss", "min", "last")]
  for reruns in ({}, {0: again}):
    views = page_data(dataclasses.replace(study, reruns=reruns), chosen)["views"]
    told = [next(one for one in view["findings"] if one["id"] == "PB-41") for view in views]
    if not reruns:
      assert {one["severity"] for one in told} == {"cannot_tell"}
      continue
    for one, factor in zip(told, (1, 10), strict=True):
      assert one["numbers"]["deviation"] == pytest.approx(factor * np.std(values, ddof=1), rel=CLOSE)
      assert one["trials"] == [0]

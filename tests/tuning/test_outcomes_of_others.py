"""Endings that studies of others have: limits of time, patience, dead seeds of the best point, killed rows."""

import numpy as np

from trialbook.tuning import StudyResults, read_results
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import comparison, density, early_stopping, infeasible, outcomes, selected_step
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.reporting.answer import answer
from trialbook.tuning.space.scales import Hyperparameter, Integer, Log, OneOf

METRIC = planted.OBJECTIVE.metric
RATE = Hyperparameter(name="learning_rate", path="learning_rate", scale=Log(1e-4, 1.0), role="nuisance")
SEED = Hyperparameter(name="seed", path="seed", scale=Integer(0, 99), role="nuisance")


def curve(end: float, steps: int = 5000, count: int = 50, whole: int = 5000) -> tuple[np.ndarray, np.ndarray]:
  at = np.linspace(0, steps, count + 1).round()
  return at, end + (0.9 - end) * np.exp(-6 * at / whole)


def study(trials, space) -> StudyResults:
  """Return a study of (values, curve or None, state)."""
  made = [
    planted.trial(number, values, {} if points is None else {METRIC: points}, state=state)
    for number, (values, points, state) in enumerate(trials)
  ]
  return planted.results(made, space, planted.OBJECTIVE)


def rate(number: int) -> float:
  return float(10 ** (-4 + 4 * ((7 * number) % 24) / 24))


def test_settings_of_unequal_length_are_named():
  optimizer = Hyperparameter(name="optimizer", path="optimizer", scale=OneOf(["A", "B"]), role="scientific")
  trials = []
  for number in range(24):
    steps, count = ((5000, 50), (3000, 30))[number % 2]
    values = {"optimizer": "AB"[number % 2], "learning_rate": rate(number)}
    trials.append((values, curve(0.1 + 0.003 * (number // 2), steps, count), "complete"))
  (found,) = outcomes.find(study(trials, (optimizer, RATE)))
  assert found.severity == "warning"
  assert found.title == "The length of training differs with optimizer: 5,000 with A and 3,000 with B steps"


def test_trials_that_all_end_at_one_step_reached_no_target_and_their_place_is_named():
  width = Hyperparameter(name="width", path="width", scale=OneOf([128, 256, 512]), role="nuisance")
  trials = []
  for number in range(30):
    size = (128, 256, 512)[number % 3]
    steps, count = (2700, 27) if size == 512 and number < 27 else (5000, 50)
    trials.append(
      ({"width": size, "learning_rate": rate(number)}, curve(0.1 + 0.003 * number, steps, count), "complete")
    )
  results = study(trials, (width, RATE))
  assert "target" not in {end.kind for end in results.endings.values()}
  found = next(one for one in outcomes.find(results) if "cut short" in one.title or "differs" in one.title)
  assert "width" in found.title


def test_patience_cuts_nothing_short():
  trials = []
  for number in range(20):
    steps, values = curve(0.1 + 0.003 * number)
    if number % 2 == 0:
      end = 30 + number
      values = np.r_[values[: end - 4], np.full(5, values[end - 5] + 0.01)]
      steps = steps[: end + 1]
    trials.append(({"learning_rate": rate(number)}, (steps, values), "complete"))
  assert {end.kind for end in study(trials, (RATE,)).endings.values()} == {"finished"}


def seeds(dead: int, points: int = 4) -> StudyResults:
  """Return points of five seeds, with errors 0.10, 0.14, …, of which one seed of a point died."""
  trials = []
  for point in range(points):
    for seed in range(5):
      end = 0.7 if (point, seed) == (dead, 2) else 0.1 + 0.04 * point + 0.0005 * seed
      trials.append(({"learning_rate": 0.001 * (point + 1), "seed": seed}, curve(end), "complete"))
  return study(trials, (RATE, SEED))


def test_a_dead_seed_of_the_best_point_does_not_demote_it_and_is_a_warning():
  for points in (4, 10):
    results = seeds(0, points)
    best = feasible(points_of(results))[0]
    assert best.trials == (0, 1, 2, 3, 4)
    assert best.dead == 1
    (found,) = outcomes.find(results)
    assert found.severity == "warning"
    assert "The point of trial 0 has learning_rate = 0.001." in found.why


def test_a_dead_seed_of_the_worst_point_is_a_note():
  (found,) = outcomes.find(seeds(3))
  assert found.severity == "note"


def test_killed_rows_without_curves_are_called_what_they_are_recorded_as(tmp_path):
  rows = ["Name,State,lr,val_loss"]
  rows += [f"run-{n},{'killed' if n in (3, 7, 8, 9) else 'finished'},{rate(n):.4g},{0.3 + n / 100}" for n in range(16)]
  (tmp_path / "wandb.csv").write_text("\n".join(rows) + "\n")
  results = read_results(import_study("csv", tmp_path / "wandb.csv", tmp_path / "out")[0])
  found = outcomes.find(results)[0]
  assert found.title.startswith("4 of 16 trials were cut short")
  assert "step" not in found.title
  assert "4 were recorded so" in found.why
  assert "curves" not in found.why
  assert "recorded as killed" in found.why
  assert "trial 0 (run-0)" in answer(results, [])["sentence"]


def test_failed_retrains_of_one_point_are_that_point():
  trials = [({"learning_rate": 0.9, "seed": seed}, None, "failed") for seed in range(5)]
  trials += [({"learning_rate": 0.01 * n, "seed": 0}, curve(0.1 + n / 100), "complete") for n in range(1, 12)]
  found = next(one for one in infeasible.find(study(trials, (RATE, SEED))) if "failed" in one.title)
  assert found.title == "5 of 16 trials failed, all of them at one point: trial 0, learning_rate=0.9"


def test_one_infeasible_trial_elsewhere_is_no_retrain():
  trials = [({"learning_rate": 0.9, "seed": seed}, None, "infeasible") for seed in range(5)]
  trials += [
    ({"learning_rate": 0.01, "seed": seed}, curve(0.1), "complete" if seed else "infeasible") for seed in range(4)
  ]
  trials += [({"learning_rate": 0.001 * n, "seed": 0}, curve(0.1 + n / 100), "complete") for n in range(1, 9)]
  assert not [one for one in infeasible.find(study(trials, (RATE, SEED))) if "All 5" in one.why]


def test_an_exhausted_grid_is_asked_for_no_more_points():
  values = [{"learning_rate": 10.0**-k, "width": width} for k in (1, 2, 3) for width in (64, 128, 256, 512)]
  width = Hyperparameter(name="width", path="width", scale=OneOf([64, 128, 256, 512]), role="nuisance")
  space = (
    Hyperparameter(name="learning_rate", path="learning_rate", scale=Log(1e-3, 0.1), role="nuisance", inferred=True),
    width,
  )
  results = study([(each, curve(0.1 + 0.004 * n), "complete") for n, each in enumerate(values)], space)
  for module in (density, early_stopping, selected_step, comparison):
    for one in module.find(results):
      assert not one.numbers.get("more"), one.title
      assert "more point" not in (one.action or ""), one.title
      assert "Complete " not in (one.action or ""), one.title

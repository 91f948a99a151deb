"""How trials ended is said of points and trials: cut short, at a target, pruned, collapsed, stuck, or a dead seed."""

import pathlib

import numpy as np
import pytest

from trialbook.tuning import Maximize, Minimize, StudyResults
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.endings import early_ends
from trialbook.tuning.findings import infeasible, optimization, outcomes, rising_loss, variance
from trialbook.tuning.findings.statistics import regions
from trialbook.tuning.findings.statistics.points import points_of
from trialbook.tuning.findings.statistics.seed_noise import trial_noise
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.results import Trial, read_results
from trialbook.tuning.space.scales import Hyperparameter, Integer, Log

CASES = pathlib.Path(__file__).parent / "cases"
RATE = Hyperparameter(name="learning_rate", path="learning_rate", scale=Log(1e-4, 1.0), role="nuisance")
DECAY = Hyperparameter(name="weight_decay", path="weight_decay", scale=Log(1e-6, 1e-2), role="nuisance")
SEED = Hyperparameter(name="seed", path="seed", scale=Integer(0, 9), role="nuisance")


def case(name: str, folder: pathlib.Path) -> StudyResults:
  """Return a study of the cases, imported."""
  (made,) = import_study("csv", CASES / name, folder / name)
  return read_results(made)


def curve(end: float, steps: int = 1000, count: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Return a curve that falls from 0.9 to its end, with a little noise."""
  at = np.linspace(0, steps, count + 1).round()
  noise = np.random.default_rng(seed).normal(0, 0.001, count + 1)
  return at, end + (0.9 - end) * np.exp(-8 * at / steps) + noise


def cut(curve: tuple[np.ndarray, np.ndarray], end: float) -> tuple[np.ndarray, np.ndarray]:
  """Return a curve until a step."""
  return curve[0][curve[0] <= end], curve[1][curve[0] <= end]


def study(curves, values=None, space=(RATE,), objective=planted.OBJECTIVE, states=None) -> StudyResults:
  """Return a study whose trials logged these curves of the objective."""
  rng = np.random.default_rng(1)
  trials: list[Trial] = []
  for number, one in enumerate(curves):
    own = {"learning_rate": float(10 ** rng.uniform(-4, 0))} if values is None else values[number]
    state = "complete" if states is None else states[number]
    trials.append(planted.trial(number, own, {objective.metric: one}, state=state))
  return planted.results(trials, space, objective)


def kinds(results: StudyResults) -> list[str]:
  """Return how each trial ended."""
  return [results.endings[trial.trial].kind for trial in results.trials]


def test_trials_that_end_long_before_the_others_are_cut_short_and_said_so_first(tmp_path):
  results = case("preempted_40_percent_not_said", tmp_path)
  found = outcomes.find(results)
  assert [one.severity for one in found] == ["warning"]
  assert found[0].title == "7 of 16 trials were cut short between step 3,100 and 4,400 of 5,000"
  assert found[0].trials == (0, 1, 5, 6, 10, 11, 15)


def test_a_few_that_were_cut_short_are_a_note():
  curves = [curve(0.1 + 0.01 * n, seed=n) for n in range(20)]
  curves[7] = cut(curves[7], 300)
  results = study(curves)
  assert kinds(results).count("cut_short") == 1
  (found,) = outcomes.find(results)
  assert (found.severity, found.trials) == ("note", (7,))


def test_a_shorter_training_that_stopped_improving_or_beats_the_others_was_not_cut_short():
  curves = [curve(0.1 + 0.01 * n, seed=n) for n in range(12)]
  steps, values = cut(curve(0.3), 600)
  values[20:] = values[20] + 0.02  # Its best evaluation is long ago, as where patience ended it.
  curves[3] = steps, values
  curves[4] = cut(curve(0.01), 500)
  assert kinds(study(curves)) == ["finished"] * 12


def test_a_length_that_a_hyperparameter_sets_is_no_early_end():
  lengths = [100, 200, 400, 800] * 4
  curves = [curve(0.1 + 0.01 * n, steps, seed=n) for n, steps in enumerate(lengths)]
  epochs = Hyperparameter(name="num_epochs", path="num_epochs", scale=Integer(1, 8), role="nuisance")
  values = [{"num_epochs": steps // 100} for steps in lengths]
  assert set(kinds(study(curves, values, (epochs,)))) == {"finished"}
  curves[3] = cut(curves[3], 300)
  assert kinds(study(curves, values, (epochs,))).count("cut_short") == 1


def test_trials_that_end_at_one_value_reached_a_target():
  curves = [curve(0.05 + 0.002 * n, seed=n) for n in range(8)]
  for rate in (5.0, 6.0, 7.0, 8.0):
    at = np.linspace(0, 1000, 51).round()
    values = 0.12 + 0.78 * np.exp(-rate * at / 1000)
    end = int(np.argmax(values <= 0.16))
    curves.append((at[: end + 1], values[: end + 1]))
    assert end < 42
  results = study(curves)
  assert kinds(results) == ["finished"] * 8 + ["target"] * 4
  (found,) = outcomes.find(results)
  assert found.severity == "note"
  assert "probably a target" in found.title


def test_a_noisy_training_that_ends_an_evaluation_after_its_target_reached_it():
  rng = np.random.default_rng(0)
  curves = [curve(0.2 + 0.002 * n, seed=n) for n in range(12)]
  for rate in (4.0, 5.0, 6.0, 7.0, 8.0):
    at = np.linspace(0, 1000, 51).round()
    values = 0.12 + 0.78 * np.exp(-rate * at / 1000) + rng.normal(0, 0.005, 51)
    end = int(np.argmax(values <= 0.17)) + 1
    curves.append((at[: end + 1], values[: end + 1]))
  assert kinds(study(curves)) == ["finished"] * 12 + ["target"] * 5


def test_several_that_end_at_one_step_as_the_worst_were_pruned():
  curves = [curve(0.1 + 0.01 * n, seed=n) for n in range(10)]
  curves += [cut(curve(0.5 + 0.01 * n, seed=n), 240) for n in range(5)]
  results = study(curves)
  assert kinds(results) == ["finished"] * 10 + ["pruned"] * 5
  (found,) = outcomes.find(results)
  assert found.title.startswith("5 of 15 trials were ended early because they were worse")


@pytest.mark.parametrize("objective", [Minimize("validation/error"), Maximize("validation/score")])
def test_a_collapse_is_a_collapse_whatever_its_direction(objective):
  def turned(points):
    return points[0], objective.sign * points[1]

  curves = [curve(0.1 + 0.01 * n, seed=n) for n in range(12)]
  steps, values = curve(0.15)
  values[30:] = 0.85
  curves[5] = steps, values
  steps, values = curve(0.2)
  values[20:] += np.linspace(0, 0.4, 31)  # It gets worse slowly: that is overfitting.
  curves[6] = steps, values
  results = study([turned(one) for one in curves], objective=objective)
  assert [number for number, end in results.endings.items() if end.kind == "collapsed"] == [5]
  assert results.endings[5].step == 600
  (found,) = outcomes.find(results)
  assert found.id == "PB-80"
  assert "1 of 12 complete trials collapsed" in found.title


def test_a_loss_that_explodes_and_stays_finite_has_collapsed():
  curves = [(steps[1:], 3 * values[1:]) for steps, values in (curve(0.1 + 0.01 * n, seed=n) for n in range(12))]
  curves[4] = curves[4][0], np.r_[np.full(5, 2.6), np.geomspace(2.7, 1405, 10), np.full(35, 1405.0)]
  results = study(curves)
  assert [number for number, end in results.endings.items() if end.kind == "collapsed"] == [4]
  assert "1405" in results.endings[4].text


def test_noise_and_overfitting_are_no_collapse():
  rng = np.random.default_rng(0)
  curves = []
  for number in range(20):  # All that can be gained was gained before the first evaluation.
    values = 0.1 + 0.002 * number + rng.normal(0, 0.01, 30)
    curves.append((np.arange(1, 31) * 100, values + np.linspace(0, 0.05, 30) * (number % 2)))
  assert set(kinds(study(curves))) <= {"finished"}


def test_a_trial_that_stays_at_its_start_is_stuck():
  # The state before the first step was not evaluated, or its state would say so.
  curves = [(steps[1:], values[1:]) for steps, values in (curve(0.1 + 0.01 * n, seed=n) for n in range(12))]
  curves[2] = curves[2][0], np.full(50, 0.8)
  results = study(curves)
  assert kinds(results).count("stuck") == 1
  assert "stayed where it began" in outcomes.find(results)[0].title


def test_one_seed_in_five_that_dies_is_a_finding_and_no_noise(tmp_path):
  results = case("dead_but_finite_wer", tmp_path)
  target, found = outcomes.find(results)
  assert target.trials == (1, 7, 17)  # In these logs, training stops below a word error rate of 0.0859.
  assert found.severity == "note"  # Its point is the worst but one.
  assert "The point of trial 3 has" in found.why
  assert found.title.startswith("1 of 5 seeds of one point trained far worse than the others: training is unstable")
  assert found.trials == (3,)
  noise = trial_noise(results)
  assert noise is not None
  assert noise.deviation < 0.01  # With the dead seed it would be 0.2.


@pytest.mark.parametrize("shift", [0.0, -100.0])
def test_seeds_that_vary_as_seeds_do_are_no_outliers(shift):
  rng = np.random.default_rng(0)
  for _ in range(50):
    values = [{"learning_rate": 10.0 ** -(1 + n // 5), "seed": n % 5} for n in range(20)]
    ends = [shift + 0.1 + 0.05 * (n // 5) + rng.normal(0, 0.01) for n in range(20)]
    results = study([([1], [end]) for end in ends], values, (RATE, SEED))
    assert set(kinds(results)) == {"finished"}


def test_a_trial_that_logs_nothing_late_ended_at_once():
  whole = {"m": [(step, 1.0 - step / 2000) for step in range(0, 1001, 20)]}
  short = {"m": [(0, 1.0), (20, 0.99)]}
  (end,) = early_ends(Minimize("m"), [whole, whole, short], [{}] * 3).values()
  assert (end.kind, end.text) == ("cut_short", "cut short at step 20 of the usual 1,000")


# Where bad points are.


def test_retrains_of_one_point_are_one_point(tmp_path):
  (found,) = infeasible.find(case("one_bad_point_retrained", tmp_path))
  assert found.severity == "note"
  assert found.title.startswith("1 of 5 points is infeasible")
  assert "5 trials" in found.title
  assert "It has the largest learning_rate" in found.why
  assert "bug" not in found.title


def test_a_corner_of_two_hyperparameters_is_no_bug(tmp_path):
  (found,) = infeasible.find(case("infeasible_corner_called_bug", tmp_path))
  assert found.title.endswith("all of them where learning_rate and weight_decay are both large")
  assert found.severity == "warning"


def scattered(seed: int, bad, count: int = 48) -> StudyResults:
  """Return a study of which some trials are infeasible, by their places."""
  rng = np.random.default_rng(seed)
  units = rng.uniform(size=(count, 2))
  values = [{"learning_rate": RATE.scale.at(x), "weight_decay": DECAY.scale.at(y)} for x, y in units]
  states = ["infeasible" if bad(x, y, rng) else "complete" for x, y in units]
  return study([([1], [0.1 + x]) for x, _ in units], values, (RATE, DECAY), states=states)


@pytest.mark.parametrize(
  ("bad", "kind", "words"),
  [
    (lambda x, y, rng: x > 0.75, "axis", "learning_rate above"),
    (lambda x, y, rng: x + y > 1.45, "corner", "learning_rate and weight_decay are both large"),
    (lambda x, y, rng: x - y > 0.45, "corner", "learning_rate is large and weight_decay is small"),
    (lambda x, y, rng: min(x, y) > 0.55, "corner", "learning_rate and weight_decay are both large"),
  ],
)
def test_a_region_is_found_along_one_and_two_hyperparameters(bad, kind, words):
  named = 0
  for seed in range(20):
    results = scattered(seed, bad)
    points = points_of(results)
    found = regions.region_of(results, points, [not point.retrains for point in points])
    named += found.kind == kind and words in infeasible.find(results)[0].title
    assert found.kind != "everywhere"
  assert named >= 16


@pytest.mark.slow
def test_everywhere_is_said_where_it_was_tested_only():
  kinds = [
    regions.region_of(results, points_of(results), [not point.retrains for point in points_of(results)]).kind
    for results in (scattered(seed, lambda x, y, rng: rng.random() < 0.3) for seed in range(20))
  ]
  assert kinds.count("everywhere") >= 12
  assert kinds.count("axis") + kinds.count("corner") + kinds.count("together") <= 1  # At the level of the tests.
  # A ring has no cut and no corner, but its points lie together.
  ring = [
    regions.region_of(results, points_of(results), [not point.retrains for point in points_of(results)]).kind
    for results in (scattered(seed, lambda x, y, rng: np.hypot(x - 0.5, y - 0.5) < 0.25, 96) for seed in range(10))
  ]
  assert "everywhere" not in ring


def test_failures_above_a_learning_rate_are_looked_at_before_their_logs(tmp_path):
  rng = np.random.default_rng(0)
  values = [{"learning_rate": float(10 ** rng.uniform(-4, 0))} for _ in range(30)]
  states = ["failed" if value["learning_rate"] > 0.03 else "complete" for value in values]
  found = infeasible.find(study([([1], [0.1])] * 30, values, states=states))[-1]
  assert "all of them with learning_rate above 0.0" in found.title
  assert "diverged" in found.why
  assert "guess" in found.why


def test_training_loss_that_rises_in_one_region_is_no_bug(tmp_path):
  results = case("rising_loss_in_one_corner", tmp_path)
  (found,) = [rising_loss.finding(results, rising_loss.rising(results))]
  assert found.severity == "note"
  assert "an optimization problem there, not a bug" in found.title
  assert optimization.find(results)[0].severity == "note"


def test_a_training_loss_of_the_first_steps_shows_no_late_rise():
  curves = {"validation/error": curve(0.1), "train/loss": (np.arange(100), np.exp(-np.arange(100) / 30))}
  trials = [planted.trial(n, {"learning_rate": 0.001 * (n + 1)}, curves) for n in range(6)]
  results = planted.results(trials, (RATE,))
  assert rising_loss.late_enough(results) == []
  assert "rise" not in " ".join(one.why for one in optimization.find(results))


def test_dead_seeds_do_not_widen_what_varies_from_seed_to_seed():
  values = [{"learning_rate": 10.0 ** -(1 + n // 5), "seed": n % 5} for n in range(20)]
  rng = np.random.default_rng(0)
  ends = [0.1 + 0.05 * (n // 5) + rng.normal(0, 0.002) for n in range(20)]
  ends[1] = 0.85
  results = study([curve(end, seed=n) for n, end in enumerate(ends)], values, (RATE, SEED))
  assert results.endings[1].kind == "outlier"
  assert "0.00" in variance.find(results)[0].title

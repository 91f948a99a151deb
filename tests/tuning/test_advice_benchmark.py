"""The benchmark of the findings: its command, its rates, and studies that hold what they say they hold."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from in_process_command import run_command

from trialbook.tuning.advice_benchmark import forms, hard, healthy, planted, point_plants, runs, samplers, spaces
from trialbook.tuning.advice_benchmark.claims import CLAIMS
from trialbook.tuning.advice_benchmark.jobs import Job, done
from trialbook.tuning.advice_benchmark.rates import Rate
from trialbook.tuning.advice_benchmark.tables import TABLES
from trialbook.tuning.findings import outcomes

FRESH = 200_000
"""Seeds from here on, which no threshold was chosen on."""


def benchmark(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
  """Return what the command prints."""
  code, printed, _ = run_command(capsys, "tune", "advice-benchmark", *flags)
  assert code == 0
  return printed


def test_the_command_prints_tables_and_a_summary(capsys: pytest.CaptureFixture[str]):
  printed = benchmark(capsys, "--studies=4", "--only=healthy", "--workers=1")
  tables = re.findall(r"^\|.*\n\|[-:| ]+\|\n(?:\|.*\n)+", printed, re.MULTILINE)
  assert len(tables) == 2
  assert re.search(r"^\| all \| 4 \| \d+% \([\d.]+% to [\d.]+%\) \|$", tables[0], re.MULTILINE)
  assert re.search(r"^\d of 4 healthy studies have a false alarm: .*: (missed|not shown, .*)\.$", printed, re.MULTILINE)


def test_rates_depend_on_the_seed_and_not_on_the_processes(capsys: pytest.CaptureFixture[str]):
  flags = "--studies=6", "--only=unequal effort", "--json"
  one, again, two = (benchmark(capsys, *flags, f"--workers={workers}") for workers in (1, 1, 2))
  assert one == again == two
  first = json.loads(benchmark(capsys, "--studies=6", "--only=winners", "--json", "--workers=1"))
  other = json.loads(benchmark(capsys, "--studies=6", "--only=winners", "--json", "--workers=1", "--seed=50"))
  parts = [[(row["part"], row["studies"]) for row in found["tables"][0]["rows"]] for found in (first, other)]
  assert parts[0] != parts[1]


def test_a_word_chooses_a_table_or_rows(capsys: pytest.CaptureFixture[str]):
  printed = json.loads(benchmark(capsys, "--studies=2", "--only=infeasible everywhere", "--json", "--workers=1"))
  (table,) = printed["tables"]
  (row,) = table["rows"]
  assert row["name"] == "infeasible everywhere"
  assert [size["studies"] for size in row["sizes"]] == [1] * 5
  code, _, told = run_command(capsys, "tune", "advice-benchmark", "--only=helthy")
  assert code == 2
  assert "did you mean 'healthy'" in told


def test_it_needs_no_jax():
  code = (
    "import sys; from trialbook.__main__ import main;"
    "main(['tune', 'advice-benchmark', '--studies=2', '--only=winners', '--workers=1', '--json']);"
    "assert not {'jax', 'flax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize(
  ("count", "studies", "low", "high"),
  # Clopper and Pearson (1934), from the quantiles of the beta distribution.
  [(0, 50, 0.0, 0.0711), (5, 50, 0.0333, 0.2181), (50, 50, 0.9289, 1.0), (20, 400, 0.0308, 0.0762)],
)
def test_intervals_are_those_of_clopper_and_pearson(count: int, studies: int, low: float, high: float):
  rate = Rate(count, studies)
  assert rate.interval == pytest.approx((low, high), abs=2e-4)
  assert str(Rate(5, 50)) == "10% (3.3% to 21.8%)"


def test_every_job_of_every_table_has_a_result_and_every_table_its_columns():
  for table in TABLES:
    (name, *_) = table.names
    jobs = table.jobs(name, 8, 3)
    assert {job.seed for job in jobs} <= set(range(3, 11))
    found = dict(done(job) for job in jobs[:1])
    rows = table.rows([name], dict.fromkeys(jobs, found[jobs[0]]))
    assert all(len(cells) == len(table.header) for cells, _ in rows)
    json.dumps([numbers for _, numbers in rows])


def test_healthy_studies_have_every_form():
  drawn = [forms.form_of(np.random.default_rng((seed, 1))) for seed in range(400)]
  for attribute, values in {
    "sampler": {"halton", "uniform", "adaptive", "grid"},
    "ends": {"all", "pruned", "cut short", "target"},
    "retrains": {1, 3, 4, 5},
    "bad_point": {False, True},
    "metric": set(healthy.METRICS),
    "schedule": set(forms.LEARNING_RATES),
    "value": {"best", "last"},
  }.items():
    assert {getattr(form, attribute) for form in drawn} == values
  assert {form.dimensions for form in drawn} == set(range(1, 16))
  trials = [form.trials for form in drawn]
  assert (min(trials), max(trials)) == (12, 128)
  assert {form.dimensions for form in drawn if form.sampler == "grid"} == {1, 2}


def test_a_healthy_study_says_which_warnings_are_true_of_it():
  few = {"sampler": "halton", "dimensions": 6, "retrains": 1, "bad_point": False, "evaluations": 50}
  assert "density" in healthy.draw(1, trials=12, ends="all", **few).true
  assert "density" not in healthy.draw(1, trials=64, ends="all", **few).true
  assert "outcomes" in healthy.draw(1, trials=64, ends="cut short", **few).true
  assert "outcomes" not in healthy.draw(1, trials=64, ends="pruned", **few).true
  noisy = healthy.draw(1, trials=64, ends="all", **few, examples=100, schedule="constant", metric="error")
  exact = healthy.draw(1, trials=64, ends="all", **few, examples=10**7, schedule="constant", metric="error", jitter=0.0)
  assert "late_noise" in noisy.true
  assert "late_noise" not in exact.true


def test_half_of_the_equal_settings_are_mirrored_and_none_is_better():
  shape = {"settings": 2, "sampler": "uniform", "trials": 4000, "dimensions": 3, "retrains": 1, "noise": 1e-6}
  made = healthy.making(5, **shape, bad_point=False, evaluations=1, logged="none")
  errors = {
    name: [run.error for run in made.runs if run.values[healthy.METHOD] == name] for name in ("method 1", "method 2")
  }
  quantiles = [np.quantile(errors[name], [0.01, 0.1, 0.5, 0.9]) for name in errors]
  np.testing.assert_allclose(*quantiles, rtol=0.08)


def test_a_rule_prunes_what_is_worse_than_the_median_of_earlier_trials_only():
  made = healthy.making(7, ends="all", evaluations=50, trials=60, bad_point=False, retrains=1, sampler="uniform")
  found = runs.pruned(made.runs, made.objective)
  short = [place for place, run in enumerate(found) if run.state == "pruned"]
  assert len(short) > 10
  for place in short:
    step = runs.last_step(found[place])
    rung = min(rung * made.world.steps for rung in runs.RUNGS if rung * made.world.steps >= step)
    before = [runs.best_until(run, made.objective, rung) for run in found[:place] if runs.last_step(run) > rung]
    assert runs.best_until(made.runs[place], made.objective, rung) > np.median(before)


def test_trials_end_where_they_reach_a_target():
  made = healthy.making(7, ends="all", evaluations=50, trials=60, bad_point=False, retrains=1, sampler="uniform")
  found = runs.stopped_at_target(made.runs, made.objective, 0.3)
  reached = [run for run, old in zip(found, made.runs, strict=True) if run is not old]
  assert len(reached) == pytest.approx(0.3 * len(found), abs=2)
  for run in reached:
    _, costs = runs.costs_of(run, made.objective)
    assert costs[-1] == min(costs)


def test_an_adaptive_sampler_stays_in_the_space_and_gets_better():
  space = spaces.space_of(4, np.random.default_rng(0))
  cost = lambda units: sum((unit - 0.4) ** 2 for unit in units.values())  # noqa: E731
  means = []
  for sampler in (
    samplers.adaptive(space, 80, np.random.default_rng(1)),
    samplers.uniform(space, np.random.default_rng(1)),
  ):
    history = []
    for _ in range(80):
      units = sampler(history)
      assert all(0 <= unit < 1 for unit in units.values())
      history.append((units, cost(units)))
    means.append(np.mean([value for _, value in history[40:]]))
  assert means[0] < 0.5 * means[1]


def test_a_grid_has_all_combinations():
  space = (planted.nuisance("a", 0.1, 1.0), planted.nuisance("b", 0.1, 1.0))
  sampler = samplers.grid(space, (3, 2))
  points = [tuple(sampler([({}, 0.0)] * number).values()) for number in range(6)]
  assert points == list(itertools.product([0.0, 0.5, 1.0], [0.0, 1.0]))


def test_restarts_begin_at_the_top_and_end_at_zero():
  factor = forms.restarts(1, 3)
  np.testing.assert_allclose(factor(np.array([0.0, 0.25 - 1e-9, 0.25, 0.625, 1.0])), [1, 0, 1, 0.5, 0], atol=1e-6)


PLANTED = (hard.seeds_die, hard.collapses, hard.stays_at_chance, hard.preempted, hard.dies_at_once)


@pytest.mark.parametrize("draw", PLANTED, ids=lambda draw: draw.__name__)
def test_what_is_not_planted_is_not_found(draw):
  for seed in range(3):
    study = draw(seed, 0.0)
    assert not study.trials
    # Now and then a log of a healthy study is cut short.
    assert all(one.severity in ("ok", "note") and len(one.trials) <= 3 for one in outcomes.find(study.results))
    assert len(draw(seed, 0.2).trials) == round(0.2 * len(study.results.trials))


@pytest.mark.parametrize("plant", point_plants.PLANTS[:2], ids=lambda plant: plant.name.replace(" ", "_"))
def test_a_plant_of_no_size_is_not_found(plant):
  assert not any(plant.is_seen(seed, plant.sizes[0]) for seed in range(6))


def test_the_zero_the_unit_and_the_direction_of_a_metric_can_be_changed():
  results = planted.healthy(1, trials=6, evaluations=10)
  mirrored = hard.shifted(results, -5.0, -2.0)
  assert mirrored.objective.mode == "max"
  pairs = zip(results.ranked, mirrored.ranked, strict=True)
  assert all(new.objective == pytest.approx(-2 * (old.objective or 0.0) - 5) for old, new in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.name}: {claim.claim}".replace(" ", "_"))
def test_what_is_plain_is_said_and_what_is_wrong_is_not(claim):
  said = sum(claim.is_said(seed, claim.sizes[-1]) for seed in range(FRESH, FRESH + 3))
  assert said >= 2 if claim.right else said <= 1


@pytest.mark.slow
def test_few_of_fifty_healthy_studies_are_accused():
  """With more than 6 of 50, the rate is above 5% for certain (97.5%)."""
  results = [done(Job("healthy", "", 0.0, seed))[1] for seed in range(FRESH, FRESH + 50)]
  false = [result["false"] for result in results if result["false"]]
  assert len(false) <= 6, false


@pytest.mark.evidence
def test_at_most_one_in_twenty_healthy_studies_is_accused():
  results = [done(Job("healthy", "", 0.0, seed))[1] for seed in range(10_000, 10_400)]
  rate = Rate(sum(bool(result["false"]) for result in results), len(results))
  assert rate.share <= 0.05, rate
  assert rate.interval[1] <= 0.08, rate


@pytest.mark.evidence
def test_at_most_one_in_twenty_equal_settings_wins():
  results = [done(Job("winner", "", 0.0, seed))[1] for seed in range(10_000, 10_400)]
  rate = Rate(sum(bool(result["false"]) for result in results), len(results))
  assert rate.share <= 0.05, rate

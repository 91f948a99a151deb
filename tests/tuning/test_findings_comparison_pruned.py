"""Trials that a rule ended early were tried, and were worse than others; those that were cut short say nothing."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import comparison
from trialbook.tuning.space.scales import Hyperparameter, Log, OneOf

RATE = Hyperparameter(name="lr", path="lr", scale=Log(1e-6, 1.0), role="nuisance")


def study(rows: Sequence[tuple[str, float, str]], direction: Literal["min", "max"] = "min") -> StudyResults:
  """A study of (setting, value, state) for each trial; a pruned one logged a tenth of the steps."""
  name, mode = "opt", planted.Objective("m", direction)
  labels = list(dict.fromkeys(setting for setting, _, _ in rows))
  which = Hyperparameter(name=name, path=name, scale=OneOf(labels), role="scientific")
  trials = []
  for number, (setting, value, state) in enumerate(rows):
    whole = state in ("complete", "infeasible")
    curves = {mode.metric: (np.array([3, 30]) if whole else np.array([3]), np.array([value, value])[: 1 + whole])}
    values = {name: setting, "lr": 10 ** (-6 + 6 * (number + 0.5) / len(rows))}
    trials.append(planted.trial(number, values, curves, state=state))
  return planted.results(trials, (which, RATE), mode)


def survivors(
  sign: float = 1.0, kept: int = 3, good: float = 0.1, bad: float = 0.3, names: tuple[str, str] = ("A", "B")
) -> list[tuple[str, float, str]]:
  """B is better. Few of the 37 trials of A run to their end, and 18 of the 43 of B."""
  rng = np.random.default_rng(0)
  rows = [(names[0], sign * (bad + 0.01 * rng.random()), "complete" if n < kept else "pruned") for n in range(37)]
  return rows + [(names[1], sign * (good + 0.02 * rng.random()), "complete" if n < 18 else "pruned") for n in range(43)]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("kept", [0, 1, 3, 9])
def test_effort_counts_pruned_trials_and_who_loses_early_loses(mode, kept):
  sign = 1.0 if mode == "min" else -1.0
  (found,) = comparison.find(study(survivors(sign, kept), mode))
  assert (found.severity, found.subject) == ("ok", "B")
  if kept:
    assert f"A was tried 37 times and pruned {37 - kept} times, B 43 and 25" in found.title
    assert f"{'lower' if mode == 'min' else 'higher'} than that of A" in found.title
  else:
    assert found.title == "B wins: all 37 trials of A were pruned as worse"
  assert f"37 trials tried ({37 - kept} were pruned as worse than others)" in found.why
  assert "A lost early most often" in found.why
  assert "at step 3" in found.why
  assert "pruned one that runs to its end" in (found.until or "")
  assert found.numbers["clear"] is True
  assert found.numbers["settings"]["A"]["pruned"] == 37 - kept


def test_few_trials_without_a_value_are_still_too_few():
  rows = [("A", 0.3, "complete" if n < 2 else "pruned") for n in range(5)] + [
    ("B", 0.1 + n, "complete") for n in range(8)
  ]
  (found,) = comparison.find(study(rows))
  assert found.severity == "cannot_tell"
  assert "A has only 2 trials with a value, and 8 are needed" in found.title


def test_infeasible_trials_are_no_proof_of_being_worse():
  rows = [(one, value, "infeasible" if state == "pruned" else state) for one, value, state in survivors()]
  found = comparison.find(study(rows))
  assert found[0].severity == "cannot_tell"


def test_unequal_effort_is_that_of_what_was_tried():
  rows = [("A", 0.1 + n / 1000, "complete" if n < 8 else "pruned") for n in range(9)]
  rows += [("B", 0.1 + n / 1000, "complete" if n < 12 else "pruned") for n in range(30)]
  (found,) = [one for one in comparison.find(study(rows)) if "effort" in one.numbers]
  assert found.title == "Unequal effort: B was tried 30 times, A 9 times"
  assert found.numbers["more"] == 21


def test_trials_that_were_cut_short_or_failed_are_left_out_and_that_is_said():
  rng = np.random.default_rng(0)
  rows = [(one, float(0.1 + 0.1 * (one == "A") + 0.05 * rng.random()), "complete") for one in "AB" * 12]
  rows += [("A", 0.5, "stopped")] * 4 + [("B", 0.5, "failed")] * 2 + [("B", 0.5, "stopped")]
  results = study(rows)
  imported = dataclasses.replace(results, study=dataclasses.replace(results.study, source="csv: tables"))
  (found,) = comparison.find(imported)
  assert found.numbers["settings"]["A"]["points"] == 12
  assert "Left out: 4 trials of A were cut short; 2 trials of B failed; 1 trial of B was cut short." in found.why
  (found,) = comparison.find(results)
  assert "4 trials of A are paused" in found.why


Seen = dict[str, list[float]]
"""The early values of the trials so far, of each setting."""


def censored(
  worth: Callable[[str, np.random.Generator], float], seed: int, rule: Callable[[str, Seen], float], count: int = 40
) -> StudyResults:
  """Trials whose value at a tenth of the steps is near their last one; a rule gives the worst that goes on."""
  rng = np.random.default_rng((seed, 77))
  rows: list[tuple[str, float, str]] = []
  seen: Seen = {"A": [], "B": []}
  for number in range(2 * count):
    setting = "AB"[number % 2]
    end = worth(setting, rng)
    early = end + rng.normal(0, 0.01)
    state = "pruned" if number > 7 and early > rule(setting, seen) else "complete"
    seen[setting].append(early)
    rows.append((setting, end, state))
  return study(rows)


RULES = {
  "the median of all": lambda _, seen: float(np.median(seen["A"] + seen["B"])),
  "the best eighth of all": lambda _, seen: float(np.quantile(seen["A"] + seen["B"], 0.125)),
  "each by its own median": lambda one, seen: float(np.median(seen[one])),
  "only one, by its own best quarter": lambda one, seen: float(np.quantile(seen[one], 0.25)) if one == "A" else 9.0,
}


@pytest.mark.parametrize("rule", RULES)
def test_of_equal_settings_pruning_makes_no_winner(rule):
  bowl = lambda _, rng: float(0.1 + 0.4 * np.sum((rng.random(4) - 0.5) ** 2) + rng.normal(0, 0.002))  # noqa: E731
  claims = [comparison.find(censored(bowl, seed, RULES[rule]))[0].severity == "ok" for seed in range(60)]
  # Of 60 with a chance of 0.05, more than 7 have one of 0.01.
  assert sum(claims) <= 7


@pytest.mark.parametrize("rule", RULES)
def test_a_real_winner_is_found_where_trials_were_pruned(rule):
  worse = lambda one, rng: float(0.1 + 0.2 * (one == "A") + 0.4 * np.sum((rng.random(3) - 0.5) ** 2))  # noqa: E731
  found = [comparison.find(censored(worse, seed, RULES[rule])) for seed in range(10)]
  assert sum((one[0].severity, one[0].subject) == ("ok", "B") for one in found) >= 9
  assert not [one for each in found for one in each if "effort" in one.numbers]


def test_final_values_do_not_compare_trials_that_were_ended_at_a_target():
  rng = np.random.default_rng(0)
  which = Hyperparameter(name="opt", path="opt", scale=OneOf(["A", "B"]), role="scientific")
  trials = []
  for number in range(24):
    setting = "AB"[number % 2]
    steps = np.arange(0, 1001, 20)
    values = 0.1 + 0.5 * np.exp(-steps / (100 if setting == "A" else 300)) + 0.03 * rng.random()
    if setting == "A" and (reached := np.flatnonzero(values <= 0.15)).size:
      steps, values = steps[: reached[0] + 1], values[: reached[0] + 1]
    trials.append(
      planted.trial(number, {"opt": setting, "lr": 10 ** (-6 + number / 4)}, {"validation/error": (steps, values)})
    )
  results = planted.results(trials, (which, RATE))
  results = dataclasses.replace(results, study=dataclasses.replace(results.study, source="csv: tables"))
  found, *_ = comparison.find(results)
  ends = [results.endings[trial.trial].kind for trial in results.trials]
  assert ends.count("target") >= 3
  assert found.severity == "cannot_tell"
  assert "the best of A were ended at a target: final values do not compare them" in found.title
  assert "ended before the others and may have become better" in found.why

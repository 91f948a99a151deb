"""One study, one answer: the study's question first, one best trial, one noise, one number of further trials."""

import dataclasses
import json
import re
from collections.abc import Mapping

import numpy as np
import pytest
import rich.text

from trialbook.tuning import StudyResults, tables
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import QUESTIONS, SEVERITIES, Finding, Severity, asked, findings
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.reporting import charts
from trialbook.tuning.reporting.answer import answer
from trialbook.tuning.reporting.markdown import markdown
from trialbook.tuning.reporting.page_data import page_data
from trialbook.tuning.reporting.report import text_of
from trialbook.tuning.space.scales import Hyperparameter, Integer, OneOf

METHOD = Hyperparameter(name="method", path="method", scale=OneOf(["one", "other"]), role="scientific")
SEED = Hyperparameter(name="seed", path="seed", scale=Integer(0, 9), role="nuisance")
NUISANCE = tuple(planted.nuisance(name, 1e-4, 1.0) for name in ("rate", "decay", "noise", "dropout", "width"))


def curve(value: float, steps: int = 40) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """An error that falls to a value at its end."""
  at = np.linspace(0, 1000, steps + 1).astype(int)
  return {"validation/error": (at, value + 0.6 * np.exp(-at / 120))}


def one(question: str, severity: Severity, title: str, action: str | None = None, **numbers) -> Finding:
  return Finding(
    id="PB-00",
    question=question,
    severity=severity,
    title=title,
    why="",
    action=action,
    numbers=numbers,  # pyright: ignore
  )


def small_comparison(gap: float, seed: int = 0, trials: int = 24, dimensions: int = 5) -> StudyResults:
  """A study of two methods and so many nuisance hyperparameters: too few trials for what a search asks for."""
  rng = np.random.default_rng(seed)
  found = []
  for number in range(trials):
    method = ("one", "other")[number % 2]
    units = rng.random(dimensions)
    value = 0.1 + gap * (method == "other") + 0.3 * float(np.sum((units - 0.5) ** 2)) / dimensions
    values = {"method": method, **{NUISANCE[k].name: 10 ** (-4 + 4 * units[k]) for k in range(dimensions)}}
    found.append(planted.trial(number, values, curve(value + 0.003 * rng.normal())))
  return planted.results(found, (METHOD, *NUISANCE[:dimensions]))


def retrained(order: str = "min") -> StudyResults:
  """Points of three seeds each; the best single trial, 0, is a lucky seed of the second-best point."""
  values = {0.1: (0.05, 0.30, 0.25), 0.2: (0.14, 0.15, 0.16), 0.3: (0.5, 0.5, 0.51), 0.4: (0.6, 0.61, 0.62)}
  sign = 1 if order == "min" else -1
  trials = []
  for rate, retrains in values.items():
    for seed, value in enumerate(retrains):
      at, error = curve(value)["validation/error"]
      trials.append(planted.trial(len(trials), {"rate": rate, "seed": seed}, {"validation/score": (at, sign * error)}))
  space = (planted.nuisance("rate", 0.05, 0.5), SEED)
  return planted.results(trials, space, planted.Objective("validation/score", order))  # pyright: ignore


@pytest.fixture
def no_plots(monkeypatch):
  """Drawing takes a second; what is asked here is in the tables."""
  monkeypatch.setattr(charts, "plots", lambda *_: [])


# The question.


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("trials", [12, 20, 40])
def test_a_comparison_is_answered_first_and_sets_the_next_step(gap, trials):
  results = small_comparison(gap, trials=trials)
  found = findings(results)
  assert asked(found) == "comparison"
  said = answer(results, found)
  verdict = next(each for each in found if "settings" in each.numbers)
  assert said["sentence"].startswith(f"{verdict.title}. The best of ")
  assert {found[place].question for place in said["findings"]} == {"comparison"}
  assert said["because"] not in [each.title for each in found if each.question in ("density", "stopping")]
  if verdict.severity != "ok" and not any(each.severity == "problem" for each in found):
    assert (said["next"], said["because"]) == (verdict.action, verdict.title)
    assert said["more"] == verdict.numbers["more"]
  if verdict.numbers["clear"]:
    assert said["more"] is None
    assert said["more_because"] == "The comparison is decided."


def test_a_decided_comparison_ends_in_its_winner_unless_a_warning_doubts_it():
  results = small_comparison(0.2)
  clear = Finding(
    id="PB-30", question="comparison", severity="ok", subject="one", title="one wins", why="",
    numbers={"settings": {}, "clear": True, "more": None, "hyperparameter": "method", "winner": "method=one"},
  )  # fmt: skip
  dense = one("density", "warning", "24 trials are few", "Try 27 more trials.", more=27)
  assert answer(results, [dense, clear])["next"] == "Adopt method=one."
  edge = one("boundary", "warning", "the best are at an edge", "Expand it.")
  assert answer(results, [edge, dense, clear])["next"] == "Expand it."
  bug = one("infeasible", "problem", "all diverge", "Look for a bug.")
  assert answer(results, [bug, edge, dense, clear])["next"] == "Look for a bug."


def test_findings_are_ordered_by_severity_the_question_and_then_as_a_reader_asks():
  for results in (small_comparison(0.0), planted.healthy(3, trials=24, evaluations=30)):
    found = findings(results)
    question = asked(found)
    places = [(SEVERITIES.index(e.severity), e.question != question, QUESTIONS.index(e.question)) for e in found]
    assert places == sorted(places)
  assert QUESTIONS[0] == "outcomes"


def test_without_a_comparison_the_answer_says_whether_the_best_is_more_than_noise():
  results = planted.healthy(3, trials=24, evaluations=30)
  found = findings(results)
  said = answer(results, found)
  (best,) = (each for each in found if each.id == "PB-40")
  assert [found[place] for place in said["findings"]] == [best]
  assert said["sentence"].endswith(f" {best.title}.")


def test_the_question_is_unfolded_in_markdown_and_stands_before_the_others():
  results = small_comparison(0.2)
  found = findings(results)
  text = markdown(results, found).replace("\\", "")
  verdict = next(each for each in found if "settings" in each.numbers)
  assert verdict.severity == "ok"
  assert text.index("## The study's question") < text.index(verdict.why) < text.index("## Other findings")
  assert text.count(verdict.why) == 1


# The best trial.


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_trial_is_of_the_point_whose_retrains_are_best_everywhere(mode, no_plots):
  results = retrained(mode)
  sign = results.objective.sign
  best = feasible(points_of(results))[0]
  assert best.trials == (3, 4, 5)
  assert results.ranked[0].trial == 0
  found = findings(results)
  assert results.best is not None
  assert results.best.trial == 3
  said = answer(results, found)
  assert "The best of 4 points is that of trial 3" in said["sentence"]
  assert f"validation/score {sign * best.cost:.4g}, the mean of its 3 retrains" in said["sentence"]
  told = json.loads(text_of(results, "json"))
  assert told["best"]["trial"] == 3
  assert told["best"]["retrains"] == [3, 4, 5]
  assert told["best"]["mean"] == pytest.approx(sign * best.cost, rel=1e-3)
  rows = [line for line in text_of(results, "md").splitlines() if re.match(r"\| \d", line)]
  assert [int(row.split("|")[1]) for row in rows[:4]] == [3, 4, 5, 0]
  data = page_data(results, [results.objective])
  view = data["views"][0]
  assert view["best"] == 3
  assert view["tables"]["trials"]["mean"][:4] == pytest.approx([sign * 0.2] * 3 + [sign * best.cost], rel=1e-2)
  table = tables.ranked(results)
  assert list(table.columns[0].cells)[:4] == [rich.text.Text(number) for number in "3450"]
  (variance,) = (each for each in found if each.id == "PB-40")
  assert variance.numbers["best"] == pytest.approx(sign * best.cost)
  assert variance.trials[0] in best.trials


def test_of_a_setting_the_best_trial_is_of_its_best_point_too():
  trials = []
  for number, (method, rate, seed, value) in enumerate(
    (
      method,
      0.01 * (place + 1),
      seed,
      base + 0.05 * place + (-0.09 if place == 1 and seed == 0 else 0.0) + 0.001 * seed,
    )
    for method, base in (("one", 0.2), ("other", 0.5))
    for place in range(9)
    for seed in range(2)
  ):
    trials.append(planted.trial(number, {"method": method, "rate": rate, "seed": seed}, curve(value)))
  results = planted.results(trials, (METHOD, planted.nuisance("rate", 0.01, 0.2), SEED))
  found = findings(results)
  verdict = next(each for each in found if "settings" in each.numbers)
  assert results.best is not None
  assert results.ranked[0].trial == 2
  assert verdict.trials[0] == results.best.trial
  assert f"trial {results.best.trial}:" in answer(results, found)["sentence"]


# The noise.


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_one_number_in_all_findings(seed):
  rng = np.random.default_rng(seed)
  trials = []
  for place in range(16):
    method, rate = ("one", "other")[place % 2], 10 ** (-4 + 4 * rng.random())
    value = 0.1 + 0.02 * (np.log10(rate) + 2) ** 2
    for again in range(2):
      values = {"method": method, "rate": rate, "seed": again}
      trials.append(planted.trial(len(trials), values, curve(value + rng.normal(0, 0.004))))
  found = findings(planted.results(trials, (METHOD, planted.nuisance("rate", 1e-4, 1.0), SEED)))
  known = {
    each.question: each.numbers[name]
    for each in found
    for name in ("noise", "deviation")
    if each.question in ("comparison", "variance", "stopping", "density") and each.numbers.get(name) is not None
  }
  assert {"comparison", "variance", "stopping"} <= set(known)
  assert len({round(value, 12) for value in known.values()}) == 1
  verdict = next(each for each in found if "settings" in each.numbers)
  assert f"The noise of one trial is {verdict.numbers['noise']:.2g} (seed-to-seed standard deviation)" in verdict.why


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_bars_of_the_comparison_are_the_interval_that_the_title_speaks_of(mode, no_plots):
  results = small_comparison(0.05, trials=40, dimensions=2)
  if mode == "max":
    trials = [
      planted.trial(each.trial, each.values, {"validation/accuracy": (at, 1 - values)})
      for each in results.trials
      for at, values in [each.curve("validation/error")]
    ]
    results = planted.results(trials, (METHOD, *NUISANCE[:2]), planted.Objective("validation/accuracy", "max"))
  found = findings(results)
  verdict = next(each for each in found if "settings" in each.numbers)
  shown = page_data(results, [results.objective])["views"][0]["tables"]["settings"]
  rows = {row[0]: dict(zip(shown, row, strict=True)) for row in zip(*shown.values(), strict=True)}
  loser = rows["other"]
  assert rows["one"]["winner"]
  assert rows["one"]["low"] is None
  widths = [abs(loser[end] - loser["reference"]) for end in ("low", "high")]
  low, high = (float(text) for text in re.findall(r"interval: (\S+) to (\S+) (?:lower|higher)", verdict.title)[0])
  assert sorted(widths) == pytest.approx(sorted([low, high]), rel=0.02, abs=2e-5)
  assert (loser["low"] > loser["reference"]) == (mode == "min")


# Who is left.


def with_states(
  results: StudyResults, states: Mapping[int, str | None], source: str | None = "csv: tables"
) -> StudyResults:
  trials = [
    dataclasses.replace(each, state=states[each.trial], recorded=(states[each.trial], None), objective=None, step=None)
    if each.trial in states
    else each
    for each in results.trials
  ]
  record = dataclasses.replace(results.study, source=source)
  return dataclasses.replace(results, trials=tuple(trials), study=record)


@pytest.mark.parametrize(
  ("state", "said"),
  [("stopped", "8 were cut short"), ("failed", "8 failed"), ("pruned", "8 were pruned as worse than others")],
)
def test_who_is_left_is_said_first_where_many_are_not(state, said):
  results = with_states(planted.healthy(1, trials=24, evaluations=30, untidy=False), dict.fromkeys(range(8), state))
  sentence = answer(results, findings(results))["sentence"]
  assert sentence.startswith(f"Of 24 trials that ended, 16 ran to the end: {said}. ")
  few = with_states(planted.healthy(1, trials=24, evaluations=30, untidy=False), dict.fromkeys(range(2), state))
  assert answer(few, findings(few))["sentence"].startswith("The best of 22 complete trials")


# One number.


def test_the_answer_names_the_largest_number_of_further_trials_that_is_asked_for():
  results = planted.healthy(0, trials=24, evaluations=10)
  dense = one("density", "warning", "24 trials are few", "Try 27 more trials.", more=27)
  worth = one("stopping", "note", "Doubling gains 0.01", "Run 48 more trials.", more=48)
  said = answer(results, [dense, worth])
  assert (said["more"], said["next"], said["more_because"]) == (48, "Run 48 more trials.", "Doubling gains 0.01.")
  said = answer(results, [dense, one("importance", "cannot_tell", "unknown", "Run 99 more.", more=99)])
  assert said["more"] == 27
  edge = one("boundary", "warning", "the best are at an edge", "Expand it.")
  said = answer(results, [edge, dense])
  assert (said["more"], said["next"]) == (27, "Expand it.")
  said = answer(results, [one("stopping", "ok", "All 12 combinations were tried", more=None)])
  assert (said["more"], said["more_because"]) == (None, "All 12 combinations were tried.")


@pytest.mark.parametrize("trials", [5, 10, 24, 48])
def test_the_number_is_one_in_every_format(trials, no_plots):
  for seed in range(3):
    results = planted.healthy(seed, trials=trials, evaluations=12)
    found = findings(results)
    said = answer(results, found)
    asking = [each.numbers.get("more") or 0 for each in found if each.severity != "ok"]
    assert (said["more"] or 0) <= max(asking, default=0)
    text = markdown(results, found)
    number = "none" if said["more"] is None else f"{said['more']:,}"
    assert f"**Further trials:** {number}. " in text
    assert page_data(results, [results.objective], found)["views"][0]["answer"] == said


def test_a_study_that_runs_asks_for_the_trials_that_it_planned():
  results = with_states(planted.healthy(1, trials=24, evaluations=30), {3: "running", 4: "pending"}, source=None)
  said = answer(results, findings(results))
  assert (said["more"], said["more_because"]) == (2, "These were planned and have not ended.")
  assert said["next"] == "Wait for the other 2 trials."
  record = dataclasses.replace(results.study, command="trialbook tune run --dir=runs/x")
  said = answer(dataclasses.replace(results, study=record), [])
  assert said["next"] == "Wait for the other 2 trials, or resume them: trialbook tune run --dir=runs/x"

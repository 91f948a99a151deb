"""Whether to adopt a configuration instead of the baseline (PB-40, PB-41, PB-42, PB-44).

The playbook: before a change is adopted, run the best trial and the baseline again with other seeds, so that the
difference can be compared with the variance of trials. Here both are run with the same fresh seeds, a few at a time,
until the interval of the difference decides, or no more seeds are allowed. Each look spends a part of the error, so
looking often does not make wrong adoptions more frequent.
"""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from trialbook.errors import UserError
from trialbook.paths import as_path
from trialbook.settings import find
from trialbook.trainer import Config
from trialbook.trainer.config_files import load_config
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.findings.statistics.seed_noise import sampling_noise
from trialbook.tuning.procedures import adopt_record
from trialbook.tuning.procedures.adopt_second_search import deviation, search_again
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.config_changes import changed, changes_in_words, recommended
from trialbook.tuning.procedures.lab import MOST_SEEDS, Lab
from trialbook.tuning.results import StudyResults, read_results

LOOKS = (3, 5, 8, 12, 20, 32)
"""Seeds of each side at which the difference is looked at: each look has about half as many more than the one before,
so that a clear difference is cheap and a small one is not looked at too often."""
ERROR = 0.05
"""Probability of a wrong decision between two equal configurations, over all looks and both directions."""
POWER = 0.8
"""Probability with which the number of further seeds, which is estimated if nothing is decided, would decide."""
SPLIT = "dataset.split_seed"
"""Field that draws other validation examples."""


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference of two configurations.

  Attributes:
    gain: mean by which the candidate is better, in the metric's own units; positive is better.
    low, high: its interval, at the level of one look.
    p: two-sided p-value of no difference.
    deviations: standard deviations from seed to seed: of the candidate, of the baseline.
    seeds: of each side.
    degrees_of_freedom: of the t distribution.
  """

  gain: float
  low: float
  high: float
  p: float
  deviations: tuple[float, float]
  seeds: tuple[int, int]
  degrees_of_freedom: float


def difference(candidate: Sequence[float], baseline: Sequence[float], sign: int, level: float) -> Difference:
  """Return the difference of the means of two samples of at least two values each, by Welch's t distribution.

  Args:
    candidate: its values, one for each seed.
    baseline: the same.
    sign: +1 if smaller values are better, -1 if larger are.
    level: of the interval: it misses the true difference with this probability.
  """
  ours, theirs = np.asarray(candidate, float), np.asarray(baseline, float)
  gain = sign * float(theirs.mean() - ours.mean())
  variances = float(ours.var(ddof=1)) / len(ours), float(theirs.var(ddof=1)) / len(theirs)
  error = math.sqrt(sum(variances))
  freedom = 1.0
  if error > 0:
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / (len(ours) - 1) + variances[1] ** 2 / (len(theirs) - 1))
  half = float(scipy.stats.t.isf(level / 2, freedom)) * error
  p = float(2 * scipy.stats.t.sf(abs(gain) / error, freedom)) if error > 0 else float(gain == 0)
  deviations = float(ours.std(ddof=1)), float(theirs.std(ddof=1))
  return Difference(gain, gain - half, gain + half, p, deviations, (len(ours), len(theirs)), freedom)


def run(
  lab: Lab,
  *,
  study: str | pathlib.Path | None = None,
  trial: int | None = None,
  candidate: str | pathlib.Path | None = None,
  seeds: int = 20,
  splits: int = 0,
  second_search: bool = False,
  margin: float = 0.0,
  record: str | pathlib.Path | None = None,
) -> Conclusion:
  """Decide whether a candidate replaces the baseline, which is the lab's config (PB-42).

  Args:
    lab: where both are run again.
    study: folder of the study whose best point is the candidate: that with the best mean of its retrains.
    trial: of that study, instead of its best.
    candidate: a config file instead.
    seeds: most of each side.
    splits: number of other splits of the data on which both are trained too, if the dataset can be split otherwise.
    second_search: whether the study is run again with another seed of its search, and its best too: study variance.
    margin: gain, in the metric's units, that the change must exceed to be worth its complexity.
    record: folder of the recorded baseline, which an adopted config replaces; None: `recorded_baseline` beside the
      lab's folder.
  """
  config, origin = _candidate(study, trial, candidate)
  changes = changed(lab.config, config)
  if not changes:
    raise UserError("the candidate and the baseline are the same config; there is nothing to decide")
  if second_search and (study is None or trial is not None):
    raise UserError("--second_search: only the best point of a --study, without --trial, depends on its search")
  own = recommended(lab.config, config)
  recorded = adopt_record.folder_of(lab, record)
  looks = looks_until(seeds)
  sign = lab.ranked_by.sign
  found: Difference | None = None
  verdict = "undecided"
  results: dict[str, StudyResults] = {}
  # Seeds that no trial of the study had: the candidate was chosen because it was good with that one.
  first = max(config.seed, lab.config.seed) + 1
  for look in looks:
    for name, of in (("candidate", config), ("baseline", lab.config)):
      results[name] = _retrained(lab, name, of, first, look)
    ours, theirs = (_values(results[name]) for name in ("candidate", "baseline"))
    if min(len(ours), len(theirs)) < 2:
      continue
    found = difference(ours, theirs, sign, ERROR / len(looks))
    verdict = decision(found, margin)
    if verdict != "undecided":
      break
  elsewhere = _on_other_splits(lab, config, splits) if splits else None
  again = _search_again(lab, str(study), config, _values(results["candidate"]), first) if second_search else None
  return lab.conclude(
    _conclusion(lab, results, found, verdict, changes, own, origin, margin, looks, recorded, elsewhere, again)
  )


def _retrained(lab: Lab, name: str, config: Config, first: int, count: int) -> StudyResults:
  """Return trainings of a config with a number of seeds from `first` on."""
  goal = f"How much does the {name.replace('_', ' ')} vary from seed to seed?"
  return lab.retrained(name, goal, config, first, count)


@dataclasses.dataclass(frozen=True)
class _Again:
  """What a second search found: a sentence, and the standard deviation of the best from search to search."""

  sentence: str
  deviation: float | None


def _search_again(lab: Lab, study: str, candidate: Config, values: Sequence[float], first: int) -> _Again:
  """Run the study again with another seed of its search, and compare retrains of its best with the candidate's."""
  found = search_again(lab, read_results(as_path(study)))
  if found.best is None:
    return _Again("Study variance: no trial of a second search has a value.", None)
  if not changed(candidate, found.best):
    return _Again("Study variance: a second search finds the same best point.", 0.0)
  # As many seeds as the candidate had: the means of both are then equally uncertain.
  other = _values(_retrained(lab, "second_candidate", found.best, first, max(len(values), LOOKS[0])))
  if not other or not values:
    return _Again("Study variance: the best points of the two searches cannot be compared.", None)
  spread = deviation(values, other)
  return _Again(
    f"Study variance: another search of the same space has its best in trial {found.trial}. Retrained with"
    f" {_count(len(other), 'seed')}, it has {statistics.fmean(other):.4g}, and the candidate"
    f" {statistics.fmean(values):.4g}: a standard deviation of about {spread:.2g} from search to search.",
    spread,
  )


def _on_other_splits(lab: Lab, candidate: Config, count: int) -> list[float]:
  """Return by how much the candidate is better on each of some other splits of training and validation examples."""
  if find(lab.config, SPLIT) is None:
    raise UserError(f"--splits={count}: dataset {lab.config.dataset.name} has no {SPLIT}: its splits are fixed")
  values: dict[str, dict[int, float]] = {}
  for name, of in (("candidate", candidate), ("baseline", lab.config)):
    results = lab.sweep(
      f"{name}_on_splits", f"How good is the {name} on other splits?", SPLIT, [*range(1, count + 1)], config=of
    )
    values[name] = {trial.values[SPLIT]: trial.objective for trial in results.trials if trial.objective is not None}
  both = sorted(values["candidate"].keys() & values["baseline"].keys())
  return [lab.ranked_by.sign * (values["baseline"][one] - values["candidate"][one]) for one in both]


def looks_until(seeds: int) -> list[int]:
  """Return after how many seeds of each side the difference is looked at, if there are at most `seeds`."""
  return [*(look for look in LOOKS if look < seeds), seeds]


def decision(found: Difference, margin: float) -> str:
  """Return "adopt" if the whole interval is above the margin, "reject" if it is below, else "undecided"."""
  if found.low > margin:
    return "adopt"
  return "reject" if found.high < margin else "undecided"


def further_seeds(found: Difference, margin: float, level: float) -> int | None:
  """Return how many more seeds of each side would probably decide, if the difference is as large as it looks; None if
  more than `MOST_SEEDS`."""
  effect = abs(found.gain - margin)
  if effect == 0:
    return None
  quantiles = float(scipy.stats.norm.isf(level / 2) + scipy.stats.norm.isf(1 - POWER))
  needed = math.ceil(sum(one**2 for one in found.deviations) * (quantiles / effect) ** 2)
  more = needed - min(found.seeds)
  return max(more, 1) if more <= MOST_SEEDS else None


def _candidate(
  study: str | pathlib.Path | None, trial: int | None, candidate: str | pathlib.Path | None
) -> tuple[Config, str]:
  """Return the candidate's config and where it comes from, in words."""
  if (study is None) == (candidate is None):
    raise UserError("say what may be adopted: --study=DIR, whose best point it is, or --candidate=config.json")
  if candidate is not None:
    return load_config(as_path(candidate)), str(candidate)
  assert study is not None
  results = read_results(as_path(study))
  if results.study.config is None:
    raise UserError(f"{study}: only a study of trainings has a config to adopt")
  if trial is None:
    points = feasible(points_of(results))
    if not points:
      raise UserError(f"{study}: no trial has a value")
    trial = points[0].trials[0]
  known = {one.trial: one for one in results.trials}
  if trial not in known:
    raise UserError(f"{study} has no trial {trial}; it has {len(known)}, from 0")
  changes = {path: value for path, value in known[trial].changes.items() if path != "seed"}
  return results.study.config.override(changes), f"trial {trial} of {results.study.name}"


def _values(results: StudyResults) -> list[float]:
  return [trial.objective for trial in results.trials if trial.objective is not None]


def _conclusion(
  lab: Lab,
  results: Mapping[str, StudyResults],
  found: Difference | None,
  verdict: str,
  changes: Mapping[str, tuple[Any, Any]],
  own: Mapping[str, Any],
  origin: str,
  margin: float,
  looks: Sequence[int],
  record: pathlib.Path,
  elsewhere: Sequence[float] | None,
  again: _Again | None,
) -> Conclusion:
  metric = lab.ranked_by.metric
  died = {name: sum(trial.objective is None for trial in each.trials) for name, each in results.items()}
  if found is None:
    worse = "candidate" if died["candidate"] >= died["baseline"] else "baseline"
    return Conclusion(
      procedure="adopt",
      id="PB-42",
      verdict=f"No decision: the {worse} has fewer than two seeds with a value, of {looks[-1]}.",
      numbers={"died": died},
      actions=[f"Read the logs of the {worse}'s trials. If they diverge, run `trialbook tune stability` on it."],
    )
  level = ERROR / len(looks)
  interval = f"{1 - level:.1%} interval {found.low:.3g} to {found.high:.3g}"
  numbers: dict[str, Any] = {
    **dataclasses.asdict(found),
    "decision": verdict,
    "margin": margin,
    "died": died,
    "changes": len(changes),
  }
  deviations = (
    f"Trial variance: from seed to seed {metric} has a standard deviation of {found.deviations[0]:.3g} (candidate,"
    f" {found.seeds[0]} fresh seeds) and {found.deviations[1]:.3g} (baseline, {found.seeds[1]})."
  )
  looked = (
    f"The difference is looked at after {', '.join(map(str, looks))} seeds until it decides. Between equal"
    f" configurations, all looks together decide wrongly in at most {ERROR:.0%}."
  )
  evidence = [
    f"The candidate is {origin}. It changes {_count(len(changes), 'field')}: {changes_in_words(changes)}.",
    deviations,
    looked,
  ]
  if any(died.values()):
    evidence.append(f"Seeds without a value: {died['candidate']} of the candidate, {died['baseline']} of the baseline.")
  sampling = sampling_noise(results["candidate"])
  if sampling is not None:
    numbers["sampling"] = sampling[0]
    evidence.append(
      f"Data-sampling variance: {sampling[1]:,} validation examples leave a standard error of {sampling[0]:.3g}"
      + (
        ". The gain is smaller than that, so another validation set might order them otherwise."
        if 0 < found.gain < sampling[0]
        else "."
      )
    )
  if elsewhere:
    numbers["other_splits"] = list(elsewhere)
    evidence.append(
      f"On {len(elsewhere)} other splits of the data the candidate is better in {sum(one > 0 for one in elsewhere)}, by"
      f" {float(np.mean(elsewhere)):.3g} in the mean."
    )
  if again is not None:
    numbers["study"] = again.deviation
    is_larger = again.deviation is not None and 0 < found.gain < again.deviation
    evidence.append(again.sentence + (" The gain is smaller than that." if is_larger else ""))
  table = [
    {"": name, "seeds": len(values), "mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1))}
    for name, values in ((name, _values(each)) for name, each in results.items())
  ]
  gain = f"{abs(found.gain):.3g} {'better' if found.gain > 0 else 'worse'} in {metric} ({interval})"
  make: dict[str, Any] = {"procedure": "adopt", "id": "PB-42", "evidence": evidence, "numbers": numbers, "table": table}
  if verdict == "adopt":
    where = adopt_record.write(lab, record, lab.config.override(dict(own)), numbers, origin)
    return Conclusion(
      **make,
      verdict=f"Adopt the candidate: it is {gain}.",
      changes=dict(own),
      actions=[f"Later comparisons start from the recorded baseline: --config={where}"],
    )
  if verdict == "reject":
    beside = f", and the change must gain {margin:.3g} to be worth its complexity" if margin else ""
    return Conclusion(**make, verdict=f"Keep the baseline: the candidate is {gain}{beside}.", changes={})
  more = further_seeds(found, margin, level)
  numbers["more"] = more
  return Conclusion(
    **make,
    verdict=f"Not enough evidence after {min(found.seeds)} seeds of each: the candidate is {gain}.",
    actions=[
      f"About {more} more seeds of each would decide, if the difference is as large as it looks:"
      f" --seeds={min(found.seeds) + more}."
      if more is not None
      else "No practical number of seeds would decide. Keep the baseline, which is simpler.",
    ],
  )


def _count(count: int, noun: str) -> str:
  return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


LATER = f"Both sides are run with more seeds, up to --seeds, until the difference is clear: {LOOKS} seeds each."
"""What may be run after the first study."""

"""How often `trialbook tune adopt` decides rightly: on pairs whose true difference is known, and on logs of AlgoPerf.

  python -m benchmarks.adoption

The logs are those of two submissions, `baseline` and `nadamp`, in the folder that TRIALBOOK_ALGOPERF_LOGS names;
without them nothing is replaced.
"""

import os
import pathlib
import statistics
import sys
import tempfile

import numpy as np

from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.procedures import adopt
from trialbook.tuning.results import StudyResults, read_results

PAIRS = 200
GAINS = (0.0, 0.5, 1.0, 2.0, -1.0)
"""True gains of the candidate, in standard deviations from seed to seed."""
SEEDS = (3, 5, 8, 12, 20, 32, 50)
"""Most seeds of each side."""
LOGS = pathlib.Path(
  os.environ.get("TRIALBOOK_ALGOPERF_LOGS", pathlib.Path(__file__).resolve().parents[2] / "shared" / "algoperf_logs")
)


def sequence(candidate: list[float], baseline: list[float], seeds: int, sign: int = 1) -> tuple[str, int]:
  """Return the decision of `adopt` with at most so many seeds of each side, and how many it used."""
  looks = adopt.looks_until(seeds)
  for look in looks:
    found = adopt.difference(candidate[:look], baseline[:look], sign, adopt.ERROR / len(looks))
    verdict = adopt.decision(found, 0.0)
    if verdict != "undecided":
      return verdict, look
  return "undecided", seeds


def pairs() -> None:
  """Print how often pairs of a known difference are adopted, kept and left open."""
  print("| true gain, standard deviations | most seeds of each side | adopted | kept | undecided | seeds used, mean |")
  print("|---:|---:|---:|---:|---:|---:|")
  for gain in GAINS:
    rng = np.random.default_rng(0)
    samples = [(rng.normal(-gain, 1, max(SEEDS)).tolist(), rng.normal(0, 1, max(SEEDS)).tolist()) for _ in range(PAIRS)]
    for seeds in SEEDS:
      found = [sequence(ours, theirs, seeds) for ours, theirs in samples]
      shares = [sum(verdict == one for verdict, _ in found) / PAIRS for one in ("adopt", "reject", "undecided")]
      used = statistics.fmean(count for _, count in found)
      print(f"| {gain:g} | {seeds} | {' | '.join(f'{share:.1%}' for share in shares)} | {used:.1f} |")
  print()


def by_retrain(results: StudyResults) -> list[float]:
  """Return a value for each retrain: of the point that the other retrains have as their best.

  So the choice of the point does not flatter its value.
  """
  sign = results.objective.sign
  points = [[None if one.objective is None else sign * one.objective for one in point] for point in results.points]
  count = min(map(len, points))
  found = []
  for left_out in range(count):
    means = []
    for point in points:
      others = [value for at, value in enumerate(point) if at != left_out]
      means.append(statistics.fmean(float("inf") if value is None else value for value in others))
    value = points[means.index(min(means))][left_out]
    if value is not None:
      found.append(sign * value)
  return found


def logs() -> None:
  """Print the decision between the baseline and NAdam on each workload."""
  print("| workload | metric | baseline, mean | nadamp, mean | gain of nadamp, interval | decision | further seeds |")
  print("|---|---|---:|---:|---|---|---|")
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    studies = {one: _imported(LOGS / one, root / one) for one in ("baseline", "nadamp")}
    for workload in sorted(studies["baseline"].keys() & studies["nadamp"].keys()):
      results = studies["baseline"][workload]
      theirs, ours = by_retrain(results), by_retrain(studies["nadamp"][workload])
      seeds = min(len(theirs), len(ours))
      level = adopt.ERROR / len(adopt.looks_until(seeds))
      verdict, look = sequence(ours, theirs, seeds, results.objective.sign)
      found = adopt.difference(ours[:look], theirs[:look], results.objective.sign, level)
      words = {"adopt": "adopt nadamp", "reject": "keep the baseline", "undecided": "not enough evidence"}[verdict]
      more = adopt.further_seeds(found, 0.0, level) if verdict == "undecided" else None
      interval = f"{found.gain:+.4f} ({1 - level:.1%}: {found.low:+.4f} to {found.high:+.4f}, {look} seeds)"
      means = f"{np.mean(theirs[:look]):.4f} | {np.mean(ours[:look]):.4f}"
      further = f"about {more}" if more else ""
      print(f"| {workload} | {results.objective.metric} | {means} | {interval} | {words} | {further} |")


def _imported(source: pathlib.Path, folder: pathlib.Path) -> dict[str, StudyResults]:
  """Return the studies of a submission by the names of their workloads."""
  results = [read_results(one) for one in import_study("algoperf", source, folder)]
  return {one.folder.name: one for one in results}


def main() -> int:
  """Print both tables."""
  pairs()
  if not LOGS.is_dir():
    print(f"{LOGS} is missing: set TRIALBOOK_ALGOPERF_LOGS to the logs", file=sys.stderr)
    return 1
  logs()
  return 0


if __name__ == "__main__":
  sys.exit(main())

"""Numbers, names and trials in the words of findings."""

import math
import shlex
from collections.abc import Sequence

from trialbook.tuning.findings.statistics.points import is_numeric
from trialbook.tuning.findings.statistics.regions import Interval, Region
from trialbook.tuning.findings.statistics.separation import Separation
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, ReverseLog

SMALLEST_P = 1e-6
"""Smallest p-value that is written out: the noise is not known well enough to distinguish smaller ones from it."""
NAMED = 4
"""Settings in a sentence: what a reader takes in; `numbers` has all."""
_FEWEST_DIGITS, _MOST_DIGITS = 4, 12


def short(value: float) -> str:
  """Return a number with as many digits as a reader can use."""
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def apart(values: Sequence[float]) -> list[str]:
  """Return values with at least four digits, and as many as show their differences: the zero of a metric may be far
  away."""
  spread = max(values) - min(values) if values else 0.0
  largest = max(map(abs, values), default=0.0)
  digits = _FEWEST_DIGITS
  if spread > 0:
    digits = min(max(digits, math.ceil(math.log10(largest / spread)) + 2), _MOST_DIGITS)
  for count in range(digits, digits + 4):
    texts = [f"{value:.{count}g}" for value in values]
    if len(set(texts)) == len(set(values)):
      return texts
  return [f"{value:.{digits}g}" for value in values]


def between(low: float, high: float) -> str:
  """Return an interval in words."""
  return f"95% interval {short(low)} to {short(high)}"


def p_value(p: float) -> str:
  """Return a p-value in words."""
  return f"p = {p:.2g}" if p >= SMALLEST_P else "p < 1e-6"


def percent(share: tuple[float, float, float]) -> str:
  """Return a share with the ends of its interval, in percent."""
  return f"{share[0]:.0%} ({share[1]:.0%} to {share[2]:.0%})"


def many(count: int, noun: str) -> str:
  """Return a count with its noun: "1 trial", "2 trials"."""
  return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str], word: str = "and") -> str:
  """Return names as a list in a sentence; if there are more than `NAMED`, the first ones and the number of others."""
  shown = list(names) if len(names) <= NAMED else [*names[: NAMED - 1], f"{len(names) - NAMED + 1} others"]
  return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {word} {shown[-1]}"


def shown(one: Hyperparameter, value: float) -> str:
  """Return a value of a hyperparameter; on a reverse-log scale by its distance from 1, "1 - 0.0007"."""
  return f"1 - {1 - value:.3g}" if isinstance(one.scale, ReverseLog) else f"{value:.6g}"


def region(cut: Separation) -> str:
  """Return the region of the space that a cut separates, in words: "optimizer.learning_rate above 0.3"."""
  one = cut.one
  if not is_numeric(one):
    return f"{one.name} = {cut.value}"
  match one.scale:
    case Integer():
      first, last = cut.edge + 1, cut.edge - 1
    case Discrete(values):
      lost = [value for value in values if (one.scale.unit(value) < cut.unit) != cut.above]
      first, last = lost[0], lost[-1]
    case _:
      return f"{one.name} {'above' if cut.above else 'below'} {shown(one, cut.edge)}"
  return f"{one.name} from {first:.6g} on" if cut.above else f"{one.name} up to {last:.6g}"


def interval_text(found: Interval) -> str:
  """Return where the bad points of an interval are, in words: "learning_rate below 0.001 or above 0.1"."""
  name = found.one.name
  low, high = (None if end is None else shown(found.one, end) for end in (found.low, found.high))
  if found.is_inside:
    between = f"between {low} and {high}" if low and high else f"above {low}" if low else f"below {high}"
    return f"{name} {between}"
  return f"{name} {' or '.join([*([f'below {low}'] if low else []), *([f'above {high}'] if high else [])])}"


def named_region(found: Region) -> str | None:
  """Return the region of bad points in words, such as "learning_rate above 0.3"; None if it has no name."""
  if found.kind == "axis" and found.cut is not None:
    return region(found.cut)
  if found.kind == "corner" and found.corner is not None:
    return found.corner.text
  return None if found.interval is None else interval_text(found.interval)


def held_by(found: Region) -> str | None:
  """Return how many of the bad points their region holds, for a title: "all of them with learning_rate above 0.3"; None
  if the region has no name."""
  name = named_region(found)
  if name is None:
    return None
  part = found.corner if found.kind == "corner" else found.cut if found.kind == "axis" else None
  share = "all" if part is not None and part.outside[0] == 0 else "most"
  return f"{share} of them {'where' if found.kind == 'corner' else 'with'} {name}"


def how_to_rerun(results: StudyResults) -> str:
  """Return how to rerun the best trial with other seeds, in a clause."""
  best = results.best
  if best is None or results.study.source is not None or results.study.config is None:
    return "train it with 5 other seeds, as it was trained"
  # Of several studies that were merged, the trial's own one and its number there.
  study = shlex.quote(str(best.folder.parent.parent))
  return f"trialbook tune rerun {study} {int(best.folder.name)} --seeds=5"

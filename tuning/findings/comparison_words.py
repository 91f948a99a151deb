"""The sentences of a comparison: what was tried of each setting, which one wins, and what would change that."""

from collections.abc import Sequence

from trialbook.tuning.findings.statistics.contenders import Contender
from trialbook.tuning.findings.statistics.differences import Axis, Difference
from trialbook.tuning.findings.statistics.extreme_value import LEAST
from trialbook.tuning.findings.statistics.seed_noise import Noise
from trialbook.tuning.findings.wording import NAMED, apart, listed, many, short
from trialbook.tuning.results import StudyResults

STATES = {
  "failed": ("failed", "failed"),
  "stopped": ("was cut short", "were cut short"),
  "running": ("is still running", "are still running"),
  "pending": ("has not started", "have not started"),
}
"""What became of a trial, and of several, that say nothing about a setting."""
PAUSED = {**STATES, "stopped": ("is paused", "are paused")}
"""The same in a study of this project, whose stopped trials resume."""


def noun(field: Sequence[Contender], count: int = 2) -> str:
  """Return what is counted: "trials", or "points" if there are retrains, of which a point counts once."""
  one = "point" if any(each.has_retrains for each in field) else "trial"
  return one if count == 1 else f"{one}s"


def counted(field: Sequence[Contender], count: int) -> str:
  """Return a number of tries with its noun."""
  return f"{count:,} {noun(field, count)}"


def tried(results: StudyResults, field: Sequence[Contender]) -> str:
  """Return what was tried of each setting and what became of it, in sentences."""
  parts = []
  for one, best in zip(field, _bests(results, field), strict=True):
    kinds = [(one.pruned, "pruned as worse than others"), (one.infeasible, "infeasible")]
    of = [f"{count} {'was' if count == 1 else 'were'} {kind}" for count, kind in kinds if count]
    of += [f"{one.early} ended before the others and may have become better"] if one.early else []
    of = f" ({listed(of)})" if of else ""
    value = f"best {best}" if one.costs else "no value"
    parts.append(f"{one.named}: {value}, {counted(field, one.total)} tried{of}.")
  if out := _left_out(results, field):
    parts.append(f"Left out: {'; '.join(out)}.")
  if any(one.has_retrains for one in field):
    parts.append("Trials that differ only in their seed are one point, whose value is their mean.")
  return " ".join(parts)


def _left_out(results: StudyResults, field: Sequence[Contender]) -> list[str]:
  words = STATES if results.study.source is not None else PAUSED
  return [
    f"{many(count, 'trial')} of {one.named} {words.get(state, (state, state))[count > 1]}"
    for one in field
    for state, count in one.left_out.items()
  ]


def nothing_to_compare(field: Sequence[Contender]) -> str:
  """Return that fewer than two settings have a value, as a title."""
  known = [one.named for one in field if one.costs]
  having = f"only {known[0]} has" if known else "no setting has"
  return f"Nothing to compare: {having} a trial with a value"


def too_few(
  results: StudyResults,
  winner: Contender,
  equal: Sequence[Contender],
  few: Sequence[Contender],
  flat: Sequence[Contender],
  field: Sequence[Contender],
) -> str:
  """Return why settings cannot be compared yet, as a title."""
  reasons = []
  if len(few) == 1:
    reasons.append(f"{few[0].named} has only {counted(field, len(few[0].costs))} with a value, and {LEAST} are needed")
  elif few:
    which = "both settings" if len(few) == len(field) == 2 else f"{len(few)} of {len(field)} settings"
    reasons.append(f"{which} have fewer than the {LEAST} {noun(field)} with a value that a comparison needs")
  if flat:
    reasons.append(f"the best {noun(field)} of {listed([one.named for one in flat])} are equal")
  return f"{_ahead(results, winner, equal)}, but {' and '.join(reasons)}"


def _ahead(results: StudyResults, winner: Contender, equal: Sequence[Contender]) -> str:
  (value,) = _bests(results, [winner])
  if len(equal) > 1:
    return f"{listed([one.named for one in equal])} are equal at best, with {value}"
  return f"{winner.named} is best so far, with {value}"


def at_target(results: StudyResults, winner: Contender, equal: Sequence[Contender], those: Sequence[Contender]) -> str:
  """Return that final values do not compare settings whose best trials were ended at a target, as a title."""
  return (
    f"{_ahead(results, winner, equal)}, but the best of {listed([one.named for one in those])} were ended at a target:"
    " final values do not compare them"
  )


def varied_together(
  results: StudyResults,
  winner: Contender,
  equal: Sequence[Contender],
  mixed: Sequence[Contender],
  axis: Axis,
  names: Sequence[str],
) -> str:
  """Return that an effect belongs to one of several hyperparameters, as a title."""
  return (
    f"{_ahead(results, winner, equal)}, but {axis.name} and {listed(names)} were varied together: too few"
    f" {noun([winner, *mixed])} of {winner.named} and of {listed([one.named for one in mixed])} have the same"
    f" {listed(names)}"
  )


def crossed(axis: Axis, others: Sequence[str]) -> str:
  """Return the action that separates the effects of these hyperparameters."""
  return f"Run each value of {axis.name} with the same values of {listed(others)}, or draw them independently."


def wins(
  winner: Contender, second: tuple[Contender, Difference], budget: int, field: Sequence[Contender], lead: str
) -> str:
  """Return that a setting is the best, as a title."""
  runner, difference = second
  if difference.lead is None:
    said = f"{winner.named} wins: all {counted([runner], runner.total)} of {runner.named} were pruned as worse"
  else:
    said = f"{winner.named} wins: with {counted(field, budget)} each, its best is typically {lead}"
  pruned = [one for one in field if one.pruned]
  if not pruned or difference.lead is None:
    return said
  shown = field if len(field) <= NAMED else [winner, runner]
  parts = [
    f"{one.named} was tried {one.total} times and pruned {one.pruned} times"
    if one is shown[0]
    else f"{one.named} {one.total} and {one.pruned}"
    for one in shown
  ]
  return f"{said}. {', '.join(parts)}"


def no_clear_winner(
  results: StudyResults,
  winner: Contender,
  others: Sequence[Contender],
  equal: Sequence[Contender],
  confounded: Axis | None,
) -> str:
  """Return that the difference of the best settings may be chance, as a title."""
  field = [winner, *others]
  named = [one.named for one in field]
  bests = _bests(results, field)
  if confounded is not None:
    by = listed(confounded.others)
    lead = f"{named[0]} ({bests[0]}) leads {listed(named[1:])} ({bests[1]})"
    return f"No clear winner: {lead}, but {by} may be the whole cause"
  if len(equal) > 1:
    rest = [one.named for one in others if one not in equal]
    also = f", and {listed(rest)} may be as good" if rest else ""
    return f"No clear winner: {listed([one.named for one in equal])} are equal at best, with {bests[0]}{also}"
  if len(field) == 2:
    return (
      f"No clear winner: {named[0]} has {bests[0]} at best and {named[1]} {bests[1]}, and a gap that small arises by"
      " chance"
    )
  return (
    f"No clear winner: {named[0]} has {bests[0]} at best, {listed(named[1:])} have {bests[1]} to {bests[-1]}, and gaps"
    " that small arise by chance"
  )


def to_settle(more: int, several: Sequence[Contender]) -> tuple[str, str]:
  """Return the action that settles a comparison, and what would then change the finding."""
  named = [one.named for one in several]
  which = f"which of {len(named)} settings is best" if len(named) > NAMED else f"whether {listed(named, 'or')} is best"
  if len(named) == 2:
    which = f"whether {listed(named, 'or')} is better"
  action = f"Run about {many(more, 'more trial')}: they would show {which}, if the difference is as large as it looks."
  return action, f"About {many(more, 'more trial')} of {_shared(named)} in which the difference stays as large."


def not_worth_settling(times: float, several: Sequence[Contender]) -> str:
  """Return the action where more trials would not settle a comparison."""
  named = [one.named for one in several]
  of = listed(named, "or") if len(named) <= NAMED else f"any of these {len(named)} settings"
  return f"Choose {of} by cost or simplicity: even {times:g} times as many trials would probably not show a difference."


def until_many(more: int) -> str:
  """Return what would settle a comparison that is not worth settling."""
  return f"More than {many(more, 'further trial')}: so many would probably be needed to show a difference."


def until_undone(results: StudyResults, winner: Contender, runner: Contender) -> str:
  """Return which further trials would undo that a setting wins."""
  (best,) = apart([results.objective.sign * winner.costs[0]])
  such = ", such as a pruned one that runs to its end" if runner.pruned else ""
  return f"One trial of {runner.named} that reaches {best} or {direction(results)}{such}."


def interval(results: StudyResults, second: tuple[Contender, Difference], *, level: float) -> str:
  """Return how much better a setting typically is than another one, with the interval, such as "0.2 lower than that of
  adam (90% interval: ...)"."""
  runner, lead = second
  if lead.lead is None or lead.low is None or lead.high is None:
    return ""
  way, back = direction(results), opposite(results)
  low, high = (f"{short(abs(end))} {way if end >= 0 else back}" for end in (lead.low, lead.high))
  if (lead.low >= 0) == (lead.high >= 0):
    low = low.rpartition(" ")[0]
  signed = f"{short(abs(lead.lead))} {way if lead.lead >= 0 else back}"
  return f"{signed} than that of {runner.named} ({level:.3g}% interval: {low} to {high})"


def method(
  results: StudyResults,
  field: Sequence[Contender],
  budget: int,
  second: tuple[Contender, Difference],
  axis: Axis,
  lead: str,
) -> str:
  """Return how the best setting and the second one were compared, in sentences."""
  _, difference = second
  parts = []
  if difference.lead is not None:
    parts.append(f"With {counted(field, budget)} each, the median of its best is {lead}.")
  if (test := difference.test) is not None:
    among = f" among {noun(field)} with the same {listed(axis.others)}" if axis.others else ""
    parts.append(
      f"If the labels of both were shuffled{among}, {_share(test.p_value)} of the shuffles would show a gap at least"
      f" this large (p = {test.p_value:.2g}; a winner needs p ≤ {axis.level:.2g})."
    )
    if axis.others:
      parts.append(
        f"Unequal values of {listed(axis.others)} make up {test.expected:.2g} of the {test.observed:.2g} between both"
        " at half that number."
      )
  return " ".join(parts)


def pruning(field: Sequence[Contender], results: StudyResults) -> list[str]:
  """Return which settings lost early, and how pruned trials count, in sentences."""
  pruned = [one for one in field if one.pruned]
  if not pruned:
    return []
  found = []
  shares = {one.named: one.pruned / one.total for one in field if one.total}
  first, last = min(shares, key=lambda name: shares[name]), max(shares, key=lambda name: shares[name])
  if shares[last] > shares[first]:
    found.append(
      f"{last} lost early most often: {_share(shares[last])} of its {noun(field)} were pruned, and"
      f" {_share(shares[first])} of those of {first}."
    )
  at = [f"{one.named} at step {one.pruned_at:,.0f}" for one in pruned if one.pruned_at]
  if at and results.steps:
    found.append(f"Pruned trials ended at these steps (median) of {results.steps:,}: {listed(at)}.")
  found.append(
    "They count as tried and as not among the best. That would be wrong for a setting that starts slowly and ends well."
  )
  return found


def noise(known: Noise | None) -> list[str]:
  """Return the noise of a single trial, by the same number as other findings have."""
  return [f"The noise of one trial is {known.deviation:.2g} ({known.source})."] if known else []


def direction(results: StudyResults) -> str:
  """Return the better direction of the objective in words."""
  return "lower" if results.objective.sign > 0 else "higher"


def opposite(results: StudyResults) -> str:
  """Return the worse direction of the objective in words."""
  return "higher" if results.objective.sign > 0 else "lower"


def _share(share: float) -> str:
  return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def _shared(named: Sequence[str]) -> str:
  return listed(named) if len(named) <= NAMED else f"these {len(named)} settings"


def _bests(results: StudyResults, field: Sequence[Contender]) -> list[str]:
  """Return the best value of each setting as text, with the digits that distinguish them; "" if it has none."""
  values = [results.objective.sign * one.costs[0] if one.costs else None for one in field]
  texts = iter(apart([value for value in values if value is not None]))
  found = []
  for one, value in zip(field, values, strict=True):
    text = "" if value is None else next(texts)
    several = len(one.points[0].retrains) if value is not None else 0
    found.append(f"{text} (mean of {several} retrains)" if several > 1 else text)
  return found

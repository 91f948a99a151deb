"""What findings say of a study: the functions that look for it.

They go by severities, trials, hyperparameters, proposed spaces and numbers, and only where there is nothing else by
words of a title.
"""

from collections.abc import Callable, Sequence

from trialbook.tuning.advice_benchmark import edges, hard
from trialbook.tuning.advice_benchmark.hard import Planted
from trialbook.tuning.advice_benchmark.spaces import RATE
from trialbook.tuning.findings import Finding, findings

Says = Callable[[Sequence[Finding], Planted], bool]
GRAVE = ("warning", "problem")


def names_trials(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether notes or graver findings name most of the planted trials, and mostly these."""
  named = {trial for one in all_ if one.severity in ("note", *GRAVE) for trial in one.trials}
  return len(named & planted.trials) > 0.5 * max(len(planted.trials), len(named))


def warns(*questions: str) -> Says:
  """Return whether a question has a warning or a problem."""
  return lambda all_, _: any(one.severity in GRAVE and one.question in questions for one in all_)


def calls_it_a_bug(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether it is called a problem of the whole study."""
  return any(one.severity == "problem" for one in all_)


def names_the_corner(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether a finding names both hyperparameters of the corner."""
  return any(one.severity in ("note", *GRAVE) and all(name in one.title for name in planted.names) for one in all_)


def names_the_region(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether a finding that names the trials is no problem of the whole study and names the learning rate."""
  return not calls_it_a_bug(all_, planted) and any(
    one.severity in ("note", "warning") and planted.names[0] in f"{one.subject} {one.title} {one.why}" for one in all_
  )


def asks_for_a_log_scale(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether a logarithmic scale is proposed for the learning rate."""
  return any((one.space or {}).get(RATE, {}).get("scale") == "log" for one in all_)


def leaves_the_domain(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether a space is proposed with a value that the hyperparameter cannot have."""
  for name, scale in [item for one in all_ for item in (one.space or {}).items()]:
    low, high = scale.get("min", 0.0), scale.get("max", 0.0)
    if low < 0 or (name == RATE and low <= 0) or (name in edges.NATURAL and high > edges.most(name)):
      return True
  return False


def asks_for_more(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether more points or trials are asked for, of a space that has no more."""
  return any(
    one.numbers.get("more")
    or any(word in f"{one.title} {one.action}" for word in ("more point", "more trial", "Doubl"))
    for one in all_
  )


def names_the_upper_edge(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether the best value of the learning rate is said to be at the upper edge."""
  return any(
    one.severity in ("note", *GRAVE) and one.subject == RATE and one.numbers.get("side") == "upper" for one in all_
  )


def calls_it_unimportant(all_: Sequence[Finding], planted: Planted) -> bool:
  """Return whether it is said that the other hyperparameter hardly matters, or that it should be fixed."""
  return any(
    one.subject == "other" and ("hardly matters" in one.title or (one.action or "").startswith("Fix")) for one in all_
  )


def changes_with_the_zero(by: float, times: float) -> Says:
  """Return whether the findings on a study change with the zero and the scale of its objective."""

  def says(all_: Sequence[Finding], planted: Planted) -> bool:
    changed = findings(hard.shifted(planted.results, by, times))
    return _said(all_) != _said(changed)

  return says


def _said(all_: Sequence[Finding]) -> list[tuple[str, str, str | None]]:
  return sorted((one.question, one.severity, one.subject or "") for one in all_)

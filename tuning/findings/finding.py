"""A finding: one thing that an analysis of a study says."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from trialbook.tuning.results import Trial
from trialbook.tuning.space.scales import scale_from_json

Severity = Literal["ok", "note", "warning", "problem", "cannot_tell"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note", "cannot_tell", "ok")
"""The severities in the order in which a reader wants them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """One answer of the playbook's checklist.

  Attributes:
    id: of the requirement that it answers, such as "PB-23".
    question: the module that asked, such as "boundary"; all findings of one stand together. "curves": several asked for
      them (`without_curves`).
    severity: "ok": looked at, and nothing is wrong; "note": worth knowing; "warning": the study's conclusions may be
      wrong, or it can be made better; "problem": they are wrong, or trials are wasted; "cannot_tell": the data do not
      suffice.
    subject: the hyperparameter or the scientific setting that it is about; None: the study.
    title: what was seen, in one sentence with its most important number.
    why: how it was found and what it means: numbers, intervals, thresholds; sentences.
    trials: that show it.
    numbers: what `title` and `why` say in numbers, by name; JSON.
    action: what to do; for "cannot_tell" how many trials would tell. None: nothing.
    until: what would change this finding: which further trials, and how many. None: not known, or nothing.
    space: the changed hyperparameters by name as `Hyperparameter.as_json` gives them; None: no change of the space.
    changes: of the config: dotted path -> value; None: no change.
    plot: the id of the plot that shows it: "axis:NAME", "isolation:NAME", "curves", "best_of_k", "steps", "grad_norm",
      "comparison"; None.
  """

  id: str
  question: str
  severity: Severity
  subject: str | None = None
  title: str
  why: str
  trials: tuple[int, ...] = ()
  numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  action: str | None = None
  until: str | None = None
  space: Mapping[str, Any] | None = None
  changes: Mapping[str, Any] | None = None
  plot: str | None = None

  def as_json(self) -> dict[str, Any]:
    """Return all fields, for records."""
    return dataclasses.asdict(self)

  @property
  def paste(self) -> str | None:
    """Return the changed space as lines of a study file, or the changes of the config as flags; None if there are
    none."""
    if self.space:
      return "\n".join(f'"{name}": {scale_from_json(stored)!r},' for name, stored in self.space.items())
    if self.changes:
      return " ".join(f"--set {path}={value}" for path, value in self.changes.items())
    return None


def finding_of(id: str, question: str, **fields: Any) -> Callable[..., Finding]:
  """Return a function that makes the findings of one question: `(severity, title, why, **fields) -> Finding`.

  Args:
    id: of the requirement that they answer.
    question: the module that asks.
    **fields: what else all of them have.
  """

  def finding(severity: Severity, title: str, why: str, **more: Any) -> Finding:
    return Finding(id=id, question=question, severity=severity, title=title, why=why, **fields, **more)

  return finding


def trial_numbers(trials: Sequence[Trial]) -> tuple[int, ...]:
  """Return the numbers of trials, in order."""
  return tuple(sorted(trial.trial for trial in trials))

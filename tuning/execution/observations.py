"""The results of trials as a search sees them that proposes points by results."""

import math
from collections.abc import Collection

from trialbook.tuning.records import TrialRecord
from trialbook.tuning.search.bayesian import Observation
from trialbook.tuning.study import Study


def observations(trials: Collection[TrialRecord], study: Study) -> list[Observation]:
  """Return what is known of each trial; trials that failed are left out.

  The value of a pruned trial is not known, but it was worse than a quantile of the others. So it is passed on as if it
  had just that quantile of the values of the complete trials. Left out, its place would be proposed again. With the
  value that it had when it was ended, it would be compared with trainings that got several times as many steps.
  """
  sign = study.objective.sign
  values = sorted(sign * value for record in trials if (value := _value(record)) is not None)
  quantile = 0.5 if study.stopping is None else study.stopping.quantile
  found = []
  for record in trials:
    value = _value(record)
    if record.state == "complete":
      cost = None if value is None else sign * value
      found.append(Observation(record.values, "infeasible" if cost is None else "complete", cost))
    elif record.state == "pruned":
      if values:
        found.append(Observation(record.values, "complete", values[math.ceil(quantile * (len(values) - 1))]))
    elif record.state != "failed":
      found.append(Observation(record.values, "infeasible" if record.state == "infeasible" else "running", None))
  return found


def _value(record: TrialRecord) -> float | None:
  """Return the value of a complete trial that is not uncharacteristically bad."""
  is_valued = record.state == "complete" and not record.summary.get("uncharacteristic")
  return record.summary.get("objective") if is_valued else None

"""The length of training: too short or too long (PB-28), and whether its loss rises.

The playbook ("Examining the training curves"): if the best trials still improve at the end, the study is bound by
compute; if they were saturated long before, fewer steps will do; a training loss that rises is probably a bug.

Trials that were ended early, by a target, a rule or an interruption, are censored: the end of their curve is not the
end of their training. Only trials that ran to their end count, and only if they are most of the best few.
"""

import math

from trialbook.tuning.findings import rising_loss, saturation
from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import proposed
from trialbook.tuning.findings.statistics.curve_trends import training_loss_metric
from trialbook.tuning.findings.statistics.foreseen_gain import MORE_STEPS, STEADY, WHOLE_PIECE, Ends, ends
from trialbook.tuning.findings.statistics.learning_curves import LEAST, learning_curves
from trialbook.tuning.findings.statistics.whole_trainings import (
  WholeTrainings,
  at_target,
  ended_early,
  whole_trainings,
)
from trialbook.tuning.findings.wording import many, short
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-28", "convergence")


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on whether the best trials still improve, are saturated, or have a rising loss (PB-28).

  Still improving: the typical gain of the best few trials from 20% more steps is relevant (`relevance.relevant`) at the
  lower end of its interval. That is a warning only if a decay of the learning rate did not make the gain, since a
  longer decay need not gain more. Neither still improving nor saturated: ok if the gain is less than relevant at the
  upper end too, and half of the steps would lose something. See `saturation` and `rising_loss`.
  """
  trainings = whole_trainings(results)
  wrong = rising_loss.rising(results)
  rises = [rising_loss.finding(results, wrong)] if wrong else _unseen_losses(results)
  ran = learning_curves(results, trainings) if trainings.is_enough else None
  if ran is None:
    return [_unknown(results, trainings), *rises]
  seen = ends(results, ran)
  if 0 < seen.low >= seen.margin:
    return [_improving(results, seen, trainings), *rises]
  fewer = saturation.fewer(ran, seen.margin)
  if fewer.saturated is not None:
    return [saturation.finding(results, fewer, seen.level, seen.margin), *rises]
  if wrong:
    return rises
  unsure = []
  if seen.high >= seen.margin:
    unsure.append(_unforeseen(results, seen, fewer, trainings))
  if fewer.half[0] <= 0:
    unsure.append(saturation.unsure(results, fewer, seen.margin))
  return [*(unsure or [_enough(results, seen, fewer, trainings)]), *rises]


def _improving(results: StudyResults, seen: Ends, trainings: WholeTrainings) -> Finding:
  metric, steps = results.objective.metric, results.length(seen.trials[0])
  longer = math.ceil((1 + MORE_STEPS) * (steps or 1))
  numbers = _numbers(results, seen)
  estimate = f"about {short(seen.gain)} ({short(seen.low)} to {short(seen.high)})"
  if seen.schedule not in ("constant", "before", "steady"):
    made = seen.schedule == "decay"
    return _finding(
      severity="note",
      title=f"{metric} still improves at the end, "
      + ("while the learning rate decays" if made else "which a decay of the learning rate may explain"),
      why=f"At the pace of the last three tenths of the curves, {MORE_STEPS:.0%} more steps would gain {estimate}."
      f" {_foreseen(results, seen, trainings)} But a learning rate that decays to the end lets any metric improve"
      " until then, so these curves do not show whether longer training is better."
      + ("" if made else " The learning rate was not logged."),
      trials=trial_numbers(seen.trials),
      numbers=numbers,
      action=f"To see whether more steps help, train the best trial again for {longer:,} steps, with a longer constant"
      " part of the learning rate before the same decay (PB-63)."
      + ("" if made else " Log the learning rate as learning_rate."),
      until="The result of that training.",
      plot="curves",
    )
  change = proposed(results, ("max_train_steps", longer))
  cause = {
    "constant": "The learning rate does not explain it: it is constant at the end.",
    "before": "The learning rate does not explain it: this is how the metric improved before it began to decay, without"
    " what the decay gained.",
    "steady": f"A decay of the learning rate hardly explains it: that is at least {STEADY:.0%} of all that the metric"
    " improved since its first evaluation, each fifth of the steps after the second improved by as much, and the end is"
    " not flat.",
  }
  return _finding(
    severity="warning",
    title=f"{metric} still improves at the end: {MORE_STEPS:.0%} more steps would gain {estimate}",
    why=f"{_foreseen(results, seen, trainings)} {cause[seen.schedule]} With more steps, another configuration may win.",
    trials=trial_numbers(seen.trials),
    numbers=numbers,
    action=f"Train for more steps, such as {longer:,}, and tune the decay of the learning rate again.",
    until=f"The best trial, trained for {longer:,} steps, if it gains less than {short(seen.margin)}.",
    changes=None if change is None else dict(change),
    plot="curves",
  )


def _numbers(results: StudyResults, seen: Ends) -> dict[str, float | None]:
  steps = results.length(seen.trials[0])
  return {
    "gain": seen.gain,
    "low": seen.low,
    "high": seen.high if math.isfinite(seen.high) else None,
    "level": seen.level,
    "relevant": seen.margin,
    "steps": steps,
    "last_break": seen.last_break,
  }


def _gains(seen: Ends) -> str:
  return f"{MORE_STEPS:.0%} more would gain {short(max(seen.low, 0.0))} to {short(max(seen.high, 0.0))}"


def _unforeseen(results: StudyResults, seen: Ends, fewer: saturation.Fewer, trainings: WholeTrainings) -> Finding:
  """Return the finding that a relevant gain is neither certain nor excluded."""
  longer = math.ceil((1 + MORE_STEPS) * (results.length(seen.trials[0]) or 1))
  constant = seen.schedule == "constant"
  return _finding(
    severity="cannot_tell",
    title=f"Unknown whether more steps would help: {_gains(seen)}"
    if math.isfinite(seen.high)
    else "Unknown whether more steps would help: the curves jump right before the end",
    why=f"A gain of {short(seen.margin)} would matter. {_foreseen(results, seen, trainings)}"
    + ("" if constant else " A decay of the learning rate may explain what they gained there.")
    + (f" Half as many steps {_loses(seen, fewer)}." if fewer.half[0] > 0 else ""),
    trials=trial_numbers(seen.trials),
    numbers={**_numbers(results, seen), **fewer.numbers},
    action=f"Train the best {len(seen.trials)} trials again for {longer:,} steps"
    + ("." if constant else ", with a longer constant part of the learning rate before the same decay (PB-63)."),
    plot="curves",
  )


def _loses(seen: Ends, fewer: saturation.Fewer) -> str:
  least, most = fewer.half
  return f"would lose {'at least ' if least >= seen.margin else ''}{short(least)}" + (
    "" if least >= seen.margin else f" to {short(most)}"
  )


def _foreseen(results: StudyResults, seen: Ends, trainings: WholeTrainings) -> str:
  """Return sentences on whose curves a gain is foreseen from, and how."""
  steps = results.length(seen.trials[0]) or 1
  count = len(seen.trials)
  best = len(trainings.best)
  among = (
    f"{count} of the best {best} trials" if count < best else "the best trial" if best == 1 else f"the best {best}"
  )
  text = (
    f"This is {'seen in' if count == 1 else 'the mean of'} {among}, which ran to {'its' if count == 1 else 'their'}"
  )
  text += f" end. {saturation.unlike(seen.left_out)} " if seen.left_out else " end. "
  if seen.last_break:
    text += (
      f"The curves jump at step {round(seen.last_break * steps):,}, as where the learning rate drops at once; only what"
      " follows is used. "
    )
  text += (
    "The smaller number assumes that they go on slowing down as over the last three tenths of their curves; the larger"
    " one, that they do not slow down further (95% confidence)."
    if not seen.last_break or 20 * (1 - seen.last_break) >= WHOLE_PIECE
    else "The larger number assumes that they do not slow down further (95% confidence)."
  )
  return text if not (early := ended_early(results, trainings)) else f"{text} {early}"


def _enough(results: StudyResults, seen: Ends, fewer: saturation.Fewer, trainings: WholeTrainings) -> Finding:
  """Return the finding that more steps gain nothing, and that half of them lose something, though it may be little."""
  losses = len(rising_loss.late_enough(results))
  return _finding(
    severity="ok",
    title=f"Training is long enough: {_gains(seen)}, and half as many {_loses(seen, fewer)}",
    why=f"A difference of {short(seen.margin)} would matter. {_foreseen(results, seen, trainings)} Losses are the"
    f" mean of {many(len(fewer.trials), 'trial')}, with 95% confidence for each end."
    + (f" The training loss rises late in none of the {many(losses, 'trial')} that logged it." if losses else ""),
    trials=trial_numbers(seen.trials),
    numbers={**_numbers(results, seen), **fewer.numbers},
  )


def _unknown(results: StudyResults, trainings: WholeTrainings) -> Finding:
  """Return the finding that nothing is known of whether training was long enough."""
  metric, best = results.objective.metric, len(trainings.best)
  ran = len(trainings.of(trainings.best))
  if not best:
    return _finding(
      severity="cannot_tell",
      title=f"Unknown whether training was long enough: no complete trial has a curve of {metric}",
      why="Whether the metric still improves at the end is seen in its values during training.",
      action=f"Log {metric} at least {LEAST} times in each training.",
    )
  if trainings.is_enough:
    return _finding(
      severity="cannot_tell",
      title=f"Unknown whether training was long enough: the best trials have too few evaluations of {metric}",
      why=f"It takes {LEAST} evaluations, about one in each twentieth of the steps.",
      action=f"Evaluate at least {LEAST} times in each training.",
    )
  target = at_target(results, trainings)
  whole = f"for {trainings.steps:,} steps" if trainings.steps else "to their end"
  return _finding(
    severity="cannot_tell",
    title=f"Unknown whether training was long enough: {ran or 'none'} of the best {best} trials ran to"
    f" {'its' if ran <= 1 else 'their'} end",
    why=f"{ended_early(results, trainings)} What they would have reached later is unknown, and the other trials do not"
    " show it.",
    trials=trial_numbers(trainings.best),
    numbers={"ran": ran, "best": best, "ended_early": len(trainings.ended), "at_target": len(target)},
    action=f"Train the best {best} trials {whole}" + (", without stopping at a target." if target else "."),
    plot="curves",
  )


def _unseen_losses(results: StudyResults) -> list[Finding]:
  """Return the finding that the training loss was not logged late enough to see whether it rises; none if it was, or if
  none was logged at all."""
  metric = training_loss_metric(results)
  if metric is None or rising_loss.late_enough(results):
    return []
  logged = [trial.curve(metric)[0] for trial in results.trials]
  last = max((int(steps[-1]) for steps in logged if len(steps)), default=0)
  most = max(map(len, logged), default=0)
  is_few = most < rising_loss.LEAST
  return [
    _finding(
      severity="cannot_tell",
      title="Unknown whether the training loss rises late: "
      + (
        f"{metric} has {many(most, 'value')} at most"
        if is_few
        else f"{metric} was logged until step {last:,} of {results.steps or last:,}"
      ),
      why="A late rise of the training loss probably shows a bug."
      + (
        f" To see it takes {rising_loss.LEAST} values."
        if is_few
        else " No other training loss was logged until later, with enough values."
      ),
      numbers={"last": last, "steps": results.steps, "values": most},
      action="Log the training loss throughout training.",
      plot="curves",
    )
  ]

"""What a report should say of the harder studies, and what it should not: each with the function that draws them."""

import dataclasses
import functools
from collections.abc import Callable

from trialbook.tuning.advice_benchmark import edges, hard, healthy
from trialbook.tuning.advice_benchmark.hard import Planted
from trialbook.tuning.advice_benchmark.plants import found
from trialbook.tuning.advice_benchmark.spaces import RATE
from trialbook.tuning.advice_benchmark.statements import (
  Says,
  asks_for_a_log_scale,
  asks_for_more,
  calls_it_a_bug,
  calls_it_unimportant,
  changes_with_the_zero,
  leaves_the_domain,
  names_the_corner,
  names_the_region,
  names_the_upper_edge,
  names_trials,
  warns,
)
from trialbook.tuning.findings import QUESTIONS
from trialbook.tuning.results import StudyResults


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """Something that findings say of a study, rightly or wrongly.

  Attributes:
    name: what is planted, in words.
    claim: what is said of it, in words.
    right: whether it is right to say that.
    unit: of the sizes, in words.
    sizes: of what is planted.
    questions: modules that are asked.
    draw: returns the study of a seed and a size.
    says: returns whether the findings say it.
  """

  name: str
  claim: str
  right: bool
  unit: str
  sizes: tuple[float, ...]
  questions: tuple[str, ...]
  draw: Callable[[int, float], Planted]
  says: Says

  def is_said(self, seed: int, size: float) -> bool:
    """Return whether it is said of the study of a seed and a size."""
    planted = self.draw(seed, size)
    return self.says([one for question in self.questions for one in found(question, planted.results)], planted)


def _whole(draw: Callable[[int, float], StudyResults], *names: str) -> Callable[[int, float], Planted]:
  """Return a drawing function in which all trials are meant."""
  return lambda seed, size: Planted(draw(seed, size), names=names)


def _log_likelihood(seed: int, _: float) -> Planted:
  return Planted(healthy.draw(seed, metric="log-likelihood").results)


SHARES = (0.1, 0.2, 0.3)
CLAIMS = (
  Claim(
    name="one point of several diverges in all five retrains",
    claim="names the point",
    right=True,
    unit="points",
    sizes=(5, 10, 20),
    questions=("infeasible",),
    draw=hard.bad_point,
    says=names_trials,
  ),
  Claim(
    name="one point of several diverges in all five retrains",
    claim="a warning, or a bug",
    right=False,
    unit="points",
    sizes=(5, 10, 20),
    questions=("infeasible", "outcomes"),
    draw=hard.bad_point,
    says=warns("infeasible", "outcomes"),
  ),
  Claim(
    name="a corner of two hyperparameters diverges",
    claim="names both",
    right=True,
    unit="of the trials",
    sizes=SHARES,
    questions=("infeasible",),
    draw=hard.corner,
    says=names_the_corner,
  ),
  Claim(
    name="a corner of two hyperparameters diverges",
    claim="a bug",
    right=False,
    unit="of the trials",
    sizes=SHARES,
    questions=("infeasible",),
    draw=hard.corner,
    says=calls_it_a_bug,
  ),
  Claim(
    name="gradient norms and training losses only of the first steps",
    claim="no outliers, no problem",
    right=False,
    unit="of the steps",
    sizes=(0.001, 0.01, 0.1),
    questions=("gradient_norm", "optimization"),
    draw=hard.first_steps_only,
    says=lambda all_, _: any(one.severity == "ok" and one.question == "gradient_norm" for one in all_),
  ),
  Claim(
    name="seeds die, wherever their point is",
    claim="names most of them",
    right=True,
    unit="of the seeds",
    sizes=SHARES,
    questions=("outcomes", "infeasible"),
    draw=hard.seeds_die,
    says=names_trials,
  ),
  Claim(
    name="trials collapse to where they began",
    claim="names most of them",
    right=True,
    unit="of the trials",
    sizes=SHARES,
    questions=("outcomes",),
    draw=hard.collapses,
    says=names_trials,
  ),
  Claim(
    name="trials never learn anything",
    claim="names most of them",
    right=True,
    unit="of the trials",
    sizes=SHARES,
    questions=("outcomes", "infeasible"),
    draw=hard.stays_at_chance,
    says=names_trials,
  ),
  Claim(
    name="trials were cut short, and are recorded as complete",
    claim="names most of them",
    right=True,
    unit="of the trials",
    sizes=(0.1, 0.2, 0.4),
    questions=("outcomes",),
    draw=hard.preempted,
    says=names_trials,
  ),
  Claim(
    name="trials log nothing after a hundredth of the steps",
    claim="names most of them",
    right=True,
    unit="of the trials",
    sizes=(0.05, *SHARES[:2]),
    questions=("outcomes", "infeasible"),
    draw=hard.dies_at_once,
    says=names_trials,
  ),
  Claim(
    name="one of two settings is worse, and pruned more often",
    claim="it was tuned less",
    right=False,
    unit="worse, of what training gains",
    sizes=(0.05, 0.1, 0.2),
    questions=("comparison",),
    draw=hard.pruned_settings,
    says=lambda all_, _: any("effort" in one.numbers for one in all_),
  ),
  Claim(
    name="nearly all trials were cut short",
    claim="train for fewer steps",
    right=False,
    unit="trials that were not",
    sizes=(1, 2),
    questions=("convergence",),
    draw=hard.one_finished,
    says=lambda all_, _: any("saturated" in one.numbers for one in all_),
  ),
  Claim(
    name="training loss rises at the largest learning rates",
    claim="names the learning rate",
    right=True,
    unit="of the trials",
    sizes=SHARES,
    questions=("convergence",),
    draw=hard.rising_loss,
    says=names_the_region,
  ),
  Claim(
    name="training loss rises at the largest learning rates",
    claim="a bug",
    right=False,
    unit="of the trials",
    sizes=SHARES,
    questions=("convergence", "optimization"),
    draw=hard.rising_loss,
    says=calls_it_a_bug,
  ),
  Claim(
    name="training loss rises, wherever the trial is",
    claim="a bug",
    right=True,
    unit="of the trials",
    sizes=(0.2, 0.5, 1.0),
    questions=("convergence",),
    draw=functools.partial(hard.rising_loss, everywhere=True),
    says=calls_it_a_bug,
  ),
  Claim(
    name="training loss, called ctc_loss, rises wherever the trial is",
    claim="a bug",
    right=True,
    unit="of the trials",
    sizes=(0.5, 1.0),
    questions=("convergence",),
    draw=functools.partial(hard.rising_loss, everywhere=True, called="ctc_loss"),
    says=calls_it_a_bug,
  ),
  Claim(
    name="a restart of the learning rate",
    claim="a period",
    right=False,
    unit="of the error",
    sizes=(0.3, 1.0),
    questions=("periodicity",),
    draw=functools.partial(hard.schedule, name="one restart"),
    says=warns("periodicity"),
  ),
  Claim(
    name="the learning rate falls at step 80 of 90",
    claim="late noise",
    right=False,
    unit="of the error",
    sizes=(0.3, 1.0),
    questions=("late_noise", "optimization"),
    draw=functools.partial(hard.schedule, name="step at 80 of 90"),
    says=warns("late_noise", "optimization"),
  ),
  Claim(
    name="the best trial alone still improves",
    claim="more steps gain",
    right=False,
    unit="of what it gained, in its last half",
    sizes=(0.05, 0.2),
    questions=("convergence",),
    draw=hard.one_recovers,
    says=lambda all_, _: any(one.severity == "warning" and "gain" in one.numbers for one in all_),
  ),
  Claim(
    name="the best value lies beyond what a hyperparameter can be",
    claim="proposes such values",
    right=False,
    unit="trials",
    sizes=(16, 32, 64),
    questions=("boundary", "infeasible"),
    draw=_whole(edges.natural_bound),
    says=leaves_the_domain,
  ),
  Claim(
    name="a learning rate on a linear scale",
    claim="asks for a log scale",
    right=True,
    unit="trials",
    sizes=(16, 32, 64),
    questions=("boundary",),
    draw=_whole(edges.linear_rate, RATE),
    says=asks_for_a_log_scale,
  ),
  Claim(
    name="all points of a finite space were tried",
    claim="asks for more points",
    right=False,
    unit="learning rates",
    sizes=(3, 5),
    questions=("stopping", "density"),
    draw=_whole(edges.exhausted),
    says=asks_for_more,
  ),
  Claim(
    name="of some learning rates the last is the best",
    claim="names the edge",
    right=True,
    unit="learning rates",
    sizes=(3, 4, 5, 7),
    questions=("boundary",),
    draw=_whole(edges.monotone),
    says=names_the_upper_edge,
  ),
  Claim(
    name="of some learning rates of three seeds each the last is the best",
    claim="names the edge",
    right=True,
    unit="learning rates",
    sizes=(3, 4, 5, 7),
    questions=("boundary",),
    draw=_whole(functools.partial(edges.monotone, seeds=3)),
    says=names_the_upper_edge,
  ),
  Claim(
    name="of some learning rates the first is the best",
    claim="names the upper edge",
    right=False,
    unit="learning rates",
    sizes=(3, 4, 5, 7),
    questions=("boundary",),
    draw=_whole(functools.partial(edges.monotone, upper=False)),
    says=names_the_upper_edge,
  ),
  Claim(
    name="a small effect far above the noise",
    claim="it hardly matters",
    right=False,
    unit="times the noise",
    sizes=(5, 14),
    questions=("importance",),
    draw=_whole(edges.small_but_sure),
    says=calls_it_unimportant,
  ),
  *(
    Claim(
      name=f"a log-likelihood with {what}",
      claim="other findings",
      right=False,
      unit="",
      sizes=(1,),
      questions=QUESTIONS,
      draw=_log_likelihood,
      says=changes_with_the_zero(by, times),
    )
    for what, by, times in (
      ("another zero", -5000.0, 1.0),
      ("another unit", 0.0, 4.0),
      ("the other sign", 0.0, -1.0),
    )
  ),
)
"""The claims, in the order of the table."""

"""The work of a benchmark of the findings: studies to draw and to ask about, in several processes.

A job is a tuple of names and numbers, so that it can be sent to another process, and so is its result.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from trialbook.progress import ProgressLine, duration
from trialbook.tuning.advice_benchmark import curve_plants, forms, healthy, planted, planted_curves, point_plants
from trialbook.tuning.advice_benchmark.claims import CLAIMS
from trialbook.tuning.advice_benchmark.plants import Plant
from trialbook.tuning.findings import comparison, findings

CHUNK = 4
"""Jobs that a process takes at a time: a few tenths of a second, so that all end together."""
PLANTS: dict[str, Plant] = {plant.name: plant for plant in (*point_plants.PLANTS, *curve_plants.PLANTS)}
"""Plants by name."""
CURVE_CONTROLS = {
  "48 trials of 50 evaluations": {},
  "20 trials of 20 evaluations, on 2,000 examples": planted_curves.HARD,
}
"""Healthy controls of findings about curves: changes of `planted.World`, by name."""


class Job(NamedTuple):
  """One study.

  Attributes:
    kind: a key of `WORK`.
    name: of what is planted or of the control; "" of a healthy study.
    size: of what is planted.
    seed: of the study.
  """

  kind: str
  name: str
  size: float
  seed: int


def _healthy(job: Job) -> dict[str, Any]:
  """Return the groups of a healthy study, its false alarms, and the questions of which a warning is true."""
  drawn = healthy.draw(job.seed)
  false = [one for one in findings(drawn.results) if drawn.is_false(one)]
  return {
    "parts": forms.parts(drawn.form),
    "false": [(one.question, one.severity, one.title) for one in false],
    "true": sorted(drawn.true),
  }


def _winner(job: Job) -> dict[str, Any]:
  """Return the groups of a study of equal settings, and the findings that one of them wins."""
  drawn = healthy.draw_equal_settings(job.seed)
  found = [one for one in comparison.find(drawn.results) if one.numbers.get("clear")]
  return {
    "parts": forms.parts(drawn.form),
    "false": [(one.question, one.severity, one.title) for one in found],
  }


def _claim(job: Job) -> bool:
  return CLAIMS[int(job.name)].is_said(job.seed, job.size)


def _plant(job: Job) -> bool:
  return PLANTS[job.name].is_seen(job.seed, job.size)


def _point_control(job: Job) -> list[str]:
  return sorted(point_plants.alarms(point_plants.CONTROLS[job.name](job.seed)))


def _curve_control(job: Job) -> list[str]:
  return curve_plants.alarms(planted.healthy(job.seed, **CURVE_CONTROLS[job.name]), job.seed)


def _schedule(job: Job) -> list[str]:
  """Return the modules with a warning or a problem; the learning rate is logged in every second study."""
  reshape = planted_curves.following(job.name, job.size, logged=job.seed % 2 == 1)
  found = curve_plants.alarms(planted.healthy(job.seed, trials=16, reshape=reshape), job.seed)
  return [name for name in found if name in curve_plants.QUESTIONS]


WORK = {
  "healthy": _healthy,
  "winner": _winner,
  "claim": _claim,
  "plant": _plant,
  "point control": _point_control,
  "curve control": _curve_control,
  "schedule": _schedule,
}
"""What is done, by kind of job: a function that returns the result."""


def done(job: Job) -> tuple[Job, Any]:
  """Return a job with its result."""
  return job, WORK[job.kind](job)


def results_of(jobs: Sequence[Job], workers: int, *, progress: bool) -> dict[Job, Any]:
  """Return the results of jobs, from so many processes.

  Args:
    jobs: to do.
    workers: number of processes; with 1, this one does all.
    progress: whether a line on standard error shows how far it is and the time left.
  """
  line, start = ProgressLine(enabled=progress), time.perf_counter()
  found = {}
  with _mapped(jobs, workers) as pairs:
    for job, result in pairs:
      found[job] = result
      if line.is_due(now := time.perf_counter()):
        left = (now - start) / len(found) * (len(jobs) - len(found))
        line.draw(f"{len(found):,} of {len(jobs):,} studies, {duration(left)} left")
  line.note(f"{len(jobs):,} studies in {duration(time.perf_counter() - start)}")
  return found


@contextlib.contextmanager
def _mapped(jobs: Sequence[Job], workers: int) -> Iterator[Iterator[tuple[Job, Any]]]:
  if workers == 1:
    yield map(done, jobs)
    return
  # Started afresh: a fork would inherit the threads' locks of whatever runs this.
  with multiprocessing.get_context("spawn").Pool(workers, _begin) as pool:
    yield pool.imap_unordered(done, jobs, CHUNK)


def _begin() -> None:
  """Let a process compute in one thread, since each core has a process; Ctrl-C is for the one that started it."""
  import threadpoolctl

  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threadpoolctl.threadpool_limits(1)

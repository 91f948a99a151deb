"""One run, from top to bottom: a config goes in, a trained, evaluated, checkpointed model comes out."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import logging

from trialbook import files
from trialbook.errors import OutOfMemoryError, PreemptedError, PrunedError, UserError
from trialbook.paths import as_path
from trialbook.trainer import batch_dependence, sharding
from trialbook.trainer.config import Config
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.evaluation_schedule import checkpoint_due, evaluated_splits, evaluation_steps
from trialbook.trainer.export import export_selected
from trialbook.trainer.hosts.shutdown_guard import Guard
from trialbook.trainer.loop import advance
from trialbook.trainer.program import Programs
from trialbook.trainer.program_memory import is_out_of_device_memory
from trialbook.trainer.start_or_resume import OpenRun, compile_run, open_run
from trialbook.trainer.train_step import State
from trialbook.trainer.workdir.predictions import predict
from trialbook.trainer.workdir.predictions import save as save_predictions
from trialbook.trainer.workdir.results import RunResult, read_result
from trialbook.trainer.workdir.selection import evaluate_selected

Judge = Callable[[int, Mapping[str, Any]], str | None]
"""Takes the step and the metrics of an evaluation; returns why the run ends there, or None."""


def run(
  config: Config,
  workdir: str | pathlib.Path,
  *,
  programs: Programs | None = None,
  progress: bool = False,
  fork: str | pathlib.Path | None = None,
  guard: Guard | None = None,
  profile: range = range(0),
  data_of: str | pathlib.Path | None = None,
  judge: Judge | None = None,
) -> RunResult:
  """Train by `config`; everything that is recorded goes into `workdir`.

  A run that was interrupted there resumes from its newest checkpoint and ends as if nothing had happened; a finished
  one is left as it is.

  Args:
    config: the run.
    workdir: holds no run yet, or a run of the same config (its host fields may differ).
    programs: compiled programs of earlier runs, which this one may use and adds to.
    progress: whether progress is printed to standard error.
    fork: workdir of another run, from whose newest checkpoint this new one starts.
    guard: receives SIGTERM and the messages of other hosts; None: there are none, and signals are the caller's.
    profile: the updates step → step + 1 that are traced into `workdir`/profile; empty: none.
    data_of: workdir of a run that must have been on the same data; None: any data will do.
    judge: called on the lead host after each evaluation, once its metrics are on the disk. If it returns a reason, the
      run ends there as "pruned". All hosts must be given one, or none.

  Raises:
    OutOfMemoryError: if a device has no room for the run.
    OtherDataError: if the data are not those that the run began with, or those of `data_of`.
    UserError: if the run cannot start, with all problems, nothing having been recorded; or if it cannot continue (no
      checkpoint can be read, the disk is full), nothing that was committed being lost.
  """
  guard = Guard() if guard is None else guard
  workdir, hosts = as_path(workdir), guard.hosts
  fork, data_of = (None if path is None else as_path(path) for path in (fork, data_of))
  try:
    with guard.ending(), _naming_memory(), contextlib.ExitStack() as closing:
      compiled = compile_run(
        config,
        workdir,
        programs=programs,
        progress=progress,
        fork=fork,
        guard=guard,
        data_of=data_of,
        closing=closing,
      )
      if compiled is None:
        return read_result(workdir)
      with open_run(compiled, profile) as opened:
        with _saving_if_preempted(opened):
          train(opened, judge)
          best, weights = select(opened)
        finish(opened, best, weights)
      hosts.barrier("the end of the records")
      result = read_result(workdir)
      status, reason = hosts.from_lead("the result", [result.status, result.reason])
      guard.record(result.exit_code, reason or status)
      return dataclasses.replace(result, status=status, reason=reason)
  finally:
    guard.enter(None)


@contextlib.contextmanager
def _naming_memory() -> Iterator[None]:
  """Raise OutOfMemoryError where jax says in one of its ways that a device has no room."""
  try:
    yield
  except Exception as error:
    if is_out_of_device_memory(error):
      raise OutOfMemoryError(error) from error
    raise


def train(run: OpenRun, judge: Judge | None = None) -> None:
  """Make all steps that are left; after each boundary evaluate, record, ask the judge and save, in this order."""
  config, history, recorder, enter = run.compiled.config, run.history, run.loop.recorder, run.compiled.enter
  for boundary in evaluation_steps(config):
    if boundary < run.step or boundary in history.evaluations:
      continue
    _advance(run, boundary)
    recorder.drain()
    run.loop.line.pause()
    enter("evaluation")
    run.place.check()
    values = _evaluate(run)
    # The metrics are on the disk before the state is: a resume finds all lines up to its step.
    recorder.evaluation(run.step, values)
    history.add(run.step, values)
    if judge is not None:
      hosts = run.loop.guard.hosts
      reason = hosts.from_lead("whether to go on", judge(run.step, values) if hosts.is_lead else None)
      if reason is not None:
        raise PrunedError(reason)
    enter("checkpoint")
    if checkpoint_due(config, run.step) and run.step != run.saved:
      run.save()
    else:
      run.saver.skip()
    if run.loop.guard.hosts.is_lead:
      run.record.progress(recorder)
    run.compiled.note(history.describe(run.step))
    recorder.restart_clock()
    run.loop.line.resume()


def _advance(run: OpenRun, boundary: int) -> None:
  """Make the steps up to a boundary, and save in between where that is due. Raises PreemptedError."""
  while run.step < boundary:
    run.compiled.enter("step")
    stop = min(boundary, run.between.next_look(run.step)) if run.saves else boundary
    run.step, run.state = advance(run.loop, run.state, run.step, int(stop))
    run.record.step = run.step
    if run.step < stop:
      run.loop.recorder.drain()
      run.loop.line.pause()
      raise PreemptedError(run.loop.guard.cause)
    if run.step < boundary and run.between.is_due(run.step):
      run.compiled.enter("checkpoint")
      run.loop.recorder.sync()
      run.save()
      if run.loop.guard.hosts.is_lead:
        run.record.progress(run.loop.recorder)
      run.loop.recorder.restart_clock()


def select(run: OpenRun) -> tuple[dict[str, Any], State]:
  """Evaluate the selected checkpoint; return what `best.json` records, and the weights."""
  compiled, guard = run.compiled, run.loop.guard
  compiled.enter("checkpoint")
  run.saver.wait()
  guard.hosts.barrier("the last checkpoint", math.inf)
  compiled.enter("evaluation")
  return evaluate_selected(
    compiled.workdir,
    run.history,
    compiled.program,
    run.settings,
    compiled.dataset,
    compiled.config,
    run.state,
    guard,
  )


def finish(run: OpenRun, best: Mapping[str, Any], weights: State) -> None:
  """Export the selected weights and record the selection."""
  config, workdir = run.compiled.config, run.compiled.workdir
  weights = sharding.to_host(weights, keep=run.loop.guard.hosts.is_lead) if config.export else {}
  if not run.loop.guard.hosts.is_lead:
    return
  run.place.check()
  if best["step"] == 0:
    logging.warning("%s", best["note"])
  if config.export:
    try:
      export_selected(workdir, config, run.compiled.dataset.info, weights, best)
    except UserError as error:  # The run is complete all the same.
      logging.warning("not exported: %s", error)
  files.write_json(workdir / "best.json", best)


def _evaluate(run: OpenRun) -> dict[str, Any]:
  """Return the metrics of all splits at the present step; save predictions, and check the evaluation once."""
  compiled, guard = run.compiled, run.loop.guard
  config, program, dataset = compiled.config, compiled.program, compiled.dataset
  weights = evaluated_weights(config, run.state)
  values: dict[str, Any] = {}
  for split in evaluated_splits(config, dataset.info):
    values |= evaluate(program, weights, run.settings, dataset, split, config, guard, sampled=True)
  if run.unchecked and run.step > 0:
    # At step 0 it would delay the start, and the outputs may not depend on the inputs yet.
    run.unchecked = False
    batch_dependence.warn(program, weights, run.settings, dataset, config)
  if config.evaluation.predictions > 0:
    predictions = predict(program, weights, run.settings, dataset, config)
    if guard.hosts.is_lead:
      save_predictions(compiled.workdir / "predictions", run.step, predictions)
  return values


@contextlib.contextmanager
def _saving_if_preempted(run: OpenRun) -> Iterator[None]:
  """Save the state if all hosts have agreed to stop, and raise PreemptedError again."""
  try:
    yield
  except PreemptedError as error:
    run.compiled.enter("checkpoint")
    run.loop.recorder.sync()
    if run.step not in (0, run.saved) and run.saves:
      run.save()
    run.saver.wait()
    run.loop.guard.hosts.barrier("the checkpoint at the preemption", math.inf)
    saved = "nothing is saved" if run.saved is None else f"step {run.saved:,} is saved"
    run.compiled.note(f"{error}: stopped at step {run.step:,}; {saved}")
    raise

"""One run, from top to bottom: a config goes in, a trained, evaluated, checkpointed model comes out."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging
from jaxtyping import Array

from input_pipeline import Prefetcher
from trainer import config as configs
from trainer import forking, hosts, provenance, records, selection, sharding, warm_start, workdirs
from trainer.checkpoints import DamagedCheckpointError, Saver, restore_newest, set_aside_after
from trainer.compilation_cache import enable_compilation_cache
from trainer.config import Config
from trainer.evaluation import checkpoint_due, evaluate, evaluated_splits, evaluated_weights, evaluation_steps
from trainer.metrics import Recorder
from trainer.overrides import ConfigError, UserError
from trainer.preparation import prepare
from trainer.program import Program, Programs, program_settings
from trainer.progress import Progress
from trainer.results import RunResult, read_result
from trainer.run_record import RunRecord
from trainer.selection import History, evaluate_selected
from trainer.train_step import State


def run(
  config: Config,
  workdir: str | pathlib.Path,
  *,
  programs: Programs | None = None,
  progress: bool = False,
  fork: str | pathlib.Path | None = None,
) -> RunResult:
  """Trains by `config`; everything that is recorded goes into `workdir`.

  A run that was interrupted there goes on from its newest checkpoint and ends as if nothing had happened; one
  that came to its end is left as it is.

  Args:
    config: the run.
    workdir: holds no run yet, or a run of the same config (its host fields may differ).
    programs: compiled programs of earlier runs, which this one may use and adds to.
    progress: whether progress is printed to standard error.
    fork: workdir of another run, from whose newest checkpoint this new one starts.

  Raises:
    UserError: if the run cannot start, with all problems, nothing having been recorded; or if it cannot go on (no
      checkpoint can be read, the disk is full), nothing that was committed being lost.
  """
  workdir, fork = pathlib.Path(workdir), None if fork is None else pathlib.Path(fork)
  prepared = prepare(config, workdir, fork)
  config, dataset = prepared.config, prepared.dataset
  lead = hosts.current().is_lead
  line = Progress(config.max_train_steps, enabled=progress and lead)
  if workdirs.is_finished(workdir, config):
    line.note(
      f"{workdir} holds this run, finished: there is nothing to do"
      " (python -m trainer.evaluate evaluates its checkpoints)"
    )
    return read_result(workdir)
  hosts.check_agreement(
    {
      "config": config.model_dump(mode="json"),
      "versions": provenance.versions(),
      "dataset": dataclasses.asdict(dataset.info),
      "workdir": os.fspath(workdir),
    }
  )
  for warning in configs.warnings(config):
    logging.warning("%s", warning)
  enable_compilation_cache(config.compilation_cache)

  mesh = sharding.make_mesh()
  _check_divisible(config, mesh.size)
  programs = Programs() if programs is None else programs
  program = programs.get(config, prepared.task, dataset.info, mesh)
  _check_names(config, workdir, fork, program)
  is_new = program.compile()
  # The first collective gives the others 30 seconds, and compiling takes each host a time of its own.
  hosts.barrier("compiled")

  with workdirs.disk_errors(workdir), contextlib.ExitStack() as stack:
    record = RunRecord(workdir, config, dataset.info, program if is_new else None)
    if lead:
      stack.enter_context(workdirs.locked(workdir))
      if fork is not None:
        forking.copy(fork, workdir, program.state_template)
    hosts.barrier("the lead has opened the workdir")
    restored = restore_newest(workdir / "checkpoints", program.state_template)
    restored_step = None if restored is None else restored[0]
    hosts.check_agreement({"the newest checkpoint": restored_step})
    if lead:
      line.note(record.begin(restored_step))
      if restored_step is not None:
        set_aside_after(workdir / "checkpoints", restored_step)
    hosts.barrier("the lead has cut the records back")
    settings = sharding.put_replicated(mesh, program_settings(config))
    step, state = restored or (0, program.init(settings))
    if restored is None and config.warm_start is not None:
      state = warm_start.apply(config.warm_start, state, program.state_template)
    history = History.read(workdir / "metrics.jsonl", config.selection)

    def tell(saved: list[int]) -> None:
      records.write_json(workdir / "best.json", history.record(config, saved))

    saver = stack.enter_context(Saver(workdir / "checkpoints", history.to_keep(config), tell, lead=lead))
    hosts.barrier("the folder of checkpoints is there")
    put = functools.partial(sharding.put_batch, mesh)
    batches = stack.enter_context(Prefetcher(dataset.train_batch, put, step, config.max_train_steps))
    recorder = Recorder(workdir, program.metric_names, config, step + 1, batches, writes=lead)
    stack.enter_context(recorder)
    stack.enter_context(record.ending(recorder, writes=lead))

    for boundary in evaluation_steps(config):
      if restored_step is not None and boundary <= restored_step:
        continue
      state = advance(program, state, settings, batches, step, boundary, recorder, line)
      recorder.drain()
      line.pause()
      step = record.step = boundary
      values: dict[str, Any] = {}
      for split in evaluated_splits(config):
        values |= evaluate(program, evaluated_weights(config, state), settings, dataset, split, config)
      # The metrics are on the disk before the state is: a resume finds all lines up to its step.
      recorder.evaluation(step, values)
      history.add(step, values)
      if checkpoint_due(config, step):
        saver.save(step, state)
      else:
        saver.skip()
      line.note(history.describe(step))
      recorder.restart_clock()
      line.resume()
    saver.wait()
    hosts.barrier("the last checkpoint is committed")
    best = evaluate_selected(workdir, history, program, settings, dataset, config, state)
    if lead:
      records.write_json(workdir / "best.json", best)
  hosts.barrier("the lead has written its records")
  return read_result(workdir)


def advance(
  program: Program,
  state: State,
  settings: Mapping[str, Array],
  batches: Iterator[tuple[int, Mapping[str, Array]]],
  start: int,
  stop: int,
  recorder: Recorder,
  line: Progress,
) -> State:
  """Steps `start` to `stop`, dispatched without waiting for the device but to stay a few steps ahead of it."""
  train_step = program.train_step
  for step in range(start + 1, stop + 1):
    _, batch = next(batches)
    state, metrics = train_step(state, settings, batch)
    recorder.step(step, metrics)
    line.step(step, recorder.describe)
  return state


def _check_names(config: Config, workdir: pathlib.Path, fork: pathlib.Path | None, program: Program) -> None:
  """What needs the names and shapes of the program's arrays and metrics to be checked. Raises ConfigError."""
  problems = selection.problems(config, program.eval_names)
  try:
    if config.warm_start is not None and not (workdir / "config.json").exists():
      warm_start.sources(config.warm_start, program.state_template)
    if fork is not None:
      forking.check(fork, workdir, program.state_template)
  except UserError as error:
    problems += error.problems
  except DamagedCheckpointError as error:
    problems.append(str(error))
  if problems:
    raise ConfigError(problems)


def _check_divisible(config: Config, devices: int) -> None:
  problems = [
    f"{path} = {size} cannot be split over {devices} devices: choose a multiple of {devices}"
    for path, size in (
      ("batch_size", config.batch_size),
      ("evaluation.batch_size", config.evaluation.batch_size),
    )
    if size % devices
  ]
  if problems:
    raise ConfigError(problems)

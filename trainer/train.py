"""One run, from top to bottom: a config goes in, a trained, evaluated, checkpointed model comes out."""

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from absl import logging
from jaxtyping import Array

from input_pipeline import DataError, Dataset, Prefetcher, same_fingerprint
from trainer import forking, neighbours, preparation, provenance, records, selection, sharding, warm_start, workdirs
from trainer.channel import TryAgainError
from trainer.checkpoints import DamagedCheckpointError, Saver, restore_newest, set_aside_after
from trainer.compilation_cache import enable_compilation_cache
from trainer.config import Config
from trainer.evaluation import checkpoint_due, evaluate, evaluated_splits, evaluated_weights, evaluation_steps
from trainer.export import export_selected
from trainer.guard import Guard, Phase, PreemptedError
from trainer.host_log import log
from trainer.metrics import Recorder
from trainer.overrides import BrokenDataError, ConfigError, UserError
from trainer.predictions import predict
from trainer.predictions import save as save_predictions
from trainer.program import CODE_SETTINGS, Program, Programs, program_settings
from trainer.progress import Progress
from trainer.results import RunResult, read_result
from trainer.run_record import RunRecord
from trainer.selection import History, evaluate_selected
from trainer.stopwatch import Times, Tracer
from trainer.train_step import State
from trialbook.paths import as_path
from trialbook.settings import leaves

# What counts as which time; steps are divided further.
_TIMED: dict[Phase, str] = {
  "start-up": "start_up",
  "compilation": "compilation",
  "evaluation": "evaluation",
  "checkpoint": "checkpoint",
}


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
    guard: hears SIGTERM and the other hosts; None: there are none, and signals are the caller's.
    profile: the updates step → step + 1 that are traced into `workdir`/profile; empty: none.
    data_of: workdir of a run that must have been on the same data; None: any data will do.

  Raises:
    OtherDataError: if the data are not those that the run began with, or those of `data_of`.
    UserError: if the run cannot start, with all problems, nothing having been recorded; or if it cannot go on (no
      checkpoint can be read, the disk is full), nothing that was committed being lost.
  """
  guard = Guard() if guard is None else guard
  fork, data_of = (None if path is None else as_path(path) for path in (fork, data_of))
  try:
    with guard.ending(), contextlib.ExitStack() as closing:
      return _run(config, as_path(workdir), programs, progress, fork, guard, profile, data_of, closing)
  finally:
    guard.enter(None)


def _run(
  config: Config,
  workdir: pathlib.Path,
  programs: Programs | None,
  progress: bool,
  fork: pathlib.Path | None,
  guard: Guard,
  profile: range,
  data_of: pathlib.Path | None,
  closing: contextlib.ExitStack,
) -> RunResult:
  times = Times()

  def enter(phase: Phase) -> None:
    guard.enter(phase)
    times.enter(_TIMED.get(phase))

  enter("start-up")
  hosts = guard.hosts
  if hosts.count > 1:
    # Each host's share is checked with the data; what devices can share is the stronger condition.
    sharding.check_divisible(config, sharding.make_mesh(config.mesh))
  prepared = preparation.prepare(config, workdir, fork, hosts, data_of)
  config, dataset = prepared.config, closing.enter_context(prepared.dataset)
  mesh = sharding.make_mesh(config.mesh)
  _check_alike(config, workdir, dataset, guard)
  line = Progress(config.max_train_steps, enabled=progress and hosts.is_lead)
  if hosts.from_lead("whether the run is finished", workdirs.is_finished(workdir, config)):
    line.note(
      f"{workdir} holds this run, finished: there is nothing to do"
      " (python -m trainer.evaluate evaluates its checkpoints)"
    )
    return read_result(workdir)
  for warning in preparation.warnings(config, dataset):
    logging.warning("%s", warning)
  enable_compilation_cache(config.compilation_cache)
  sharding.check_divisible(config, mesh)
  programs = Programs() if programs is None else programs
  program = programs.get(config, prepared.task, dataset.info, mesh)
  _check_names(config, workdir, fork, program)
  enter("compilation")
  is_new = program.compile()
  # The first collective gives the others 30 seconds, and compiling takes each host a time of its own.
  hosts.barrier("the end of compilation", math.inf)
  enter("start-up")

  with workdirs.disk_errors(workdir), contextlib.ExitStack() as stack:
    record = RunRecord(workdir, config, dataset, prepared.input_range, program if is_new else None)
    if hosts.is_lead:
      stack.enter_context(workdirs.locked(workdir))
      if fork is not None:
        forking.copy(fork, workdir, program.state_template)
    hosts.barrier("the opening of the workdir", math.inf)
    stack.enter_context(guard.logging(workdir / "logs"))

    def note(text: str) -> None:
      log.info("%s", text)
      line.note(text)

    log.info("host %d of %d, found by %s", hosts.index, hosts.count, hosts.found_by)
    for text in sharding.table(mesh, program.state_template):
      (note if config.mesh.fsdp > 1 else log.info)(text)
    restored = restore_newest(workdir / "checkpoints", program.state_template)
    saved = None if restored is None else restored[0]
    newest = hosts.exchange("the newest checkpoint", saved)
    if len(set(newest)) > 1:
      # A file system that is slow to show what is there, or a read that failed: it may be otherwise the next time.
      raise TryAgainError(f"hosts cannot read the same checkpoints; their newest are {newest}, by host")
    if hosts.is_lead:
      note(record.begin(saved))
      if saved is not None:
        set_aside_after(workdir / "checkpoints", saved)
    hosts.barrier("the cutting back of the records")
    settings = sharding.put_replicated(mesh, program_settings(config))
    step, state = restored or (0, program.init(settings))
    if restored is None and config.warm_start is not None:
      state = warm_start.apply(config.warm_start, state, program.state_template)
    history = History.read(workdir / "metrics.jsonl", config.selection)
    # One truth for all: the lead has just written the file.
    known = [list(history.evaluations.items()), sorted(record.preempted_steps(config)), forking.step(workdir)]
    evaluated, passing, forked_at = hosts.from_lead("the evaluations so far", known)
    history.evaluations, history.passing = dict(evaluated), set(passing)
    # What a fork's source has looked for, it looked for in another config.
    unchecked = max(history.evaluations, default=0) <= forked_at

    def tell(saved: list[int]) -> None:
      records.write_json(workdir / "best.json", history.record(config, saved))

    saver = stack.enter_context(Saver(workdir / "checkpoints", history.to_keep(config), tell, lead=hosts.is_lead))
    hosts.barrier("the folder of checkpoints")
    put = functools.partial(sharding.put_batch, mesh)
    batches = stack.enter_context(Prefetcher(dataset.train_batch, put, step, config.max_train_steps))
    recorder = Recorder(workdir, program.metric_names, config, step + 1, batches, times, writes=hosts.is_lead)
    stack.enter_context(recorder)
    stack.enter_context(record.ending(recorder, writes=hosts.is_lead))
    # On the lead alone: hosts of one machine would write the same file.
    tracer = stack.enter_context(Tracer(workdir / "profile", profile if hosts.is_lead else range(0)))
    stack.enter_context(guard.ending())
    stack.enter_context(_data_errors(workdir, lambda: saved))
    loop = Loop(
      program=program,
      settings=settings,
      batches=batches,
      recorder=recorder,
      line=line,
      guard=guard,
      times=times,
      tracer=tracer,
    )

    try:
      for boundary in evaluation_steps(config):
        if boundary < step or boundary in history.evaluations:
          continue
        enter("step")
        step, state = advance(loop, state, step, boundary)
        recorder.drain()
        line.pause()
        record.step = step
        if step < boundary:
          raise PreemptedError(guard.cause)
        enter("evaluation")
        values: dict[str, Any] = {}
        weights = evaluated_weights(config, state)
        for split in evaluated_splits(config):
          values |= evaluate(program, weights, settings, dataset, split, config, guard, sampled=True)
        if unchecked and step > 0:
          # At step 0 it would delay the start, and the outputs may not depend on the inputs yet.
          unchecked = False
          neighbours.warn(program, weights, settings, dataset, config)
        if config.evaluation.predictions > 0:
          predictions = predict(program, weights, settings, dataset, config)
          if hosts.is_lead:
            save_predictions(workdir / "predictions", step, predictions)
        # The metrics are on the disk before the state is: a resume finds all lines up to its step.
        recorder.evaluation(step, values)
        history.add(step, values)
        enter("checkpoint")
        if checkpoint_due(config, step) and step != saved:
          saver.save(step, state)
          saved = step
        else:
          saver.skip()
        note(history.describe(step))
        recorder.restart_clock()
        line.resume()
      enter("checkpoint")
      saver.wait()
      hosts.barrier("the last checkpoint", math.inf)
      enter("evaluation")
      best, weights = evaluate_selected(workdir, history, program, settings, dataset, config, state, guard)
    except PreemptedError as error:
      enter("checkpoint")
      recorder.sync()
      if step not in (0, saved) and config.checkpointing.every_evaluations > 0:
        saver.save(step, state)
        saved = step
      saver.wait()
      hosts.barrier("the checkpoint of the preemption", math.inf)
      note(f"{error}: stops at step {step:,}; {'nothing' if saved is None else f'step {saved:,}'} is saved")
      raise
    weights = sharding.to_host(weights) if config.export else {}
    if hosts.is_lead:
      if best["step"] == 0:
        logging.warning("%s", best["note"])
      if config.export:
        try:
          export_selected(workdir, config, dataset.info, weights, best)
        except UserError as error:  # The run is complete all the same.
          logging.warning("not exported: %s", error)
      records.write_json(workdir / "best.json", best)
  hosts.barrier("the end of the records")
  result = read_result(workdir)
  status, reason = hosts.from_lead("the result", [result.status, result.reason])
  result = dataclasses.replace(result, status=status, reason=reason)
  guard.record(result.exit_code, result.reason or result.status)
  return result


@contextlib.contextmanager
def _data_errors(workdir: pathlib.Path, saved: Callable[[], int | None]) -> Iterator[None]:
  """Turns data that cannot be read into a message for the user; `saved` gives the step of the newest checkpoint."""
  try:
    yield
  except DataError as error:
    step = saved()
    hint = f"step {step} is saved; to go on from it with repaired data, {workdirs.fork_hint(workdir)}"
    raise BrokenDataError(str(error).splitlines(), [] if step is None else [hint]) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """What the steps of a run need beside its state.

  Attributes:
    program: compiled.
    settings: traced settings on the devices.
    batches: gives (step, batch), from the first step on.
    recorder: takes the metrics.
    line: takes the progress.
    guard: asked before each step whether to go on.
    times: takes the time of dispatching.
    tracer: traces some of the steps.
  """

  program: Program
  settings: Mapping[str, Array]
  batches: Iterator[tuple[int, Mapping[str, Array]]]
  recorder: Recorder
  line: Progress
  guard: Guard = dataclasses.field(default_factory=Guard)
  times: Times = dataclasses.field(default_factory=Times)
  tracer: Tracer = dataclasses.field(default_factory=Tracer)


def advance(loop: Loop, state: State, start: int, stop: int) -> tuple[int, State]:
  """Steps `start` to `stop`, dispatched without waiting for the device but to stay a few steps ahead of it.

  Returns:
    `stop`, or the step before at which all hosts have agreed to stop, and the state there.
  """
  train_step, settings, recorder = loop.program.train_step, loop.settings, loop.recorder
  loop.tracer.at(start, state)
  for step in range(start + 1, stop + 1):
    if loop.guard.poll():
      return step - 1, state
    _, batch = next(loop.batches)
    with loop.times.of("dispatch"):
      state, metrics = train_step(state, settings, batch)
    recorder.step(step, metrics)
    loop.line.step(step, recorder.describe)
    loop.tracer.at(step, state)
  return stop, state


def _check_alike(config: Config, workdir: pathlib.Path, dataset: Dataset, guard: Guard) -> None:
  """Raises UserError, on all hosts, where they are not about to do the same."""
  hosts = guard.hosts
  if hosts.count != jax.process_count():
    raise UserError(
      f"jax has {jax.process_count()} processes, and {hosts.count} of them joined; use trainer.guard.Guard.join"
      " instead of jax.distributed.initialize, and pass the guard to run"
    )
  if hosts.count == 1:
    return
  contents = workdirs.fingerprints(config, dataset)
  of_lead = hosts.from_lead("the content of the data", contents)
  # Last bits may differ where hosts compute their data.
  contents = {
    split: of_lead[split] if split in of_lead and same_fingerprint(of_lead[split], content) else content
    for split, content in contents.items()
  }
  hosts.agree(
    {f"config {path}": value for path, _, _, value in leaves(config)}
    | {f"the version of {package}": version for package, version in provenance.versions().items()}
    | {f"the code of {file}": digest for file, digest in provenance.code(config).items()}
    | {f"dataset {name}": value for name, value in dataclasses.asdict(dataset.info).items()}
    | {f"the content of {split}": content for split, content in contents.items()}
    | {"the number of its devices": jax.local_device_count(), "the kind of its devices": jax.devices()[0].device_kind}
    | {f"jax's setting {name}": jax.config.values[name] for name in CODE_SETTINGS}
    | {f"the environment's {name}": os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    | {"the workdir": os.fspath(workdir)}
  )
  hosts.check_shared(workdir)


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

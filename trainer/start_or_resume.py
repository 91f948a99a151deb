"""A run until its first step: checks, program, workdir, state. `train` continues with what this returns."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping

from absl import logging
from jaxtyping import Array

from trialbook import files
from trialbook.errors import BrokenDataError, ConfigError, DataError, TryAgainError, UserError
from trialbook.input_pipeline import Dataset, Prefetcher
from trialbook.trainer import checks, sharding
from trialbook.trainer.agreement import check_alike
from trialbook.trainer.between_evaluations import BetweenEvaluations
from trialbook.trainer.checkpoints import warm_start
from trialbook.trainer.checkpoints.places import set_aside_after
from trialbook.trainer.checkpoints.storage import DamagedCheckpointError, Saver, restore_newest
from trialbook.trainer.compilation_cache import enable_compilation_cache
from trialbook.trainer.config import Config
from trialbook.trainer.evaluation_schedule import evaluated_splits
from trialbook.trainer.hosts.host_log import log
from trialbook.trainer.hosts.shutdown_guard import Guard, Phase
from trialbook.trainer.loop import Loop
from trialbook.trainer.metric_recorder import Recorder
from trialbook.trainer.optimization_plugins import PluginOptimizer
from trialbook.trainer.program import Program, Programs
from trialbook.trainer.program_memory import has_room_for_copy
from trialbook.trainer.progress import RunProgress
from trialbook.trainer.timing import Times, Tracer
from trialbook.trainer.train_step import State, program_settings
from trialbook.trainer.workdir import existing_run, forking, selection
from trialbook.trainer.workdir.run_record import RunRecord
from trialbook.trainer.workdir.selection import History

# What counts as which time; steps are divided further.
_TIMED: dict[Phase, str] = {
  "start-up": "start_up",
  "compilation": "compilation",
  "evaluation": "evaluation",
  "checkpoint": "checkpoint",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
  """A run that has been checked and compiled, and has written nothing yet.

  Attributes:
    config: with every derived number explicit.
    workdir: of the run.
    fork: workdir of the run that it is forked from, or None.
    dataset: the config's.
    input_range: see `checks.Prepared`.
    program: compiled; `is_new` if it was compiled for this run.
    guard: receives SIGTERM and the messages of other hosts.
    times: receives what each phase took.
    line: shows the progress.
  """

  config: Config
  workdir: pathlib.Path
  fork: pathlib.Path | None
  dataset: Dataset
  input_range: tuple[float, float] | None
  program: Program
  is_new: bool
  guard: Guard
  times: Times
  line: RunProgress

  def enter(self, phase: Phase) -> None:
    """Begin a phase, with its own limit and its own time."""
    _enter(self.guard, self.times, phase)

  def note(self, text: str) -> None:
    """Show a line to the user that stays, and log it."""
    log.info("%s", text)
    self.line.note(text)


@dataclasses.dataclass(kw_only=True)
class OpenRun:
  """A run whose workdir is open, at a step; the last five attributes change while it trains.

  Attributes:
    compiled: what it was opened with.
    loop: what its steps need.
    place: its workdir.
    record: its `run.json`.
    history: its evaluations.
    saver: saves its states.
    between: when it does so between evaluations.
    step: number of updates applied.
    state: after that step; its buffers belong to the next step.
    saved: step of the newest checkpoint; None: there is none.
    unchecked: whether no evaluation has been checked for a dependence on the other examples of a batch.
  """

  compiled: Compiled
  loop: Loop
  place: files.Place
  record: RunRecord
  history: History
  saver: Saver
  between: BetweenEvaluations
  step: int
  state: State
  saved: int | None
  unchecked: bool

  @property
  def saves(self) -> bool:
    """Return whether it has checkpoints."""
    return self.compiled.config.checkpointing.every_evaluations > 0

  def save(self) -> None:
    """Start saving the present state; its metrics are on the disk. Raises OSError if an earlier save failed."""
    self.saver.save(self.step, self.state)
    self.saved = self.step
    self.between.restart(self.step)

  @property
  def settings(self) -> Mapping[str, Array]:
    """Return the traced settings on the devices."""
    return self.loop.settings


def compile_run(
  config: Config,
  workdir: pathlib.Path,
  *,
  programs: Programs | None,
  progress: bool,
  fork: pathlib.Path | None,
  guard: Guard,
  data_of: pathlib.Path | None,
  closing: contextlib.ExitStack,
) -> Compiled | None:
  """Check a run and compile its program; `closing` closes its dataset. The arguments are those of `train.run`.

  Returns:
    None if the workdir holds this run already, finished.

  Raises:
    UserError: with all problems; nothing was written.
  """
  times, hosts, slices = Times(), guard.hosts, None
  _enter(guard, times, "start-up")
  if hosts.count > 1:
    # Where the devices stand says what a host reads.
    mesh = sharding.make_mesh(config.mesh)
    checks.check_divisible(config, mesh)
    checks.check_by_files(config, mesh)
    slices = sharding.host_slices(mesh)
  prepared = checks.prepare(config, workdir, fork, hosts, data_of, slices)
  config, dataset = prepared.config, closing.enter_context(prepared.dataset)
  mesh = sharding.make_mesh(config.mesh)
  check_alike(config, workdir, dataset, hosts)
  line = RunProgress(config.max_train_steps, enabled=progress and hosts.is_lead)
  if hosts.from_lead("the check for a finished run", existing_run.is_finished(workdir, config)):
    line.note(f"{workdir}: this run is already finished; `trialbook evaluate {workdir}` evaluates its checkpoints")
    return None
  for warning in checks.warnings(config, dataset, prepared.task):
    logging.warning("%s", warning)
  enable_compilation_cache(config.compilation_cache)
  checks.check_divisible(config, mesh)
  programs = Programs() if programs is None else programs
  program = programs.get(config, prepared.task, dataset.info, mesh)
  for warning in sharding.warnings(
    mesh, program.state_template["params"], program.network.placements, config.precision.compute_dtype
  ):
    logging.warning("%s", warning)
  _check_names(config, workdir, fork, program, dataset)
  _enter(guard, times, "compilation")
  is_new = program.compile()
  # The first collective gives the others 30 seconds, and compiling takes each host a time of its own.
  hosts.barrier("the end of compilation", math.inf)
  return Compiled(
    config=config,
    workdir=workdir,
    fork=fork,
    dataset=dataset,
    input_range=prepared.input_range,
    program=program,
    is_new=is_new,
    guard=guard,
    times=times,
    line=line,
  )


@contextlib.contextmanager
def open_run(compiled: Compiled, profile: range) -> Iterator[OpenRun]:
  """Open the workdir of a run: inside, it is locked, its state restored or drawn, and its records are open.

  An infeasible or a preempted run ends here: its record says so, and what was raised inside is not raised again.

  Args:
    compiled: the run.
    profile: the steps that are traced.

  Raises:
    UserError: if the run cannot start from what the workdir holds, or the disk is full.
    TryAgainError: if hosts read different checkpoints there.
  """
  with files.disk_errors(f"workdir {compiled.workdir}"), contextlib.ExitStack() as stack:
    yield _opened(compiled, profile, stack)


def _opened(compiled: Compiled, profile: range, stack: contextlib.ExitStack) -> OpenRun:
  """Open a run; `stack` closes what is opened."""
  config, workdir, program, guard = compiled.config, compiled.workdir, compiled.program, compiled.guard
  hosts = guard.hosts
  compiled.enter("start-up")
  held = None
  if hosts.is_lead:
    held = stack.enter_context(files.locked(existing_run.lock(workdir), f"workdir {workdir}"))
    if compiled.fork is not None:
      forking.copy(compiled.fork, workdir, program.state_template)
  hosts.barrier("the opening of the workdir", math.inf)
  place = files.Place.of(workdir, held)
  stack.enter_context(place.errors())
  new = program if compiled.is_new else None
  record = RunRecord(workdir, config, compiled.dataset, compiled.input_range, new, place)
  stack.enter_context(guard.logging(workdir / "logs"))
  log.info("host %d of %d, found by %s", hosts.index, hosts.count, hosts.found_by)
  if new is not None:
    hits = f"{new.cache_hits} came from the compilation cache"
    log.info("%d programs in %.1f s, of which %s", sum(new.compilations.values()), new.seconds, hits)
  for text in sharding.table(program.mesh, program.state_template):
    (compiled.note if config.mesh.fsdp * config.mesh.tensor > 1 else log.info)(text)

  restored = restore_newest(workdir / "checkpoints", program.state_template)
  saved = None if restored is None else restored[0]
  newest = hosts.exchange("the newest checkpoint", saved)
  if len(set(newest)) > 1:
    # A file system that is slow to show what is there, or a read that failed: it may be otherwise the next time.
    raise TryAgainError(f"hosts do not see the same newest checkpoint; by host, its step is {newest}")
  if hosts.is_lead:
    compiled.note(record.begin(saved))
    if saved is not None:
      set_aside_after(workdir / "checkpoints", saved)
  hosts.barrier("the truncation of the records")
  settings = sharding.put_replicated(program.mesh, program_settings(config))
  step, state = restored or (0, program.init(settings))
  if restored is None and config.warm_start is not None:
    state, notes = warm_start.apply(config, state, program.state_template)
    for note in notes:
      compiled.note(f"warm_start: {note}")
    if isinstance(config.optimizer, PluginOptimizer):
      state = program.restart_optimizer(state, settings)

  history = History.read(workdir, config.selection)
  # One truth for all: the lead has just written the file.
  passing = sorted(record.preempted_steps(config))
  known = [list(history.evaluations.items()), passing, forking.step(workdir), record.id]
  evaluated, passing, forked_at, run = hosts.from_lead("the evaluations so far", known)
  history.evaluations, history.passing = dict(evaluated), set(passing)

  def record_best(saved: list[int]) -> None:
    place.check()
    files.write_json(workdir / "best.json", history.record(config, saved))

  # What a save computes on the devices is a collective, so all hosts must do the same.
  room = hosts.from_lead("the room for a copy of the state", has_room_for_copy(program, config))
  saver = Saver(
    workdir / "checkpoints",
    history.to_keep(config),
    record_best,
    run,
    place,
    lead=hosts.is_lead,
    copies_on_device=room,
  )
  stack.enter_context(saver)
  hosts.barrier("the folder of checkpoints")
  put = functools.partial(sharding.put_batch, program.mesh, paths=program.task.train_paths)
  batches = stack.enter_context(Prefetcher(compiled.dataset.train_batch, put, step, config.max_train_steps))
  recorder = Recorder(workdir, program.metric_names, config, step + 1, batches, compiled.times, writes=hosts.is_lead)
  stack.enter_context(recorder)
  stack.enter_context(record.ending(recorder, writes=hosts.is_lead))
  # On the lead alone: hosts of one machine would write the same file.
  tracer = stack.enter_context(Tracer(workdir / "profile", profile if hosts.is_lead else range(0)))
  stack.enter_context(guard.ending())
  opened = OpenRun(
    compiled=compiled,
    loop=Loop(
      program=program,
      settings=settings,
      batches=batches,
      recorder=recorder,
      line=compiled.line,
      guard=guard,
      times=compiled.times,
      tracer=tracer,
    ),
    place=place,
    record=record,
    history=history,
    saver=saver,
    between=BetweenEvaluations(config.checkpointing, hosts, step),
    step=step,
    state=state,
    saved=saved,
    # What a fork's source has looked for, it looked for in another config.
    unchecked=max(history.evaluations, default=0) <= forked_at,
  )
  stack.enter_context(_data_errors(workdir, lambda: opened.saved))
  return opened


def _enter(guard: Guard, times: Times, phase: Phase) -> None:
  guard.enter(phase)
  times.enter(_TIMED.get(phase))


@contextlib.contextmanager
def _data_errors(workdir: pathlib.Path, saved: Callable[[], int | None]) -> Iterator[None]:
  """Turn data that cannot be read into a message for the user; `saved` returns the step of the newest checkpoint."""
  try:
    yield
  except DataError as error:
    step = saved()
    hint = f"step {step} is saved; to continue from it with repaired data, {existing_run.fork_hint(workdir)}"
    raise BrokenDataError(str(error).splitlines(), [] if step is None else [hint]) from error


def _check_names(
  config: Config, workdir: pathlib.Path, fork: pathlib.Path | None, program: Program, dataset: Dataset
) -> None:
  """Raise ConfigError for what can only be checked with the names and shapes of the program's arrays and metrics."""
  problems = selection.problems(config, program.eval_names, evaluated_splits(config, dataset.info), program.lists)
  try:
    if config.warm_start is not None and not (workdir / "config.json").exists():
      warm_start.sources(config, program.state_template)
    if fork is not None:
      forking.check(fork, workdir, program.state_template)
  except UserError as error:
    problems += error.problems
  except DamagedCheckpointError as error:
    problems.append(str(error))
  if problems:
    raise ConfigError(problems)

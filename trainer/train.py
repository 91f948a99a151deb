"""One run, from top to bottom: a config goes in, a trained and evaluated model comes out."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging
from jaxtyping import Array

from input_pipeline import Prefetcher
from trainer import config as configs
from trainer import exits, provenance, records, sharding
from trainer.compilation_cache import enable_compilation_cache
from trainer.config import Config
from trainer.evaluation import evaluate, evaluated_splits, evaluation_steps
from trainer.metrics import InfeasibleError, Recorder
from trainer.overrides import ConfigError
from trainer.preparation import prepare
from trainer.program import Program, Programs, program_settings
from trainer.progress import Progress
from trainer.selection import History, check_selection
from trainer.train_step import State


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
  """What a run came to.

  Attributes:
    workdir: where everything lies.
    status: "complete" or "infeasible".
    reason: of an infeasible run: what was not finite, and at which step.
    step: number of updates applied.
    metrics: the last evaluation of each split, and the last step's metrics.
    best_step: the evaluated step with the best value of `selection.metric`.
    best: that step's evaluation.
    notice: what must be said beside every number (synthetic data).
    seconds: wall time of the run.
  """

  workdir: pathlib.Path
  status: str
  reason: str | None
  step: int
  metrics: Mapping[str, Any]
  best_step: int | None
  best: Mapping[str, Any]
  notice: str | None
  seconds: float

  @property
  def exit_code(self) -> int:
    """What the command leaves with."""
    return exits.DONE if self.status == "complete" else exits.INFEASIBLE


def run(
  config: Config,
  workdir: str | pathlib.Path,
  *,
  programs: Programs | None = None,
  progress: bool = False,
) -> RunResult:
  """Trains by `config`; everything that is recorded goes into `workdir`.

  Args:
    config: the run.
    workdir: a folder that holds no run yet; made if it is absent.
    programs: compiled programs of earlier runs, which this one may use and adds to.
    progress: whether progress is printed to standard error.

  Raises:
    ConfigError: if the run cannot start, with all problems; nothing has been written then.
  """
  started, workdir = time.time(), pathlib.Path(workdir)
  prepared = prepare(config, workdir)
  config, dataset, info = prepared.config, prepared.dataset, prepared.dataset.info
  for warning in configs.warnings(config):
    logging.warning("%s", warning)
  enable_compilation_cache(config.compilation_cache)

  mesh = sharding.make_mesh()
  _check_divisible(config, mesh.size)
  programs = Programs() if programs is None else programs
  program, is_new = programs.get(config, prepared.task, info, mesh)
  check_selection(config, program.eval_names)

  workdir.mkdir(parents=True, exist_ok=True)
  records.write_json(workdir / "config.json", {"format": records.FORMAT, **config.model_dump(mode="json")})
  record = {
    "format": records.FORMAT,
    "status": "running",
    "seed": config.seed,
    "started": started,
    "notice": info.notice,
    "compilations": dict(program.compilations) if is_new else {},
    "compilation_cache_hits": program.cache_hits if is_new else 0,
    "compilation_seconds": round(program.seconds, 3) if is_new else 0.0,
    **provenance.describe(),
  }
  records.write_json(workdir / "run.json", record)

  settings = jax.device_put(program_settings(config), sharding.replicated(mesh))
  state = program.init(settings)
  line = Progress(config.max_train_steps, enabled=progress)
  history = History(config.selection)
  status, reason, step = "failed", None, 0

  def put(batch: dict[str, Any]) -> dict[str, Array]:
    return jax.device_put(batch, sharding.batch(mesh))

  with Prefetcher(dataset.train_batch, put, 0, config.max_train_steps) as batches:
    recorder = Recorder(
      workdir,
      program.metric_names,
      batch_size=config.batch_size,
      every_steps=config.logging.every_steps,
      tensorboard=config.logging.tensorboard,
      waited=lambda: batches.wait_seconds,
    )
    try:
      for boundary in evaluation_steps(config):
        state = advance(program, state, settings, batches, step, boundary, recorder, line)
        recorder.drain()
        line.pause()
        step, values = boundary, {}
        for split in evaluated_splits(config, step):
          values |= evaluate(program, state, settings, dataset, split, config)
        recorder.evaluation(step, values)
        line.note(history.add(step, values))
        recorder.restart_clock()
        line.resume()
      status = "complete"
    except InfeasibleError as error:
      status, reason, step = "infeasible", str(error), error.step
      line.note(f"infeasible: {reason}")
    except BaseException as error:
      reason = f"{type(error).__name__}: {error}"
      raise
    finally:
      recorder.close()
      record |= {"status": status, "reason": reason, "step": step, "finished": time.time()}
      records.write_json(workdir / "run.json", record)
  return RunResult(
    workdir=workdir,
    status=status,
    reason=reason,
    step=step,
    metrics={**recorder.latest, **history.latest},
    best_step=history.best_step,
    best=history.best,
    notice=info.notice,
    seconds=time.time() - started,
  )


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

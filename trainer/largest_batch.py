"""What to do about a run for which a device has no room: the largest batch that fits, by the compiler's analysis."""

import gc
import pathlib
from collections.abc import Callable

from trialbook.errors import UserError
from trialbook.trainer import sharding
from trialbook.trainer.batch_size_search import Tried, largest
from trialbook.trainer.bound_task import bind
from trialbook.trainer.config import Config
from trialbook.trainer.declared import declared
from trialbook.trainer.device_memory import available_bytes
from trialbook.trainer.loading import recorded_info
from trialbook.trainer.program import Programs
from trialbook.trainer.program_memory import is_out_of_memory, needed

_GIB = 2**30
_SMALLER = "take a smaller model, model.remat, or more devices with mesh.fsdp"


def advice(config: Config, workdir: pathlib.Path, say: Callable[[str], None]) -> str:
  """Return, in words, what makes a run fit that ran out of the memory of this host's devices.

  Nothing is run. Batch sizes are compiled, and none is larger than the config's.

  Args:
    config: of the run.
    workdir: of the run; where it has recorded the facts of its data, the data are not read.
    say: is called before each compilation, with what will be compiled.
  """
  gc.collect()
  config = config.resolved()
  try:
    info = recorded_info(workdir)
    task = bind(config.task.build(config.dataset), info, config.task.name)
  except UserError:
    info, task = declared(config)
  mesh = sharding.make_mesh(config.mesh)
  limit = available_bytes(mesh.local_devices[0])
  unit = sharding.replicas(mesh) * config.gradient_accumulation
  refused = config.batch_size // unit
  if limit is None:
    return f"what the devices have is not known here: try a smaller batch size, or {_SMALLER}"

  def compile_size(units: int) -> Tried:
    size = min(units, refused) * unit
    say(f"compiling with batch_size={size}")
    # An evaluation takes no more examples at once than the training.
    changes = {"batch_size": size, "evaluation.batch_size": min(size, config.evaluation.batch_size)}
    try:
      program = Programs().get(config.override(changes), task, info, mesh)
      program.compile()
      need = needed(program, config)
    except Exception as error:
      if not is_out_of_memory(error):
        raise
      return Tried(False, 0, limit)
    total = 0 if need is None else need.total
    return Tried(0 < total <= limit and units < refused, total, limit)

  whole = compile_size(refused)
  if 0 < whole.bytes <= limit:
    return (
      f"by the compiler's analysis a device needs {whole.bytes / _GIB:.3g} GiB and has {limit / _GIB:.3g}: does another"
      " process take memory of it?"
    )
  known = {refused: whole}
  fits, _ = largest(lambda units: known.get(units) or compile_size(units), max(1, refused // 2))
  if not fits:
    return f"by the compiler's analysis not even a batch of {unit} fits: {_SMALLER}"
  size = fits * unit
  evaluation = f" --set evaluation.batch_size={size}" if config.evaluation.batch_size > size else ""
  return (
    f"the largest batch size that fits, by the compiler's analysis, is {size}: --set batch_size={size}{evaluation}; or"
    f" keep {config.batch_size} in parts, with gradient_accumulation"
  )

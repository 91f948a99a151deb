"""What is to be compiled, and the process that does it: it is started, its phases are shown, its report is received.

Imports no jax.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.launch.job_exit import describe
from trialbook.launch.preflight.chips import Topology
from trialbook.launch.preflight.records import REPORT, Report
from trialbook.launch.processes import start_python
from trialbook.progress import ProgressLine, duration

START = """
import json, os, sys
sys.path[:] = json.loads(os.environ.pop("TRIALBOOK_PATH"))
from trialbook.launch.preflight.compiling import main
main()
"""
"""The program of the process; the request is its argument."""
LAST_LINES = 15
"""Lines of the process's output that are shown if it crashes."""
TPU_ENVIRONMENT = {
  # Without these the TPU library looks for the TPUs of this machine.
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  # It uses none, so another process that has loaded it is no reason to refuse.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Environment in which the TPU library compiles on a machine without TPUs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What is to be compiled.

  Attributes:
    config: file with the config.
    assignments: changes of the config, as `--set` has them.
    changes: further ones, by dotted path.
    topology: name of a slice.
    slices: number of slices.
    info_from: workdir of a run whose record describes the data; None: the dataset does.
    batch_units: batch size in multiples of what it must be a multiple of; None: as the config has it.
    bytes_per_second: assumed speed at which a host saves.
    grace_seconds: from the platform's warning to the end of the machine.
  """

  config: str
  topology: str
  slices: int = 1
  assignments: Sequence[str] = ()
  changes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  info_from: str | None = None
  batch_units: int | None = None
  bytes_per_second: float = 5e8
  grace_seconds: float = 30.0


class CompilerEndedError(Exception):
  """The process that compiles ended without a report; the message has the end of its output."""


def check_compiler(topology: Topology) -> None:
  """Raise UserError if the compiler of the topology's chips is not installed."""
  if topology.chip.platform == "tpu" and importlib.util.find_spec("libtpu") is None:
    raise UserError(
      f"--topology={topology.name}: the compiler of TPUs (libtpu) is not installed; it comes with the extra [tpu]:"
      " pip install 'trialbook[tpu]', or in a clone pip install -e '.[tpu]'. It needs no TPU"
    )


def compiled(request: Request, *, progress: bool = True) -> Report:
  """Compile in a process of its own, and return the report.

  Args:
    request: what to compile.
    progress: whether its phases are shown.

  Raises:
    UserError: with the problems of the config or the mesh.
    CompilerEndedError: the process crashed.
  """
  line, started = ProgressLine(enabled=progress), time.perf_counter()
  phase, report, shown = "starting the compiler", None, ""
  with _process(request) as (process, messages, log):
    while True:
      ready = select.select([messages], [], [], 0.25)[0]
      message = json.loads(read) if ready and (read := messages.readline()) else None
      if ready and message is None:
        break
      if message is None:
        pass
      elif "problems" in message:
        raise UserError(message["problems"])
      elif "report" in message:
        report = message["report"]
      else:
        phase = message["phase"]
      if line.is_due(time.perf_counter()):
        text = f"{phase}: {duration(time.perf_counter() - started)}"
        # Where lines stay, each says something new.
        if text != shown:
          line.draw(text)
        shown = text
    if line.is_terminal:
      line.draw("")
    if report is None:
      end = describe(process.wait())
      last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
      raise CompilerEndedError(
        "\n".join([f"the process that compiles ended while {phase}: {end}; its last lines:", *last])
      )
  return REPORT.check(pathlib.Path("the report of the compiler"), 1, report)


@contextlib.contextmanager
def _process(request: Request) -> Iterator[tuple[subprocess.Popen[bytes], Any, pathlib.Path]]:
  """Start the process; yield it, what it writes, and the file with the rest of its output. It ends with the block."""
  read, write = os.pipe()
  fields = dataclasses.asdict(request) | {"messages": write}
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TRIALBOOK_PATH": json.dumps(sys.path), **TPU_ENVIRONMENT}
  # Seconds of compilation are reported, and a cache has none.
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  with (
    os.fdopen(read) as messages,
    tempfile.TemporaryDirectory(prefix="trialbook-preflight-") as folder,
  ):
    log = pathlib.Path(folder, "output")
    with log.open("wb") as output:
      process = start_python(["-c", START, json.dumps(fields)], environment, output, [write])
    os.close(write)
    try:
      yield process, messages, log
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()

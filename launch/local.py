"""A job of several hosts on this machine: one process each, as a pod would have them."""

import contextlib
import os
import pathlib
import queue
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence

from trialbook import files
from trialbook.errors import TryAgainError, UserError
from trialbook.launch.budgets import Restarts
from trialbook.launch.processes import HostProcess, guarded, write_line
from trialbook.launch.supervisor import Attempt, supervise
from trialbook.launch.watch import Events, Patience, signals_to, watch
from trialbook.paths import PathError, as_path
from trialbook.trainer.hosts import secret
from trialbook.trainer.hosts.host_log import EXITS


def run_local(
  command: Sequence[str],
  hosts: int,
  devices_per_host: int = 1,
  *,
  workdir: str | os.PathLike[str] | None = None,
  restarts: Restarts | None = None,
  patience: Patience | None = None,
  environment: Mapping[str, str] | None = None,
  say: Callable[[str], None] | None = None,
) -> int:
  """Run a command as a job of several hosts on this machine, with restarts if they help, until it is over.

  Each host is a process in a session of its own. It finds in its environment TRIALBOOK_COORDINATOR (an address with
  a port that is free, another for each attempt), TRIALBOOK_SECRET (drawn for this job), TRIALBOOK_HOST_COUNT,
  TRIALBOOK_HOST_INDEX, TRIALBOOK_LOCAL_DEVICES, TRIALBOOK_ATTEMPT (1, 2, ...), TRIALBOOK_EXITS (a folder) and, where
  unset, JAX_PLATFORMS=cpu and NPROC (the size of XLA's thread pool, the same for every way to split the same devices
  over hosts). With several hosts each line of their output gets the prefix `[host i] `, and Python's output is not
  buffered. If one host fails, the others are made to exit. SIGTERM and SIGINT are passed on, if this is the main
  thread.

  Args:
    command: arguments for this Python's interpreter, such as `["-m", "trialbook", "train", "--workdir=runs/first"]`.
    hosts: number of processes.
    devices_per_host: of each.
    workdir: where the job's record is; default: the `--workdir` among the command's arguments. Without one, or if
      it is in a store that cannot be reached, causes are not read and a crash loop is not seen.
    restarts: how often and when.
    patience: the time that hosts get to exit.
    environment: what the hosts' environment starts from; default: this process's.
    say: reports to a person what is done; default: a line on stderr.

  Returns:
    The job's exit code, see `job_exit`; 130 after SIGINT.

  Raises:
    UserError: for an empty command, or less than one host or device.
  """
  problems = [] if command else ["there is no command to run"]
  problems += [
    f"{name} is {count}; it must be at least 1"
    for name, count in (("hosts", hosts), ("devices_per_host", devices_per_host))
    if count < 1
  ]
  if problems:
    raise UserError(problems)
  events: Events = queue.SimpleQueue()
  say = say or (lambda text: write_line(sys.stderr, f"launch: {text}"))
  # XLA's threads are as many as the cores, or as the devices of the process if those are more, and it cuts
  # reductions by their number. The same number on every topology of the same devices gives the same bits.
  threads = max(os.cpu_count() or 1, hosts * devices_per_host)
  start_from = {"JAX_PLATFORMS": "cpu", "NPROC": str(threads), **(os.environ if environment is None else environment)}
  start_from[secret.VARIABLE] = secret.new_secret()
  if hosts > 1:
    # A pipe would make each host's Python keep its lines back, and lose the last ones when it is killed.
    start_from.setdefault("PYTHONUNBUFFERED", "1")

  def attempt(number: int) -> Attempt:
    job = {
      **start_from,
      "TRIALBOOK_COORDINATOR": f"127.0.0.1:{free_port()}",
      "TRIALBOOK_HOST_COUNT": str(hosts),
      "TRIALBOOK_LOCAL_DEVICES": str(devices_per_host),
      "TRIALBOOK_ATTEMPT": str(number),
    }
    with contextlib.ExitStack() as stack:
      started: list[HostProcess] = []
      for index in range(hosts):
        prefix = f"[host {index}] " if hosts > 1 else ""
        host = HostProcess(index, command, {**job, "TRIALBOOK_HOST_INDEX": str(index)}, events, prefix)
        stack.callback(host.close)
        started.append(host)
      stack.enter_context(guarded(started))
      return Attempt(*watch(started, events, patience or Patience(), say))

  with signals_to(events), tempfile.TemporaryDirectory(prefix="trialbook-exits-") as exit_folder:
    start_from[EXITS] = exit_folder
    return supervise(
      attempt, _workdir(workdir, command, say), pathlib.Path(exit_folder), restarts or Restarts(), events, say
    )


def free_port() -> int:
  """Return a port of this machine on which no process listens now."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def _workdir(
  workdir: str | os.PathLike[str] | None, command: Sequence[str], say: Callable[[str], None]
) -> pathlib.Path | None:
  named = os.fspath(workdir) if workdir is not None else named_workdir(command)
  try:
    path = as_path(named) if named else None
    if path is not None:
      files.check_reachable(path)
    return path
  except PathError:
    return None  # The command will say so.
  except (UserError, TryAgainError) as error:
    say(f"restarts are not recorded: {error}")
    return None


def named_workdir(command: Sequence[str], flag: str = "workdir") -> str | None:
  """Return the value of `--workdir=DIR`, `--workdir DIR` or the same with one dash; as with absl, the last one
  counts."""
  found = None
  for argument, following in zip(command, [*command[1:], None][: len(command)], strict=True):
    name, equals, value = argument.partition("=")
    if name in (f"--{flag}", f"-{flag}"):
      found = value if equals else following
  return found

"""The launcher of a job on TPU VMs: it requests the slices, runs the job there, and makes both anew where that helps.

It keeps nothing that is not in the API or in the folder of the job. So it may be killed at any moment, and another one
goes on from any machine that reaches both.
"""

import contextlib
import dataclasses
import pathlib
import queue
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from trialbook import errors, files
from trialbook.errors import UserError
from trialbook.launch.budgets import Restarts
from trialbook.launch.remote.attempt import RemoteJob
from trialbook.launch.remote.lease import leased
from trialbook.launch.remote.platform import LeavingError
from trialbook.launch.remote.records import JobRecord, read_job
from trialbook.launch.remote.shipping import Archive, pack
from trialbook.launch.supervisor import supervise
from trialbook.launch.tpu_vm.accelerators import slice_of
from trialbook.launch.tpu_vm.lives import LivesFile
from trialbook.launch.tpu_vm.platform import TpuVm
from trialbook.launch.watch import Events, Patience

_STOPPED = "stopped.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Following:
  """How a launcher follows a job; none of it changes the job.

  Attributes:
    poll_seconds: between two questions to the hosts, or to the API.
    queue_seconds: how long slices are waited for.
    keep: whether the slices stay when the job has ended.
    detach: whether to leave the job as soon as it runs.
    patience: the time that hosts get to exit.
    first_delay: seconds before the first restart, see `Restarts`.
    longest_delay: seconds, where its doubling ends.
  """

  poll_seconds: float = 15.0
  queue_seconds: float = 7 * 24 * 3600.0
  keep: bool = False
  detach: bool = False
  patience: Patience = dataclasses.field(default_factory=Patience)
  first_delay: float = 1.0
  longest_delay: float = 60.0


def launch_folder(job: JobRecord) -> pathlib.Path:
  """Return where launchers of a job on this machine keep what belongs to it.

  It is in the workdir if this machine has that, so that all launchers share it; otherwise in the home directory.
  """
  workdir = workdir_here(job)
  return workdir / "launch" if workdir else pathlib.Path.home() / ".trialbook" / "launched" / job["name"]


def workdir_here(job: JobRecord) -> pathlib.Path | None:
  """Return the workdir if it is a folder that this machine sees; None otherwise."""
  workdir = pathlib.Path(job["workdir"])
  return workdir if job["workdir"].startswith("/") and workdir.parent.is_dir() else None


def write_job(job: JobRecord, archive: Archive) -> None:
  """Record a job and its code in its folder, for launchers that come later."""
  folder = launch_folder(job)
  folder.mkdir(parents=True, exist_ok=True)
  with files.replacing(folder / f"code-{archive.digest}.tar.gz", "wb") as file:
    file.write(archive.content)
  files.write_json(folder / "job.json", job)
  (folder / _STOPPED).unlink(missing_ok=True)


def code_of(job: JobRecord) -> Archive:
  """Return the code of a job: what was recorded, or else the tree of the current directory, if it is the same.

  Raises:
    UserError: if there is no such code.
  """
  recorded = launch_folder(job) / f"code-{job['digest']}.tar.gz"
  if recorded.exists():
    return Archive.of(recorded.read_bytes(), job["inside"])
  found = pack(pathlib.Path.cwd())
  if found.digest != job["digest"]:
    raise UserError(
      f"the hosts need the code of job {job['name']}, which is not in {recorded}, and the current directory has other"
      " code; run the command in the folder, and at the commit, from which the job was launched"
    )
  return found


def mark_stopped(job: JobRecord) -> None:
  """Let no launcher that shares the job's folder request slices for it any more."""
  folder = launch_folder(job)
  if folder.is_dir():
    files.write_json(folder / _STOPPED, {"format": files.FORMAT})


def unmark_stopped(job: JobRecord) -> None:
  """Let launchers request slices for a job again."""
  (launch_folder(job) / _STOPPED).unlink(missing_ok=True)


def follow(job: JobRecord, how: Following, say: Callable[[str], None]) -> int:
  """Run a job until it has ended, or go on with it, and return its exit code.

  SIGINT ends the job and gives the slices back. SIGTERM and SIGHUP end only this launcher.

  Raises:
    UserError: if another launcher follows the job, or it cannot run.
    TryAgainError: if slices are not granted in time.
  """
  folder, workdir = launch_folder(job), workdir_here(job)
  events: Events = queue.SimpleQueue()
  leaving = threading.Event()

  def leave() -> None:
    leaving.set()
    events.put(signal.SIGTERM)

  with (
    _signals_to(events, leave),
    leased(folder / "launcher.json", f"job {job['name']}", leave),
    tempfile.TemporaryDirectory(prefix="trialbook-exits-") as exits,
  ):
    lives = LivesFile(folder, slice_of(job["tpu"]["accelerator_type"]).chips, say)
    platform = TpuVm(job, lives, (folder / _STOPPED).exists, events, how.poll_seconds, how.queue_seconds, say)
    remote = RemoteJob(
      *(job, platform, lambda: code_of(job), folder, pathlib.Path(exits), events, how.patience, how.poll_seconds, say),
      detach=how.detach,
    )
    restarts = Restarts(
      preemptions=job["preemptions"],
      failures=job["failures"],
      first_delay=how.first_delay,
      longest_delay=how.longest_delay,
    )
    is_released = True
    try:
      code = supervise(remote.attempt, workdir, pathlib.Path(exits), restarts, events, say, outlives=True)
    except LeavingError:
      leaving.set()
      code = errors.DONE if how.detach else errors.TRY_AGAIN
    finally:
      if not leaving.is_set() and not how.keep:
        is_released = platform.release()
  if leaving.is_set() or how.keep:
    _say_what_is_left(job, say, leaves=leaving.is_set())
  return code if is_released or code else errors.TRY_AGAIN


def recorded_job(workdir: pathlib.Path) -> JobRecord | None:
  """Return the job that was launched last for a workdir that this machine sees. Raises UserError."""
  return read_job(workdir / "launch")


def _say_what_is_left(job: JobRecord, say: Callable[[str], None], *, leaves: bool) -> None:
  where = f"{job['name']} --project={job['tpu']['project']} --zone={job['tpu']['zone']}"
  if leaves:
    say(f"job {job['name']} goes on; nobody recreates its slices until trialbook launch resume {where}")
  else:
    say(f"the slices of job {job['name']} are kept, and paid for")
  say(f"to end it: trialbook launch stop {where}")


@contextlib.contextmanager
def _signals_to(events: Events, leave: Callable[[], None]) -> Iterator[None]:
  """Make an event of SIGINT, and leave the job upon SIGTERM and SIGHUP, while this is open."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def note(number: int, frame: FrameType | None) -> None:
    del frame
    if number == signal.SIGINT:
      events.put(signal.SIGINT)
    else:
      leave()

  before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)

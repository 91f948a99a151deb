"""Functions that studies of the tests call; the coordinator and its workers import them by name."""

import os
import pathlib
import resource
import signal
from collections.abc import Callable, Mapping

from trialbook.errors import InfeasibleError

FOLDER = "TUNED_FOLDER"
"""Environment variable: where functions note that they were called, and look for what has changed since."""


def _folder() -> pathlib.Path:
  return pathlib.Path(os.environ[FOLDER])


def _kill() -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def _kill_once() -> None:
  noted = _folder() / "killed once"
  if not noted.exists():
    noted.touch()
    _kill()


def _run_out_of_host_memory() -> None:
  """As in a container with a limit: the allocation is refused. The limit is taken away again."""
  limits = resource.getrlimit(resource.RLIMIT_AS)
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, limits[1]))
  try:
    bytearray(2**30)
  finally:
    resource.setrlimit(resource.RLIMIT_AS, limits)


def _raise(error: Exception) -> Callable[[], None]:
  def call() -> None:
    raise error

  return call


def _fill_the_disk() -> None:
  if (_folder() / "room was made").exists():
    return
  with (_folder() / "ballast").open("wb", buffering=0) as file:
    try:
      while file.write(bytes(2**16)):
        pass
    except OSError:
      return


MISHAPS: Mapping[str, Callable[[], object]] = {
  "none": lambda: None,
  "infeasible": _raise(InfeasibleError("needs a device that is not there")),
  "killed": _kill,
  "killed once": _kill_once,
  "out of host memory": _run_out_of_host_memory,
  "raises": _raise(ValueError("a bug\nof two lines")),
  "nan": lambda: None,
  "fills the disk": _fill_the_disk,
}


def mishap(mishap: str) -> Mapping[str, float]:
  """Does what `mishap` says, unless all are mended; notes each call as a line of a file of that name."""
  with (_folder() / f"calls of {mishap}").open("a") as file:
    file.write(f"{os.getpid()}\n")
  if not (_folder() / "mended").exists():
    MISHAPS[mishap]()
  return {"error": float("nan") if mishap == "nan" else 1.0}

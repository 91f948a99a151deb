"""A limit of time for what should end by itself."""

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn


class TooLongError(BaseException):
  """Something took too long; no code of ours takes it for an error of its own."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
  """Raise TooLongError if what is inside takes longer; in the main thread alone."""

  def late(*_: object) -> NoReturn:
    raise TooLongError(f"took more than {seconds} s")

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

"""A test that fails may not leave its job behind either."""

import contextlib
import os
import pathlib
import signal
from collections.abc import Iterator

import pytest
from scripted import running


@pytest.fixture(autouse=True)
def _ended_afterwards(tmp_path: pathlib.Path) -> Iterator[None]:
  yield
  for pid in running(tmp_path):
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)

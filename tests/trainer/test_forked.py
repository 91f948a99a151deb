"""A forked process is what a new interpreter would be, but for what it has imported."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from forked import ROOT, SECONDS, Forked, ended, python, wait_for

LOOK = """
import json, multiprocessing, os, pathlib, signal, sys, threading
handlers = {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGINT", "SIGTERM", "SIGCHLD", "SIGPIPE")}
read = lambda name: pathlib.Path(f"/proc/self/{name}").read_bytes().decode().split(chr(0))
print(json.dumps({
  "arguments": [sys.argv, sys.orig_argv, __name__],
  "path": sys.path[1:],
  "folder": os.getcwd(),
  "environment": dict(os.environ),
  "environment to others": list(filter(None, read("environ"))),
  "command to others": " ".join(read("cmdline")),
  "session": [os.getpid() == os.getpgrp() == os.getsid(0)],
  "files": [file for file in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{file}")],
  "signals": [handlers, signal.set_wakeup_fd(-1), [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))]],
  "processes": [multiprocessing.current_process().name, multiprocessing.parent_process() is None,
                multiprocessing.get_start_method(), len(threading.enumerate())],
}))
sys.exit("over")
"""

# Tests in the background of a shell ignore Ctrl-C, and so would a new interpreter; forked ones always hear it.
HEARING_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_forked_process_is_what_a_new_interpreter_would_be(tmp_path: pathlib.Path):
  arguments = ["-c", LOOK, "one", "two words"]
  environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{tmp_path / 'other'}", "TRIALBOOK_SOMETHING": "ö"}
  output, errors = tmp_path / "output.txt", tmp_path / "errors.txt"
  code, forked = python(arguments, output, errors=errors, environment=environment)
  new = subprocess.run(
    [sys.executable, "-c", HEARING_CTRL_C, *arguments],
    cwd=ROOT,
    env=environment,
    stdin=subprocess.DEVNULL,
    start_new_session=True,
    capture_output=True,
    text=True,
    timeout=SECONDS,
  )
  assert (code, errors.read_text()) == (new.returncode, new.stderr) == (1, "over\n")
  found, expected = json.loads(forked), json.loads(new.stdout)
  # What others see ends where the room ends that the process had from which it was forked; our variables come first.
  seen, environ = (one.pop("environment to others") for one in (found, expected))
  assert seen[0].startswith("TRIALBOOK_")
  assert "TRIALBOOK_SOMETHING=ö" in seen
  assert {*seen[:-1]} <= {*environ}
  seen, command = (one.pop("command to others") for one in (found, expected))
  assert command.startswith(seen[:100])
  for what, value in expected.items():
    assert found[what] == value, what


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_with_the_code_of_the_signal(tmp_path: pathlib.Path, number: signal.Signals):
  output = tmp_path / "output.txt"
  with ended(Forked(["-c", "import time; print('ready', flush=True); time.sleep(600)"], output)) as process:
    wait_for(process.text)
    assert process.poll() is None
    process.send(number)
    assert process.wait() == -number


def test_numbers_by_chance_are_others_in_each(tmp_path: pathlib.Path):
  look = "import random, numpy; print(random.random(), numpy.random.random())"
  one, other = (python(["-c", look], tmp_path / "output.txt")[1].split() for _ in range(2))
  assert len(one) == 2
  assert not {*one} & {*other}


def test_variables_that_others_could_not_see_are_refused(tmp_path: pathlib.Path):
  environment = {**os.environ, "TRIALBOOK_SOMETHING": "x" * 200_000}
  # Twice what one argument of a program may be, so more than any room.
  code, output = python(["-c", "print('it ran')"], tmp_path / "output.txt", environment=environment)
  assert code == 1
  assert "no room in /proc for the variables of a job" in output


def test_a_setting_of_jax_that_cannot_be_changed_any_more_is_refused(tmp_path: pathlib.Path):
  environment = {**os.environ, "JAX_ENABLE_X64": "1"}
  code, output = python(["-c", "print('it ran')"], tmp_path / "output.txt", environment=environment)
  assert code == 1
  assert "jax has read another JAX_ENABLE_X64 already" in output

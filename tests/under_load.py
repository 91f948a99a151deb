"""Run tests while other processes keep the machine busy.

  python tests/under_load.py [--busy=8] [--times=3] [PYTEST'S ARGUMENTS ...]

Without arguments for pytest the tests of `make test` are run. What passes here passes on a machine that is several
times slower; trainings whose processes are killed wait where the kill is aimed (`tests/trainer/held.py`), so that they
pass on one that is faster, too.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

BUSY = "while True: pass"


def main(arguments: Sequence[str]) -> int:
  """Run pytest several times beside busy processes; return the number of runs that failed."""
  parser = argparse.ArgumentParser(prog="python tests/under_load.py")
  parser.add_argument("--busy", type=int, default=8, help="processes that compute without end")
  parser.add_argument("--times", type=int, default=3, help="how many times the tests are run")
  options, others = parser.parse_known_args(arguments)
  command = [sys.executable, "-m", "pytest", "-m", "not long and not evidence", *others]
  busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.busy)]
  failed = 0
  try:
    for turn in range(options.times):
      started = time.monotonic()
      code = subprocess.run(command).returncode
      failed += code != 0
      sys.stdout.write(f"turn {turn + 1}: exit code {code} after {time.monotonic() - started:.0f} s\n")
      sys.stdout.flush()
  finally:
    for process in busy:
      process.kill()
      process.wait()
  return failed


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

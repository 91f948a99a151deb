"""Seconds until a command answers: help, a misspelt flag, a misspelt config key, beside what importing flax takes.

  python -m benchmarks.answers

The median of several processes each, in turns. The imports of the first turn, from files that the operating system has
not read yet, are left out.
"""

import statistics
import subprocess
import sys
import time

REPEATS = 7
TRIALBOOK = ["-m", "trialbook"]
CASES = {
  "Python alone": ["-c", "pass"],
  "`import trialbook`": ["-c", "import trialbook"],
  "`trialbook --help`": [*TRIALBOOK, "--help"],
  "`trialbook train --help`": [*TRIALBOOK, "train", "--help"],
  "`trialbook tune run --help`": [*TRIALBOOK, "tune", "run", "--help"],
  "`trialbook launch local --help`": [*TRIALBOOK, "launch", "local", "--help"],
  "`trialbook data prepare --help`": [*TRIALBOOK, "data", "prepare", "--help"],
  "a misspelt flag": [*TRIALBOOK, "train", "--wrokdir=runs/x"],
  "`from flax import nnx`": ["-c", "from flax import nnx"],
  "a misspelt config key": [*TRIALBOOK, "train", "--workdir=runs/x", "--set", "optimizer.lerning_rate=0.1"],
}


def main() -> None:
  """Print the table."""
  seconds: dict[str, list[float]] = {name: [] for name in CASES}
  for turn in range(REPEATS + 1):
    for name, arguments in CASES.items():
      started = time.perf_counter()
      subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
      if turn:
        seconds[name].append(time.perf_counter() - started)
  print("| until it answers | s |")
  print("|---|---:|")
  for name, measured in seconds.items():
    print(f"| {name} | {statistics.median(measured):.2f} |")


if __name__ == "__main__":
  main()

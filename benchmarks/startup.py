"""Time from starting the command to the first finished training step, cold and with a warm compilation cache.

  python -m benchmarks.startup

Each number is a process of its own, started as a user starts it: imports, data, tracing, compiling or reading
the cache, initialization, the evaluation at step 0, one step.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

REPEATS = 5
CASES = {
  "ResNet, digits": [],
  "MLP, digits": ["--set", "model.name=mlp"],
}


def main() -> None:
  """Print the table."""
  print("| model | cold cache, s | warm, s | warm, another learning rate, s |")
  print("|---|---|---|---|")
  for name, arguments in CASES.items():
    with tempfile.TemporaryDirectory() as folder:
      root = pathlib.Path(folder)
      cold = first_step(root / "cold", root / "cache", arguments)
      warm = [first_step(root / f"warm{i}", root / "cache", arguments) for i in range(REPEATS)]
      other = [
        first_step(root / f"other{i}", root / "cache", [*arguments, "--set", f"optimizer.learning_rate=0.0{i + 1}"])
        for i in range(REPEATS)
      ]
    print(f"| {name} | {cold:.1f} | {statistics.median(warm):.1f} | {statistics.median(other):.1f} |", flush=True)


def first_step(workdir: pathlib.Path, cache: pathlib.Path, arguments: list[str]) -> float:
  """Return the seconds from the start of a process to the end of its first step."""
  command = [
    sys.executable,
    "-m",
    "trialbook",
    "train",
    f"--workdir={workdir}",
    "--set",
    "max_train_steps=1",
    *arguments,
  ]
  command += ["--set", "schedule.warmup_steps=0"]
  started = time.time()
  subprocess.run(command, check=True, capture_output=True, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)})
  return json.loads((workdir / "run.json").read_text())["first_step"] - started


if __name__ == "__main__":
  main()

"""One experiment on several splits of devices over hosts, with real processes: are the numbers the same?

  python -m benchmarks.topology

The digits ResNet with dropout and augmentation, 40 steps, on hosts x devices of each. The same devices must give the
same bits; other numbers of devices add in another order, and after 10 steps may differ by 1e-4. What is compared:
loss of each step, parameters, batch statistics; and that hosts together have the examples of one host, augmented alike.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import orbax.checkpoint as ocp

from trialbook.input_pipeline import load
from trialbook.trainer import Config, load_config
from trialbook.trainer.checkpoints.storage import describe
from trialbook.trainer.config_files import DEFAULT

TOPOLOGIES = ((1, 4), (2, 2), (4, 1), (1, 1), (1, 8))
STEPS, EARLY = 40, 10
SETTINGS = {
  "model.dropout_rate": 0.2,
  "dataset.augmentation.crop_padding": 1,
  "dataset.augmentation.flip_probability": 0.5,
  "schedule.warmup_steps": 10,
  "max_train_steps": STEPS,
  "evaluation.every_steps": EARLY,
  "checkpointing.keep_latest": STEPS,
}


def main() -> int:
  """Print the table; return 1 if a promise does not hold."""
  config = load_config(DEFAULT).override(SETTINGS)
  with tempfile.TemporaryDirectory() as folder:
    results = {topology: train(pathlib.Path(folder), *topology) for topology in TOPOLOGIES}
  first = results[TOPOLOGIES[0]]
  good = True
  print("| hosts x devices | loss of step 40 | against 1 x 4 | largest difference | examples |\n|---|---|---|---|---|")
  for (hosts, devices), (losses, states) in results.items():
    step = STEPS if hosts * devices == 4 else EARLY
    apart = max(
      difference(losses[:step], first[0][:step]), *(difference(states[step][n], a) for n, a in first[1][step].items())
    )
    limit = 0.0 if step == STEPS else 1e-4
    same = examples(config, hosts) == examples(config, 1)
    good &= apart <= limit and same
    verdict = "the same bits" if apart == 0 else "within 1e-4" if apart <= 1e-4 else "DIFFERENT"
    cells = (
      f"{hosts} x {devices}",
      f"{losses[-1]:.9g}",
      f"{verdict} after {step} steps",
      f"{apart:.2g}",
      "the same" if same else "OTHERS",
    )
    print(f"| {' | '.join(cells)} |")
  return 0 if good else 1


def train(folder: pathlib.Path, hosts: int, devices: int) -> tuple[np.ndarray, dict[int, dict[str, np.ndarray]]]:
  """Return the loss of each step, and parameters and statistics after `EARLY` and all steps."""
  workdir = folder / f"{hosts}x{devices}"
  settings = [f"--set={path}={value}" for path, value in SETTINGS.items()]
  # One size of XLA's thread pool for all topologies, since reductions are cut by it.
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": str(max(math.prod(t) for t in TOPOLOGIES))}
  command = ["-m", "trialbook", "train", f"--config={DEFAULT}", f"--workdir={workdir}", *settings]
  argv = [
    sys.executable,
    "-m",
    "trialbook",
    "launch",
    "local",
    f"--hosts={hosts}",
    f"--devices_per_host={devices}",
    "--",
    *command,
  ]
  code = subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
  if code:
    raise SystemExit(f"{hosts} x {devices} ended with {code}")
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  losses = np.array([line["train/loss"] for line in lines if "train/loss" in line])
  return losses, {step: arrays(workdir / "checkpoints" / str(step)) for step in (EARLY, STEPS)}


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Return the parameters and batch statistics of a checkpoint."""
  restore = dict.fromkeys(describe(path), ocp.RestoreArgs(restore_type=np.ndarray))
  state = ocp.PyTreeCheckpointer().restore(path.resolve(), args=ocp.args.PyTreeRestore(restore_args=restore))
  return {name: array for name, array in state.items() if name.startswith(("params/", "variables/"))}


def difference(one: np.ndarray, other: np.ndarray) -> float:
  """Return the largest absolute difference."""
  return float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64))))


def examples(config: Config, hosts: int) -> list[bytes]:
  """Return all batches of the run, each put together from the hosts' slices."""
  shares = [
    load(config.dataset, seed=config.seed, batch_size=config.batch_size, host_index=index, host_count=hosts)
    for index in range(hosts)
  ]
  return [
    b"".join(share.train_batch(step)[key].tobytes() for key in ("inputs", "labels") for share in shares)
    for step in range(STEPS)
  ]


if __name__ == "__main__":
  sys.exit(main())

"""The cost of a report: seconds and bytes, compared with what reading the study's logs alone takes.

python -m benchmarks.report

Studies of 100 trials of 200 evaluations and of 1,000 of 500, four metrics each, are written as tables, imported, and
reported on. Targets of the page: 1.5 MB in 10 s for the first, 10 MB in 60 s for the second.
"""

import pathlib
import sys
import tempfile
import time

import numpy as np

from trialbook.tuning import read_results
from trialbook.tuning.findings import findings
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.reporting.html import html, libraries
from trialbook.tuning.reporting.page_data import objectives_of, page_data

CASES = ((100, 200), (1000, 500))
METRICS = ("validation/error", "train_subset/error", "validation/loss", "grad_norm")
STEPS = 20_000


def write_tables(folder: pathlib.Path, trials: int, evaluations: int, seed: int = 0) -> None:
  """Write a study with four hyperparameters, a tenth of whose trials diverged, as `trials.csv` and `curves.csv`."""
  rng = np.random.default_rng(seed)
  units = rng.random((trials, 4))
  values = 10.0 ** (-5 + 4 * units)
  ends = 0.08 + ((units - 0.5) ** 2) @ np.array([0.5, 0.3, 0.2, 0.0])
  diverged = rng.random(trials) < 0.1
  steps = np.linspace(STEPS / evaluations, STEPS, evaluations).astype(int)
  rows = [
    f"{number},{'infeasible' if diverged[number] else 'complete'},"
    + ",".join(f"{value:.6g}" for value in values[number])
    for number in range(trials)
  ]
  header = "trial,state,learning_rate,one_minus_momentum,weight_decay,epsilon"
  (folder / "trials.csv").write_text("\n".join([header, *rows]) + "\n")
  with (folder / "curves.csv").open("w") as file:
    file.write("trial,step,metric,value\n")
    for number in range(trials):
      count = evaluations // 4 if diverged[number] else evaluations
      error = ends[number] + 0.8 * np.exp(-steps / 2000) + rng.normal(0, 0.003, evaluations)
      curves = (error, 0.7 * error, 3 * error, np.exp(rng.normal(0, 0.3, evaluations)))
      for name, curve in zip(METRICS, curves, strict=True):
        file.writelines(
          f"{number},{step},{name},{value:.6g}\n" for step, value in zip(steps[:count], curve, strict=False)
        )


def measure(trials: int, evaluations: int) -> tuple[float, ...]:
  """Return the seconds of the import, of reading all logs, of the findings by one objective, of the whole page; its
  megabytes."""
  with tempfile.TemporaryDirectory() as folder:
    source, study = pathlib.Path(folder) / "tables", pathlib.Path(folder) / "study"
    source.mkdir()
    write_tables(source, trials, evaluations)
    began = time.perf_counter()
    import_study("csv", source, study)
    imported = time.perf_counter()
    results = read_results(study)
    assert results.metrics
    read = time.perf_counter()
    findings(results)
    found = time.perf_counter()
    fresh = read_results(study)
    libraries()
    page = html(page_data(fresh, objectives_of(fresh)))
    written = time.perf_counter()
  return imported - began, read - imported, found - read, written - found, len(page.encode()) / 1e6


def main() -> int:
  print("| trials | evaluations | import, s | read, s | findings, s | page, s | page, MB |")
  print("|---:|---:|---:|---:|---:|---:|---:|")
  for trials, evaluations in CASES:
    imported, read, found, page, size = measure(trials, evaluations)
    print(f"| {trials:,} | {evaluations} | {imported:.1f} | {read:.2f} | {found:.2f} | {page:.1f} | {size:.2f} |")
  return 0


if __name__ == "__main__":
  sys.exit(main())

"""Break the code on purpose, one place at a time, and see that the tests notice.

  python tests/breaks.py [WORD ...]

Each break is made in a copy of the repository, in which the tests that should notice it are run. The table that is
printed says which test failed first. `test_breaks.py` keeps the list true to the code. WORDs choose breaks by name.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECONDS = 600


@dataclasses.dataclass(frozen=True)
class Break:
  """A mistake that somebody could make.

  Attributes:
    name: what no longer holds.
    file: where, from the root of the repository.
    old: the code, which stands there once.
    new: what takes its place.
    tests: a file or a test that must fail, as pytest takes it.
    tier: the marker of the tests that notice it; "" for `make test`.
  """

  name: str
  file: str
  old: str
  new: str
  tests: str
  tier: str = ""


BREAKS = (
  Break(
    "a batch begins one example late",
    "input_pipeline/order.py",
    "steps_S = first_step + np.arange(steps)",
    "steps_S = 1 + first_step + np.arange(steps)",
    "tests/input_pipeline/test_dataset.py",
  ),
  Break(
    "the permutation lets one index out of range pass",
    "input_pipeline/permutation.py",
    "outside = np.flatnonzero(image >= size)",
    "outside = np.flatnonzero(image > size)",
    "tests/input_pipeline/test_permutation.py",
  ),
  Break(
    "padding counts in evaluations",
    "trainer/train_step.py",
    "return jnp.where(is_example.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.zeros((), values.dtype))",
    "return values",
    "tests/trainer/test_evaluation.py",
  ),
  Break(
    "the same units are dropped at every step",
    "trainer/train_step.py",
    'rng.key(settings["seed"], "dropout", step=state["step"])',
    'rng.key(settings["seed"], "dropout", step=0)',
    "tests/trainer/test_train_step.py",
  ),
  Break(
    "accumulated gradients are added up, not averaged",
    "trainer/train_step.py",
    "objective(terms, totals, own if counts is None else counts)",
    "objective(terms, totals, own)",
    "tests/trainer/test_gradient_accumulation.py",
  ),
  Break(
    "clipping is reported and not done",
    "trainer/train_step.py",
    'grads, metrics["clip_fraction"] =',
    '_, metrics["clip_fraction"] =',
    "tests/trainer/test_train_step.py",
  ),
  Break(
    "Adam's bias correction is one step ahead",
    "trainer/update_rules.py",
    "jnp.expm1(count *",
    "jnp.expm1((count + 1) *",
    "tests/trainer/test_optimizers.py",
  ),
  Break(
    "warmup begins at zero",
    "trainer/schedules.py",
    "_ratio(step + 1, warmup_steps)",
    "_ratio(step, warmup_steps)",
    "tests/trainer/test_schedules.py",
  ),
  Break(
    "checksums are not compared",
    "trainer/checkpoints/storage.py",
    "  if wrong:\n",
    "  if not wrong and wrong:\n",
    "tests/trainer/test_checkpoints.py",
  ),
  Break(
    "checksums do not depend on the position",
    "trainer/checkpoints/checksums.py",
    "words * (2 * position + 1)",
    "words * (0 * position + 1)",
    "tests/trainer/test_checkpoints.py",
  ),
  Break(
    "the best checkpoint is not kept",
    "trainer/workdir/selection.py",
    ", *self.ranked(steps)[: keep.keep_best]}",
    "}",
    "tests/trainer/test_checkpoints.py",
  ),
  Break(
    "the largest error is selected",
    "trainer/workdir/selection.py",
    'sign = 1 if self.mode == "min" else -1',
    'sign = -1 if self.mode == "min" else 1',
    "tests/trainer/test_checkpoints.py",
  ),
  Break(
    "a resume keeps a line of the run that was interrupted",
    "trainer/workdir/step_lines.py",
    "<= last_step for line",
    "<= last_step + 1 for line",
    "tests/trainer/test_checkpoints.py",
  ),
  Break(
    "two processes may work in one workdir",
    "trialbook/files.py",
    "_lock(file, what, fcntl.LOCK_EX)",
    "_lock(file, what, fcntl.LOCK_SH)",
    "tests/trainer/test_checkpoints.py",
  ),
  Break(
    "records are not replaced whole",
    "trialbook/files.py",
    "    temporary.rename(path)\n",
    "    path.write_bytes(temporary.read_bytes())\n",
    "tests/trainer/test_loop.py",
  ),
  Break(
    "a preemption saves nothing",
    "trainer/train.py",
    "if run.step not in (0, run.saved) and run.saves:",
    "if run.step not in (0, run.saved) and not run.saves:",
    "tests/trainer/test_preemption.py",
  ),
  Break(
    "hosts stop at the place of the slowest",
    "trainer/hosts/shutdown_guard.py",
    "max(places.result())",
    "min(places.result())",
    "tests/trainer/test_guard.py",
  ),
  Break(
    "hosts do not compare what they are about to do",
    "trainer/hosts/joining.py",
    "if len(set(digests)) == 1:",
    "if len(set(digests)) >= 1:",
    "tests/multihost/test_setups.py",
  ),
  Break(
    "barriers do not wait",
    "trainer/hosts/joining.py",
    "    self.exchange(name, None, seconds)\n",
    "    self.gather(name, None, seconds)\n",
    "tests/trainer/test_hosts.py",
  ),
  Break(
    "a lost connection is not reported",
    "trainer/hosts/channel.py",
    "      (self._tell_all if self._index == 0 else self._hear)(lost)\n",
    "",
    "tests/multihost/test_faults.py",
  ),
  Break(
    "a line needs no proof",
    "trainer/hosts/connection.py",
    "      raise ForgedError\n",
    "      pass\n",
    "tests/trainer/test_connection.py",
  ),
  Break(
    "the lead listens on all interfaces",
    "trainer/hosts/addresses.py",
    "socket.create_server((own, port)",
    'socket.create_server(("", port)',
    "tests/trainer/test_addresses.py",
  ),
  Break(
    "an unknown field of a config is ignored",
    "trialbook/settings.py",
    'extra="forbid"',
    'extra="ignore"',
    "tests/trainer/test_overrides.py",
  ),
  Break(
    "a user's mistake ends like a bug",
    "trialbook/errors.py",
    "(UserError, USER_MISTAKE),",
    "(UserError, BUG),",
    "tests/trainer/test_guard.py",
  ),
  Break(
    "programs with and without clipping are one",
    "trainer/program.py",
    "settings = {name: (value.shape, str(value.dtype)) for name, value in program_settings(config).items()}",
    "settings = {}",
    "tests/trainer/test_programs.py",
  ),
  Break(
    "the worst evaluation is what a trial is worth",
    "tuning/objective.py",
    "np.argmin(objective.sign * values)",
    "np.argmax(objective.sign * values)",
    "tests/tuning/test_objective.py",
  ),
  Break(
    "a further point of a search repeats the first",
    "tuning/search/halton.py",
    "engine.fast_forward(start).random(stop - start)",
    "engine.random(stop - start)",
    "tests/tuning/test_search.py",
  ),
  Break(
    "trials that have failed are run again",
    "tuning/records.py",
    'FINAL: tuple[State, ...] = ("complete", "infeasible", "failed", "pruned")',
    'FINAL: tuple[State, ...] = ("complete", "infeasible", "pruned")',
    "tests/tuning/test_runner.py",
  ),
)


def first_failure(tests: str, tier: str, mistake: Break | None = None) -> str | None:
  """Return the first of the tests that fails in a copy of the repository, with a mistake in it; None if all pass."""
  with tempfile.TemporaryDirectory(prefix="trialbook-break-") as name:
    copy = pathlib.Path(name)
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in files.splitlines():
      # Packages are links to folders: without them, the tests would import the code that is not broken.
      if (ROOT / file).is_file() or (ROOT / file).is_symlink():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file, follow_symlinks=False)
    if mistake is not None:
      broken = copy / mistake.file
      broken.write_text(broken.read_text().replace(mistake.old, mistake.new))
    command = [sys.executable, "-m", "pytest", "-x", "-m", tier or "not long and not evidence", tests]
    process = subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
      output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
      return f"{tests}, which did not end within {SECONDS} s"
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.communicate()
  if process.returncode not in (0, 1):
    raise RuntimeError(f"{tests} could not be run:\n{output}")
  failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
  return failed[1] if failed else None


def main(words: Sequence[str]) -> int:
  """Print a Markdown table of breaks and the tests that noticed them; return 1 if one was not noticed."""
  missed = 0
  chosen = [mistake for mistake in BREAKS if not words or any(word in mistake.name for word in words)]
  for tests, tier in dict.fromkeys((mistake.tests, mistake.tier) for mistake in chosen):
    if failing := first_failure(tests, tier):
      raise RuntimeError(f"{failing} fails without any break")
  sys.stdout.write("| break | place | noticed by |\n|---|---|---|\n")
  for mistake in chosen:
    test = first_failure(mistake.tests, mistake.tier, mistake)
    missed += test is None
    tier = f" ({mistake.tier})" if mistake.tier else ""
    sys.stdout.write(f"| {mistake.name} | {mistake.file} | {f'`{test}`{tier}' if test else 'nothing'} |\n")
    sys.stdout.flush()
  return 1 if missed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

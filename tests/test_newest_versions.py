"""The newest versions that setup.cfg allows, on a newer Python, pass the quick tests of what touches them."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEWEST = ROOT / ".venv-newest"
"""Made by `make test-long`."""
# The others use none of these, or start processes that use them as these tests do.
QUICK = ("tests/models", "tests/trainer", "tests/input_pipeline", "tests/tuning", "tests/test_old_records.py")
# Of these the tests that take seconds, too: they are what breaks first where jax, flax or orbax change.
WHOLE = (
  "tests/models",
  "tests/trainer/test_checkpoints.py",
  "tests/trainer/test_export.py",
  "tests/test_old_records.py",
)


@pytest.mark.long
def test_the_quick_tests_of_models_data_training_and_tuning_pass_with_the_newest_versions(tmp_path: pathlib.Path):
  if not (NEWEST / "ready").exists():
    missing = NEWEST / "missing"
    why = missing.read_text().strip() if missing.exists() else "`make test-long` was not asked to install them"
    pytest.skip(f"no newest versions in {NEWEST.name}: {why}")
  # Not those of the pytest that runs this test.
  environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
  for tier, places in (("not slow and not long", QUICK), ("slow and not long", WHOLE)):
    command = [NEWEST / "bin" / "python", "-m", "pytest", "-n", "2", "--dist", "loadfile"]
    command += ["-m", f"{tier} and not evidence", *places, f"--basetemp={tmp_path / 'newest'}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]

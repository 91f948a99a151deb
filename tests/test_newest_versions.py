"""The newest versions that setup.cfg allows, on a newer Python, pass the quick tests of what touches jax."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEWEST = ROOT / ".venv-newest"
"""Made by `make test-long`."""
# The others use no jax, or start processes that use it as these tests do.
FOLDERS = ("tests/models", "tests/trainer", "tests/test_old_records.py")


@pytest.mark.long
def test_the_quick_tests_of_models_and_training_pass_with_the_newest_versions(tmp_path: pathlib.Path):
  if not (NEWEST / "ready").exists():
    missing = NEWEST / "missing"
    why = missing.read_text().strip() if missing.exists() else "`make test-long` was not asked to install them"
    pytest.skip(f"no newest versions in {NEWEST.name}: {why}")
  # Not those of the pytest that runs this test.
  environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
  tier = ("-m", "not slow and not long and not evidence")
  command = [NEWEST / "bin" / "python", "-m", "pytest", "-n", "2", "--dist", "loadfile", *tier, *FOLDERS]
  command.append(f"--basetemp={tmp_path / 'newest'}")
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]

"""Commands of trialbook in processes that reach a store; and a config for them."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

from store_server import Store

CONFIG = """
from trialbook import Config
from trialbook.input_pipeline import Digits
from trialbook.models import MlpConfig
from trialbook.trainer import Averaging, Checkpointing, Evaluation
from trialbook.trainer.optimizers import Adam


def get_config():
  return Config(
    dataset=Digits(),
    model=MlpConfig(widths=(32,)),
    optimizer=Adam(learning_rate=0.003),
    averaging=Averaging(decay=0.9),
    max_train_steps=60,
    batch_size=32,
    evaluation=Evaluation(every_steps=10, batch_size=256, train_examples=64, predictions=4),
    compilation_cache=None,
  )
"""


class Commands:
  """Commands of trialbook in processes that reach the store."""

  def __init__(self, store: Store, folder: pathlib.Path):
    self.store, self.folder = store, folder
    self.bucket = store.folder / "bucket"
    (folder / "config.py").write_text(CONFIG)

  def start(self, *arguments: str, before: str = "", **environment: str) -> "subprocess.Popen[str]":
    """Start a command; `before` is run in its process first."""
    program = f"import sys\n{before}\nfrom trialbook.__main__ import console\nconsole()"
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.Popen(
      [sys.executable, "-c", program, *arguments],
      cwd=self.folder,
      env={**kept, "JAX_PLATFORMS": "cpu", **self.store.environment(), **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def run(self, *arguments: str, before: str = "", seconds: float = 240, **environment: str) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, output and errors."""
    process = self.start(*arguments, before=before, **environment)
    out, err = process.communicate(timeout=seconds)
    # Nothing was ever made in place of the store.
    assert not (self.folder / "gs:").exists()
    return process.returncode, out, err

  def train(self, workdir: str, *more: str, seconds: float = 240, **environment: str) -> tuple[int, str, str]:
    """Run `trialbook train`."""
    arguments = ("train", "--config=config.py", f"--workdir={workdir}", *more)
    return self.run(*arguments, seconds=seconds, **environment)

  def steps(self, run: str = "run") -> list[int]:
    """The checkpoints that are committed."""
    return sorted(int(path.parent.name) for path in self.bucket.glob(f"{run}/checkpoints/*/commit_success.txt"))

  def wait_for(self, condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
      assert process.poll() is None, process.communicate()
      assert time.monotonic() < deadline
      time.sleep(0.02)

"""The same transformers in trialbook and in MaxText, compiled for TPUs by the same jax and libtpu, for docs/pods.md.

  python -m benchmarks.maxtext [WORD ...]

Makes an environment with MaxText and trialbook first (Python 3.12, 3 GB, minutes), in .venv-maxtext or in
$TRIALBOOK_MAXTEXT. Needs no TPU. With words, only those rows are compiled that contain all of them. The rows are merged
into the page as those of `benchmarks.pods` are.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.evidence import ROOT, commit
from benchmarks.pods import PAGE, merged, printed
from trialbook.launch.preflight.chips import GIB
from trialbook.launch.preflight.request import TPU_ENVIRONMENT

VERSION = "0.2.5"
HEADER = (
  *("transformer", "topology", "mesh.fsdp", "state, GiB a chip", "of MaxText", "temporaries", "of MaxText"),
  *("both / MaxText's", "collectives, GiB a step", "of MaxText", "ours / MaxText's"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A model on a topology, in the words of both.

  Attributes:
    name: of the model, in the table.
    config: file in experiments/.
    topology: as preflight names it.
    theirs: as MaxText names it.
    chips: number of chips, over all of which the state is split.
    per_chip: texts a chip.
    shape: MaxText's settings of the model.
  """

  name: str
  config: str
  topology: str
  theirs: str
  chips: int
  per_chip: int
  shape: dict[str, int]


_SMALL = {
  "max_target_length": 1024,
  "base_emb_dim": 2048,
  "base_num_query_heads": 16,
  "base_num_kv_heads": 16,
  "base_mlp_dim": 8192,
  "base_num_decoder_layers": 16,
  "head_dim": 128,
  "vocab_size": 32_000,
}
_LARGE = {
  "max_target_length": 2048,
  "base_emb_dim": 4096,
  "base_num_query_heads": 32,
  "base_num_kv_heads": 32,
  "base_mlp_dim": 11_008,
  "base_num_decoder_layers": 32,
  "head_dim": 128,
  "vocab_size": 32_000,
}
CASES = tuple(
  Case(name=name, config=config, topology=topology, theirs=theirs, chips=chips, per_chip=per_chip, shape=shape)
  for name, config, per_chip, shape, topology, theirs, chips in (
    ("1.2 billion", "transformer_1b", 4, _SMALL, "v5e:4x4", "v5e-16", 16),
    ("1.2 billion", "transformer_1b", 4, _SMALL, "v5e:16x16", "v5e-256", 256),
    ("6.7 billion", "transformer_7b", 1, _LARGE, "v5e:16x16", "v5e-256", 256),
  )
)


def environment() -> pathlib.Path:
  """Return the Python of an environment with MaxText and trialbook; make it if it is not there."""
  folder = pathlib.Path(os.environ.get("TRIALBOOK_MAXTEXT", ROOT / ".venv-maxtext"))
  python = folder / "bin" / "python"
  if not python.exists():
    found = shutil.which("python3.12") or next(
      map(str, pathlib.Path.home().glob(".pyenv/versions/3.12*/bin/python3.12")), None
    )
    if found is None:
      raise SystemExit("Python 3.12 was not found; MaxText needs it")
    subprocess.run([found, "-m", "venv", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, f"maxtext[tpu]=={VERSION}"], check=True)
    subprocess.run([*install, ROOT], check=True)
  return python


def ours(python: pathlib.Path, case: Case) -> dict[str, float]:
  """Return what preflight reports of a case."""
  size = case.chips * case.per_chip
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder, "report.json")
    flags = [f"--config=experiments/{case.config}.py", f"--topology={case.topology}", f"--json={report}"]
    for change in (f"batch_size={size}", f"evaluation.batch_size={size}", f"mesh.fsdp={case.chips}"):
      flags += ["--set", change]
    _run(python, "-m", "trialbook", "launch", "preflight", *flags)
    found = json.loads(report.read_text())
  step = found["functions"].get("train_step")
  memory = found["memory"]
  return {
    "state": (step or memory)["arguments"],
    "temporaries": (step or memory)["temporaries"],
    "moved": sum(group["bytes"] for group in step["collectives"]) if step else float("nan"),
  }


def theirs(python: pathlib.Path, case: Case) -> dict[str, float]:
  """Return the same of MaxText's train step."""
  settings = {
    "compile_topology": case.theirs,
    "compile_topology_num_slices": 1,
    "per_device_batch_size": case.per_chip,
    **case.shape,
    "remat_policy": "full",
    "ici_fsdp_parallelism": case.chips,
    "attention": "dot_product",
    "dataset_type": "synthetic",
    "enable_checkpointing": False,
    "run_name": "case",
  }
  with tempfile.TemporaryDirectory() as folder:
    found = pathlib.Path(folder, "found.json")
    words = [f"{name}={value}" for name, value in settings.items()]
    words.append(f"base_output_directory={folder}")
    _run(python, "-m", "benchmarks.maxtext_compile", str(found), str(case.chips), *words)
    return json.loads(found.read_text())


def _run(python: pathlib.Path, *words: str) -> None:
  # The checkout, and not the copy that was installed when the environment was made.
  environment = {**os.environ, **TPU_ENVIRONMENT, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run([python, *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
  # What does not fit has its numbers all the same.
  if done.returncode not in (0, 3):
    print(done.stderr.decode(errors="replace")[-3000:], file=sys.stderr)
    raise SystemExit(f"{' '.join(words[:4])} … ended with code {done.returncode}")


def cells(mine: dict[str, float], other: dict[str, float]) -> list[str]:
  """Return the numbers of a row."""
  pairs = [(mine[name] / GIB, other[name] / GIB) for name in ("state", "temporaries", "moved")]
  (state, their_state), (temporaries, their_temporaries), (moved, their_moved) = pairs
  return [
    *(f"{amount:.2f}" for amount in (state, their_state, temporaries, their_temporaries)),
    f"{(state + temporaries) / (their_state + their_temporaries):.2f}",
    *(f"{amount:.1f}" for amount in (moved, their_moved)),
    f"{moved / their_moved:.2f}",
  ]


def main(words: Sequence[str]) -> int:
  """Compile the rows that contain all words in both, and print the table of the page."""
  when, python = f"{datetime.date.today()}, {commit()}", environment()
  for case in CASES:
    key = (case.name, case.topology)
    if all(word in " ".join(key) for word in words):
      print(*key, file=sys.stderr, flush=True)
      row = [str(case.chips), *cells(ours(python, case), theirs(python, case)), when]
      keys = [(one.name, one.topology) for one in CASES]
      PAGE.write_text(merged(PAGE.read_text(), HEADER, keys, key, row))
  print(printed(PAGE.read_text(), HEADER))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))

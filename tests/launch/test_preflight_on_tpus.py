"""Programs by the real compiler of TPUs, which the extra [tpu] brings; no TPU is needed."""

import importlib.util
import pathlib

import pytest
from in_process_command import run_command

from trialbook.launch.preflight.chips import parse_topology
from trialbook.launch.preflight.records import Report
from trialbook.launch.preflight.request import Request, compiled

pytestmark = [
  pytest.mark.evidence,
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the compiler of TPUs is not installed: pip install 'trialbook[tpu]'",
  ),
]
CONFIG = """
from trialbook.input_pipeline import Synthetic
from trialbook.models import TransformerConfig
from trialbook.trainer import Config, Evaluation
from trialbook.trainer.config import MeshSettings, Precision
from trialbook.trainer.optimizers import AdamW
from trialbook.trainer.tasks import LanguageModel


def get_config():
  return Config(
    dataset=Synthetic(kind="language_model", input_shape=(512,), num_outputs=4096),
    task=LanguageModel(),
    model=TransformerConfig(width=512, depth=6, heads=4, remat=True),
    optimizer=AdamW(learning_rate=1e-3),
    batch_size=64,
    precision=Precision(compute_dtype="bfloat16"),
    mesh=MeshSettings(fsdp=8),
    evaluation=Evaluation(batch_size=64),
  )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp("config") / "small.py"
  path.write_text(CONFIG)
  return str(path)


@pytest.fixture(scope="module")
def report(config: str) -> Report:
  return compiled(Request(config=config, topology="v5e:2x4"), progress=False)


def test_a_program_for_eight_chips_has_its_memory_collectives_and_bounds(report: Report):
  assert report["verdict"] == "fits"
  assert report["compiler"].keys() == {"jax", "jaxlib", "libtpu"}
  memory, step, bounds = report["memory"], report["functions"]["train_step"], report["bounds"]
  assert memory["limit"] == parse_topology("v5e:2x4").chip.usable_bytes
  assert memory["state"] == pytest.approx(12 * report["parameters"] / 8, rel=0.1)
  assert memory["arguments"] >= memory["state"]
  assert 0 < memory["temporaries"] < (memory["limit"] or 0)
  # Chips neither idle nor repeat work: what they compute together is what the program asks for.
  assert step["flops"] * 8 == pytest.approx(step["asked_flops"], rel=0.1)
  assert {group["axis"] for group in step["collectives"] if group["kind"] == "all-gather"} == {"fsdp"}
  assert bounds is not None
  assert bounds["step"] == max(bounds[name] or 0 for name in ("compute", "memory", "ici", "dcn"))
  assert 0 < (bounds["utilisation"] or 0) <= 1
  assert report["hops"].keys() == {"fsdp"}


def test_two_slices_have_collectives_between_them(config: str):
  asked = Request(config=config, topology="v5e:2x4", slices=2)
  found = compiled(asked, progress=False)
  assert found["mesh"]["data"] == 2
  between = [group for group in found["functions"]["train_step"]["collectives"] if group["network"] == "dcn"]
  assert between
  assert all("data" in group["axis"] for group in between)
  assert found["bounds"] is not None
  assert (found["bounds"]["dcn"] or 0) > 0


def test_the_largest_batch_size_is_where_direct_compilations_say(config: str, capsys: pytest.CaptureFixture[str]):
  flags = ["launch", "preflight", f"--config={config}", "--topology=v5e:2x2", "--set", "mesh.fsdp=4"]
  # Of a deep model, so that a few batches fill the memory.
  flags += ["--set", "model.width=1024", "--set", "model.remat=false", "--set", "model.depth=16"]
  code, printed, _ = run_command(capsys, *flags, "--find_batch_size")
  assert code == 0
  said = printed.partition("the largest batch size that fits is ")[2]
  largest = int(said.split(" ")[0].replace(",", ""))
  assert "a chip needs" in said
  assert "GiB" in said
  for size, code in ((largest, 0), (largest + 4, 3)):
    assert run_command(capsys, *flags, "--set", f"batch_size={size}")[0] == code


def test_what_does_not_fit_is_refused_with_its_gigabytes(
  config: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
):
  flags = ["--set", "batch_size=65536", "--set", "model.remat=false", f"--html={tmp_path / 'page.html'}"]
  code, printed, errors = run_command(capsys, "launch", "preflight", f"--config={config}", "--topology=v5e:2x4", *flags)
  assert code == 3, errors
  assert printed.startswith("DOES NOT FIT")
  assert "GiB and has 15.75 GiB" in printed
  assert "does not fit" in (tmp_path / "page.html").read_text()

"""`trialbook launch preflight`: real compilations for eight CPU devices, its verdicts, searches and messages."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from in_process_command import run_command

from trialbook.errors import UserError
from trialbook.launch.preflight import chips, page, request, table
from trialbook.launch.preflight.chips import GIB, parse_topology
from trialbook.launch.preflight.commands import Wanted, preflight
from trialbook.launch.preflight.compiling import examine
from trialbook.launch.preflight.records import REPORT, Report
from trialbook.launch.preflight.request import Request, compiled
from trialbook.trainer.batch_size_search import Tried, largest

CONFIG = """
from trialbook.input_pipeline import Synthetic
from trialbook.models import TransformerConfig
from trialbook.trainer import Config, Evaluation
from trialbook.trainer.config import MeshSettings, Precision
from trialbook.trainer.optimizers import AdamW
from trialbook.trainer.tasks import LanguageModel


def get_config():
  return Config(
    dataset=Synthetic(kind="language_model", input_shape=(32,), num_outputs=512, train_examples=10**12),
    task=LanguageModel(),
    model=TransformerConfig(width=128, depth=3, heads=4, remat=True),
    optimizer=AdamW(learning_rate=1e-3),
    batch_size=16,
    precision=Precision(compute_dtype="bfloat16"),
    mesh=MeshSettings(fsdp=4),
    evaluation=Evaluation(batch_size=16),
  )
"""


WIDTH = 128
# The embedding, which is the output layer too; three blocks of attention, feed-forward network and norms; a norm.
PARAMETERS = 512 * WIDTH + 3 * (4 * (WIDTH**2 + WIDTH) + 8 * WIDTH**2 + 5 * WIDTH + 4 * WIDTH) + 2 * WIDTH


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  path = tmp_path_factory.mktemp("config") / "small.py"
  path.write_text(CONFIG)
  return path


@pytest.fixture(scope="module")
def report(config: pathlib.Path) -> Report:
  """A real program of eight devices, from the process that compiles. Its data, 10¹² texts, are on no machine."""
  return compiled(Request(config=str(config), topology="cpu:8"), progress=False)


def test_the_program_is_that_of_the_config_on_the_mesh(report: Report):
  assert report["mesh"] == {**report["mesh"], "data": 2, "fsdp": 4}
  assert (report["chips"], report["hosts"], report["batch_size"]) == (8, 8, 16)
  assert report["parameters"] == PARAMETERS
  assert set(report["functions"]) == {"init", "train_step", "eval_step"}
  assert report["verdict"] == "not known"


def test_the_flops_are_those_of_a_transformer_by_hand(report: Report):
  tokens, width, hidden, length = 16 * 32, WIDTH, 4 * WIDTH, 32
  a_layer = 2 * tokens * (4 * width * width + 2 * width * hidden) + 2 * 2 * tokens * length * width
  output = 2 * tokens * width * 512
  # Forward and twice as much backward; with remat, layers forward once more.
  expected = 3 * (4 * a_layer) + 3 * output
  step = report["functions"]["train_step"]
  assert step["asked_flops"] == pytest.approx(expected, rel=0.1)
  assert step["flops"] * 8 == pytest.approx(step["asked_flops"], rel=0.3)


def test_collectives_lie_along_the_axes_of_the_mesh(report: Report):
  groups = report["functions"]["train_step"]["collectives"]
  gathers = [group for group in groups if group["kind"] == "all-gather"]
  assert gathers
  assert {group["axis"] for group in gathers} == {"fsdp"}
  assert any("data" in group["axis"] for group in groups if group["kind"] == "all-reduce")
  assert sum(group["bytes"] for group in gathers) >= 2 * 0.9 * report["parameters"]


def test_memory_is_the_sum_of_its_parts_and_a_save_adds_the_state(report: Report):
  memory = report["memory"]
  parts = ("arguments", "temporaries", "outputs", "code", "batches", "save")
  assert memory["peak"] == sum(memory[part] for part in parts)
  assert memory["save"] == memory["state"]
  # Parameters and the two moments of AdamW in float32, nearly all of it split by four.
  assert memory["state"] == pytest.approx(3 * 4 * report["parameters"] / 4, rel=0.2)
  assert report["host"]["save"] == report["save"]["bytes"] > 0


def test_the_report_is_its_record_and_a_page(report: Report, tmp_path: pathlib.Path):
  text = "\n".join(table.lines(report))
  assert "NOT KNOWN" in text
  assert "all-gather" in text
  other: Any = {**report, "config": "<script>alert(1)</script>"}
  written = page.page([report, other], table.side_by_side([report, other], ["one", "<b>"]))
  assert "<script" not in written
  assert "&lt;script&gt;" in written
  assert "all-gather" in written
  path = tmp_path / "report.json"
  path.write_text(json.dumps(report))
  assert REPORT.read(path) == report


@pytest.fixture
def run(config: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
  def run(*flags: str) -> tuple[int, str, str]:
    return run_command(capsys, "launch", "preflight", f"--config={config}", *flags)

  return run


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--topology=v5x:16x16"],
      r"there is no chip 'v5x'; did you mean 'v5\w'\? available: a100, cpu, h100, h200, v4, v5e",
    ),
    (
      ["--topology=v5e:16x15"],
      "v5e has no slice of this shape; the nearest are v5e:16x16, v5e:8x16, v5e:8x8 ",
    ),
    (["--topology=v5e"], "v5e has no slice of this shape"),
    (["--topology=v5litepod-4"], "write CHIP:SHAPE, as in v5e:2x2,"),
    (["--topology=cpu:8", "--json=nowhere/a.json"], "--json=nowhere/a.json: there is no folder nowhere"),
    (["--topology=cpu:0"], "write cpu:NUMBER, with 1 to 1024 devices, for example cpu:8"),
    (["--topology=h100:8", "--slices=2"], "--slices=2: h100 has no slices"),
    (["--topology=cpu:8", "--slices=0"], "'0' should be a whole number of at least 1"),
    (["--topology=cpu:8", "--grace=0"], "0 is not a number above 0"),
    (["--topology=cpu:8", "--compare=x.py", "--sweep_mesh"], "not allowed with argument"),
    (["--topology=cpu:8", "--find_batch"], "unknown flag --find_batch; did you mean '--find_batch_size'"),
    (["--topology=cpu:8", "--", "x"], "unexpected argument 'x'"),
    ([], "the following arguments are required: --topology"),
  ],
)
def test_wrong_flags_are_reported_before_anything_is_compiled(run, monkeypatch, flags: list[str], message: str):
  monkeypatch.setattr(request, "start_python", lambda *_: pytest.fail("a process was started"))
  code, _, errors = run(*flags)
  assert code == 2
  assert re.search(message, errors), errors


def test_without_the_compiler_of_tpus_the_message_says_what_to_install(run, monkeypatch):
  monkeypatch.setattr(request.importlib.util, "find_spec", lambda name: None)
  code, _, errors = run("--topology=v5e:4x4")
  assert code == 2
  assert "libtpu) is not installed; it comes with the extra [tpu]: pip install 'trialbook[tpu]'" in errors


def test_a_config_that_does_not_fit_the_topology_exits_with_2(run):
  code, _, errors = run("--topology=cpu:8", "--set=mesh.fsdp=3")
  assert code == 2, errors
  assert "mesh.fsdp = 3 does not divide the 8 devices; these do: 1, 2, 4, 8" in errors


@pytest.mark.parametrize(
  ("assignments", "messages"),
  [
    (["batch_size=17"], ["batch_size = 17 cannot be split over 2 devices"]),
    (["model.heads=5", "optimizer.lerning_rate=1"], ["lerning_rate"]),
    (["model.heads=5"], ["5 heads do not divide model.width 128"]),
    (["dataset.name=shakespear"], ["shakespear"]),
    (
      ["dataset.name=array_record"],
      ["dataset.path is not set", "--info_from=DIR takes their shapes from the run.json"],
    ),
  ],
)
def test_problems_of_the_config_are_found_before_it_is_compiled(config, assignments: list[str], messages: list[str]):
  with pytest.raises(UserError) as caught:
    examine(Request(config=str(config), topology="cpu:2", assignments=["mesh.fsdp=1", *assignments]), lambda _: None)
  for message in messages:
    assert message in str(caught.value)


def test_a_workdir_without_a_record_is_named(config):
  with pytest.raises(UserError, match=r"nowhere/run\.json does not describe the dataset"):
    examine(Request(config=str(config), topology="cpu:2", info_from="nowhere"), lambda _: None)


def test_shapes_come_from_the_record_of_a_run_where_the_data_are(config: pathlib.Path, tmp_path: pathlib.Path):
  facts = {
    "name": "elsewhere",
    "input_shape": [48],
    "input_dtype": "int32",
    "num_classes": 100,
    "num_targets": None,
    "examples": {"train": 10},
    "normalization": None,
    "label_shape": [48],
  }
  record = {"format": 1, "status": "complete", "step": 1, "started": 0.0, "dataset": facts}
  (tmp_path / "run.json").write_text(json.dumps(record))
  # The dtypes of tests are strict, and jax mixes them in bfloat16.
  assignments = ["mesh.fsdp=1", "precision.compute_dtype=float32"]
  asked = Request(config=str(config), topology="h100:2", info_from=str(tmp_path), assignments=assignments)
  found = examine(asked, lambda _: None)
  # A vocabulary of 100 instead of 512.
  assert found["parameters"] == PARAMETERS - (512 - 100) * WIDTH
  assert found["changes"] == {"mesh.fsdp": "1", "precision.compute_dtype": "float32"}
  # Of a GPU, only what is too large without any temporaries is known.
  assert found["verdict"] == "not known"
  assert "temporaries are not known" in found["reason"]
  assert found["memory"]["temporaries"] == 0
  assert found["memory"]["arguments"] > 12 * found["parameters"]
  assert any("the CPU compiler stands in" in note for note in found["notes"])


def scripted(report: Report, gib: float, per_example: float, limit: float = 16.0) -> Callable[[Request], Report]:
  """Reports of a program whose memory grows with the batch: `gib` and `per_example` GiB for each example."""

  def compile_one(asked: Request) -> Report:
    size = report["batch_size"] if asked.batch_units is None else asked.batch_units * report["batch_unit"]
    peak = int((gib + per_example * size) * GIB)
    memory: Any = {**report["memory"], "peak": peak, "limit": int(limit * GIB)}
    fits = peak <= limit * GIB
    reason = "" if fits else f"a chip needs {peak / GIB:.2f} GiB and has {limit:.2f} GiB"
    made: Any = {**report, "batch_size": size, "memory": memory, "verdict": "fits" if fits else "does not fit"}
    made["reason"] = reason
    return made

  return compile_one


def test_the_largest_batch_size_is_found_with_few_compilations(report, config, capsys):
  wanted = Wanted(request=Request(config=str(config), topology="cpu:8"), find_batch_size=True)
  asked = []

  def compile_one(one: Request) -> Report:
    asked.append(one)
    return scripted(report, 3.0, 0.01)(one)

  assert preflight(wanted, compile_one) == 0
  printed = capsys.readouterr().out
  # (16 − 3) / 0.01 = 1300 examples, of which 1296 is a multiple of 8.
  assert "the largest batch size that fits is 1,296 (162 a chip); with 1,304, a chip needs 16.04 GiB" in printed
  assert len(asked) <= 6


def test_if_no_batch_size_fits_the_command_exits_with_3(report, config, capsys):
  wanted = Wanted(request=Request(config=str(config), topology="cpu:8"), find_batch_size=True)
  assert preflight(wanted, scripted(report, 17.0, 0.01)) == 3
  assert "nothing fits" in capsys.readouterr().out


def test_without_a_limit_no_batch_size_is_searched_for(report, config):
  wanted = Wanted(request=Request(config=str(config), topology="cpu:8"), find_batch_size=True)
  with pytest.raises(UserError, match="cpu has no fixed memory, so no batch size can be said to fit"):
    preflight(wanted, lambda _: report)


@pytest.mark.parametrize("boundary", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("first", [1, 5, 4096])
def test_the_search_ends_at_the_boundary_also_where_memory_is_no_line(boundary: int, first: int):
  tried = []

  def compile_size(size: int) -> Tried:
    assert size not in tried
    tried.append(size)
    return Tried(size <= boundary, 100 + size * size, 100 + boundary * boundary)

  assert largest(compile_size, first) == (boundary, boundary + 1)
  assert len(tried) < 25


def test_the_sweep_names_the_fastest_mesh_that_fits(report, config, capsys):
  def compile_one(asked: Request) -> Report:
    fsdp = asked.changes["mesh.fsdp"]
    bounds: Any = dict.fromkeys(("compute", "memory", "ici", "dcn"), 0.1)
    bounds |= {"step": 0.1 * fsdp, "intensity": 1.0, "utilisation": 0.5, "examples_per_second": 100.0}
    made: Any = {**report, "verdict": "does not fit" if fsdp == 1 else "fits", "bounds": bounds}
    made |= {"mesh": {"data": 8 // fsdp, "fsdp": fsdp}, "changes": {"mesh.fsdp": str(fsdp)}}
    return made

  wanted = Wanted(request=Request(config=str(config), topology="cpu:8"), sweep_mesh=True)
  assert preflight(wanted, compile_one) == 0
  printed = capsys.readouterr().out
  assert "the least bound of a step among the meshes that fit: --set mesh.fsdp=2" in printed
  assert printed.index("data 4, fsdp 2") < printed.index("data 8, fsdp 1")


def test_two_configs_stand_side_by_side(report, config, tmp_path, capsys):
  other = Wanted(
    request=Request(config=str(config), topology="cpu:8"),
    compare="other.py",
    json=tmp_path / "both.json",
    html=tmp_path / "both.html",
  )

  def compile_one(asked: Request) -> Report:
    made: Any = {**report, "config": asked.config}
    return made

  assert preflight(other, compile_one) == 0
  printed = capsys.readouterr().out
  assert re.search(rf"{re.escape(str(config))} +other.py\n", printed)
  assert re.search(r"parameters +([\d,]+) +\1\n", printed)
  assert len(json.loads((tmp_path / "both.json").read_text())["reports"]) == 2
  assert "other.py" in (tmp_path / "both.html").read_text()


def test_a_compiler_that_crashes_is_reported_with_its_last_lines(run, monkeypatch):
  monkeypatch.setattr(request, "START", "import os, sys; print('F0000 the cause', file=sys.stderr); os.abort()")
  code, _, errors = run("--topology=cpu:8")
  assert code == 1
  assert "the process that compiles ended while starting the compiler" in errors
  assert "F0000 the cause" in errors


def test_the_page_has_the_figures_of_the_chips():
  page_ = (pathlib.Path(__file__).parents[2] / "docs" / "pods.md").read_text()
  for name, chip in chips.CHIPS.items():
    if chip.flops is None:
      continue
    amounts = [(chip.hbm_bytes, GIB), (chip.usable_bytes, GIB), (chip.flops, 1e12), (chip.hbm_bandwidth, 1e9)]
    amounts += [(chip.ici_bandwidth, 1e9), (chip.dcn_bandwidth, 1e9)]
    cells = [name, *("" if amount is None else f"{amount / unit:.4g}" for amount, unit in amounts), chip.source]
    assert f"| {' | '.join(cells)} |\n" in page_


def test_every_topology_is_one_and_has_the_figures_of_its_chip():
  for name in chips.known():
    topology = parse_topology(name)
    assert topology.name == name
    assert topology.hosts * topology.chips_per_host == topology.chips
    chip = topology.chip
    assert chip.source
    if chip.platform != "cpu":
      assert None not in (chip.hbm_bytes, chip.flops, chip.hbm_bandwidth, chip.ici_bandwidth)
  assert parse_topology("v5e:16x16").is_ring(0)
  assert not parse_topology("v5e:8x16").is_ring(0)
  assert parse_topology("v5e:8x16").is_ring(1)
  assert parse_topology("v5p:4x4x8").is_ring(2)
  assert parse_topology("v5e:16x16", 2).chips == 512

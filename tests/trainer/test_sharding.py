"""Meshes, where a state lies on them, and that parameters split over devices train as those on every device do."""

import json
import pathlib
import re
import subprocess
import sys
import types
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec
from small_transformer import transformer
from tiny import mlp, numbers, state_of

from trialbook.errors import UserError
from trialbook.input_pipeline import load as load_data
from trialbook.models import layout
from trialbook.trainer import Config, Programs, checks, load, run, sharding
from trialbook.trainer.checkpoint_evaluation import evaluate_checkpoint
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.config import MeshSettings
from trialbook.trainer.sharding import make_mesh
from trialbook.trainer.train_step import program_settings

ROOT = pathlib.Path(__file__).resolve().parents[2]


def abstract(data: int, fsdp: int, tensor: int = 1) -> Any:
  return AbstractMesh((data, fsdp, tensor), layout.AXES, axis_types=(AxisType.Auto,) * 3)


def template(config: Config, mesh: Mesh) -> Any:
  config = config.resolved()
  info = load_data(config.dataset, seed=0, batch_size=config.batch_size).info
  return Programs().get(config, config.task.build(), info, mesh).state_template


def test_the_devices_of_a_host_stay_together_and_hold_its_slice_of_the_batch(monkeypatch: pytest.MonkeyPatch):
  # As a TPU's topology may number them: rows of chips that go through several hosts.
  devices = [types.SimpleNamespace(id=i, platform="cpu", process_index=i // 2 % 2) for i in range(8)]
  monkeypatch.setattr(sharding, "Mesh", lambda devices, axes, axis_types: devices)
  made = make_mesh(MeshSettings(fsdp=2), devices)  # pyright: ignore[reportArgumentType]
  assert [[device.id for device in row] for row in np.asarray(made)[..., 0]] == [[0, 1], [4, 5], [2, 3], [6, 7]]


@pytest.mark.parametrize("fsdp", [1, 2])
def test_replica_i_has_slice_i_of_the_batch(fsdp: int):
  mesh = make_mesh(MeshSettings(fsdp=fsdp))
  assert (mesh.axis_names, mesh.axis_types) == (("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
  assert mesh.shape == {"data": 2 // fsdp, "fsdp": fsdp, "tensor": 1}
  placed = sharding.put_batch(mesh, {"inputs": np.arange(6)})["inputs"]
  slices = {shard.device: np.asarray(shard.data).tolist() for shard in placed.addressable_shards}
  assert [slices[device] for device in jax.devices()] == [[0, 1, 2], [3, 4, 5]]


def test_a_size_that_does_not_divide_the_devices_is_refused_with_those_that_do():
  with pytest.raises(UserError, match=r"^mesh\.fsdp = 3 does not divide the 2 devices; these do: 1, 2$"):
    make_mesh(MeshSettings(fsdp=3))


def test_batches_that_cannot_be_split_are_refused_with_the_nearest_sizes_that_can():
  config = mlp(batch_size=30, evaluation__batch_size=3)
  with pytest.raises(UserError) as caught:
    checks.check_divisible(config, abstract(4, 2))
  assert caught.value.problems == [
    "batch_size = 30 cannot be split over 8 devices; 24 and 32 can",
    "evaluation.batch_size = 3 cannot be split over 8 devices; the smallest that can is 8",
  ]
  with pytest.raises(UserError, match=r"^evaluation\.batch_size = 3 cannot"):
    checks.check_divisible(config, abstract(4, 2), training=False)
  checks.check_divisible(mlp(batch_size=24, evaluation__batch_size=8), abstract(4, 2))
  # Devices that `tensor` connects have the same examples.
  checks.check_divisible(mlp(batch_size=4, evaluation__batch_size=4), abstract(2, 2, 2))
  with pytest.raises(
    UserError, match=r"^batch_size = 6 cannot be split over 4 groups of 2 devices \(mesh\.tensor\); 4 "
  ):
    checks.check_divisible(mlp(batch_size=6, evaluation__batch_size=8), abstract(2, 2, 2))


P = PartitionSpec


@pytest.mark.parametrize(
  ("name", "shape", "expected"),
  [
    ("params/hidden/kernel", (64, 512), P(None, "fsdp")),
    ("params/hidden/kernel", (512, 64), P("fsdp")),
    ("params/square/kernel", (256, 256), P("fsdp")),
    ("params/odd/kernel", (64, 513), P("fsdp")),
    ("params/conv/kernel", (3, 3, 64, 128), P(None, None, None, "fsdp")),
    ("params/indivisible/kernel", (129, 129), P()),
    ("params/just/kernel", (128, 128), P("fsdp")),
    ("params/small/kernel", (128, 124), P()),
    ("params/hidden/bias", (4096,), P()),
    ("step", (), P()),
    ("variables/norm/replica_mean", (8, 4096), P(("data", "fsdp"))),
    ("average/variables/norm/replica_var", (8, 16), P(("data", "fsdp"))),
    ("variables/norm/mean", (4096,), P()),
  ],
)
def test_large_arrays_are_split_along_their_largest_axis_that_can_be(name: str, shape: tuple[int, ...], expected: P):
  tree = jax.ShapeDtypeStruct(shape, np.float32)
  for key in reversed(name.split("/")):
    tree = {key: tree}
  (place,) = flatten(sharding.state(abstract(2, 4), tree)).values()
  assert place.spec == expected
  (place,) = flatten(sharding.state(abstract(8, 1), tree)).values()
  assert place.spec == (P(("data", "fsdp")) if "replica" in name else P())


@pytest.mark.parametrize("optimizer", ["rmsprop", "lamb", "lion"])
def test_what_the_optimizer_and_the_average_keep_of_a_parameter_lies_where_the_parameter_does(optimizer: str):
  config = transformer(optimizer__name=optimizer, averaging__decay=0.9, model__kwargs={"depth": 1})
  places = {
    name: leaf.sharding.spec for name, leaf in flatten(template(config, make_mesh(MeshSettings(fsdp=2)))).items()
  }
  params = {name.removeprefix("params/"): spec for name, spec in places.items() if name.startswith("params/")}
  assert set(params.values()) == {P(), P("fsdp"), P(None, "fsdp")}
  kept = [name for name in places if name.startswith(("opt_state/", "average/params/")) and name.count("/") > 1]
  assert len(kept) >= 2 * len(params)
  for name in kept:
    assert places[name] == params[name.split("/", 2)[2]], name


@pytest.mark.slow
def test_the_table_has_a_row_for_each_part_and_way_to_lie_and_its_bytes_are_those_of_the_arrays():
  config = transformer()
  replicated, split = (template(config, make_mesh(MeshSettings(fsdp=fsdp))) for fsdp in (1, 2))
  lines = sharding.table(make_mesh(MeshSettings(fsdp=1)), replicated)
  assert lines[0] == "mesh of 2 devices: data 2, fsdp 1, tensor 1"
  assert [line.split()[0] for line in lines[1:]] == ["part", "opt_state", "params", "all"]
  lines = sharding.table(make_mesh(MeshSettings(fsdp=2)), split)
  rows = {tuple(line.split()[:4]): line.split()[4:8] for line in lines[2:-1]}
  kernels = 4 * 2 * (128 * 384 + 128 * 128 + 2 * 128 * 512)
  assert rows["params", "split", "over", "fsdp"][:3] == ["8", f"{kernels / 1e6:.2f}", f"{kernels / 2e6:.2f}"]
  assert rows["opt_state", "split", "over", "fsdp"][:3] == ["16", f"{kernels / 5e5:.2f}", f"{kernels / 1e6:.2f}"]
  total = sum(leaf.size * leaf.dtype.itemsize for leaf in flatten(split).values())
  assert lines[-1].split()[1:3] == ["94", f"{total / 1e6:.2f}"]


@pytest.mark.slow
def test_parameters_on_two_devices_take_half_the_bytes_and_train_to_the_same_losses(tmp_path: pathlib.Path):
  programs = Programs()
  for name, fsdp in (("replicated", 1), ("split", 2)):
    run(transformer(mesh__fsdp=fsdp), tmp_path / name, programs=programs)
  for one, other in zip(numbers(tmp_path / "replicated"), numbers(tmp_path / "split"), strict=True):
    for name in one.keys() & {"train/loss", "validation/loss", "grad_norm", "update_norm"}:
      np.testing.assert_allclose(other[name], one[name], rtol=1e-5, err_msg=f"{name} at step {one['step']}")
  for (name, one), other in zip(
    state_of(tmp_path / "replicated").items(), state_of(tmp_path / "split").values(), strict=True
  ):
    assert one.shape == other.shape, name

  meshes = [make_mesh(MeshSettings(fsdp=fsdp)) for fsdp in (1, 2)]
  bytes_of = [sharding.bytes_per_device(template(transformer(), mesh)) for mesh in meshes]
  arrays = flatten(template(transformer(), meshes[1]))
  small = sum(leaf.size * leaf.dtype.itemsize for leaf in arrays.values() if leaf.size < layout.SMALLEST_SPLIT)
  assert bytes_of[1] - small == (bytes_of[0] - small) / 2
  assert small < 0.03 * bytes_of[0]


@pytest.mark.slow
def test_a_split_state_starts_from_the_same_bits_and_stays_split_and_only_parameters_are_gathered():
  config = transformer(evaluation__predictions=0).resolved()
  dataset = load_data(config.dataset, seed=0, batch_size=config.batch_size)
  first = []
  for fsdp in (1, 2):
    mesh = make_mesh(MeshSettings(fsdp=fsdp))
    program = Programs().get(config, config.task.build(), dataset.info, mesh)
    program.compile()
    settings = sharding.put_replicated(mesh, program_settings(config))
    state = program.init(settings)
    first.append(jax.device_get(state))
    state, _ = program.train_step(state, settings, sharding.put_batch(mesh, dataset.train_batch(0)))
    on_one = sum(array.addressable_shards[0].data.nbytes for array in jax.tree.leaves(state))
    assert on_one == sharding.bytes_per_device(program.state_template)
    # Where activations were gathered, layers would be split, and these be larger or more than the kernels.
    for function in (program.train_step, program.eval_step):
      gathers = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", function.as_text() or "")
      assert set(gathers) == (set() if fsdp == 1 else {"128,384", "128,128", "128,512", "512,128"})
      assert len(gathers) == (0 if fsdp == 1 else 8)
  for one, other in zip(jax.tree.leaves(first[0]), jax.tree.leaves(first[1]), strict=True):
    np.testing.assert_array_equal(one, other)


FOUR_DEVICES = """
import pathlib, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/trainer"]
import jax
jax.config.update("jax_num_cpu_devices", 4)
from small_transformer import transformer
from tiny import resnet
from trialbook.trainer import run
folder = pathlib.Path(sys.argv[2])
for fsdp in (1, 2, 4):
  run(transformer(mesh__fsdp=fsdp, model__kwargs={"depth": 1}), folder / f"fsdp{fsdp}")
run(resnet(mesh__fsdp=2, model__virtual_batch_size=2, evaluation__batch_size=256), folder / "ghost")
"""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Folder of runs made on four devices, in a process of their own."""
  folder = tmp_path_factory.mktemp("four")
  done = subprocess.run(
    [sys.executable, "-c", FOUR_DEVICES, str(ROOT), str(folder)], capture_output=True, text=True, timeout=240, cwd=ROOT
  )
  assert done.returncode == 0, done.stderr
  return folder


@pytest.mark.long
def test_four_devices_as_two_by_two_or_in_one_row_train_to_the_losses_of_replicated_parameters(four: pathlib.Path):
  expected, *others = ([line["train/loss"] for line in numbers(four / f"fsdp{fsdp}")[1:]] for fsdp in (1, 2, 4))
  assert len(expected) == 20
  for losses in others:
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["fsdp2", "fsdp4", "ghost"])
def test_a_run_is_evaluated_and_loaded_on_fewer_devices_than_made_it(four: pathlib.Path, name: str):
  recorded = numbers(four / name)[-1]
  values = evaluate_checkpoint(four / name, "last", "validation")
  assert values["validation/loss"] == pytest.approx(recorded["validation/loss"], rel=1e-5)
  assert values["validation/class_correct"] == recorded["validation/class_correct"]
  batch = load_data(mlp().dataset, seed=0, batch_size=32).eval_batch(0, "validation", 250)
  right = np.argmax(load(four / name, step="last").predict(batch["inputs"]), axis=-1) == batch["labels"]
  assert np.mean(right) == pytest.approx(values["validation/accuracy"])


def test_a_run_is_evaluated_on_devices_that_could_not_share_its_training_batches(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  with monkeypatch.context() as one_device:
    one_device.setattr(sharding, "make_mesh", lambda settings: make_mesh(settings, jax.devices()[:1]))
    run(mlp(batch_size=31), tmp_path / "run")
  recorded = numbers(tmp_path / "run")[-1]
  values = evaluate_checkpoint(tmp_path / "run", "last", "validation")
  assert values["validation/loss"] == pytest.approx(recorded["validation/loss"], rel=1e-6)
  config = json.loads((tmp_path / "run" / "config.json").read_text())
  config["evaluation"]["batch_size"] = 255
  (tmp_path / "run" / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=r"^evaluation\.batch_size = 255 .* 2 devices; 254 and 256 can$"):
    evaluate_checkpoint(tmp_path / "run", "last", "validation")


@pytest.mark.long
def test_a_run_goes_on_with_another_layout(tmp_path: pathlib.Path):
  run(transformer(mesh__fsdp=2, max_train_steps=4, schedule__name="constant"), tmp_path)
  programs = Programs()
  run(transformer(mesh__fsdp=1, max_train_steps=8, schedule__name="constant"), tmp_path, programs=programs)
  record = json.loads((tmp_path / "run.json").read_text())
  assert (record["restored_step"], record["changed"]["mesh.fsdp"]) == (4, [2, 1])

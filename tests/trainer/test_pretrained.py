"""Weights that others trained: the outputs of the source, from every kind of file; and what does not fit, told."""

import pathlib
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import public_models
import pytest
from flax import serialization
from public_models import CLASSES, IMAGE, POSITIONS, VOCABULARY, Arrays, write_safetensors
from tiny import mlp, read_arrays

from trialbook.errors import ConfigError, UserError
from trialbook.trainer import Config, Programs, run
from trialbook.trainer import load as load_model
from trialbook.trainer.checkpoints import array_files, renaming
from trialbook.trainer.checkpoints.array_files import open_arrays
from trialbook.trainer.checkpoints.renaming import Piece

IMAGES = np.random.default_rng(5).normal(size=(3, *IMAGE)).astype(np.float32)
ROWS = np.random.default_rng(5).integers(0, VOCABULARY, (3, POSITIONS))


def config(source: pathlib.Path, **changes: Any) -> Config:
  """A run of one step from weights, on data that need no normalization."""
  made = mlp(dataset__name="public_models:data", max_train_steps=1, batch_size=8, checkpointing__keep_latest=9)
  changes = {"warm_start.source": str(source)} | {path.replace("__", "."): value for path, value in changes.items()}
  return made.override({"evaluation.batch_size": 16, "evaluation.every_steps": 1, **changes})


def outputs(config: Config, workdir: pathlib.Path, inputs: np.ndarray, programs: Programs) -> np.ndarray:
  """What the model returns before its first step."""
  run(config, workdir, programs=programs)
  return np.asarray(load_model(workdir, step=0).predict(inputs))


RESNETS = {
  "basic": {"block": "basic", "stages": (1, 2), "width": 4, "imagenet": False},
  "bottleneck": {"block": "bottleneck", "stages": (2, 1), "width": 2, "imagenet": True},
}


def resnet_settings(block: str, stages: tuple[int, ...], width: int, imagenet: bool) -> dict[str, Any]:
  return {
    "model.name": "resnet",
    "model.block": block,
    "model.stage_sizes": stages,
    "model.width": width,
    "model.stem": "imagenet" if imagenet else "cifar",
  }


@pytest.mark.slow
@pytest.mark.parametrize(
  ("library", "kind"),
  [
    ("torchvision", "basic"),
    pytest.param("torchvision", "bottleneck", marks=pytest.mark.long),
    pytest.param("huggingface", "basic", marks=pytest.mark.long),
    pytest.param("huggingface", "bottleneck", marks=pytest.mark.long),
  ],
)
def test_a_resnet_from_safetensors_has_the_outputs_of_its_source(
  tmp_path: pathlib.Path, programs: Programs, kind: str, library: str
):
  arrays, expected = public_models.resnet(IMAGES, **RESNETS[kind])
  if library == "huggingface":
    arrays = {as_huggingface(name, RESNETS[kind]["block"]): array for name, array in arrays.items()}
  file = write_safetensors(tmp_path / "model.safetensors", arrays)
  made = config(file, **resnet_settings(**RESNETS[kind]), warm_start__naming=library)
  np.testing.assert_allclose(outputs(made, tmp_path / "run", IMAGES, programs), expected, atol=1e-5, rtol=1e-5)


def as_huggingface(name: str, block: str) -> str:
  """A name of torchvision's ResNet, as transformers has it."""
  head, _, rest = name.partition(".")
  layers = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
  if head == "fc":
    return f"classifier.1.{rest}"
  if head in ("conv1", "bn1"):
    return f"resnet.embedder.embedder.{layers[head[:-1]]}.{rest}"
  index, layer, rest = rest.split(".", 2)
  above = f"resnet.encoder.stages.{int(head[-1]) - 1}.layers.{index}"
  if layer == "downsample":
    number, _, leaf = rest.partition(".")
    return f"{above}.shortcut.{layers[number]}.{leaf}"
  return f"{above}.layer.{int(layer[-1]) - 1}.{layers[layer[:-1]]}.{rest}"


VIT = {
  "model.name": "vit",
  "model.width": 8,
  "model.depth": 2,
  "model.heads": 2,
  "model.patch_size": 4,
  "model.activation": "exact_gelu",
  "model.norm_epsilon": 1e-6,
}


@pytest.mark.slow
@pytest.mark.parametrize(
  "library",
  [
    "timm",
    pytest.param("torchvision", marks=pytest.mark.long),
    pytest.param("huggingface", marks=pytest.mark.long),
  ],
)
def test_a_vision_transformer_from_safetensors_has_the_outputs_of_its_source(
  tmp_path: pathlib.Path, programs: Programs, library: str
):
  arrays, expected = public_models.vit(IMAGES, library, width=8, depth=2, heads=2, patch=4)
  file = write_safetensors(tmp_path / "model.safetensors", arrays)
  made = config(file, **VIT, warm_start__naming=library)
  np.testing.assert_allclose(outputs(made, tmp_path / "run", IMAGES, programs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.long
def test_a_gpt2_from_safetensors_has_the_outputs_of_its_source(tmp_path: pathlib.Path, programs: Programs):
  arrays, expected = public_models.gpt2(ROWS, width=8, depth=2, heads=2)
  file = write_safetensors(tmp_path / "model.safetensors", arrays)
  model = {"model.name": "transformer", "model.width": 8, "model.depth": 2, "model.heads": 2}
  data = {"dataset.name": "public_models:tokens", "task.name": "language_model", "model.positions": "learned"}
  made = config(file, **model, **data, warm_start__naming="huggingface")
  np.testing.assert_allclose(outputs(made, tmp_path / "run", ROWS, programs), expected, atol=1e-5, rtol=1e-5)


NAMES = (("^first/w$", "hidden/0/linear/kernel"), ("^first/b$", "hidden/0/linear/bias"), ("^last/(.*)$", r"output/\1"))


def own_arrays() -> Arrays:
  """Weights of an MLP with 5 hidden units, under names of one's own."""
  rng, features = np.random.default_rng(0), int(np.prod(IMAGE))
  shapes = {"first/w": (features, 5), "first/b": (5,), "last/kernel": (5, CLASSES), "last/bias": (CLASSES,)}
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def logits(arrays: Arrays) -> np.ndarray:
  hidden = np.maximum(IMAGES.reshape(len(IMAGES), -1).astype(np.float64) @ arrays["first/w"] + arrays["first/b"], 0)
  return hidden @ arrays["last/kernel"] + arrays["last/bias"]


def nested(arrays: Arrays) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for name, array in arrays.items():
    above, last = name.split("/")
    found.setdefault(above, {})[last] = array
  return found


def npz(folder: pathlib.Path, arrays: Arrays) -> pathlib.Path:
  named: Any = arrays
  np.savez(folder / "weights.npz", **named)
  return folder / "weights.npz"


def msgpack(folder: pathlib.Path, arrays: Arrays) -> pathlib.Path:
  (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(nested(arrays)))
  return folder / "flax_model.msgpack"


def orbax(folder: pathlib.Path, arrays: Arrays) -> pathlib.Path:
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save((folder / "orbax").resolve(), nested(arrays))
  return folder / "orbax"


def shards(folder: pathlib.Path, arrays: Arrays) -> pathlib.Path:
  files = {name: f"model-{number:05}.safetensors" for number, name in enumerate(arrays)}
  for name, file in files.items():
    write_safetensors(folder / file, {name: arrays[name]})
  index = folder / "model.safetensors.index.json"
  index.write_text(f'{{"metadata": {{}}, "weight_map": {files!r}}}'.replace("'", '"'))
  return index


FORMATS: dict[str, Callable[[pathlib.Path, Arrays], pathlib.Path]] = {
  "npz": npz,
  "msgpack": msgpack,
  "orbax": orbax,
  "shards": shards,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_has_the_same_arrays_under_names_of_ones_own(tmp_path: pathlib.Path, programs: Programs, kind: str):
  arrays = own_arrays()
  source = FORMATS[kind](tmp_path, arrays)
  opened = open_arrays(source)
  assert dict(opened.arrays) == {name: (array.shape, array.dtype) for name, array in arrays.items()}
  for name, array in arrays.items():
    np.testing.assert_array_equal(opened.read(name), array)
  made = config(source, model__widths=(5,), warm_start__names=NAMES)
  np.testing.assert_allclose(outputs(made, tmp_path / "run", IMAGES, programs), logits(arrays), atol=1e-5, rtol=1e-5)


def test_weights_are_those_of_the_average_too_and_others_are_drawn(tmp_path: pathlib.Path, programs: Programs):
  arrays = own_arrays()
  source = npz(tmp_path, {name: arrays[name] for name in ("first/w", "first/b")})
  made = config(source, model__widths=(5,), averaging__decay=0.5, warm_start__names=NAMES)
  run(made.override({"warm_start.exclude": ("output/*",)}), tmp_path / "run", programs=programs)
  first = read_arrays(tmp_path / "run" / "checkpoints" / "0")
  for prefix in ("params/", "average/params/"):
    np.testing.assert_array_equal(first[f"{prefix}hidden/0/linear/kernel"], arrays["first/w"])
  fresh = made.override({"warm_start": None})
  run(fresh, tmp_path / "fresh", programs=programs)
  drawn = read_arrays(tmp_path / "fresh" / "checkpoints" / "0")
  np.testing.assert_array_equal(first["params/output/kernel"], drawn["params/output/kernel"])


def test_what_the_file_has_beside_is_reported_and_what_is_optional_is_drawn(
  tmp_path: pathlib.Path, programs: Programs, capsys: pytest.CaptureFixture[str]
):
  arrays = own_arrays()
  source = npz(tmp_path, {"first/w": arrays["first/w"], "first/b": arrays["first/b"], "extra": arrays["first/b"]})
  made = config(source, model__widths=(5,), warm_start__names=NAMES, warm_start__optional=("output/*",))
  run(made, tmp_path / "run", programs=programs, progress=True)
  told = capsys.readouterr()
  text = " ".join((told.out + told.err).split())
  assert "also has extra, for which the model has no place" in text
  assert "has nothing for 2 arrays (output/bias, output/kernel), drawn instead" in text


def without(*names: str) -> Callable[[Arrays], Arrays]:
  return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


def other(**changes: np.ndarray) -> Callable[[Arrays], Arrays]:
  return lambda arrays: arrays | {name.replace("__", "/"): array for name, array in changes.items()}


WRONG: dict[str, tuple[Callable[[Arrays], Arrays], dict[str, Any], str]] = {
  "missing": (without("last/bias"), {}, r"has nothing for output/bias of the model.*warm_start\.optional"),
  "missing and surplus": (
    lambda arrays: without("last/bias")(arrays) | {"last/b": arrays["last/bias"]},
    {},
    r"nothing for output/bias.*also has last/b \(as output/b\), for which the model has no place",
  ),
  "no names": (dict, {"names": ()}, r"has nothing for 4 arrays \(.*also has 4 arrays \(first/w, "),
  "a shape": (
    other(last__bias=np.zeros(9, np.float32)),
    {},
    r"output/bias: 'last/bias' is float32\[9\], the model needs float32\[4\]",
  ),
  "a dtype": (
    other(last__bias=np.zeros(CLASSES, np.float16)),
    {},
    r"output/bias: 'last/bias' is float16\[4\], the model needs float32\[4\]; set warm_start\.cast to true",
  ),
  "whole numbers": (
    other(last__bias=np.zeros(CLASSES, np.int64)),
    {"cast": True},
    r"'last/bias' is int64\[4\], the model needs float32\[4\]$",
  ),
  "axes of torch": (
    dict,
    {"axes": "torch"},
    r"output/kernel: 'last/kernel' is float32\[5, 4\], here \[4, 5\], the model needs float32\[5, 4\]",
  ),
  "wrong axes": (dict, {"transposes": {"output/kernel": (0, 2)}}, r"output/kernel: 'last/kernel' is float32\[5, 4\]: "),
  "twice": (dict, {"names": (*NAMES, ("kernel", "bias"))}, r"'last/kernel' and 'last/bias' both become 'output/bias'"),
  "no group": (dict, {"names": (("first", r"\1"),)}, r"'first' cannot become '\\\\1': invalid group reference"),
  "no expression": (
    dict,
    {"names": (("(first", "x"),)},
    r"warm_start\.names\.0 = '\(first': is not a regular expression",
  ),
  "no library": (dict, {"naming": "timm"}, r"warm_start\.naming = 'timm': its names for model 'mlp' are not known"),
  "no parameter": (dict, {"include": ("outptu/*",)}, r"matches no parameter; did you mean 'output/"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: pathlib.Path, programs: Programs, case: str):
  change, settings, message = WRONG[case]
  source = npz(tmp_path, change(own_arrays()))
  settings = {f"warm_start__{name}": value for name, value in ({"names": NAMES} | settings).items()}
  with pytest.raises(UserError, match=f"(?s){message}"):
    run(config(source, model__widths=(5,), **settings), tmp_path / "run", programs=programs)
  assert not (tmp_path / "run").exists()


def test_floats_of_another_dtype_are_converted_if_that_is_asked_for(tmp_path: pathlib.Path, programs: Programs):
  arrays = own_arrays()
  halves = {name: array.astype(jnp.bfloat16) for name, array in arrays.items()}
  source = write_safetensors(tmp_path / "weights.safetensors", halves)
  made = config(source, model__widths=(5,), warm_start__names=NAMES, warm_start__cast=True)
  run(made, tmp_path / "run", programs=programs)
  first = read_arrays(tmp_path / "run" / "checkpoints" / "0")
  assert first["params/output/kernel"].dtype == np.float32
  np.testing.assert_array_equal(first["params/output/kernel"], halves["last/kernel"].astype(np.float32))


def test_the_settings_of_files_are_refused_for_a_run(tmp_path: pathlib.Path, programs: Programs):
  run(mlp(max_train_steps=1), tmp_path / "source", programs=programs)
  with pytest.raises(ConfigError, match=r"warm_start\.axes: is for files of weights, but .* is a checkpoint of a run"):
    run(mlp(warm_start__source=str(tmp_path / "source"), warm_start__axes="torch"), tmp_path / "run", programs=programs)


def test_names_are_pieces_of_stacks_and_parts_of_fused_arrays():
  rules = ((r"^h\.(\d+)\.(.*)$", r"blocks/\2[\1]"), (r"qkv", "{query,key}/kernel"), (r"^unused$", ""))
  assert renaming.pieces(["h.3.qkv", "unused", "plain"], rules) == [
    Piece("h.3.qkv", 0, 2, "blocks/query/kernel", 3),
    Piece("h.3.qkv", 1, 2, "blocks/key/kernel", 3),
    Piece("plain", 0, 1, "plain", None),
  ]


class Planted:
  """What runs code when it is unpickled."""

  def __reduce__(self) -> tuple[Any, ...]:
    return pathlib.Path.touch, (pathlib.Path("planted"),)


def test_no_code_in_a_file_is_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(tmp_path)
  np.savez(tmp_path / "objects.npz", weights=np.array([Planted()], object))
  with pytest.raises(
    ConfigError, match=r"objects\.npz: cannot be read: 'weights.npy' holds Python objects, which are never loaded"
  ):
    open_arrays(tmp_path / "objects.npz")
  (tmp_path / "weights.bin").write_bytes(pickle.dumps({"weights": Planted()}))
  with pytest.raises(ConfigError, match=r"weights\.bin: (reading it needs torch|cannot be read)"):
    open_arrays(tmp_path / "weights.bin")
  assert not (tmp_path / "planted").exists()


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
  "empty": (lambda whole: b"", "its first eight bytes are not the length of a header"),
  "a header that is cut off": (lambda whole: whole[:40], "its first eight bytes are not the length of a header"),
  "arrays that are cut off": (lambda whole: whole[:-1], "the bytes of .* are not in the file, which was cut off"),
  "no JSON": (lambda whole: whole[:8] + b"?" + whole[9:], "its header is not JSON"),
  "an unknown dtype": (lambda whole: whole.replace(b'"F32"', b'"F99"'), "has the dtype 'F99', which is not known"),
  "a wrong shape": (lambda whole: whole.replace(b"[5, 4]", b"[5, 5]"), r"has 80 bytes, but F32\[5, 5\] needs 100"),
  "no dtype": (lambda whole: whole.replace(b'"dtype"', b'"dtyqe"'), "does not say dtype, shape and place of"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_safetensors_file_is_named_with_what_is_wrong(tmp_path: pathlib.Path, damage: str):
  whole = write_safetensors(tmp_path / "whole.safetensors", own_arrays()).read_bytes()
  change, message = DAMAGES[damage]
  assert change(whole) != whole
  (tmp_path / "weights.safetensors").write_bytes(change(whole))
  with pytest.raises(ConfigError, match=rf"weights\.safetensors: cannot be read: .*{message}"):
    open_arrays(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("kind", ["npz", "msgpack"])
def test_a_damaged_file_of_another_kind_is_named(tmp_path: pathlib.Path, kind: str):
  source = FORMATS[kind](tmp_path, own_arrays())
  source.write_bytes(source.read_bytes()[:200])
  with pytest.raises(ConfigError, match=rf"{source.name}: cannot be read: "):
    open_arrays(source)


def test_an_index_names_files_beside_it_that_hold_what_it_says(tmp_path: pathlib.Path):
  index = shards(tmp_path, own_arrays())
  text = index.read_text()
  for change, message in {
    "../model": r"it names '\.\./model-00000\.safetensors'",
    "else": r"else-00000\.safetensors: there is no such file",
  }.items():
    index.write_text(text.replace("model-00000", f"{change}-00000"))
    with pytest.raises(ConfigError, match=message):
      open_arrays(index)
  index.write_text(text.replace('"first/w"', '"first/v"'))
  with pytest.raises(ConfigError, match=r"model-00000\.safetensors does not hold 'first/v'"):
    open_arrays(index)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("nothing", "there is no such file or folder"),
    ("weights.h5", r"this kind of file cannot be read; these can: \.safetensors, \.npz"),
    ("empty", "is a folder without a run, a file of weights or a checkpoint of Orbax"),
    ("downloaded", r"is a folder; name what is in it: model\.safetensors$"),
    ("sharded", r"is a folder; name what is in it: model\.safetensors\.index\.json$"),
    ("step", "is a folder; name what is in it: default/$"),
  ],
)
def test_a_source_that_has_no_reader_is_refused_with_what_has_one(tmp_path: pathlib.Path, name: str, message: str):
  (tmp_path / "weights.h5").write_bytes(b"")
  for folder in ("empty", "downloaded", "sharded", "step"):
    (tmp_path / folder).mkdir()
  for file in ("config.json", "model.safetensors"):
    (tmp_path / "downloaded" / file).write_text("{}")
  shards(tmp_path / "sharded", own_arrays())
  orbax(tmp_path / "step", own_arrays()).rename(tmp_path / "step" / "default")
  assert array_files.problem(tmp_path / name) is not None
  with pytest.raises(ConfigError, match=message):
    open_arrays(tmp_path / name)


def test_arrays_are_read_one_at_a_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  source = npz(tmp_path, own_arrays())
  read: list[str] = []
  original = zipfile.ZipFile.open

  def opened(self: zipfile.ZipFile, name: Any, *arguments: Any, **named: Any) -> Any:
    read.append(getattr(name, "filename", name))
    return original(self, name, *arguments, **named)

  file = open_arrays(source)
  monkeypatch.setattr(zipfile.ZipFile, "open", opened)
  file.read("last/bias")
  assert read == ["last/bias.npy"]

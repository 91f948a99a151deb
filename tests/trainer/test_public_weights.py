"""Weights of the libraries themselves: what they write is read, and their outputs are ours."""

import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import public_models
import pytest
from public_models import CLASSES, POSITIONS, VOCABULARY
from test_pretrained import config, outputs
from tiny import read_arrays

from trialbook.errors import ConfigError
from trialbook.trainer import Programs, run
from trialbook.trainer.checkpoints.array_files import open_arrays

pytestmark = pytest.mark.evidence

SIZE = 32
IMAGES = np.random.default_rng(5).normal(size=(3, SIZE, SIZE, 3)).astype(np.float32)


def library(name: str) -> Any:
  """A library, or a skip where it is not installed."""
  pytest.importorskip("torch")
  return pytest.importorskip(name)


def data() -> dict[str, Any]:
  rng = np.random.default_rng(1)

  def split(count: int) -> dict[str, Any]:
    return {"inputs": rng.normal(size=(count, SIZE, SIZE, 3)).astype(np.float32), "labels": np.arange(count) % CLASSES}

  return {"train": split(16), "validation": split(16)}


def with_statistics(model: Any) -> Any:
  """A model of torch with random batch statistics and norms, since those at the start hide mistakes."""
  torch = importlib.import_module("torch")
  torch.manual_seed(0)
  for name, value in [*model.named_parameters(), *model.named_buffers()]:
    if value.dtype.is_floating_point and ("norm" in name or "bn" in name or "ln" in name or value.ndim == 1):
      value.data = torch.rand(value.shape) + 0.5
    elif "token" in name or "pos" in name:
      value.data = torch.randn(value.shape)
  return model.eval()


def torchvision_resnet(block: str) -> tuple[Any, dict[str, Any]]:
  resnet = library("torchvision").models.resnet
  kind = resnet.BasicBlock if block == "basic" else resnet.Bottleneck
  model = resnet.ResNet(kind, [1, 2, 1, 1], num_classes=CLASSES)
  return model, {"model.block": block, "warm_start.naming": "torchvision"} | RESNET


RESNET = {"model.name": "resnet", "model.stem": "imagenet", "model.stage_sizes": (1, 2, 1, 1), "model.width": 64}


def timm_resnet() -> tuple[Any, dict[str, Any]]:
  resnet = library("timm").models.resnet
  model = resnet.ResNet(resnet.BasicBlock, [1, 2, 1, 1], num_classes=CLASSES)
  return model, {"warm_start.naming": "timm"} | RESNET


def huggingface_resnet() -> tuple[Any, dict[str, Any]]:
  transformers = library("transformers")
  about = transformers.ResNetConfig(
    layer_type="basic", depths=[1, 2, 1, 1], hidden_sizes=[64, 128, 256, 512], embedding_size=64, num_labels=CLASSES
  )
  return transformers.ResNetForImageClassification(about), {"warm_start.naming": "huggingface"} | RESNET


VIT = {
  "model.name": "vit",
  "model.width": 24,
  "model.depth": 3,
  "model.heads": 3,
  "model.patch_size": 8,
  "model.activation": "exact_gelu",
  "model.norm_epsilon": 1e-6,
}


def torchvision_vit() -> tuple[Any, dict[str, Any]]:
  vision = library("torchvision").models.vision_transformer
  model = vision.VisionTransformer(SIZE, 8, 3, 3, 24, 96, num_classes=CLASSES)
  return model, VIT | {"warm_start.naming": "torchvision"}


def timm_vit() -> tuple[Any, dict[str, Any]]:
  vision = library("timm").models.vision_transformer
  model = vision.VisionTransformer(SIZE, 8, embed_dim=24, depth=3, num_heads=3, num_classes=CLASSES)
  return model, VIT | {"warm_start.naming": "timm"}


def huggingface_vit() -> tuple[Any, dict[str, Any]]:
  transformers = library("transformers")
  about = transformers.ViTConfig(
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=3,
    intermediate_size=96,
    image_size=SIZE,
    patch_size=8,
    num_labels=CLASSES,
  )
  settings = VIT | {"warm_start.naming": "huggingface", "model.norm_epsilon": 1e-12}
  return transformers.ViTForImageClassification(about), settings


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
  "torchvision resnet, basic": lambda: torchvision_resnet("basic"),
  "torchvision resnet, bottleneck": lambda: torchvision_resnet("bottleneck"),
  "timm resnet": timm_resnet,
  "huggingface resnet": huggingface_resnet,
  "torchvision vit": torchvision_vit,
  "timm vit": timm_vit,
  "huggingface vit": huggingface_vit,
  "huggingface vit, saved": huggingface_vit,
}


def logits(model: Any, inputs: np.ndarray) -> np.ndarray:
  torch = importlib.import_module("torch")
  with torch.no_grad():
    found = model(torch.from_numpy(inputs))
  return getattr(found, "logits", found).numpy()


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_a_library_has_its_outputs_from_the_file_that_the_library_writes(
  tmp_path: pathlib.Path, programs: Programs, kind: str
):
  model, settings = MODELS[kind]()
  model, file = with_statistics(model), tmp_path / "model.safetensors"
  if kind.endswith("saved"):
    model.save_pretrained(tmp_path)
  else:
    library("safetensors.torch").save_file(model.state_dict(), str(file))
  made = config(file, dataset__name="test_public_weights:data", **settings)
  expected = logits(model, IMAGES.transpose(0, 3, 1, 2).copy())
  found = outputs(made, tmp_path / "run", IMAGES, programs)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_gpt2_has_its_outputs_from_what_transformers_saves(tmp_path: pathlib.Path, programs: Programs):
  transformers = library("transformers")
  about = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=12, n_layer=3, n_head=2)
  model = with_statistics(transformers.GPT2LMHeadModel(about))
  model.save_pretrained(tmp_path / "gpt2")
  settings = {"model.name": "transformer", "model.width": 12, "model.depth": 3, "model.heads": 2}
  settings |= {"dataset.name": "public_models:tokens", "task.name": "language_model", "model.positions": "learned"}
  made = config(tmp_path / "gpt2" / "model.safetensors", warm_start__naming="huggingface", **settings)
  rows = np.random.default_rng(5).integers(0, VOCABULARY, (3, POSITIONS))
  expected = logits(model, rows)
  found = outputs(made, tmp_path / "run", rows, programs)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_state_dict_of_torch_is_read_one_tensor_at_a_time_in_every_dtype(tmp_path: pathlib.Path):
  torch = library("torch")
  tensors = {
    "half": torch.randn(3, 4).to(torch.bfloat16),
    "turned": torch.randn(3, 4).T,
    "number": torch.tensor(7),
    "whole": torch.arange(5),
  }
  for name, zipped in (("new.pth", True), ("old.bin", False)):
    state = {"epoch": 3, "state_dict": tensors}
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    file = open_arrays(tmp_path / name)
    assert set(file.arrays) == {f"state_dict.{key}" for key in tensors}
    for key, tensor in tensors.items():
      read = file.read(f"state_dict.{key}")
      assert file.arrays[f"state_dict.{key}"] == (read.shape, read.dtype)
      np.testing.assert_array_equal(read.astype(np.float64), tensor.to(torch.float64).numpy())


def test_a_pickle_with_code_is_refused_by_torch(tmp_path: pathlib.Path):
  torch = library("torch")
  torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "module.pth")
  with pytest.raises(ConfigError, match=r"module\.pth: cannot be read: .*[Ww]eights"):
    open_arrays(tmp_path / "module.pth")


def test_a_state_dict_of_torch_starts_a_run(tmp_path: pathlib.Path, programs: Programs):
  torch = library("torch")
  arrays, _ = public_models.resnet(IMAGES[:, :8, :8], block="basic", stages=(1,), width=4, imagenet=False)
  torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "model.pth")
  made = config(tmp_path / "model.pth", model__name="resnet", model__stage_sizes=(1,), model__width=4)
  run(made.override({"warm_start.naming": "torchvision"}), tmp_path / "run", programs=programs)
  first = read_arrays(tmp_path / "run" / "checkpoints" / "0")
  np.testing.assert_array_equal(first["params/output/kernel"], arrays["fc.weight"].T)

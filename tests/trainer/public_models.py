"""Small networks as other libraries have them: their weights by the names there, and their outputs by NumPy alone.

Arrays have the axes of torch: kernels are [outputs, inputs, ...], images [batch, channels, height, width].
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

IMAGE, CLASSES = (8, 8, 3), 4
Arrays = dict[str, np.ndarray]


def data() -> dict[str, Any]:
  rng = np.random.default_rng(1)

  def split(count: int) -> dict[str, Any]:
    return {"inputs": rng.normal(size=(count, *IMAGE)).astype(np.float32), "labels": np.arange(count) % CLASSES}

  return {"train": split(32), "validation": split(16)}


def tokens() -> dict[str, Any]:
  rng = np.random.default_rng(1)

  def split(count: int) -> dict[str, Any]:
    rows = np.arange(count * 7).reshape(count, 7) % VOCABULARY
    return {"inputs": rows[:, :-1], "labels": rng.permuted(rows, axis=1)[:, 1:]}

  return {"train": split(32), "validation": split(16)}


def write_safetensors(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> pathlib.Path:
  """Write a file by the description of the format: https://huggingface.co/docs/safetensors."""
  kinds = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "bfloat16": "BF16", "bool": "BOOL"}
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  place = 0
  for name, array in arrays.items():
    header[name] = {
      "dtype": kinds[str(array.dtype)],
      "shape": list(array.shape),
      "data_offsets": [place, place + array.nbytes],
    }
    place += array.nbytes
  text = json.dumps(header).encode()
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
      file.write(np.ascontiguousarray(array).tobytes())
  return path


class Drawn:
  """Weights that are drawn when they are first asked for, as float32; computed with in float64."""

  def __init__(self, seed: int = 0):
    self.rng, self.arrays = np.random.default_rng(seed), Arrays()

  def __call__(self, name: str, *shape: int, mean: float = 0.0, scale: float = 0.3) -> np.ndarray:
    self.arrays[name] = (mean + scale * self.rng.normal(size=shape)).astype(np.float32)
    return self.arrays[name].astype(np.float64)


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
  pad, size = kernel.shape[-1] // 2, kernel.shape[-1]
  x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
  return np.einsum("bihwkl,oikl->bohw", windows, kernel)


def resnet(
  images: np.ndarray, *, block: str, stages: tuple[int, ...], width: int, imagenet: bool
) -> tuple[Arrays, Any]:
  """Return weights and logits of a network with torchvision's names, in evaluation."""
  weight = Drawn()

  def layer(x: np.ndarray, conv: str, bn: str, outputs: int, size: int, stride: int) -> np.ndarray:
    fan = x.shape[1] * size * size
    x = convolved(x, weight(f"{conv}.weight", outputs, x.shape[1], size, size, scale=fan**-0.5), stride)
    scale, shift = weight(f"{bn}.weight", outputs, mean=1.0), weight(f"{bn}.bias", outputs)
    mean, var = weight(f"{bn}.running_mean", outputs), weight(f"{bn}.running_var", outputs, mean=2.0, scale=0.1)
    weight.arrays[f"{bn}.num_batches_tracked"] = np.array(7, np.int64)
    scale = scale / np.sqrt(var + 1e-5)
    return x * scale[:, None, None] + (shift - mean * scale)[:, None, None]

  x = images.transpose(0, 3, 1, 2).astype(np.float64)
  x = np.maximum(layer(x, "conv1", "bn1", width, 7 if imagenet else 3, 2 if imagenet else 1), 0)
  if imagenet:
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(-2, -1))
  for stage, size in enumerate(stages):
    for index in range(size):
      name, inner = f"layer{stage + 1}.{index}", width * 2**stage
      outputs, stride = inner * (4 if block == "bottleneck" else 1), 2 if stage and not index else 1
      plan = [(inner, 3, stride), (inner, 3, 1)]
      plan = [(inner, 1, 1), (inner, 3, stride), (outputs, 1, 1)] if block == "bottleneck" else plan
      y = x
      for number, (features, kernel, step) in enumerate(plan, 1):
        y = layer(y, f"{name}.conv{number}", f"{name}.bn{number}", features, kernel, step)
        y = np.maximum(y, 0) if number < len(plan) else y
      if x.shape != y.shape:
        x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", outputs, 1, stride)
      x = np.maximum(x + y, 0)
  logits = x.mean(axis=(2, 3)) @ weight("fc.weight", CLASSES, x.shape[1]).T + weight("fc.bias", CLASSES)
  return weight.arrays, logits


def normalized(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: float) -> np.ndarray:
  centered = x - x.mean(axis=-1, keepdims=True)
  return centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + epsilon) * scale + shift


def attended(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int, *, causal: bool) -> np.ndarray:
  query, key, value = (x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (query, key, value))
  scores = query @ key.swapaxes(2, 3) / math.sqrt(query.shape[-1])
  if causal:
    scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
  scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
  mean = scores / scores.sum(axis=-1, keepdims=True) @ value
  return mean.swapaxes(1, 2).reshape(mean.shape[0], mean.shape[2], -1)


VIT = {
  "timm": {
    "token": "cls_token",
    "positions": "pos_embed",
    "patches": "patch_embed.proj",
    "block": "blocks.{}",
    "norms": ("norm1", "norm2"),
    "qkv": "attn.qkv.{}",
    "output": "attn.proj",
    "hidden": ("mlp.fc1", "mlp.fc2"),
    "norm": "norm",
    "head": "head",
  },
  "torchvision": {
    "token": "class_token",
    "positions": "encoder.pos_embedding",
    "patches": "conv_proj",
    "block": "encoder.layers.encoder_layer_{}",
    "norms": ("ln_1", "ln_2"),
    "qkv": "self_attention.in_proj_{}",
    "output": "self_attention.out_proj",
    "hidden": ("mlp.0", "mlp.3"),
    "norm": "encoder.ln",
    "head": "heads.head",
  },
  "huggingface": {
    "token": "vit.embeddings.cls_token",
    "positions": "vit.embeddings.position_embeddings",
    "patches": "vit.embeddings.patch_embeddings.projection",
    "block": "vit.encoder.layer.{}",
    "norms": ("layernorm_before", "layernorm_after"),
    "qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "output": "attention.output.dense",
    "hidden": ("intermediate.dense", "output.dense"),
    "norm": "vit.layernorm",
    "head": "classifier",
  },
}
"""Names of a vision transformer's arrays, by library."""


def vit(images: np.ndarray, library: str, *, width: int, depth: int, heads: int, patch: int) -> tuple[Arrays, Any]:
  """Return weights and logits of a vision transformer with a library's names, exact GELU and epsilon 1e-6."""
  from scipy.special import erf

  names: Mapping[str, Any] = VIT[library]
  weight = Drawn()

  def linear(x: np.ndarray, name: str, outputs: int) -> np.ndarray:
    kernel = weight(f"{name}.weight", outputs, x.shape[-1], scale=x.shape[-1] ** -0.5)
    return x @ kernel.T + weight(f"{name}.bias", outputs)

  def norm(x: np.ndarray, name: str) -> np.ndarray:
    return normalized(x, weight(f"{name}.weight", width, mean=1.0), weight(f"{name}.bias", width), 1e-6)

  def query_key_value(x: np.ndarray, block: str) -> list[np.ndarray]:
    if not isinstance(names["qkv"], str):
      return [linear(x, f"{block}.{name}", width) for name in names["qkv"]]
    kernel = weight(f"{block}.{names['qkv'].format('weight')}", 3 * width, width, scale=width**-0.5)
    return np.split(x @ kernel.T + weight(f"{block}.{names['qkv'].format('bias')}", 3 * width), 3, axis=-1)

  x = images.transpose(0, 3, 1, 2).astype(np.float64)
  kernel = weight(f"{names['patches']}.weight", width, x.shape[1], patch, patch, scale=0.1)
  cut = x.reshape(*x.shape[:2], x.shape[2] // patch, patch, x.shape[3] // patch, patch)
  x = np.einsum("bciyjx,ocyx->bijo", cut, kernel).reshape(len(x), -1, width)
  x = x + weight(f"{names['patches']}.bias", width)
  x = np.concatenate([np.tile(weight(names["token"], 1, 1, width), (len(x), 1, 1)), x], axis=1)
  x = x + weight(names["positions"], 1, x.shape[1], width)
  for index in range(depth):
    block = names["block"].format(index)
    query, key, value = query_key_value(norm(x, f"{block}.{names['norms'][0]}"), block)
    mean = attended(query, key, value, heads, causal=False)
    x = x + linear(mean, f"{block}.{names['output']}", width)
    hidden = linear(norm(x, f"{block}.{names['norms'][1]}"), f"{block}.{names['hidden'][0]}", 4 * width)
    hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
    x = x + linear(hidden, f"{block}.{names['hidden'][1]}", width)
  return weight.arrays, linear(norm(x, names["norm"])[:, 0], names["head"], CLASSES)


VOCABULARY, POSITIONS = 11, 6


def gpt2(rows: np.ndarray, *, width: int, depth: int, heads: int) -> tuple[Arrays, Any]:
  """Return weights and logits of a language model with the names and axes of Hugging Face's GPT-2."""
  weight = Drawn()

  def linear(x: np.ndarray, name: str, outputs: int) -> np.ndarray:
    kernel = weight(f"{name}.weight", x.shape[-1], outputs, scale=x.shape[-1] ** -0.5)
    return x @ kernel + weight(f"{name}.bias", outputs)

  def norm(x: np.ndarray, name: str) -> np.ndarray:
    return normalized(x, weight(f"{name}.weight", width, mean=1.0), weight(f"{name}.bias", width), 1e-5)

  table = weight("transformer.wte.weight", VOCABULARY, width)
  x = table[rows] + weight("transformer.wpe.weight", POSITIONS, width)[: rows.shape[1]]
  for index in range(depth):
    block = f"transformer.h.{index}"
    weight.arrays[f"{block}.attn.bias"] = np.ones((1, 1, POSITIONS, POSITIONS), bool)
    fused = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn", 3 * width)
    query, key, value = np.split(fused, 3, axis=-1)
    x = x + linear(attended(query, key, value, heads, causal=True), f"{block}.attn.c_proj", width)
    hidden = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc", 4 * width)
    hidden = hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))) / 2
    x = x + linear(hidden, f"{block}.mlp.c_proj", width)
  logits = norm(x, "transformer.ln_f") @ table.T
  weight.arrays["lm_head.weight"] = weight.arrays["transformer.wte.weight"]
  return weight.arrays, logits

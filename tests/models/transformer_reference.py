"""Transformers in NumPy, float64, position by position where it is cheap: what the models are compared with."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

EPSILON = 1e-5


def parameters(model, seed=0):
  """Gives a model parameters none of which is zero or one; returns them, nested, in float64."""
  rng = np.random.default_rng(seed)
  params = nnx.state(model, nnx.Param)
  new = jax.tree.map(lambda value: jnp.asarray(0.5 * rng.normal(size=value.shape), jnp.float32), params)
  nnx.update(model, new)
  return jax.tree.map(lambda value: np.asarray(value, np.float64), nnx.to_pure_dict(new))


def layer(stacked, index):
  """One layer's parameters of those of all."""
  return {key: layer(value, index) if isinstance(value, dict) else value[index] for key, value in stacked.items()}


def linear(params, x):
  return x @ params["kernel"] + params.get("bias", 0)


def layer_norm(params, x):
  centered = x - x.mean(-1, keepdims=True)
  standard = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + EPSILON)
  return standard * params["scale"] + params["bias"]


def rotate(x):
  """x [length, features]: pairs (k, k + features / 2) as complex numbers, turned by position / 10000^(2k/features)."""
  length, features = x.shape
  half = features // 2
  pairs = x[:, :half] + 1j * x[:, half:]
  turned = pairs * np.exp(1j * np.arange(length)[:, None] / 10_000 ** (2 * np.arange(half) / features))
  return np.concatenate([turned.real, turned.imag], axis=1)


def attention(params, x, heads, *, causal, rotary):
  """x [batch, length, width]."""
  query, key, value = (linear(params[name], x) for name in ("query", "key", "value"))
  result = np.zeros_like(x)
  size = x.shape[-1] // heads
  for example in range(len(x)):
    for head in range(heads):
      features = slice(head * size, (head + 1) * size)
      q, k, v = query[example, :, features], key[example, :, features], value[example, :, features]
      if rotary:
        q, k = rotate(q), rotate(k)
      for position in range(x.shape[1]):
        seen = slice(position + 1 if causal else None)
        weights = np.exp(k[seen] @ q[position] / np.sqrt(size))
        result[example, position, features] = weights @ v[seen] / weights.sum()
  return linear(params["output"], result)


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x):
  return x / (1 + np.exp(-x))


def feed_forward(params, x, activation):
  hidden = linear(params["hidden"], x)
  if activation == "swiglu":
    hidden = silu(linear(params["gate"], x)) * hidden
  else:
    hidden = {"gelu": gelu, "relu": lambda h: np.maximum(h, 0)}[activation](hidden)
  return linear(params["output"], hidden)


def block(params, x, config, *, causal, rotary):
  branches = {
    "attention_norm": lambda y: attention(params["attention"], y, config.heads, causal=causal, rotary=rotary),
    "feed_forward_norm": lambda y: feed_forward(params, y, config.activation),
  }
  for norm, branch in branches.items():
    if config.norm_placement == "pre":
      x = x + branch(layer_norm(params[norm], x))
    else:
      x = layer_norm(params[norm], x + branch(x))
  return x


def blocks(params, x, config, *, causal, rotary):
  """All blocks, and the last normalization where there is one."""
  for index in range(config.depth):
    x = block(layer(params["blocks"]["layer"], index), x, config, causal=causal, rotary=rotary)
  return layer_norm(params["norm"], x) if config.norm_placement == "pre" else x

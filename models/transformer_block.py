"""The block from which all transformers here are built: attention and a feed-forward network as residual branches."""

from typing import Literal

from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from trialbook.models.activation import ACTIVATIONS
from trialbook.models.attention import Attention
from trialbook.models.dropout import Dropout
from trialbook.models.initializer import scaled_normal
from trialbook.models.normalization import LayerNorm, Norm, norm
from trialbook.models.stack import Stack
from trialbook.settings import Settings, Static, Traced

# Gated units (Shazeer 2020): the activation of one linear map, times another one.
GATED = {"geglu": "gelu", "swiglu": "silu"}


class BlockConfig(Settings):
  """The settings that all transformers have in common.

  `depth` blocks of `width` features; `heads` divides `width`. The feed-forward network's hidden layer has
  `mlp_ratio` times `width` features; the gated activations "geglu" and "swiglu" have three matrices instead
  of two, so that 2/3 of the ratio has as many parameters. `norm_placement` is "pre", x + f(norm(x)), or "post",
  norm(x + f(x)), as in Vaswani et al. (2017), which needs warmup and fails in deep networks (Xiong et al. 2020).
  `zero_init_residual` starts the last matrix of each branch f at zero. `remat` computes a block's intermediate
  results again in the backward pass instead of keeping them. `attention` is computed by the "fastest" kernel that the
  platform has (splash attention on TPUs, cuDNN's for 16-bit floats on GPUs), or always by "xla". Dropout, absent if its
  rate is None, is on the embeddings and at the end of each branch.
  """

  width: Static[PositiveInt] = 256
  depth: Static[PositiveInt] = 6
  heads: Static[PositiveInt] = 4
  mlp_ratio: Static[float] = Field(default=4.0, gt=0)
  activation: Static[Literal["relu", "gelu", "silu", "tanh", "geglu", "swiglu"]] = "gelu"
  norm_placement: Static[Literal["pre", "post"]] = "pre"
  zero_init_residual: Static[bool] = False
  remat: Static[bool] = False
  attention: Static[Literal["fastest", "xla"]] = "fastest"
  dropout_rate: Traced[float | None] = Field(default=None, ge=0, lt=1)


def problems(config: BlockConfig) -> list[str]:
  """Return the problems of settings that are each in their range."""
  if config.width % config.heads == 0:
    return []
  divisors = [str(n) for n in range(1, config.width + 1) if config.width % n == 0]
  uneven = f"model.heads: {config.heads} heads do not divide model.width {config.width}"
  return [f"{uneven}; these do: {', '.join(divisors)}"]


def blocks(config: BlockConfig, *, causal: bool = False, rotary: bool = False, rngs: nnx.Rngs) -> Stack:
  """Make all blocks of a transformer; their output still needs `last_norm`."""

  def make(rngs: nnx.Rngs) -> nnx.Module:
    return Block(config, causal=causal, rotary=rotary, rngs=rngs)

  return Stack(make, config.depth, remat=config.remat, rngs=rngs)


def last_norm(config: BlockConfig, *, rngs: nnx.Rngs) -> Norm:
  """Make the layer that normalizes the sum of all branches; with "post", the last block did that already."""
  return norm("layer" if config.norm_placement == "pre" else "none", config.width, rngs=rngs)


class Block(nnx.Module):
  """The input plus attention's result, and then plus the result of a feed-forward network."""

  def __init__(self, config: BlockConfig, *, causal: bool, rotary: bool, rngs: nnx.Rngs):
    last = nnx.initializers.zeros if config.zero_init_residual else scaled_normal(1.0, "in")
    width = config.width
    kinds = {"causal": causal, "rotary": rotary, "fastest": config.attention == "fastest"}
    self.attention = Attention(width, config.heads, **kinds, output_init=last, rngs=rngs)
    self.attention_norm = LayerNorm(width, rngs=rngs)
    hidden = max(1, round(config.mlp_ratio * width))
    gated = config.activation in GATED
    self.gate = nnx.Linear(width, hidden, kernel_init=scaled_normal(1.0, "in"), rngs=rngs) if gated else None
    self.hidden = nnx.Linear(width, hidden, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)
    self.activation = ACTIVATIONS[GATED.get(config.activation, config.activation)]
    self.output = nnx.Linear(hidden, width, kernel_init=last, rngs=rngs)
    self.feed_forward_norm = LayerNorm(width, rngs=rngs)
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)
    self.pre_norm = config.norm_placement == "pre"

  def __call__(self, x: Float[Array, "batch length width"], *, train: bool) -> Float[Array, "batch length width"]:
    for branch, normalize in ((self.attention, self.attention_norm), (self._feed_forward, self.feed_forward_norm)):
      y = branch(normalize(x, train=train) if self.pre_norm else x)
      x = x + (y if self.dropout is None else self.dropout(y, train=train))
      x = x if self.pre_norm else normalize(x, train=train)
    return x

  def _feed_forward(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
    hidden = self.hidden(x)
    gated = self.activation(hidden) if self.gate is None else self.activation(self.gate(x)) * hidden
    return self.output(gated)

"""The block from which all transformers here are built: attention and a feed-forward network as residual branches."""

from collections.abc import Mapping
from typing import Annotated, Literal

from flax import nnx
from jaxtyping import Array, Float
from pydantic import BeforeValidator, Field, PositiveInt

from trialbook.models import layout, rematerialization
from trialbook.models.activation import ACTIVATIONS
from trialbook.models.attention import Attention
from trialbook.models.dropout import Dropout
from trialbook.models.initializer import scaled_normal
from trialbook.models.layout import DATA_AXES, TENSOR
from trialbook.models.normalization import LayerNorm, Norm, norm
from trialbook.models.rematerialization import Remat, saved
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
  `norm_epsilon` is added to each variance.
  `zero_init_residual` starts the last matrix of each branch f at zero. Dropout, absent if its rate is None, is on the
  embeddings and at the end of each branch.

  `remat` says what the backward pass of a block computes again, so that it need not be kept: all but the block's input
  ("full"); all but the results of products with parameters ("dots"); all but three results of the size of the input
  ("names"); or the same as "names", with these in the memory of the host ("offload"). None computes nothing again.

  `attention` is computed by the "fastest" kernel that the platform has (splash attention on TPUs, cuDNN's for 16-bit
  floats on GPUs), or always by "xla".
  """

  width: Static[PositiveInt] = 256
  depth: Static[PositiveInt] = 6
  heads: Static[PositiveInt] = 4
  mlp_ratio: Static[float] = Field(default=4.0, gt=0)
  activation: Static[Literal["relu", "gelu", "exact_gelu", "silu", "tanh", "geglu", "swiglu"]] = "gelu"
  norm_placement: Static[Literal["pre", "post"]] = "pre"
  norm_epsilon: Static[float] = Field(default=1e-5, gt=0)
  zero_init_residual: Static[bool] = False
  remat: Static[Annotated[Remat | None, BeforeValidator(rematerialization.of_flag)]] = None
  attention: Static[Literal["fastest", "xla"]] = "fastest"
  dropout_rate: Traced[float | None] = Field(default=None, ge=0, lt=1)


def problems(config: BlockConfig) -> list[str]:
  """Return the problems of settings that are each in their range."""
  if config.width % config.heads == 0:
    return []
  divisors = [str(n) for n in range(1, config.width + 1) if config.width % n == 0]
  uneven = f"model.heads: {config.heads} heads do not divide model.width {config.width}"
  return [f"{uneven}; these do: {', '.join(divisors)}"]


def tensor_problems(config: BlockConfig, tensor: int) -> list[str]:
  """Return why `mesh.tensor` cannot split the blocks, naming the sizes that can."""
  sizes = {"heads (model.heads)": config.heads, "hidden features (model.mlp_ratio)": hidden_features(config)}
  fitting = [str(n) for n in range(1, config.heads + 1) if all(size % n == 0 for size in sizes.values())]
  return [
    f"mesh.tensor = {tensor} does not divide the {size} {name}; these do: {', '.join(fitting)}"
    for name, size in sizes.items()
    if size % tensor
  ]


def hidden_features(config: BlockConfig) -> int:
  """Return the number of features of the hidden layer of a feed-forward network."""
  return max(1, round(config.mlp_ratio * config.width))


def blocks(config: BlockConfig, *, causal: bool = False, rotary: bool = False, rngs: nnx.Rngs) -> Stack:
  """Make all blocks of a transformer; their output still needs `last_norm`."""

  def make(rngs: nnx.Rngs) -> nnx.Module:
    return Block(config, causal=causal, rotary=rotary, rngs=rngs)

  return Stack(make, config.depth, remat=config.remat, rngs=rngs)


def last_norm(config: BlockConfig, *, rngs: nnx.Rngs) -> Norm:
  """Make the layer that normalizes the sum of all branches; with "post", the last block did that already."""
  if config.norm_placement == "post":
    return norm("none", config.width, rngs=rngs)
  return LayerNorm(config.width, epsilon=config.norm_epsilon, rngs=rngs)


class Block(nnx.Module):
  """The input plus attention's result, and then plus the result of a feed-forward network."""

  def __init__(self, config: BlockConfig, *, causal: bool, rotary: bool, rngs: nnx.Rngs):
    last = nnx.initializers.zeros if config.zero_init_residual else scaled_normal(1.0, "in")
    width = config.width
    kinds = {"causal": causal, "rotary": rotary, "fastest": config.attention == "fastest"}
    self.attention = Attention(width, config.heads, **kinds, output_init=last, rngs=rngs)
    self.attention_norm = LayerNorm(width, epsilon=config.norm_epsilon, rngs=rngs)
    hidden = hidden_features(config)
    gated = config.activation in GATED
    self.gate = nnx.Linear(width, hidden, kernel_init=scaled_normal(1.0, "in"), rngs=rngs) if gated else None
    self.hidden = nnx.Linear(width, hidden, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)
    self.activation = ACTIVATIONS[GATED.get(config.activation, config.activation)]
    self.output = nnx.Linear(hidden, width, kernel_init=last, rngs=rngs)
    self.feed_forward_norm = LayerNorm(width, epsilon=config.norm_epsilon, rngs=rngs)
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)
    self.pre_norm = config.norm_placement == "pre"

  @property
  def sharding_rules(self) -> Mapping[str, layout.Axes]:
    """Return how `mesh.tensor` splits a block: by heads, and by features of the hidden layer."""
    split = ["attention/query", "attention/key", "attention/value", "hidden", *(["gate"] if self.gate else [])]
    return {
      **{f"{name}/kernel": (None, TENSOR) for name in split},
      **{f"{name}/bias": (TENSOR,) for name in split},
      **{f"{name}/kernel": (TENSOR,) for name in ("attention/output", "output")},
    }

  def __call__(self, x: Float[Array, "batch length width"], *, train: bool) -> Float[Array, "batch length width"]:
    for branch, normalize in ((self.attention, self.attention_norm), (self._feed_forward, self.feed_forward_norm)):
      y = saved(branch(normalize(x, train=train) if self.pre_norm else x), "branch")
      x = x + (y if self.dropout is None else self.dropout(y, train=train))
      x = x if self.pre_norm else normalize(x, train=train)
      x = layout.activations(x, DATA_AXES, TENSOR, None)
    return x

  def _feed_forward(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
    def split(linear: nnx.Linear) -> Float[Array, "batch length hidden"]:
      return layout.activations(linear(x), DATA_AXES, None, TENSOR)

    hidden = split(self.hidden)
    gated = self.activation(hidden) if self.gate is None else self.activation(split(self.gate)) * hidden
    return self.output(gated)

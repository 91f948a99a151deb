"""A decoder-only transformer: a language model over whole-number tokens."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Num
from pydantic import PositiveInt

from trialbook.models import layout, transformer_block
from trialbook.models.dropout import Dropout
from trialbook.models.embedding import Embedding
from trialbook.models.initializer import scaled_normal
from trialbook.models.layout import DATA_AXES, TENSOR
from trialbook.models.tiled_logits import TiledLogits
from trialbook.models.transformer_block import BlockConfig
from trialbook.settings import Static


class TransformerConfig(BlockConfig):
  """A causal language model; the width, depth and so on of its blocks are `BlockConfig`'s.

  `positions` are "rotary" (Su et al. 2021), which turn queries and keys and have no parameters, or "learned", a
  vector for each. `tie_embeddings` uses the tokens' vectors as the output layer too (Press & Wolf 2017). In training,
  logits are computed for `logit_tiles` parts of the length one after the other, and again in the backward pass, which
  saves memory where the vocabulary is large.
  """

  name: Static[Literal["transformer"]] = "transformer"
  positions: Static[Literal["rotary", "learned"]] = "rotary"
  tie_embeddings: Static[bool] = True
  logit_tiles: Static[PositiveInt] = 1


def problems(config: TransformerConfig) -> list[str]:
  """Return the problems of settings that are each in their range."""
  if found := transformer_block.problems(config):
    return found
  features = config.width // config.heads
  if config.positions == "rotary" and features % 2:
    pairs = f"rotary rotates pairs of features, but a head has {features} (model.width / model.heads)"
    return [f"model.positions: {pairs}; choose an even number, or learned positions"]
  return []


class Transformer(nnx.Module):
  """A model from tokens [batch, length] to logits [batch, length, num_outputs], those of the token after each.

  With more than one of `config.logit_tiles`, they are `TiledLogits` in training.

  A token is a whole number in [0, num_outputs); another one gives NaN. The logits at a position depend on the tokens
  up to it. Inputs may be shorter than `input_shape` says. Tables of vectors start as normal numbers with
  standard deviation 0.02 (Radford et al. 2019).

  Raises:
    ValueError: `input_shape` is not (length,), or `logit_tiles` do not divide the length; or, at a call, tokens are
      not integers, or more than there are learned positions.
  """

  def __init__(self, config: TransformerConfig, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
    if len(input_shape) != 1:
      raise ValueError(f"a transformer needs rows of tokens, of shape (length,); the inputs have shape {input_shape}")
    if input_shape[0] % config.logit_tiles:
      fitting = ", ".join(str(n) for n in range(1, input_shape[0] + 1) if input_shape[0] % n == 0)
      raise ValueError(
        f"model.logit_tiles = {config.logit_tiles} does not divide the length {input_shape[0]}; these do: {fitting}"
      )
    self.logit_tiles = config.logit_tiles
    self.embedding = Embedding(num_outputs, config.width, std=0.02, rngs=rngs)
    rotary = config.positions == "rotary"
    table = None if rotary else 0.02 * jax.random.normal(rngs.params(), (*input_shape, config.width), jnp.float32)
    self.positions = None if table is None else nnx.Param(table)
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)
    self.blocks = transformer_block.blocks(config, causal=True, rotary=rotary, rngs=rngs)
    self.norm = transformer_block.last_norm(config, rngs=rngs)
    head = None
    if not config.tie_embeddings:
      head = nnx.Linear(config.width, num_outputs, use_bias=False, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)
    self.output = head

  @property
  def sharding_rules(self) -> Mapping[str, layout.Axes]:
    """Return how `mesh.tensor` splits the blocks, and the vocabulary if it divides that."""
    rules = {f"blocks/{pattern}": axes for pattern, axes in self.blocks.sharding_rules.items()}
    if layout.divides(TENSOR, self.embedding.table.shape[0]):
      rules["embedding/table"] = (TENSOR,)
      if self.output is not None:
        rules["output/kernel"] = (None, TENSOR)
    return rules

  def __call__(self, tokens: Num[Array, "batch length"], *, train: bool) -> Any:
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
      raise ValueError(f"a transformer's inputs must be integers, but are {tokens.dtype}; is the dataset a text?")
    x = self.embedding(tokens)
    if self.positions is not None:
      if tokens.shape[1] > self.positions.shape[0]:
        raise ValueError(
          f"the inputs have {tokens.shape[1]} tokens, but there are {self.positions.shape[0]} learned positions"
        )
      x = x + self.positions[: tokens.shape[1]]
    x = layout.activations(x, DATA_AXES, TENSOR, None)
    x = x if self.dropout is None else self.dropout(x, train=train)
    x = self.norm(self.blocks(x, train=train), train=train)
    if train and self.logit_tiles > 1:
      if tokens.shape[1] % self.logit_tiles:
        raise ValueError(
          f"model.logit_tiles = {self.logit_tiles} does not divide the {tokens.shape[1]} tokens of a row"
        )
      kernel = self.embedding.table[...].T if self.output is None else self.output.kernel[...]
      return TiledLogits(x, kernel, self.logit_tiles)
    logits = self.embedding.similarity(x) if self.output is None else self.output(x)
    return layout.activations(logits, DATA_AXES, None, TENSOR)

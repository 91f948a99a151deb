"""A masked autoencoder (He et al. 2021, arXiv:2111.06377): it predicts the hidden patches of images without labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trialbook import Call, Mean


def data(examples: int = 256, validation_examples: int = 100, size: int = 16, seed: int = 0) -> dict:
  """Return images of waves in random directions, inputs uint8 [n, size, size, 1], and nothing else."""
  rng = np.random.default_rng(seed)
  return {"train": _split(rng, examples, size), "validation": _split(rng, validation_examples, size)}


def _split(rng: np.random.Generator, n: int, size: int) -> dict:
  row, column = np.mgrid[:size, :size] / size
  direction, phase = rng.uniform(0, 2 * np.pi, (2, n, 1, 1))
  waves = np.sin(4 * (row * np.sin(direction) + column * np.cos(direction)) + phase)
  images = 127 + 80 * waves + rng.normal(0, 10, waves.shape)
  return {"inputs": images.clip(0, 255).astype(np.uint8)[..., None]}


xavier_uniform = nnx.initializers.xavier_uniform()
Linear = functools.partial(nnx.Linear, kernel_init=xavier_uniform)
Attention = functools.partial(nnx.MultiHeadAttention, kernel_init=xavier_uniform, decode=False)


class Block(nnx.Module):
  """A transformer block that normalizes before attention and before the MLP."""

  def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
    self.norm_1, self.norm_2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
    self.attention = Attention(heads, width, rngs=rngs)
    self.up, self.down = Linear(width, 2 * width, rngs=rngs), Linear(2 * width, width, rngs=rngs)

  def __call__(self, x):
    """Return [B, L, width] for [B, L, width]."""
    x = x + self.attention(self.norm_1(x))
    return x + self.down(jax.nn.gelu(self.up(self.norm_2(x))))


class MaskedAutoencoder(nnx.Module):
  """An encoder of the visible patches, and a decoder that sees a learned token at the place of each hidden one."""

  def __init__(self, width: int = 32, heads: int = 2, *, num_outputs: int, rngs: nnx.Rngs):
    self.embed = Linear(num_outputs, width, rngs=rngs)
    self.encoder = Block(width, heads, rngs=rngs)
    self.mask_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (width,)))
    self.decoder = Block(width, heads, rngs=rngs)
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.output = Linear(width, num_outputs, rngs=rngs)

  def __call__(self, patches, visible):
    """Return a prediction of all patches, [B, P, pixels].

    Args:
      patches: of a square image, [B, P, pixels].
      visible: indices of the patches that the encoder sees, int [B, V].
    """
    x = self.embed(patches)
    positions_PxD = positions(patches.shape[1], x.shape[-1])
    rows = jnp.arange(x.shape[0])[:, None]
    encoded_BxVxD = self.encoder((x + positions_PxD)[rows, visible])
    x = jnp.broadcast_to(self.mask_token[...], x.shape).at[rows, visible].set(encoded_BxVxD)
    return self.output(self.norm(self.decoder(x + positions_PxD)))


def positions(count: int, width: int):
  """Return sines and cosines of the row and the column of each patch of a square, [count, width]."""
  side = round(count**0.5)
  frequencies = 10.0 ** -np.linspace(0, 2, width // 4)
  angles = np.indices((side, side)).reshape(2, count, 1) * frequencies
  return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).swapaxes(0, 1).reshape(count, width))


class Reconstruction:
  """The squared error of the pixels of hidden patches.

  Attributes:
    patch: the side of a patch in pixels.
    hidden: the share of patches that the encoder does not see.
  """

  def __init__(self, patch: int = 4, hidden: float = 0.75):
    self.patch, self.hidden = patch, hidden

  def keys(self, info) -> list[str]:
    """Return the keys of a batch that are needed."""
    return ["inputs"]

  def num_outputs(self, info) -> int:
    """Return the number of pixels of a patch, all channels counted."""
    return self.patch**2 * info.spec["inputs"][0][-1]

  def prepare(self, batch, rngs) -> dict:
    """Return patches [B, P, pixels], indices of the visible ones [B, V], and 1 for each hidden one, [B, P]."""
    patches = self._patches(batch["inputs"])
    count = patches.shape[1]
    order = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(rngs("mask")).argsort(axis=1)
    visible = order[:, : count - round(self.hidden * count)]
    hidden = 1 - jax.nn.one_hot(visible, count).sum(axis=1)
    return {"patches": patches, "visible": visible, "hidden": hidden}

  def model_inputs(self, batch):
    """Return the arguments of the model."""
    return Call(batch["patches"], batch["visible"])

  def loss(self, outputs, batch):
    """Return the mean over all hidden patches of the batch."""
    errors = jnp.square(outputs - batch["patches"]).mean(axis=-1)
    return Mean(errors * batch["hidden"], batch["hidden"])

  def metrics(self, outputs, batch) -> dict:
    """Return the mean square of hidden pixels, which is their variance, since the mean of all inputs is 0."""
    return {"variance": Mean(jnp.square(batch["patches"]).mean(axis=-1) * batch["hidden"], batch["hidden"])}

  def split_metrics(self) -> dict:
    """Return the share of the variance that the model explains."""
    return {"explained_variance": lambda means, rows: 1 - means["loss"] / means["variance"]}

  def _patches(self, images):
    batch, height, width, channels = images.shape
    grid = images.reshape(batch, height // self.patch, self.patch, width // self.patch, self.patch, channels)
    return grid.swapaxes(2, 3).reshape(batch, -1, self.patch**2 * channels)


def config() -> dict:
  """Return overrides that train it, by dotted path."""
  return {
    "dataset.name": "masked_autoencoder:data",
    "model.name": "masked_autoencoder:MaskedAutoencoder",
    "model.kwargs.width": 32,
    "task.name": "masked_autoencoder:Reconstruction",
    "task.kwargs.patch": 4,
    "task.kwargs.hidden": 0.75,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 5e-3,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 40,
    "evaluation.every_steps": 30,
  }

"""A denoising diffusion model (Ho et al. 2020, arXiv:2006.11239) with samples by DDIM (Song et al. 2021)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from trialbook import Call

TIMES = 1000
# Share of the images in the variance of noisy images at each time, by the linear schedule of Ho et al.
SIGNAL_SHARE = np.cumprod(1 - np.linspace(1e-4, 0.02, TIMES)).astype(np.float32)


def data(examples: int = 256, validation_examples: int = 100, seed: int = 0) -> dict:
  """Return images of discs between -1 and 1, inputs [n, 8, 8, 1], and nothing else."""
  rng = np.random.default_rng(seed)
  return {"train": _split(rng, examples), "validation": _split(rng, validation_examples)}


def _split(rng: np.random.Generator, n: int) -> dict:
  row, column = np.mgrid[:8, :8]
  center = rng.uniform(2, 5, (2, n, 1, 1))
  distance = np.hypot(row - center[0], column - center[1])
  return {"inputs": np.tanh(2.5 - distance)[..., None].astype(np.float32)}


xavier_uniform = nn.initializers.xavier_uniform()
Conv = functools.partial(nn.Conv, kernel_size=(3, 3), kernel_init=xavier_uniform)
Dense = functools.partial(nn.Dense, kernel_init=xavier_uniform)


class Denoiser(nn.Module):
  """A residual convolutional network with the time as a second input. Its output starts at 0."""

  width: int = 16
  depth: int = 1

  @nn.compact
  def __call__(self, images, times):
    """Return the noise in images [B, H, W, C] at times [B], [B, H, W, C]."""
    angles = times[:, None] / TIMES * 2.0 ** jnp.arange(6)
    embedded = nn.silu(Dense(self.width)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)))
    x = Conv(self.width)(images)
    for _ in range(self.depth):
      scale, shift = jnp.split(Dense(2 * self.width)(embedded)[:, None, None], 2, axis=-1)
      x = x + Conv(self.width)(nn.silu((1 + scale) * nn.LayerNorm()(x) + shift))
    return Conv(images.shape[-1], kernel_init=nn.initializers.zeros)(x)


class Denoising:
  """The squared error of the predicted noise, each example at one random time.

  At an evaluation each example has its own noise and time, always the same. `moment_distance` compares samples with the
  images of the split, one sample for each. It is the root mean square, over pixels, of the differences of means and of
  standard deviations.

  Attributes:
    sampling_steps: number of DDIM steps of a sample.
  """

  def __init__(self, sampling_steps: int = 10):
    self.sampling_steps = sampling_steps

  def keys(self, info) -> list[str]:
    """Return the keys of a batch that are needed."""
    return ["inputs"]

  def prepare(self, batch, rngs, train) -> dict:
    """Return images, their noise, times [B] and noisy images; at an evaluation also noise to start a sample from."""
    images = batch["inputs"]
    times = jax.vmap(lambda key: jax.random.randint(key, (), 0, TIMES))(rngs("time"))
    noise = _noise(rngs("noise"), images)
    share = _share(times)
    noisy = jnp.sqrt(share) * images + jnp.sqrt(1 - share) * noise
    prepared = {"inputs": images, "noise": noise, "times": times, "noisy": noisy}
    return prepared if train else {**prepared, "start": _noise(rngs("start"), images)}

  def model_inputs(self, batch):
    """Return the arguments of the model."""
    return Call(batch["noisy"], batch["times"])

  def loss(self, outputs, batch):
    """Return the error of each example, [B]."""
    return jnp.square(outputs - batch["noise"]).mean(axis=(1, 2, 3))

  def rows(self, outputs, batch, model) -> dict:
    """Return a sample for each example, and the example itself."""

    def step(noisy, times):
      now, after = times
      noise = model(noisy, jnp.full(noisy.shape[0], now))
      image = (noisy - jnp.sqrt(1 - _share(now)) * noise) / jnp.sqrt(_share(now))
      image = image.clip(-1, 1)
      # After the last step nothing is left of the noise.
      share = jnp.where(after < 0, 1.0, _share(after))
      return jnp.sqrt(share) * image + jnp.sqrt(1 - share) * noise, None

    times = np.linspace(TIMES - 1, -1, self.sampling_steps + 1).round().astype(np.int32)
    samples, _ = jax.lax.scan(step, batch["start"], (times[:-1], times[1:]))
    return {"samples": samples, "images": batch["inputs"]}

  def split_metrics(self) -> dict:
    """Return the distance of samples and images."""

    def moment_distance(means, rows):
      moments = [np.stack([rows[name].mean(axis=0), rows[name].std(axis=0)]) for name in ("samples", "images")]
      return np.sqrt(np.square(moments[0] - moments[1]).mean())

    return {"moment_distance": moment_distance}


def _share(times):
  """Return `SIGNAL_SHARE` at times, with axes for height, width and channels."""
  return jnp.asarray(SIGNAL_SHARE)[times][..., None, None, None]


def _noise(keys, images):
  """Return standard normal noise for images [B, ...], from a key for each."""
  return jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)


def config() -> dict:
  """Return overrides that train it, by dotted path."""
  return {
    "dataset.name": "diffusion:data",
    "model.name": "diffusion:Denoiser",
    "model.kwargs.width": 16,
    "task.name": "diffusion:Denoising",
    "task.kwargs.sampling_steps": 10,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 5e-3,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 40,
    "evaluation.every_steps": 30,
  }

"""AlgoPerf's fastMRI workload: a U-Net that reconstructs images from a quarter of their frequencies, scored by SSIM.

The data are pictures of ellipses in place of knees. Sizes and definitions follow Dahl et al. (2023), "Benchmarking
Neural Network Training Algorithms", arXiv:2306.07179, and their repository github.com/mlcommons/algorithmic-efficiency.
Data and model are those of Zbontar et al. (2018), arXiv:1811.08839.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trialbook import Config

ACCELERATION, CENTER = 4, 0.08
"""One of ACCELERATION columns of frequencies is measured; of all columns, the share CENTER in the middle always is."""
WINDOW = 7
"""Size of the windows in which SSIM compares two images, in pixels."""


def data(examples: int = 128, validation_examples: int = 50, size: int = 24) -> dict[str, dict[str, np.ndarray]]:
  """Return blurred inputs and sharp targets [n, size, size], normalized, with what undoes that for each example [n].

  Both have the mean and the deviation of the input removed, which are in "mean" and "std"; "volume_max" is the largest
  value of the volume that the image is a slice of. Here each image is a volume of its own.
  """
  rng = np.random.default_rng(0)

  def split(n: int) -> dict[str, np.ndarray]:
    pictures = _ellipses(rng, n, size)
    blurred = abs(np.fft.ifft2(np.fft.fft2(pictures) * _measured(rng, n, pictures.shape[2])))
    blurred, targets = (_center(images, size) for images in (blurred, pictures))
    mean, std = blurred.mean(axis=(1, 2)), blurred.std(axis=(1, 2))

    def normalized(images: np.ndarray) -> np.ndarray:
      return ((images - mean[:, None, None]) / std[:, None, None]).clip(-6, 6)

    arrays = {
      "inputs": normalized(blurred),
      "targets": normalized(targets),
      "mean": mean,
      "std": std,
      "volume_max": targets.max(axis=(1, 2)),
    }
    return {key: array.astype(np.float32) for key, array in arrays.items()}

  return {"train": split(examples), "validation": split(validation_examples)}


def _ellipses(rng: np.random.Generator, n: int, size: int, count: int = 4) -> np.ndarray:
  """Return sums of ellipses [n, 2 * size, size + 1/8]. The scanner sees more than the image, as the published one."""
  row, column = np.mgrid[: 2 * size, : size + size // 8] / size - [[[1.0]], [[0.5625]]]
  pictures = np.zeros((n, *row.shape))
  for _ in range(count):
    center, angle = rng.uniform(-0.25, 0.25, (2, n, 1, 1)), rng.uniform(0, np.pi, (n, 1, 1))
    radii, brightness = rng.uniform(0.1, 0.35, (2, n, 1, 1)), rng.uniform(0.2, 1, (n, 1, 1))
    y, x = row - center[0], column - center[1]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    pictures += brightness * ((along / radii[0]) ** 2 + (across / radii[1]) ** 2 < 1)
  return pictures * rng.uniform(0.5, 2, (n, 1, 1))


def _measured(rng: np.random.Generator, n: int, columns: int) -> np.ndarray:
  """Return which columns of frequencies are measured, bool [n, 1, columns], in the order of `np.fft`."""
  always = int(columns * CENTER)
  chance = (columns / ACCELERATION - always) / (columns - always)
  is_measured = rng.random((n, columns)) < chance
  first = (columns - always + 1) // 2
  is_measured[:, first : first + always] = True
  return np.fft.ifftshift(is_measured, axes=1)[:, None]


def _center(images: np.ndarray, size: int) -> np.ndarray:
  top, left = ((length - size) // 2 for length in images.shape[1:])
  return images[:, top : top + size, left : left + size]


class UNet(nnx.Module):
  """Two convolutions at each of `depth` + 1 resolutions, and back, without biases but in the last layer.

  Args:
    width: number of channels at the full resolution; it doubles at each lower one.
    depth: how often the resolution is halved. The image size is a multiple of 2 ** depth.
    rngs: the streams `params` and `dropout`.
  """

  def __init__(self, width: int = 8, depth: int = 1, *, rngs: nnx.Rngs):
    widths = [width * 2**level for level in range(depth)]
    self.down = nnx.List(Convolutions(size // 2 if size > width else 1, size, rngs) for size in widths)
    self.middle = Convolutions(widths[-1], 2 * widths[-1], rngs)
    self.widen = nnx.List(
      nnx.ConvTranspose(2 * size, size, (2, 2), (2, 2), use_bias=False, rngs=rngs) for size in reversed(widths)
    )
    self.up = nnx.List(Convolutions(2 * size, size, rngs) for size in reversed(widths))
    self.output = nnx.Conv(width, 1, (1, 1), rngs=rngs)
    self.rngs = rngs

  def __call__(self, images, train: bool, dropout_rate=0.0):
    """Return images [B, H, W] for images [B, H, W]."""

    def drop(x_BxHxWxC):
      if not train:
        return x_BxHxWxC
      # Whole channels are dropped.
      shape = (len(x_BxHxWxC), 1, 1, x_BxHxWxC.shape[-1])
      is_kept = jax.random.bernoulli(self.rngs.dropout(), 1 - dropout_rate, shape)
      return jnp.where(is_kept, x_BxHxWxC / (1 - dropout_rate), 0)

    x, skipped = images[..., None], []
    for convolutions in self.down:
      x = convolutions(x, drop)
      skipped.append(x)
      x = nnx.avg_pool(x, (2, 2), (2, 2))
    x = self.middle(x, drop)
    for widen, convolutions in zip(self.widen, self.up, strict=True):
      x = jnp.concatenate([_activation(widen(x)), skipped.pop()], axis=-1)
      x = convolutions(x, drop)
    return self.output(x)[..., 0]


class Convolutions(nnx.Module):
  """Two 3×3 convolutions, each with its activation and dropout."""

  def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
    self.first = nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs)
    self.second = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)

  def __call__(self, x_BxHxWxC, drop):
    return drop(_activation(self.second(drop(_activation(self.first(x_BxHxWxC))))))


def _activation(x_BxHxWxC):
  """Normalize each channel of each image, then apply a leaky ReLU."""
  return nnx.leaky_relu(jax.nn.standardize(x_BxHxWxC, axis=(1, 2), epsilon=1e-5), 0.2)


class Reconstruction:
  """Minimize the mean absolute error of the normalized images; score the images as they were by SSIM."""

  def keys(self, info):
    return ["inputs", "targets", "mean", "std", "volume_max"]

  def loss(self, outputs, batch):
    return jnp.mean(jnp.abs(outputs - batch["targets"]), axis=(1, 2))

  def metrics(self, outputs, batch):
    mean, std = batch["mean"][:, None, None], batch["std"][:, None, None]
    found = ssim(outputs * std + mean, batch["targets"] * std + mean, batch["volume_max"])
    return {"ssim": found.clip(-1, 1)}


def ssim(first_BxHxW, second_BxHxW, range_B):
  """Return the structural similarity of images [B] (Wang et al., 2004), a mean over all windows inside of them.

  `range_B` is the range of their values, where 0 stands for 1.
  """

  def mean(x_BxHxW):
    return nnx.avg_pool(x_BxHxW[..., None], (WINDOW, WINDOW))[..., 0]

  means = mean(first_BxHxW), mean(second_BxHxW)
  to_sample = WINDOW**2 / (WINDOW**2 - 1)
  variances = [
    to_sample * (mean(jnp.square(x)) - jnp.square(m)) for x, m in zip((first_BxHxW, second_BxHxW), means, strict=True)
  ]
  covariance = to_sample * (mean(first_BxHxW * second_BxHxW) - means[0] * means[1])
  range_Bx1x1 = jnp.where(range_B > 0, range_B, 1)[:, None, None]
  small, smaller = jnp.square(0.03 * range_Bx1x1), jnp.square(0.01 * range_Bx1x1)
  luminance = (2 * means[0] * means[1] + smaller) / (jnp.square(means[0]) + jnp.square(means[1]) + smaller)
  structure = (2 * covariance + small) / (variances[0] + variances[1] + small)
  return jnp.mean(luminance * structure, axis=(1, 2))


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {
    "dataset.name": "trialbook.experiments.algoperf.fastmri:data",
    "model.name": "trialbook.experiments.algoperf.fastmri:UNet",
    "model.traced.dropout_rate": 0.0,
    "task.name": "trialbook.experiments.algoperf.fastmri:Reconstruction",
    "optimizer.name": "nadam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 5,
    "max_train_steps": 60,
    "batch_size": 16,
    "evaluation.batch_size": 16,
    "selection.metric": "validation/ssim",
  }


def published() -> dict[str, Any]:
  """Return overrides of the published size: 7,756,097 parameters, images of 320 × 320, batches of 32, 36,189 steps.

  The data are still ellipses.
  """
  return {
    **config(),
    "dataset.kwargs.examples": 32,
    "dataset.kwargs.validation_examples": 16,
    "dataset.kwargs.size": 320,
    "model.kwargs.width": 32,
    "model.kwargs.depth": 4,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.1,
    "schedule.warmup_steps": 1_809,
    "max_train_steps": 36_189,
    "batch_size": 32,
    "evaluation.batch_size": 256,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())

"""Random changes to training examples, each a pure function of (seed, global position).

A global position counts examples over all epochs and hosts, so that no two drawings of an example share it.
A new augmentation of images is a field of `Augmentation`, a function like `_crop`, and a line in `augment`; it
draws from a stream of its own name, so that it leaves the draws of the others as they are.
"""

import math

import numpy as np
from pydantic import Field, JsonValue

from trialbook.errors import DataError
from trialbook.input_pipeline import hashing, image_policies
from trialbook.input_pipeline.source import Batch, Info, paths_below
from trialbook.settings import Settings, Static, Traced

_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = (0.3, 3.3)
_WIDEST_ASPECT = 4 / 3
"""Of the windows of a resized crop, one side to the other."""


class Augmentation(Settings):
  """Random changes to training examples. A strength of zero changes nothing, exactly.

  They act on the host, in this order; numbers do not enter the compiled step.
  """

  function: Static[str | None] = Field(default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
  """A function "module:function" of the user's, of (example, rng) and `kwargs`; see `own_augmentation.apply`."""
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  """Further arguments of `function`."""
  resized_crop_area: Traced[float] = Field(default=1.0, gt=0.0, le=1.0)
  """A window is enlarged to the image's size. Its area is at least this share of the image; 0.08 is usual, 1 off.

  Its sides are 3:4 to 4:3 to one another. Szegedy et al., "Going deeper with convolutions", 2015.
  """

  crop_padding: Traced[int] = Field(default=0, ge=0)
  """Zero pixels put around the image before a window of the original size is cut out at random."""
  flip_probability: Traced[float] = Field(default=0.0, ge=0.0, le=1.0)
  """Probability that an image is mirrored left to right."""
  policy_layers: Traced[int] = Field(default=0, ge=0)
  """Changes of each image, drawn from `image_policies.CHANGES`: 2 is usual for RandAugment, 1 for TrivialAugment."""
  policy_magnitude: Traced[float] = Field(default=0.3, ge=0.0, le=1.0)
  """Strength of each of these changes, a share of its widest range."""
  policy_varies: Static[bool] = False
  """Whether each change draws a strength up to `policy_magnitude` (TrivialAugment, with a magnitude of 1)."""
  color_jitter: Traced[float] = Field(default=0.0, ge=0.0, le=1.0)
  """Brightness, contrast and, of three channels, saturation are each multiplied by 1 - this to 1 + this."""
  erasing_probability: Traced[float] = Field(default=0.0, ge=0.0, le=1.0)
  """Probability that a random rectangle (2 to 33 % of the area, sides 0.3 to 3.3 as one to the other) is set to zero.

  Zhong, Zheng, Kang, Li and Yang, "Random erasing data augmentation", 2020; there, it is filled with noise.
  """
  mixup_alpha: Traced[float | None] = Field(default=None, ge=0.0)
  """Each example x becomes a*x + (1-a)*y, with y the other of its pair and a from Beta(alpha, alpha); None: no mixup.

  The batch then has "mixing" (a), "labels" (x's) and "mixed_labels" (y's); the loss is the mean of that with the one
  and with the other, weighted by a and 1-a. Real-valued targets are mixed themselves. Bytes are rounded.
  Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: beyond empirical risk minimization", 2018.
  """
  cutmix_alpha: Traced[float | None] = Field(default=None, ge=0.0)
  """A random window of each image is the other's of its pair, its area's share from Beta(alpha, alpha); None: off.

  Labels and targets are mixed as by mixup, by the share of the area that is left. Yun et al., "CutMix", 2019.
  """
  time_masks: Traced[int] = Field(default=0, ge=0)
  """Stretches along the first axis of [time, frequency, ...] that are set to zero. Park et al., "SpecAugment", 2019."""
  time_mask_size: Traced[int] = Field(default=0, ge=0)
  """Largest length of one; each is drawn from 0 up to this."""
  frequency_masks: Traced[int] = Field(default=0, ge=0)
  """The same along the second axis."""
  frequency_mask_size: Traced[int] = Field(default=0, ge=0)
  """Largest length of one of these."""

  @property
  def changes_images(self) -> bool:
    """Return whether there is something to do that only images allow."""
    return bool(
      self.crop_padding
      or self.flip_probability
      or self.erasing_probability
      or self.resized_crop_area < 1
      or self.policy_layers
      or self.color_jitter
      or self.cutmix_alpha is not None
    )

  @property
  def masks_spectra(self) -> bool:
    """Return whether there is something to do that needs inputs of [time, frequency, ...]."""
    return bool(self.time_masks or self.frequency_masks)

  @property
  def mixes(self) -> bool:
    """Return whether pairs of examples are mixed."""
    return self.mixup_alpha is not None or self.cutmix_alpha is not None


def check(augmentation: Augmentation, info: Info) -> None:
  """Raise DataError if the examples of a dataset cannot be changed so."""
  problem = None
  inputs = f"have shape {info.input_shape}"
  if not (augmentation.changes_images or augmentation.masks_spectra or augmentation.mixes):
    return
  if info.input_shape is None:
    inputs = f"are {', '.join(map(repr, paths_below(['inputs'], info.spec))) or 'not there'}"
    problem = "only inputs that are one array can be augmented"
  elif augmentation.changes_images and len(info.input_shape) != 3:
    problem = "only images (height, width, channels) can be cropped, flipped, recoloured and erased"
  elif augmentation.masks_spectra and len(info.input_shape) < 2:
    problem = "only inputs of (time, frequency, ...) can have masks of time and frequency"
  elif augmentation.policy_layers and info.input_dtype != "uint8":
    problem = f"dataset.augmentation.policy_layers needs bytes (uint8), not {info.input_dtype}"
  elif augmentation.mixup_alpha is not None and augmentation.cutmix_alpha is not None:
    problem = "mixup_alpha and cutmix_alpha both mix labels; use one of them"
  elif augmentation.changes_images and (others := _of_pixels(info)):
    problem = f"{', '.join(others)} would not be cropped and flipped with them"
  elif augmentation.mixup_alpha is not None and info.input_dtype not in ("uint8", "float32"):
    problem = f"mixup needs numbers, not symbols ({info.input_dtype})"
  if problem:
    raise DataError(f"dataset.augmentation: inputs of {info.name} {inputs}; {problem}; set it to None")
  if augmentation.mixes and not {"labels", "targets"} & info.spec.keys():
    field = "mixup_alpha" if augmentation.mixup_alpha is not None else "cutmix_alpha"
    raise DataError(f"dataset.augmentation.{field}: {info.name} has neither labels nor targets; set it to None")


def _of_pixels(info: Info) -> list[str]:
  """Return the arrays beside the inputs that have a value for each of their pixels."""
  assert info.input_shape is not None
  return [path for path, (shape, _) in info.spec.items() if path != "inputs" and shape[:2] == info.input_shape[:2]]


def augment(images: np.ndarray, config: Augmentation, seed: int, positions: np.ndarray) -> np.ndarray:
  """Return the augmented images, of the same shape and dtype; `images` itself is not written to.

  Args:
    images: [n, height, width, channels], or [n, time, frequency, ...].
    config: how strongly to augment.
    seed: the run's seed.
    positions: int64 [n], the global position of each image.
  """
  counter = positions.astype(np.uint64)
  if config.resized_crop_area < 1:
    images = _resized_crop(images, config.resized_crop_area, seed, counter)
  if config.crop_padding > 0:
    images = _crop(images, config.crop_padding, seed, counter)
  if config.flip_probability > 0:
    images = _flip(images, config.flip_probability, seed, counter)
  if config.policy_layers > 0 and config.policy_magnitude > 0:
    layers, magnitude, varies = config.policy_layers, config.policy_magnitude, config.policy_varies
    images = image_policies.apply(images, layers, magnitude, seed, counter, vary=varies)
  if config.color_jitter > 0:
    images = _jitter(images, config.color_jitter, seed, counter)
  if config.erasing_probability > 0:
    images = _erase(images, config.erasing_probability, seed, counter)
  if config.masks_spectra:
    images = _mask(images, config, seed, counter)
  return images


def mix(batch: Batch, config: Augmentation, seed: int, positions: np.ndarray) -> Batch:
  """Return the batch with each example mixed with its neighbour: 0 with 1, 2 with 3 and so on.

  Args:
    batch: of an even number of examples.
    config: `mixup_alpha` or `cutmix_alpha` is set; 0 keeps every example as it is.
    seed: the run's seed.
    positions: int64 [n], the global position of each example.
  """
  cuts = config.cutmix_alpha is not None
  alpha = config.cutmix_alpha if config.cutmix_alpha is not None else config.mixup_alpha
  counter = positions.astype(np.uint64)
  mixing = np.ones(len(positions), np.float32)
  if alpha:
    # Only here, since importing it takes longer than reading a small dataset.
    from scipy.special import betaincinv

    drawn = hashing.uniform(hashing.bits(hashing.stream_key(seed, "cutmix" if cuts else "mixup"), counter))
    mixing = betaincinv(alpha, alpha, drawn).astype(np.float32)
  neighbour = np.arange(len(positions)) ^ 1
  inputs = batch["inputs"]
  if cuts:
    window = _window(inputs.shape, mixing, seed, counter)
    inputs = np.where(window[..., None], inputs[neighbour], inputs)
    mixing = 1 - window.mean(axis=(1, 2), dtype=np.float32)

  def blend(values: np.ndarray) -> np.ndarray:
    weight = mixing.reshape(-1, *[1] * (values.ndim - 1))
    blended = weight * values + (1 - weight) * values[neighbour]
    return (np.rint(blended) if values.dtype == np.uint8 else blended).astype(values.dtype)

  mixed = {**batch, "inputs": inputs if cuts else blend(inputs)}
  if "targets" in batch:
    mixed["targets"] = blend(batch["targets"])
  if "labels" in batch:
    mixed |= {"mixed_labels": batch["labels"][neighbour], "mixing": mixing}
  return mixed


def _crop(images: np.ndarray, padding: int, seed: int, counter: np.ndarray) -> np.ndarray:
  n, height, width, channels = images.shape
  padded = np.zeros((n, height + 2 * padding, width + 2 * padding, channels), images.dtype)
  padded[:, padding : padding + height, padding : padding + width] = images
  offsets = 2 * padding + 1
  top = hashing.below(offsets, hashing.bits(hashing.stream_key(seed, "crop_top"), counter))
  left = hashing.below(offsets, hashing.bits(hashing.stream_key(seed, "crop_left"), counter))
  # A view of every window of every image; only the chosen ones are ever copied.
  windows = np.lib.stride_tricks.as_strided(
    padded,
    (n, offsets, offsets, height, width, channels),
    (*padded.strides[:3], *padded.strides[1:]),
    writeable=False,
  )
  return windows[np.arange(n), top.astype(np.intp), left.astype(np.intp)]


def _flip(images: np.ndarray, probability: float, seed: int, counter: np.ndarray) -> np.ndarray:
  drawn = hashing.uniform(hashing.bits(hashing.stream_key(seed, "flip"), counter))
  flipped = np.flatnonzero(drawn < probability)
  images = images.copy()
  images[flipped] = images[flipped, :, ::-1]
  return images


def _erase(images: np.ndarray, probability: float, seed: int, counter: np.ndarray) -> np.ndarray:
  def draw(stream: str) -> np.ndarray:
    return hashing.uniform(hashing.bits(hashing.stream_key(seed, stream), counter))

  _, height, width, _ = images.shape
  low, high = _ERASED_AREA
  area = (low + (high - low) * draw("erase_area")) * height * width
  low, high = np.log(_ERASED_ASPECT)
  aspect = np.exp(low + (high - low) * draw("erase_aspect"))
  rows = np.clip(np.rint(np.sqrt(area * aspect)), 1, height).astype(np.int64)
  columns = np.clip(np.rint(np.sqrt(area / aspect)), 1, width).astype(np.int64)
  top = (draw("erase_top") * (height - rows + 1)).astype(np.int64)
  left = (draw("erase_left") * (width - columns + 1)).astype(np.int64)
  in_rows = (np.arange(height) >= top[:, None]) & (np.arange(height) < (top + rows)[:, None])
  in_columns = (np.arange(width) >= left[:, None]) & (np.arange(width) < (left + columns)[:, None])
  erased = in_rows[:, :, None] & in_columns[:, None, :] & (draw("erase") < probability)[:, None, None]
  return np.where(erased[..., None], np.zeros((), images.dtype), images)


def _resized_crop(images: np.ndarray, smallest: float, seed: int, counter: np.ndarray) -> np.ndarray:
  def draw(stream: str) -> np.ndarray:
    return hashing.uniform(hashing.bits(hashing.stream_key(seed, f"resized_crop_{stream}"), counter))

  _, height, width, _ = images.shape
  area = smallest + (1 - smallest) * draw("area")
  # Close to the whole image, no other aspect fits.
  widest = math.log(min(_WIDEST_ASPECT, 1 / smallest))
  aspect = np.exp(widest * (2 * draw("aspect") - 1))
  rows = np.minimum(np.sqrt(area * aspect), 1) * height
  columns = np.minimum(np.sqrt(area / aspect), 1) * width
  found = _enlarged(images, 1, draw("top") * (height - rows), rows)
  found = _enlarged(found, 2, draw("left") * (width - columns), columns)
  return (np.rint(found) if images.dtype == np.uint8 else found).astype(images.dtype)


def _enlarged(images: np.ndarray, axis: int, start: np.ndarray, length: np.ndarray) -> np.ndarray:
  """Return the images, float32, with the window from `start` of `length` pixels enlarged to the whole axis."""
  size = images.shape[axis]
  places = start[:, None] + (np.arange(size) + 0.5) * (length / size)[:, None] - 0.5
  places = np.clip(places, 0, size - 1)
  low = np.floor(places).astype(np.intp)
  shape = [len(images), *(size if at == axis else 1 for at in range(1, images.ndim))]
  weight = (places - low).astype(np.float32).reshape(shape)
  low, high = low.reshape(shape), np.minimum(low + 1, size - 1).reshape(shape)
  below, above = (np.take_along_axis(images, at, axis).astype(np.float32) for at in (low, high))
  return below + weight * (above - below)


def _jitter(images: np.ndarray, strength: float, seed: int, counter: np.ndarray) -> np.ndarray:
  def factor(stream: str) -> np.ndarray:
    drawn = hashing.uniform(hashing.bits(hashing.stream_key(seed, f"color_jitter_{stream}"), counter))
    return (1 + strength * (2 * drawn - 1)).astype(np.float32)[:, None, None, None]

  def clipped(images: np.ndarray) -> np.ndarray:
    return images.clip(0, 255) if is_bytes else images

  is_bytes = images.dtype == np.uint8
  found = clipped(images.astype(np.float32) * factor("brightness"))
  mean = image_policies.gray(found).mean(axis=(1, 2, 3), keepdims=True)
  found = clipped(mean + factor("contrast") * (found - mean))
  if images.shape[-1] == 3:
    gray = image_policies.gray(found)
    found = clipped(gray + factor("saturation") * (found - gray))
  return (np.rint(found) if is_bytes else found).astype(images.dtype)


def _window(shape: tuple[int, ...], mixing: np.ndarray, seed: int, counter: np.ndarray) -> np.ndarray:
  """Return bool [n, height, width]: a window of the image's aspect, of 1 - mixing of its area before it is cut off."""

  def draw(stream: str) -> np.ndarray:
    return hashing.uniform(hashing.bits(hashing.stream_key(seed, f"cutmix_{stream}"), counter))

  inside = []
  for stream, size in (("row", shape[1]), ("column", shape[2])):
    length = np.rint(np.sqrt(1 - mixing) * size)
    first = np.floor(draw(stream) * size - length / 2 + 0.5)
    places = np.arange(size)
    inside.append((places >= first[:, None]) & (places < (first + length)[:, None]))
  return inside[0][:, :, None] & inside[1][:, None, :]


def _mask(spectra: np.ndarray, config: Augmentation, seed: int, counter: np.ndarray) -> np.ndarray:
  masked = np.zeros(spectra.shape[:3], bool)
  for axis, count, largest in (
    ("time", config.time_masks, config.time_mask_size),
    ("frequency", config.frequency_masks, config.frequency_mask_size),
  ):
    size = spectra.shape[1 if axis == "time" else 2]
    for index in range(count):
      drawn = (
        hashing.bits(hashing.stream_key(seed, f"{axis}_mask_{index}_{what}"), counter) for what in ("size", "at")
      )
      of_size, of_place = drawn
      length = hashing.below(min(largest, size) + 1, of_size).astype(int)
      first = (hashing.uniform(of_place) * (size - length + 1)).astype(int)
      places = np.arange(size)
      hidden = (places >= first[:, None]) & (places < (first + length)[:, None])
      masked |= hidden[:, :, None] if axis == "time" else hidden[:, None, :]
  return np.where(masked.reshape(*masked.shape, *[1] * (spectra.ndim - 3)), np.zeros((), spectra.dtype), spectra)

"""RandAugment and TrivialAugment: one of several changes of an image, drawn for each (seed, global position).

Cubuk, Zoph, Shlens and Le, "RandAugment", 2020; Müller and Hutter, "TrivialAugment", 2021. The changes and the widest
range of each are TrivialAugment's, for bytes; pixels that come in from outside of the image are zero.
"""

from collections.abc import Callable

import numpy as np

from trialbook.input_pipeline import hashing

Image = np.ndarray
"""Float32 [height, width, channels], 0 to 255."""

_GRAY = np.array([0.299, 0.587, 0.114], np.float32)
_LARGEST_SHEAR, _LARGEST_TURN, _LARGEST_SHIFT, _LARGEST_BLEND = 0.99, np.deg2rad(135.0), 1.0, 0.99
_FEWEST_BITS = 2


def apply(
  images: np.ndarray, layers: int, magnitude: float, seed: int, counter: np.ndarray, *, vary: bool
) -> np.ndarray:
  """Return the images after `layers` changes each.

  Args:
    images: uint8 [n, height, width, channels].
    layers: number of changes, one after the other.
    magnitude: share of each change's widest range.
    seed: the run's.
    counter: uint64 [n], the global positions.
    vary: whether `magnitude` is the largest one, of which each change draws a share (TrivialAugment), or is that of all
      changes (RandAugment).
  """
  found, names = images.astype(np.float32), list(CHANGES)
  for layer in range(layers):

    def draw(what: str, layer: int = layer) -> np.ndarray:
      return hashing.bits(hashing.stream_key(seed, f"policy_{layer}_{what}"), counter)

    chosen = hashing.below(len(names), draw("change")).astype(int)
    strengths = magnitude * (hashing.uniform(draw("strength")) if vary else np.ones(len(counter)))
    signs = np.where(hashing.uniform(draw("sign")) < 0.5, -1.0, 1.0)
    for index, (which, strength, sign) in enumerate(zip(chosen, strengths, signs, strict=True)):
      found[index] = np.clip(np.rint(CHANGES[names[which]](found[index], float(strength), float(sign))), 0, 255)
  return found.astype(images.dtype)


def blended(image: Image, other: Image | float, factor: float) -> Image:
  """Return factor · image + (1 − factor) · other."""
  return other + np.float32(factor) * (image - other)


def gray(image: Image) -> Image:
  """Return the brightness of each pixel, [..., height, width, 1]."""
  weights = _GRAY if image.shape[-1] == len(_GRAY) else np.full(image.shape[-1], 1 / image.shape[-1], np.float32)
  return (image @ weights)[..., None]


def _moved(image: Image, matrix: np.ndarray, shift: np.ndarray) -> Image:
  """Return the image whose pixel p, counted from the center, is the one at matrix · p + shift; zero outside."""
  height, width, _ = image.shape
  center = np.array([(height - 1) / 2, (width - 1) / 2])
  places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1) - center
  rows, columns = np.moveaxis(np.rint(places @ matrix.T + shift + center).astype(int), -1, 0)
  inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
  return np.where(inside[..., None], image[rows.clip(0, height - 1), columns.clip(0, width - 1)], 0)


def _shear(axis: int) -> Callable[[Image, float, float], Image]:
  def change(image: Image, strength: float, sign: float) -> Image:
    matrix = np.eye(2)
    matrix[axis, 1 - axis] = sign * strength * _LARGEST_SHEAR
    return _moved(image, matrix, np.zeros(2))

  return change


def _shift(axis: int) -> Callable[[Image, float, float], Image]:
  def change(image: Image, strength: float, sign: float) -> Image:
    # 32 pixels of 32, as the paper has it for small images.
    shift = np.zeros(2)
    shift[axis] = sign * strength * _LARGEST_SHIFT * image.shape[axis]
    return _moved(image, np.eye(2), shift)

  return change


def _turned(image: Image, strength: float, sign: float) -> Image:
  angle = sign * strength * _LARGEST_TURN
  cos, sin = np.cos(angle), np.sin(angle)
  return _moved(image, np.array([[cos, -sin], [sin, cos]]), np.zeros(2))


def _brightness(image: Image, strength: float, sign: float) -> Image:
  return blended(image, 0.0, 1 + sign * strength * _LARGEST_BLEND)


def _contrast(image: Image, strength: float, sign: float) -> Image:
  return blended(image, float(gray(image).mean()), 1 + sign * strength * _LARGEST_BLEND)


def _color(image: Image, strength: float, sign: float) -> Image:
  return blended(image, gray(image), 1 + sign * strength * _LARGEST_BLEND)


def _sharpness(image: Image, strength: float, sign: float) -> Image:
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
  height, width, _ = image.shape
  around = sum(padded[row : row + height, column : column + width] for row in range(3) for column in range(3))
  # The center counts five times, as in Pillow's filter.
  smooth = (around + 4 * image) / np.float32(13)
  return blended(image, smooth, 1 + sign * strength * _LARGEST_BLEND)


def _posterize(image: Image, strength: float, sign: float) -> Image:
  del sign
  step = 2.0 ** (8 - round(8 - strength * (8 - _FEWEST_BITS)))
  return np.floor(image / step) * step


def _solarize(image: Image, strength: float, sign: float) -> Image:
  del sign
  return np.where(image >= round(256 * (1 - strength)), 255 - image, image)


def _autocontrast(image: Image, strength: float, sign: float) -> Image:
  del strength, sign
  low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
  width = np.where(high > low, high - low, 255)
  return np.where(high > low, (image - low) * 255 / width, image)


def _equalize(image: Image, strength: float, sign: float) -> Image:
  del strength, sign
  found = image.copy()
  for channel in range(image.shape[-1]):
    values = image[..., channel].astype(int)
    counts = np.bincount(values.ravel(), minlength=256)
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    if step:
      table = (np.concatenate([[0], np.cumsum(counts)[:-1]]) + step // 2) // step
      found[..., channel] = table.clip(0, 255)[values]
  return found


CHANGES: dict[str, Callable[[Image, float, float], Image]] = {
  "identity": lambda image, strength, sign: image,
  "shear_rows": _shear(0),
  "shear_columns": _shear(1),
  "shift_rows": _shift(0),
  "shift_columns": _shift(1),
  "turn": _turned,
  "brightness": _brightness,
  "color": _color,
  "contrast": _contrast,
  "sharpness": _sharpness,
  "posterize": _posterize,
  "solarize": _solarize,
  "autocontrast": _autocontrast,
  "equalize": _equalize,
}
"""Name -> function of (image, strength as a share of the widest range, sign of what can go both ways)."""

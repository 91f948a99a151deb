"""Encoded images as arrays of one size."""

import io
import pathlib
from typing import Any

import numpy as np

from trialbook.errors import DataError

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for a number of channels."""


def decoded(encoded: bytes | pathlib.Path, size: tuple[int, int], channels: int) -> np.ndarray:
  """Return an image, uint8 [height, width, channels]: scaled until it covers `size`, and cropped around its centre.

  Raises:
    DataError: Pillow is not installed.
    OSError: it is not an image.
  """
  image_module, ops = pillow()
  height, width = size
  with image_module.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
    # A JPEG is decoded at the smallest size that suffices.
    image.draft(MODES[channels], (width, height))
    fitted = ops.fit(image.convert(MODES[channels]), (width, height), image_module.Resampling.BILINEAR)
  return np.asarray(fitted, np.uint8).reshape(height, width, channels)


def pillow() -> tuple[Any, Any]:
  """Return Pillow's modules Image and ImageOps. Raise DataError if it is not installed."""
  try:
    from PIL import Image, ImageOps
  except ImportError as error:
    raise DataError("decoding images needs pillow; run pip install 'trialbook[data]'") from error
  return Image, ImageOps

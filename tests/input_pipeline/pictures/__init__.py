"""A TFDS builder with encoded images and a feature that nobody needs, as most have."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Pictures(tfds.core.GeneratorBasedBuilder):
  """Image number i is grey of value 3 i; its class is i modulo 2."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> Any:
    features = {
      "image": tfds.features.Image(shape=(8, 8, 3)),
      "label": tfds.features.ClassLabel(num_classes=2),
      "note": tfds.features.Text(),
    }
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

  def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in range(count):
      encoded = io.BytesIO()
      Image.fromarray(np.full((8, 8, 3), 3 * index, np.uint8)).save(encoded, "PNG")
      encoded.seek(0)
      yield index, {"image": encoded, "label": index % 2, "note": "nobody reads this"}

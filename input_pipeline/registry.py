"""The datasets there are.

To add one: a module with a `Settings` class that has a literal `name`, an `augmentation` and a method
`read() -> Source`; its class in `AnyDataset`; and, if its files must be fetched first, its `prepare` in
`PREPARE`.
"""

import pathlib
import typing
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import Field

from input_pipeline import fashion_mnist
from input_pipeline.digits import Digits
from input_pipeline.fashion_mnist import FashionMnist
from input_pipeline.synthetic import Synthetic
from trialbook.settings import Settings

AnyDataset = Digits | FashionMnist | Synthetic
DatasetConfig = Annotated[AnyDataset, Field(discriminator="name")]

PREPARE: Mapping[str, Callable[[pathlib.Path, str | None], pathlib.Path]] = {"fashion_mnist": fashion_mnist.prepare}


def datasets() -> dict[str, type[Settings]]:
  """The config class of each dataset, by name."""
  return {kind.model_fields["name"].default: kind for kind in typing.get_args(AnyDataset)}

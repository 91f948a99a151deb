"""The datasets there are.

To add one: a module with a `Settings` class that has a literal `name`, an `augmentation` and a method
`read() -> Source` (and `token`, if a language model's loss is per something else than a token, such as a "byte"); its
class in `AnyDataset` and `DatasetConfig`; and, if its files must be fetched first, its `prepare` in `PREPARE`. Outside
the repository: `dataset.name=my_data:build`, see `trialbook.input_pipeline.datasets.plugin`.
"""

import pathlib
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from trialbook.input_pipeline.datasets import fashion_mnist, text
from trialbook.input_pipeline.datasets.array_record import ArrayRecord
from trialbook.input_pipeline.datasets.digits import Digits
from trialbook.input_pipeline.datasets.fashion_mnist import FashionMnist
from trialbook.input_pipeline.datasets.image_folder import ImageFolder
from trialbook.input_pipeline.datasets.parquet import Parquet
from trialbook.input_pipeline.datasets.plugin import PluginDataset
from trialbook.input_pipeline.datasets.synthetic import Synthetic
from trialbook.input_pipeline.datasets.table import Table
from trialbook.input_pipeline.datasets.text import Shakespeare, Text
from trialbook.input_pipeline.datasets.tfds import Tfds
from trialbook.input_pipeline.datasets.tokens import Tokens
from trialbook.settings import Settings, kind_tag

AnyDataset = (
  ArrayRecord
  | Digits
  | FashionMnist
  | ImageFolder
  | Parquet
  | PluginDataset
  | Shakespeare
  | Synthetic
  | Table
  | Text
  | Tfds
  | Tokens
)


def dataset_tag(value: Any) -> str | None:
  """Return, for pydantic's `Discriminator`, the kind of dataset that settings name; TFDS and plug-ins have one tag
  each."""
  name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
  if isinstance(name, str) and name.startswith("tfds:"):
    return "tfds:NAME"
  # Elsewhere a plug-in is a class, here it is a function.
  return "module:function" if kind_tag(value) == "module:Class" else name


DatasetConfig = Annotated[
  Annotated[ArrayRecord, Tag("array_record")]
  | Annotated[Digits, Tag("digits")]
  | Annotated[FashionMnist, Tag("fashion_mnist")]
  | Annotated[ImageFolder, Tag("image_folder")]
  | Annotated[Parquet, Tag("parquet")]
  | Annotated[Shakespeare, Tag("shakespeare")]
  | Annotated[Synthetic, Tag("synthetic")]
  | Annotated[Table, Tag("table")]
  | Annotated[Text, Tag("text")]
  | Annotated[Tokens, Tag("tokens")]
  | Annotated[Tfds, Tag("tfds:NAME")]
  | Annotated[PluginDataset, Tag("module:function")],
  Discriminator(dataset_tag),
]

PREPARE: Mapping[str, Callable[[pathlib.Path | None, str | None], pathlib.Path]] = {
  "fashion_mnist": fashion_mnist.prepare,
  "shakespeare": text.prepare,
}


def datasets() -> dict[str, type[Settings]]:
  """Return the config class of each dataset of ours, by name."""
  kinds = {kind.model_fields["name"].default: kind for kind in typing.get_args(AnyDataset)}
  return {name: kind for name, kind in kinds.items() if isinstance(name, str)}

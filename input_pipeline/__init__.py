"""Datasets, and the one function that gives batch t: `load(config, ...).train_batch(t)`."""

from input_pipeline.array_record import ArrayRecord, write_array_record
from input_pipeline.augmentation import Augmentation
from input_pipeline.dataset import Dataset, load
from input_pipeline.digits import Digits
from input_pipeline.errors import DataError
from input_pipeline.fashion_mnist import FashionMnist
from input_pipeline.fingerprint import Fingerprint
from input_pipeline.fingerprint import same as same_fingerprint
from input_pipeline.plugin import Data, PluginDataset
from input_pipeline.prefetch import Prefetcher
from input_pipeline.registry import AnyDataset, DatasetConfig
from input_pipeline.source import SPLITS, Batch, Info
from input_pipeline.synthetic import Synthetic
from input_pipeline.table import Table
from input_pipeline.text import Shakespeare, Text
from input_pipeline.tfds import Tfds

__all__ = [
  "SPLITS",
  "AnyDataset",
  "ArrayRecord",
  "Augmentation",
  "Batch",
  "Data",
  "DataError",
  "Dataset",
  "DatasetConfig",
  "Digits",
  "FashionMnist",
  "Fingerprint",
  "Info",
  "PluginDataset",
  "Prefetcher",
  "Shakespeare",
  "Synthetic",
  "Table",
  "Text",
  "Tfds",
  "load",
  "same_fingerprint",
  "write_array_record",
]

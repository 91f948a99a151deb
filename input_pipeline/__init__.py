"""Datasets, and the one function that gives batch t: `load(config, ...).train_batch(t)`."""

from input_pipeline.augmentation import Augmentation
from input_pipeline.dataset import Batch, Dataset, load
from input_pipeline.digits import Digits
from input_pipeline.errors import DataError
from input_pipeline.fashion_mnist import FashionMnist
from input_pipeline.prefetch import Prefetcher
from input_pipeline.registry import AnyDataset, DatasetConfig
from input_pipeline.source import SPLITS, Info
from input_pipeline.synthetic import Synthetic

__all__ = [
  "SPLITS",
  "AnyDataset",
  "Augmentation",
  "Batch",
  "DataError",
  "Dataset",
  "DatasetConfig",
  "Digits",
  "FashionMnist",
  "Info",
  "Prefetcher",
  "Synthetic",
  "load",
]

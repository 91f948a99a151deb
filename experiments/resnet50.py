"""A ResNet-50 on images of 224 pixels, for the tables of docs/pods.md; the examples are made up.

trialbook launch preflight --config=experiments/resnet50.py --topology=v5e:16x16 --set batch_size=16384

Each 64 images share the statistics of batch normalization (ghost batch normalization), so that a chip with 64 images
needs no other chip for them.
"""

from trialbook.input_pipeline import Synthetic
from trialbook.models import ResNetConfig
from trialbook.trainer import Config, Evaluation
from trialbook.trainer.config import Precision
from trialbook.trainer.optimizers import Nesterov
from trialbook.trainer.schedules import Cosine


def get_config() -> Config:
  return Config(
    dataset=Synthetic(input_shape=(224, 224, 3), input_dtype="uint8", num_outputs=1000, train_examples=2048),
    model=ResNetConfig(stem="imagenet", block="bottleneck", stage_sizes=(3, 4, 6, 3), width=64, virtual_batch_size=64),
    optimizer=Nesterov(learning_rate=0.1, momentum=0.9, weight_decay=5e-5),
    schedule=Cosine(warmup_steps=500),
    max_train_steps=10_000,
    batch_size=1024,
    precision=Precision(compute_dtype="bfloat16"),
    evaluation=Evaluation(every_steps=1000, batch_size=1024),
  )

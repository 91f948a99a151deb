"""A small ResNet on scikit-learn's handwritten digits: what runs when nothing else is asked for.

trialbook train --config=experiments/digits_resnet.py --workdir=runs/digits_resnet

Takes about ten seconds on 2 cores (CPU) once compiled; the validation accuracy is 0.984 to 0.992 over five seeds.
"""

from trialbook.input_pipeline import Augmentation, Digits
from trialbook.models import ResNetConfig
from trialbook.trainer import Config, Evaluation
from trialbook.trainer.optimizers import Nesterov
from trialbook.trainer.schedules import Cosine


def get_config() -> Config:
  return Config(
    dataset=Digits(augmentation=Augmentation(crop_padding=1)),
    model=ResNetConfig(stage_sizes=(1, 1), width=16),
    optimizer=Nesterov(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
    schedule=Cosine(warmup_steps=50),
    max_train_steps=1000,
    batch_size=64,
    evaluation=Evaluation(every_steps=100),
  )

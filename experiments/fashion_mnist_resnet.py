"""A small ResNet on Fashion-MNIST.

trialbook data prepare fashion_mnist --from=DIR
trialbook train --config=experiments/fashion_mnist_resnet.py --workdir=runs/fashion_mnist_resnet

Takes 8 to 12 minutes on 2 cores (CPU); the selected checkpoint has a test accuracy of 0.916.
"""

from trialbook.input_pipeline import Augmentation, FashionMnist
from trialbook.models import ResNetConfig
from trialbook.trainer import Config, Evaluation
from trialbook.trainer.optimizers import Nesterov
from trialbook.trainer.schedules import Cosine


def get_config() -> Config:
  return Config(
    dataset=FashionMnist(augmentation=Augmentation(crop_padding=1, flip_probability=0.5)),
    model=ResNetConfig(stem="imagenet", stage_sizes=(2, 2), width=32),
    optimizer=Nesterov(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
    schedule=Cosine(warmup_steps=200),
    max_train_steps=6000,
    batch_size=128,
    evaluation=Evaluation(every_steps=1000, batch_size=1000, train_examples=5000, test=True),
  )

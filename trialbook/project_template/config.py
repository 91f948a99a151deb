"""The config: which model is trained on which data, and how.

trialbook train --config=config.py --workdir=runs/first
"""

from trialbook import Config


def get_config() -> Config:
  return Config().override(
    {
      "dataset.name": "my_data:data",
      "model.name": "my_model:MyModel",
      "model.kwargs.width": 16,
      "task.name": "my_task:MyTask",
      "task.traced.label_smoothing": 0.1,
      "selection.metric": "validation/error",
      "optimizer.name": "adam",
      "optimizer.learning_rate": 0.01,
      "batch_size": 64,
      "max_train_steps": 300,
      "evaluation.every_steps": 50,
    }
  )

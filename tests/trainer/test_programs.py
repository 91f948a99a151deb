"""What is compiled, and how often."""

import pathlib

import jax
import pytest
from tiny import resnet

from trialbook.trainer import Programs, run
from trialbook.trainer.sharding import make_mesh
from trialbook.trainer.train_step import program_settings

TRACED = [
  {},
  {"optimizer__learning_rate": 0.01, "seed": 7},
  {"optimizer__beta1": 0.8, "optimizer__beta2": 0.99, "optimizer__epsilon": 1e-3},
  {"optimizer__weight_decay": 0.0, "task__label_smoothing": 0.0, "model__dropout_rate": 0.5},
  {"schedule__warmup_steps": 0, "schedule__decay_steps": 3, "clip_norm": 0.1},
  {"averaging__decay": 0.5, "model__batch_norm_momentum": 0.5, "max_train_steps": 5},
]


@pytest.mark.slow
def test_runs_that_differ_in_traced_fields_compile_each_function_once(tmp_path: pathlib.Path):
  programs = Programs()
  compiled: list[str] = []

  def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    results, counts = [], []
    for index, changes in enumerate(TRACED):
      results.append(run(resnet(**changes), tmp_path / str(index), programs=programs))
      counts.append(len(compiled))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  # init, train_step, eval_step, and the checksums of checkpoints (which another test may have compiled); after
  # that not one more anywhere: no eager operation, no second program.
  assert 3 <= counts[0] <= 5
  assert set(counts) == {counts[0]}
  assert programs.compilations == {"init": 1, "train_step": 1, "eval_step": 1}
  losses = {result.metrics["validation/loss"] for result in results}
  assert len(losses) == len(TRACED), "every traced change must change the result"


@pytest.mark.parametrize(
  "changes",
  [
    {"model__dropout_rate": None},
    {"task__label_smoothing": None},
    {"clip_norm": None},
    {"averaging": None},
    {"optimizer__weight_decay": None},
    {"model__width": 4},
    {"precision__compute_dtype": "bfloat16"},
    {"precision__matmul_precision": "default"},
    {"batch_size": 8},
    {"optimizer__name": "nadam"},
    {"schedule__name": "linear"},
  ],
)
def test_a_static_change_is_another_program(changes: dict):
  from trialbook.trainer.program import program_key

  def key(config):
    from trialbook.input_pipeline import load
    from trialbook.trainer.bound_task import bind

    config = config.resolved()
    info = load(config.dataset, seed=0, batch_size=8).info
    return program_key(config, bind(config.task.build(), info), make_mesh())

  assert key(resnet()) == key(resnet())
  assert key(resnet(**changes)) != key(resnet())


@pytest.mark.slow
def test_the_cache_of_programs_is_bounded(tmp_path: pathlib.Path):
  programs = Programs(capacity=1)
  for index, width in enumerate((4, 8, 4)):
    changes = {"model.name": "mlp", "model.widths": (width,)}
    run(resnet().override(changes), tmp_path / str(index), programs=programs)
  assert programs.compilations["train_step"] == 3


def test_settings_of_the_dataset_stay_on_the_host():
  assert not [name for name in program_settings(resnet()) if name.startswith("dataset")]

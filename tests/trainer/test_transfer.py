"""Warm start from another run; frozen parameters and other learning rates by name."""

import pathlib

import numpy as np
import pytest
from tiny import mlp, read_arrays, resnet

from trialbook.errors import UserError
from trialbook.trainer import Config, Programs, run
from trialbook.trainer.checkpoints.storage import saved_steps


def arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  return read_arrays(workdir / "checkpoints" / str(step))


@pytest.mark.slow
def test_frozen_parameters_keep_their_bits_and_the_others_learn(tmp_path: pathlib.Path, programs: Programs):
  config = mlp(
    parameter_groups=[{"parameters": "output/*", "frozen": True}],
    optimizer__weight_decay=0.1,
    checkpointing__keep_latest=9,
  )
  run(config, tmp_path / "run", programs=programs)
  first, last = (arrays(tmp_path / "run", step) for step in (0, 20))
  params = [name for name in first if name.startswith("params/")]
  assert {name for name in params if "output" in name}
  for name in params:
    assert np.array_equal(first[name], last[name]) == name.startswith("params/output/"), name


@pytest.mark.slow
def test_a_multiplier_is_the_learning_rate_of_its_group_and_traced(tmp_path: pathlib.Path):
  programs = Programs()

  def moved(multiplier: float, name: str) -> dict[str, np.ndarray]:
    config = mlp(
      parameter_groups=[{"parameters": "output/*"}],
      parameter_groups__0__learning_rate_multiplier=multiplier,
      optimizer__name="sgd",
      max_train_steps=1,
      evaluation__every_steps=1,
    )
    run(config, tmp_path / name, programs=programs)
    first, last = (arrays(tmp_path / name, step) for step in (0, 1))
    return {key: last[key] - first[key] for key in first if key.startswith("params/")}

  once, thrice, never = moved(1.0, "once"), moved(3.0, "thrice"), moved(0.0, "never")
  assert programs.compilations["train_step"] == 1
  for name, step in once.items():
    factor = 3 if name.startswith("params/output/") else 1
    np.testing.assert_allclose(thrice[name], factor * step, atol=2e-7)
    assert np.any(never[name]) == (factor == 1)


@pytest.mark.slow
def test_parameters_and_statistics_come_from_the_selected_checkpoint_of_another_run(
  tmp_path: pathlib.Path, programs: Programs
):
  source = run(resnet(), tmp_path / "source", programs=programs)
  compiled = programs.compilations["init"]
  best = arrays(tmp_path / "source", source.best_step or 0)
  config = resnet(seed=5, warm_start__source=str(tmp_path / "source"), checkpointing__keep_latest=9)
  run(config, tmp_path / "run", programs=programs)
  assert programs.compilations["init"] == compiled  # The source is no part of a program.
  first = arrays(tmp_path / "run", 0)
  for name, value in first.items():
    if name.startswith(("params/", "variables/")):
      np.testing.assert_array_equal(value, best[f"average/{name}"], err_msg=name)
      np.testing.assert_array_equal(value, first[f"average/{name}"], err_msg=name)
    elif name.startswith("opt_state/"):
      assert not value.any(), name


@pytest.mark.slow
def test_another_head_is_left_out_by_name(tmp_path: pathlib.Path, programs: Programs):
  run(mlp(), tmp_path / "source", programs=programs)
  fresh = mlp(seed=3, checkpointing__keep_latest=9)
  run(fresh, tmp_path / "fresh", programs=programs)
  warm = fresh.override({"warm_start.source": str(tmp_path / "source"), "warm_start.exclude": ("output/*",)})
  run(warm, tmp_path / "warm", programs=programs)
  source = arrays(tmp_path / "source", saved_steps(tmp_path / "source" / "checkpoints")[-1])
  for name, value in arrays(tmp_path / "warm", 0).items():
    if name.startswith("params/"):
      other = arrays(tmp_path / "fresh", 0) if name.startswith("params/output/") else source
      np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize(
  ("changes", "fragment"),
  [
    ({"warm_start.source": "/nowhere"}, "there is no such file or folder"),
    ({"warm_start.step": "33"}, "has no checkpoint '33'"),
    ({"warm_start.include": ("outptu/*",)}, "matches no parameter; did you mean 'output/"),
    ({"model.widths": (16,)}, "has float32[64, 32], the model needs float32[64, 16]"),
    (
      {"parameter_groups": [{"parameters": "outptu/*"}], "warm_start": None},
      "parameter_groups.0: no parameter matches",
    ),
    ({"parameter_groups.3.frozen": True}, "'parameter_groups' has 0 entries"),
  ],
)
def test_names_that_fit_nothing_are_refused_before_anything_is_written(
  tmp_path: pathlib.Path, programs: Programs, changes: dict, fragment: str
):
  run(mlp(), tmp_path / "source", programs=programs)
  with pytest.raises(UserError) as caught:  # noqa: PT012 (either of the two may refuse)
    config = mlp().override({"warm_start.source": str(tmp_path / "source"), **changes})
    run(config, tmp_path / "run", programs=programs)
  assert fragment in str(caught.value)
  assert not (tmp_path / "run").exists()


def moved(config: Config, workdir: pathlib.Path, programs: Programs) -> dict[str, np.ndarray]:
  """How far the first step moves each parameter."""
  run(config, workdir, programs=programs)
  first, last = (arrays(workdir, step) for step in (0, 1))
  return {name.partition("/")[2]: last[name] - first[name] for name in first if name.startswith("params/")}


ONE_STEP = {
  "optimizer__name": "sgd",
  "max_train_steps": 1,
  "evaluation__every_steps": 1,
  "checkpointing__keep_latest": 9,
}


@pytest.mark.slow
def test_a_depth_decay_multiplies_the_rate_of_each_layer_by_that_of_the_next_and_is_traced(tmp_path: pathlib.Path):
  programs = Programs()

  def by_decay(decay: float) -> dict[str, np.ndarray]:
    groups = [{"parameters": "hidden/*", "learning_rate_multiplier": 0.5, "depth_decay": decay}]
    config = mlp(model__widths=(8, 8, 8), parameter_groups=groups, **ONE_STEP)
    return moved(config, tmp_path / str(decay), programs)

  once, half = by_decay(1.0), by_decay(0.5)
  assert programs.compilations["train_step"] == 1
  for name, step in once.items():
    factor = 0.5 ** (2 - int(name.split("/")[1])) if name.startswith("hidden/") else 1
    np.testing.assert_allclose(half[name], factor * step, atol=2e-7, err_msg=name)


@pytest.mark.long
def test_the_layers_of_a_stack_have_depths_too(tmp_path: pathlib.Path):
  programs = Programs()
  model = {"model__name": "vit", "model__width": 8, "model__depth": 3, "model__heads": 2, "model__patch_size": 4}

  def by_decay(decay: float) -> dict[str, np.ndarray]:
    groups = [{"parameters": "blocks/*", "depth_decay": decay}]
    return moved(mlp(parameter_groups=groups, **model, **ONE_STEP), tmp_path / str(decay), programs)

  once, half = by_decay(1.0), by_decay(0.5)
  for name, step in once.items():
    factor = np.array([0.25, 0.5, 1]).reshape(3, *[1] * (step.ndim - 1)) if name.startswith("blocks/") else 1
    np.testing.assert_allclose(half[name], factor * step, atol=2e-7, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("virtual_batch_size", [None, pytest.param(8, marks=pytest.mark.long)])
def test_frozen_statistics_stay(tmp_path: pathlib.Path, virtual_batch_size: int | None):
  config = mlp(
    model__name="resnet",
    model__stage_sizes=(1,),
    model__width=4,
    model__virtual_batch_size=virtual_batch_size,
    frozen_statistics=("*",),
    **ONE_STEP,
  )
  frozen = tmp_path / "frozen"
  run(config, frozen)
  first, last = (arrays(frozen, step) for step in (0, 1))
  statistics = [name for name in first if name.startswith("variables/")]
  assert statistics
  for name in statistics:
    np.testing.assert_array_equal(first[name], last[name], err_msg=name)
  assert any(not np.array_equal(first[name], last[name]) for name in first if name.startswith("params/"))
  run(config.override({"frozen_statistics": ("stem/*",)}), tmp_path / "stem")
  last = arrays(tmp_path / "stem", 1)
  for name in statistics:
    assert np.array_equal(first[name], last[name]) == name.startswith("variables/stem/"), name


def test_frozen_statistics_of_no_layer_are_refused(tmp_path: pathlib.Path):
  config = mlp(model__name="resnet", model__stage_sizes=(1,), model__width=4, frozen_statistics=("stam/norm",))
  with pytest.raises(UserError, match=r"no layer of 'resnet' with batch statistics matches 'stam/norm'; did you mean"):
    run(config, tmp_path / "run")

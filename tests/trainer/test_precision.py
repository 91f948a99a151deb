"""Whatever accumulates is float32, whatever the parameters are; and what bfloat16 parameters lose is told."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from test_gradient_accumulation import trained
from tiny import mlp, numbers, read_arrays

from trialbook.errors import UserError
from trialbook.input_pipeline import load
from trialbook.trainer import Config, Programs, run, sharding
from trialbook.trainer import load as load_model
from trialbook.trainer.bound_task import totals_and_counts
from trialbook.trainer.checkpoint_evaluation import evaluate_checkpoint
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.config import warnings
from trialbook.trainer.export import export
from trialbook.trainer.functional_model import cast
from trialbook.trainer.program import Program
from trialbook.trainer.task_values import Mean, objective
from trialbook.trainer.tasks import Classification
from trialbook.trainer.train_step import program_settings

HALF: dict[str, Any] = {"precision__param_dtype": "bfloat16", "averaging__decay": 0.9}


@pytest.fixture(scope="module")
def programs() -> Programs:
  return Programs()


def program_of(config: Config, programs: Programs) -> Program:
  config = config.resolved()
  info = load(config.dataset, seed=0, batch_size=config.batch_size).info
  return programs.get(config, config.task.build(), info, sharding.make_mesh(config.mesh))


@pytest.mark.parametrize("optimizer", ["nesterov", "rmsprop", "adam", "lion"])
def test_only_parameters_are_bfloat16_when_they_are(programs: Programs, optimizer: str):
  config = mlp(**HALF, optimizer__name=optimizer, model__normalization="batch", model__widths=(4,))
  dtypes = {name: leaf.dtype for name, leaf in flatten(program_of(config, programs).state_template).items()}
  assert {name.partition("/")[0] for name in dtypes} == {"step", "params", "variables", "opt_state", "average"}
  for name, dtype in dtypes.items():
    counted = name in ("step", "opt_state/count")
    wanted = jnp.bfloat16 if name.startswith("params/") else jnp.int32 if counted else jnp.float32
    assert dtype == wanted, name


@pytest.mark.slow
@pytest.mark.parametrize("param_dtype", ["bfloat16", "float32"])
def test_the_average_follows_one_in_float64(programs: Programs, param_dtype: str):
  config = mlp(precision__param_dtype=param_dtype, averaging__decay=0.999, model__widths=(8,)).resolved()
  program = program_of(config, programs)
  program.compile()
  dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
  settings = sharding.put_replicated(program.mesh, program_settings(config))
  state = program.init(settings)
  expected: dict[str, np.ndarray] = {}
  for step in range(60):
    state, _ = program.train_step(state, settings, sharding.put_batch(program.mesh, dataset.train_batch(step)))
    # With the correction for its start, the weight of the newest is (1 - d) / (1 - d^t).
    weight = 1e-3 / -np.expm1((step + 1) * np.log1p(-1e-3))
    for name, array in flatten(jax.device_get(state["params"])).items():
      before = expected.get(name, np.float64(0))
      expected[name] = before + weight * (array.astype(np.float64) - before)
  for name, array in flatten(jax.device_get(state["average"]["params"])).items():
    np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_sums_of_bfloat16_losses_and_metrics_are_float32(monkeypatch: pytest.MonkeyPatch):
  values = jnp.asarray(np.random.default_rng(0).uniform(1, 2, 999), jnp.bfloat16)
  exact = np.asarray(values, np.float64).mean()
  for mean in (Mean(values), Mean(values, jnp.ones(999, jnp.bfloat16))):
    found = objective({"loss": mean}, *totals_and_counts({"loss": mean}))
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(exact, rel=1e-6)

  # A task of a user's, whose numbers are as coarse as the network's.
  built = type(Classification().build())

  def halved(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def half(*arguments: Any, **named: Any) -> Any:
      return cast(function(*arguments, **named), "bfloat16")

    return half

  for name in ("loss", "metrics"):
    monkeypatch.setattr(built, name, halved(getattr(built, name)))
  _, whole, _ = trained(mlp(model__widths=(8,)), 1, 1)
  _, parts, _ = trained(mlp(model__widths=(8,), gradient_accumulation=4), 1, 1)
  for name in ("train/loss", "train/error"):
    assert parts[0][name] == pytest.approx(whole[0][name], rel=1e-5)


@pytest.mark.slow
def test_an_average_of_bfloat16_parameters_is_evaluated_restored_selected_loaded_and_exported(
  tmp_path: pathlib.Path, programs: Programs
):
  values, before = {}, programs.compilations["eval_step"]
  for seen in ("average", "current"):
    config = mlp(**HALF, averaging__evaluate=seen, selection__metric="validation/loss", model__widths=(8,))
    config = config.override({"model.normalization": "batch"})
    result = run(config, tmp_path / seen, programs=programs)
    best = json.loads((tmp_path / seen / "best.json").read_text())
    line = values[seen] = numbers(tmp_path / seen)[best["step"]]
    assert best["final"]["validation/loss"] == line["validation/loss"]
    found = evaluate_checkpoint(tmp_path / seen, "best", "validation")
    assert found["validation/loss"] == pytest.approx(line["validation/loss"], rel=1e-6)
    model = load_model(tmp_path / seen)
    inputs = load(config.dataset, seed=0, batch_size=16).fixed_examples("validation", 16)[1]["inputs"]
    outputs = model.predict(inputs)
    with np.load(tmp_path / seen / "predictions" / f"{best['step']}.npz") as saved:
      np.testing.assert_allclose(saved["outputs"], outputs, rtol=1e-4, atol=1e-4)
    folder = export(tmp_path / seen)
    exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    with np.load(folder / "weights.npz") as weights:
      np.testing.assert_allclose(exported.call(dict(weights), inputs), outputs, rtol=1e-4, atol=1e-4)
    assert result.status == "complete"
  assert programs.compilations["eval_step"] == before + 1
  assert values["average"] != values["current"]


@pytest.mark.slow
def test_bfloat16_parameters_start_warm_from_an_average_and_average_again(tmp_path: pathlib.Path, programs: Programs):
  run(mlp(**HALF, max_train_steps=2, model__widths=(8,)), tmp_path / "run", programs=programs)
  warm = mlp(**HALF, max_train_steps=1, model__widths=(8,), warm_start__source=str(tmp_path / "run"))
  warm = warm.override({"warm_start.step": "last"})
  run(warm, tmp_path / "warm", programs=programs)
  source = read_arrays(tmp_path / "run" / "checkpoints" / "2")
  started = read_arrays(tmp_path / "warm" / "checkpoints" / "0")
  for name, array in started.items():
    if name.startswith("params/"):
      assert array.dtype == jnp.bfloat16
      np.testing.assert_array_equal(array, source[f"average/{name}"].astype(jnp.bfloat16), err_msg=name)
      np.testing.assert_array_equal(started[f"average/{name}"], array.astype(np.float32), err_msg=name)


def test_an_average_that_was_saved_in_bfloat16_is_verified_and_goes_on_in_float32(
  tmp_path: pathlib.Path, programs: Programs
):
  template = program_of(mlp(**HALF, model__widths=(8,)), programs).state_template
  rng = np.random.default_rng(0)

  def old(leaf: Any) -> jax.Array:
    dtype = jnp.bfloat16 if leaf.dtype == jnp.float32 else leaf.dtype
    return jax.device_put(rng.normal(size=leaf.shape).astype(dtype), leaf.sharding)

  state = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), template)
  state["average"] = jax.tree.map(old, template["average"])
  saved = flatten(jax.device_get(state["average"]))
  with storage.Saver(tmp_path, to_keep=lambda steps: steps, tell=lambda steps: None) as saver:
    saver.save(7, state)
    saver.wait()
  storage.check(tmp_path / "7", template, whole=True)
  restored = storage.restore(tmp_path / "7", template)
  for name, array in flatten(restored["average"]).items():
    assert array.dtype == jnp.float32
    np.testing.assert_array_equal(array, saved[name].astype(np.float32), err_msg=name)
  # Nothing else may have another dtype.
  other = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding), template["params"]
  )
  with pytest.raises(UserError, match=r"params/.*bfloat16\[.*the run needs float32"):
    storage.restore(tmp_path / "7", {"params": other})


@pytest.mark.slow
def test_a_foreign_statistic_in_bfloat16_is_averaged_in_float32_and_given_back_as_it_was(
  tmp_path: pathlib.Path, programs: Programs
):
  config = mlp(model__name="foreign_statistics:ForeignStatistics", averaging__decay=0.9, max_train_steps=3)
  run(config, tmp_path / "run", programs=programs)
  state = read_arrays(tmp_path / "run" / "checkpoints" / "3")
  assert state["variables/mean"].dtype == jnp.bfloat16
  assert state["average/variables/mean"].dtype == np.float32
  recorded = numbers(tmp_path / "run")[-1]
  assert evaluate_checkpoint(tmp_path / "run", "last", "validation").items() <= recorded.items()


def test_bfloat16_parameters_warn_and_name_the_usual_pair():
  (warning,) = warnings(mlp(precision__param_dtype="bfloat16"))
  assert "Use param_dtype=float32 with compute_dtype=bfloat16" in warning
  assert warnings(mlp(precision__compute_dtype="bfloat16")) == []

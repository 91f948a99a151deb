"""Optimizers and schedules of the user's: they learn, are killed, resume, are tuned, and are what optax computes."""

import json
import os
import pathlib
import signal
import sys
from typing import Any

import forked
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from own_optimizers import OPTIMIZERS
from tiny import mlp, numbers, read_arrays, state_of

from trialbook import Programs, Study, labels_by_name
from trialbook.errors import UserError
from trialbook.input_pipeline import load
from trialbook.models.layout import Placement
from trialbook.settings import traced_values
from trialbook.trainer import Config, run, schedules, train
from trialbook.trainer import load as load_model
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.config import MeshSettings
from trialbook.trainer.evaluation import evaluate
from trialbook.trainer.sharding import make_mesh, state
from trialbook.trainer.train_step import make_steps, program_settings
from trialbook.tuning import Halton, Linear, Minimize, run_study

STEPS = 12


def of_each(*quick: str) -> list[Any]:
  """All optimizers, of which the quick tier has some."""
  return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in OPTIMIZERS]


def config_of(name: str, **changes: Any) -> Config:
  common = {"schedule__name": "constant", "schedule__warmup_steps": 2, "model__widths": (64, 32)}
  short = {"max_train_steps": STEPS, "evaluation__every_steps": 4}
  return (
    mlp(**common, **short)
    .override(OPTIMIZERS[name])
    .override({path.replace("__", "."): value for path, value in changes.items()})
  )


def killed(name: str, workdir: pathlib.Path) -> None:
  """In a process of its own: a run that is killed in an evaluation, when a checkpoint is there."""
  jax.config.update("jax_num_cpu_devices", 2)
  jax.config.update("jax_disable_most_optimizations", True)

  def stop(*arguments: Any, **named: Any) -> dict[str, Any]:
    lines = numbers(workdir) if (workdir / "metrics.jsonl").exists() else []
    if lines and lines[-1]["step"] > 4:
      forked.wait_for((workdir / "checkpoints" / "4").is_dir)
      os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(*arguments, **named)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(train, "evaluate", stop)
    run(config_of(name, clip_norm=1.0), workdir)


# The one whose state is of the most kinds; the others take as long again.
@pytest.mark.parametrize("name", of_each("schedule_free"))
def test_a_run_with_an_optimizer_of_the_users_is_killed_and_resumes_to_the_same_bits(tmp_path: pathlib.Path, name: str):
  config, whole, workdir = config_of(name, clip_norm=1.0), tmp_path / "whole", tmp_path / "killed"
  run(config, whole)
  losses = [line["train/loss"] for line in numbers(whole)[1:]]
  assert np.mean(losses[-3:]) < 0.8 * losses[0], losses
  assert forked.in_process(tmp_path / "output", killed, name, workdir) == -signal.SIGKILL
  assert run(config, workdir).status == "complete"
  assert json.loads((workdir / "run.json").read_text())["restored_step"] in (4, 8)
  assert numbers(workdir) == numbers(whole)
  one, other = state_of(workdir), state_of(whole)
  assert one.keys() == other.keys()
  for path, array in one.items():
    np.testing.assert_array_equal(array, other[path], err_msg=path)


@pytest.mark.parametrize("name", of_each("muon", "schedule_free"))
def test_other_numbers_of_an_optimizer_of_the_users_compile_nothing_and_change_the_result(
  tmp_path: pathlib.Path, name: str
):
  config, programs = config_of(name, max_train_steps=4), Programs()
  traced = dict(config.optimizer.traced)  # pyright: ignore[reportAttributeAccessIssue]
  losses = set()
  for index, changes in enumerate(
    [{}, {"learning_rate": 1e-3}, *({f"traced.{key}": 0.7 for key in [one]} for one in traced)]
  ):
    changed = config.override({f"optimizer.{path}": value for path, value in changes.items()})
    losses.add(run(changed, tmp_path / f"{index}", programs=programs).metrics["validation/loss"])
  assert programs.compilations == {"init": 1, "train_step": 1, "eval_step": 1}
  assert len(losses) == 2 + len(traced)


@pytest.mark.long
def test_a_study_over_the_numbers_of_an_optimizer_of_the_users_compiles_once(tmp_path: pathlib.Path):
  study = Study(
    name="muon",
    goal="which momentum is best?",
    objective=Minimize("validation/loss"),
    config=config_of("muon"),
    nuisance={"optimizer.traced.beta": Linear(0.5, 0.99), "optimizer.traced.weight_decay": Linear(0.0, 0.1)},
    trials=4,
    search=Halton(seed=0),
  )
  results = run_study(study, tmp_path / "study", workers=1)
  assert [trial.state for trial in results.trials] == ["complete"] * 4
  records = [json.loads((tmp_path / f"study/trials/{index:04}/run.json").read_text()) for index in range(4)]
  # The one worker has compiled all before the first trial, to measure its cost.
  assert sum(sum(record["compilations"].values()) for record in records) == 0


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_the_first_ten_updates_are_those_of_optax_driven_by_hand(name: str):
  config = config_of(name).resolved()
  learning_rate = config.optimizer.learning_rate
  theirs = {
    "muon": lambda rate: optax.contrib.muon(rate, beta=0.9, weight_decay=0.01),
    "adafactor": lambda rate: optax.adafactor(rate, min_dim_size_to_factor=16),
  }[name]
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size)
  steps = make_steps(config, config.task.build(config.dataset), dataset.info)
  settings = program_settings(config)
  normalization: Any = dataset.info.normalization
  mean, std = (np.asarray(part, np.float32) for part in normalization)

  def loss(params: Any, batch: Any) -> jax.Array:
    x = ((batch["inputs"].astype(np.float32) - mean) / std).reshape(config.batch_size, -1)
    for index in range(2):
      layer = params["hidden"][index]["linear"]
      x = jnp.maximum(x @ layer["kernel"] + layer["bias"], 0)
    logits = x @ params["output"]["kernel"] + params["output"]["bias"]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(logits)), batch["labels"]])

  with jax.numpy_dtype_promotion("standard"):
    ours, state = jax.jit(steps.train_step), jax.jit(steps.init)(settings)
    by_hand, sizes = theirs(learning_rate).init(state["params"]), []
    for step in range(10):
      batch = dataset.train_batch(step)
      rate = learning_rate * min(step + 1, 2) / 2
      params = state["params"]
      expected, by_hand = theirs(rate).update(jax.grad(loss)(params, batch), by_hand, params)
      state, metrics = ours(state, settings, batch)
      assert float(metrics["learning_rate"]) == pytest.approx(rate)
      for path, update in flatten(expected).items():
        found = np.asarray(flatten(state["params"])[path]) - np.asarray(flatten(params)[path])
        size = float(np.linalg.norm(update))
        sizes.append(size)
        assert np.linalg.norm(found - update) <= 1e-4 * size + 1e-7, (step, path)
  assert min(sizes) > 1e-5
  assert max(sizes) > 0.1


def test_evaluations_see_what_the_optimizer_says_and_frozen_parameters_as_they_are(
  tmp_path: pathlib.Path, programs: Programs
):
  frozen = [{"parameters": "hidden/0/linear/*", "frozen": True}]
  config = config_of("schedule_free", parameter_groups=frozen)
  run(config, tmp_path / "run", programs=programs)
  first, last = (read_arrays(tmp_path / "run" / "checkpoints" / str(step)) for step in (8, 12))
  names = [name.removeprefix("params/") for name in last if name.startswith("params/")]
  assert len(names) == 6
  for name in names:
    trained, z = last[f"params/{name}"].astype(np.float64), last[f"opt_state/z/{name}"]
    if name.startswith("hidden/0"):
      np.testing.assert_array_equal(last[f"params/{name}"], first[f"params/{name}"])
      np.testing.assert_array_equal(last[f"average/params/{name}"], last[f"params/{name}"])
    else:
      expected = (trained - (1 - 0.9) * z) / 0.9
      np.testing.assert_allclose(last[f"average/params/{name}"], expected, rtol=1e-4, atol=1e-6)
      assert np.abs(last[f"average/params/{name}"] - trained).max() > 1e-4
  model = load_model(tmp_path / "run", step="last")
  np.testing.assert_array_equal(model.params["output"]["kernel"], last["average/params/output/kernel"])
  _, batch = load(config.dataset, seed=0, batch_size=8).fixed_examples("validation", 297)
  error = np.mean(model.predict(batch["inputs"]).argmax(axis=1) != batch["labels"])
  assert numbers(tmp_path / "run")[-1]["validation/error"] == pytest.approx(error, abs=1e-6)


def test_an_optimizer_that_keeps_a_copy_of_the_parameters_starts_from_warm_started_ones(
  tmp_path: pathlib.Path, programs: Programs
):
  run(config_of("schedule_free"), tmp_path / "source", programs=programs)
  config = config_of("schedule_free", seed=1, warm_start={"source": str(tmp_path / "source"), "step": "last"})
  config = config.override({"checkpointing.keep_latest": 9})
  run(config, tmp_path / "run", programs=programs)
  source = read_arrays(tmp_path / "source" / "checkpoints" / "12")
  started = read_arrays(tmp_path / "run" / "checkpoints" / "0")
  for name in ("output/kernel", "hidden/0/linear/bias"):
    for part in ("params", "average/params", "opt_state/z"):
      np.testing.assert_array_equal(started[f"{part}/{name}"], source[f"average/params/{name}"], err_msg=part)


def test_a_trained_model_is_used_without_its_optimizer(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  (tmp_path / "site").mkdir()
  file = tmp_path / "site" / "passing_optimizer.py"
  file.write_text("import optax\n\ndef build(learning_rate):\n  return optax.sgd(learning_rate)\n")
  monkeypatch.syspath_prepend(file.parent)
  run(mlp(optimizer__name="passing_optimizer:build"), tmp_path / "run", programs=programs)
  file.unlink()
  monkeypatch.delitem(sys.modules, "passing_optimizer")
  assert load_model(tmp_path / "run").predict(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 10)


def test_the_average_of_parameters_for_evaluations_is_theirs(tmp_path: pathlib.Path, programs: Programs):
  run(config_of("schedule_free", averaging__decay=0.0), tmp_path / "average", programs=programs)
  run(config_of("schedule_free"), tmp_path / "run", programs=programs)
  one, other = state_of(tmp_path / "average"), state_of(tmp_path / "run")
  for name in (name for name in one if name.startswith("average/")):
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("name", ["muon", pytest.param("adafactor", marks=pytest.mark.long)])
def test_the_state_of_an_optimizer_of_the_users_is_split_over_devices(
  tmp_path: pathlib.Path, programs: Programs, name: str
):
  wide = {"model__widths": (512,), "max_train_steps": 4}
  run(config_of(name, **wide), tmp_path / "one", programs=programs)
  run(config_of(name, mesh__fsdp=2, **wide), tmp_path / "two", programs=programs)
  one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
  assert one.keys() == two.keys()
  for path, array in one.items():
    np.testing.assert_allclose(two[path], array, rtol=2e-3, atol=2e-5, err_msg=path)
  log = (tmp_path / "two" / "logs" / "host_0.log").read_text()
  row = next(line for line in log.splitlines() if "params" in line and "split over fsdp" in line)
  assert "hidden/0/linear/kernel [64, 512]" in row
  if name == "muon":
    row = next(line for line in log.splitlines() if "opt_state" in line and "split over fsdp" in line)
    assert "mu/hidden/0/linear/kernel [64, 512]" in row


def test_what_an_optimizer_keeps_lies_where_its_parameter_does_if_it_has_its_shape():
  kernel = jax.ShapeDtypeStruct((4, 256, 512), np.float32)
  shapes = {
    "params": {"stack": {"kernel": kernel}, "kernel": kernel},
    "opt_state": (
      {"mu": {"stack": {"kernel": kernel}}, "v_row": {"stack": {"kernel": jax.ShapeDtypeStruct((256, 4), np.float32)}}},
    ),
  }
  placements = {"stack/kernel": Placement(axes=(None, "fsdp"), stacked=True), "kernel": Placement(axes=("fsdp",))}
  places = {
    name: leaf.spec for name, leaf in flatten(state(make_mesh(MeshSettings(fsdp=2)), shapes, placements)).items()
  }
  assert places["opt_state/0/mu/stack/kernel"] == places["params/stack/kernel"] == P(None, None, "fsdp")
  assert places["params/kernel"] == P("fsdp")
  assert places["opt_state/0/v_row/stack/kernel"] == P()


def schedule(**changes: Any) -> Any:
  return mlp(**{f"schedule__{path}": value for path, value in changes.items()}).schedule


@pytest.mark.parametrize(
  ("one", "other", "formula"),
  [
    (
      {"name": "own_optimizers:half_life", "traced": {"half_life": 7.0}},
      {"name": "own_optimizers:half_life", "traced": {"half_life": 3.0}, "warmup_steps": 4},
      lambda t, traced: 2 ** (-t / traced["half_life"]),
    ),
    (
      {"name": "own_optimizers:triangle", "kwargs": {"top": 10}, "traced": {"height": 1.0}},
      {"name": "own_optimizers:triangle", "kwargs": {"top": 10}, "traced": {"height": 2.0}},
      lambda t, traced: traced["height"] * min(t, max(20 - t, 0)) / 10,
    ),
    (
      {"name": "optax:cosine_decay_schedule", "kwargs": {"decay_steps": 20}, "traced": {"init_value": 1.0}},
      {"name": "optax:cosine_decay_schedule", "kwargs": {"decay_steps": 20}, "traced": {"init_value": 0.5}},
      lambda t, traced: traced["init_value"] * (1 + np.cos(np.pi * min(t, 20) / 20)) / 2,
    ),
  ],
  ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_a_schedule_of_the_users_is_its_formula_and_follows_its_numbers_without_a_new_program(
  one: dict, other: dict, formula: Any
):
  traces, config = [], schedule(**one)

  @jax.jit
  def evaluate(settings: Any, step: Any) -> Any:
    traces.append(step)
    return schedules.factor(config, settings, step)

  for made in (config, schedule(**other)):
    for step in (0, 1, 5, 17, 40):
      t = max(step - made.warmup_steps, 0)
      warmup = min((step + 1) / made.warmup_steps, 1) if made.warmup_steps else 1
      found = evaluate(traced_values(made), jnp.int32(step))
      assert found == pytest.approx(warmup * formula(t, made.traced), rel=1e-5, abs=1e-7)
  assert len(traces) == 1


PLUGIN = {"optimizer__name": "mistaken_optimizers:"}
MISTAKES: list[tuple[dict[str, Any], str]] = [
  ({"optimizer.name": "own_optimizers:tow"}, "has no 'tow'; did you mean 'two'"),
  ({"optimizer.name": "own_optimisers:two"}, "there is no module 'own_optimisers'"),
  ({"optimizer.name": "mistaken_optimizers:TRANSFORMATION"}, "was made when its file was imported"),
  ({"optimizer.name": "mistaken_optimizers:NUMBER"}, "optimizer.name 'mistaken_optimizers:NUMBER': is a int"),
  ({"optimizer.name": "mistaken_optimizers:no_transformation"}, "returned a float; it must return an optax transf"),
  ({"optimizer.name": "mistaken_optimizers:without_rate"}, "without_rate must have an argument learning_rate"),
  ({"optimizer.name": "mistaken_optimizers:needs"}, r"optimizer\.kwargs\.depth: needs needs a value for 'depth'; give"),
  (
    {"optimizer.name": "optax:adafactor", "optimizer.traced": {"decay_rat": 0.8}},
    r"optimizer\.traced\.decay_rat: adafactor has no argument 'decay_rat'; did you mean 'decay_rate'",
  ),
  (
    {"optimizer.name": "optax:adam", "optimizer.kwargs": {"beta1": 0.9}},
    r"optimizer\.kwargs\.beta1: adam has no argument 'beta1'",
  ),
  (
    {"optimizer.name": "optax:adam", "optimizer.kwargs": {"b1": 0.9}, "optimizer.traced": {"b1": 0.8}},
    r"optimizer\.traced\.b1: is in optimizer\.kwargs, too",
  ),
  (
    {"optimizer.name": "optax:adam", "optimizer.kwargs": {"learning_rate": 0.1}},
    r"optimizer\.kwargs\.learning_rate: adam receives learning_rate already; set optimizer\.learning_rate",
  ),
  (
    {"optimizer.name": "mistaken_optimizers:reads"},
    r"'mistaken_optimizers:reads' fails: it reads the setting 'factor', which .*optimizer\.traced\.factor",
  ),
  (
    {"optimizer.name": "mistaken_optimizers:reads", "optimizer.traced": {"factor": 1.0, "other": 1.0}},
    r"optimizer\.traced\.other: mistaken_optimizers:reads does not read this setting",
  ),
  (
    {"optimizer.name": "mistaken_optimizers:raises"},
    r"fails: RuntimeError: not today \(.*mistaken_optimizers.py, line",
  ),
  (
    {"optimizer.name": "mistaken_optimizers:decides", "optimizer.traced": {"momentum": 0.9}},
    r"decides by, or converts, the value .*optimizer\.kwargs\.NAME",
  ),
  ({"optimizer.name": "mistaken_optimizers:no_state"}, r"init fails: TypeError"),
  ({"optimizer.name": "mistaken_optimizers:raises_later"}, r"update fails: KeyError: 'nothing' \(.*line"),
  (
    {"optimizer.name": "mistaken_optimizers:other_shapes"},
    r"update returns nothing for 'output/bias', which needs \[10",
  ),
  ({"optimizer.name": "mistaken_optimizers:grows"}, r"an update changes the structure of the state: opt_state"),
  (
    {"optimizer.name": "optax:adam", "optimizer.evaluated_params": "mistaken_optimizers:one_argument"},
    r"optimizer\.evaluated_params .* must be a function of \(optimizer state, parameters\)",
  ),
  (
    {"optimizer.name": "optax:adam", "optimizer.evaluated_params": "mistaken_optimizers:other_params"},
    r"returns something else than parameters like those",
  ),
  (
    {"optimizer.name": "optax:adam", "optimizer.evaluated_params": "optax.contrib:schedule_free_eval_params"},
    r"optimizer\.evaluated_params .* fails: AttributeError",
  ),
  (
    {**OPTIMIZERS["schedule_free"], "parameter_groups": [{"parameters": "*bias"}]},
    r"parameter_groups\.0: multiplies updates after .*optax\.multi_transform",
  ),
  ({**OPTIMIZERS["schedule_free"], "averaging.evaluate": "current"}, r"averaging\.evaluate = 'current'"),
  (
    {**OPTIMIZERS["two"], "optimizer.kwargs.head": "outptu/*"},
    r"labels_by_name: 'outptu/\*' is the first that fits of no parameter; did you mean 'output/",
  ),
  ({"schedule.name": "mistaken_optimizers:python_number"}, "returns a float; it must return an array that is computed"),
  ({"schedule.name": "mistaken_optimizers:converted"}, r"decides by, or converts, the value .*schedule\.kwargs\.NAME"),
  ({"schedule.name": "mistaken_optimizers:vector"}, r"returns float32\[2\]; it must return one float"),
  ({"schedule.name": "mistaken_optimizers:whole"}, r"returns int32\[\]; it must return one float"),
  ({"schedule.name": "mistaken_optimizers:by_position"}, "argument 'step' must be accepted by keyword"),
  ({"schedule.name": "mistaken_optimizers:NUMBER"}, "schedule.name 'mistaken_optimizers:NUMBER': is a int"),
  ({"schedule.name": "optax:cosine_decay_schedule"}, r"schedule\.kwargs\.init_value: .* needs a value"),
  (
    {"schedule.name": "optax:cosine_decay_schedule", "schedule.traced": {"init_value": 1.0, "decay_steps": 9.0}},
    r"decides by, or converts, the value .*schedule\.kwargs\.NAME",
  ),
  (
    {"schedule.name": "own_optimizers:half_life", "schedule.traced": {"half_life": 1.0, "half_live": 1.0}},
    r"schedule\.traced\.half_live: own_optimizers:half_life does not read this setting",
  ),
  ({"schedule.name": "own_optimizers:half_life"}, r"it reads the setting 'half_life', .*schedule\.traced\.half_life"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=lambda value: "" if isinstance(value, str) else None)
def test_a_mistake_in_an_optimizer_or_a_schedule_is_told_before_anything_is_written(
  tmp_path: pathlib.Path, changes: dict[str, Any], message: str
):
  with pytest.raises(UserError, match=message):
    run(mlp().override(changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_labels_need_a_pattern_for_each_parameter():
  params = {"hidden": {"kernel": np.zeros(2)}, "output": {"kernel": np.zeros(2), "bias": np.zeros(2)}}
  assert labels_by_name({"output/*": "a", "*": "b"})(params) == {
    "hidden": {"kernel": "b"},
    "output": {"kernel": "a", "bias": "a"},
  }
  with pytest.raises(UserError, match="no pattern fits the parameter 'output/bias'"):
    labels_by_name({"*/kernel": "a"})(params)

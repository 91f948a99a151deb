"""Models and tasks as others write them are trained and evaluated exactly, or refused with the place and the remedy."""

import json
import pathlib
import re
from typing import Any

import foreign_models
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny import mlp, numbers

from trialbook.errors import UserError
from trialbook.files import read_json
from trialbook.input_pipeline import Digits, load
from trialbook.models.call_modes import Call
from trialbook.trainer import Config, Programs, bound_task, export, optimizers, run, train_step
from trialbook.trainer import load as load_model
from trialbook.trainer.bound_task import bind
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.schedules import Constant
from trialbook.trainer.train_step import Steps, make_steps, program_settings

INFO = load(Digits(), seed=0, batch_size=32).info
INPUTS = Digits().read().arrays["train"]["inputs"][:8]


def config(model: str, kwargs: Any = None, **changes: Any) -> Config:
  return mlp(model__name=f"foreign_models:{model}", model__kwargs=kwargs or {}, **changes)


def steps(made: Config) -> Steps:
  return make_steps(made, made.task.build(), INFO)


class Called:
  """A model with its initial weights."""

  def __init__(self, made: Config):
    network, settings = steps(made).network, program_settings(made)
    self.params, self.variables = jax.jit(network.init)(jax.random.key(0))

    def apply(params: Any, variables: Any, inputs: Any, seed: Any, train: bool) -> Any:
      called = Call(network.normalized({"inputs": inputs})["inputs"])
      return network.apply(params, variables, called, settings, train=train, key=jax.random.key(seed))[:2]

    self.apply = jax.jit(apply, static_argnames="train")

  def __call__(self, inputs: np.ndarray, *, train: bool, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    outputs, variables = self.apply(self.params, self.variables, inputs, seed, train=train)
    return np.asarray(outputs), {name: np.asarray(value) for name, value in flatten(variables).items()}


def moved(model: Called, after: dict[str, np.ndarray]) -> bool:
  return any((after[name] != np.asarray(value)).any() for name, value in flatten(model.variables).items())


@pytest.mark.slow
@pytest.mark.parametrize("idiom", foreign_models.IDIOMS, ids=lambda idiom: idiom.__name__)
def test_layers_without_flags_are_trained_in_training_and_only_there(idiom: type[nnx.Module]):
  model = Called(config(idiom.__name__))
  together, after = model(INPUTS, train=False)
  assert not moved(model, after)
  for index in (0, 5):
    alone, _ = model(INPUTS[index : index + 1], train=False, seed=1)
    np.testing.assert_allclose(alone[0], together[index], rtol=1e-5, atol=1e-5)
  (first, after), (again, _) = (model(INPUTS, train=True, seed=seed) for seed in (0, 1))
  assert np.abs(first - again).max() > 1e-3
  assert moved(model, after) == bool(flatten(model.variables))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "frozen"), [("train", True), ("call", True), ("constructor", False)])
def test_layers_are_frozen_by_an_overridden_train_or_by_a_flag_at_the_call_and_not_by_their_constructor(
  how: str, frozen: bool
):
  model = Called(config("Frozen", {"how": how}))
  evaluated, _ = model(INPUTS, train=False)
  (first, after), (again, _) = (model(INPUTS, train=True, seed=seed) for seed in (0, 1))
  assert moved(model, after) != frozen
  assert np.array_equal(first, evaluated) == np.array_equal(first, again) == frozen


@pytest.fixture(scope="module")
def programs() -> Programs:
  return Programs()


@pytest.mark.slow
def test_a_model_without_flags_is_recorded_as_what_it_predicts_later(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture
):
  made = config("Layers", max_train_steps=10)
  run(made, tmp_path, programs=programs)
  _, examples = load(made.dataset, seed=0, batch_size=32).fixed_examples("validation", 10_000)
  logits = load_model(tmp_path, "last").predict(examples["inputs"]).astype(np.float64)
  shifted = logits - logits.max(axis=1, keepdims=True)
  losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(shifted)), examples["labels"]]
  assert numbers(tmp_path)[-1]["validation/loss"] == pytest.approx(losses.mean(), rel=1e-5)
  assert warned(caplog) == []


@pytest.mark.slow
@pytest.mark.parametrize("idiom", foreign_models.IDIOMS, ids=lambda idiom: idiom.__name__)
def test_a_foreign_model_is_exported_for_any_number_of_examples(
  tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, idiom: type[nnx.Module]
):
  made = config(idiom.__name__)
  model = Called(made)
  params, variables = jax.device_get((model.params, model.variables))
  folder = export.export_model(tmp_path / "to", made, INFO, params, variables, {})
  card = json.loads((folder / "card.json").read_text())
  # `len(x)` cannot be a symbol.
  told = [record.getMessage() for record in caplog.records if "vectorized" in record.getMessage()]
  if idiom is foreign_models.Layers:
    words = "any batch size, vectorized over single examples, because the model needs a fixed batch size ("
    assert card["input"]["batch"].startswith(words)
    assert "TypeError: '_DimExpr' object" in card["input"]["batch"]
    hint = "x.shape[0] in place of len(x) often helps"
    assert told == [f"export of model 'foreign_models:Layers': {card['input']['batch']}; {hint}"]
  else:
    assert (card["input"]["batch"], told) == ("any batch size", [])
  assert card["input"]["shape"] == ["batch", 8, 8, 1]
  exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
  expected, _ = model(INPUTS, train=False)
  for size in (1, 5) if idiom is foreign_models.Layers else (5,):
    found = exported.call(dict(np.load(folder / "weights.npz")), INPUTS[:size])
    np.testing.assert_allclose(found, expected[:size], rtol=1e-5, atol=1e-5)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
  """What was said of neighbours since the last time."""
  told = [record.getMessage() for record in caplog.records if "depends on the batch" in record.getMessage()]
  caplog.clear()
  return told


def mixing(steps: int, **kwargs: Any) -> Config:
  return config("Mixing", kwargs, max_train_steps=steps).model_copy(update={"schedule": Constant()})


@pytest.mark.slow
@pytest.mark.parametrize("bug", ["batch", "random"])
@pytest.mark.parametrize("zero_head", [False, True])
def test_an_evaluation_that_depends_on_more_than_the_example_is_warned_of_once_with_the_numbers(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture, bug: str, zero_head: bool
):
  made = mixing(30, bug=bug, zero_head=zero_head)
  run(made, tmp_path, programs=programs)
  (told,) = warned(caplog)
  assert re.fullmatch(
    r"Evaluation of model 'foreign_models:Mixing' depends on the batch: the mean loss of the same 125 examples is"
    r" [\d.]+ with other examples in the batch and [\d.]+ with padding\. In evaluation, a layer must use neither the"
    r" batch's statistics nor random numbers\. Run with --debug to find the layer\.",
    told,
  )


@pytest.mark.slow
def test_a_fork_looks_for_neighbours_at_its_own_first_evaluation_and_a_resume_does_not_again(
  tmp_path: pathlib.Path, programs: Programs, caplog: pytest.LogCaptureFixture
):
  made, longer, longest = (mixing(steps, bug="batch", zero_head=False) for steps in (10, 20, 30))
  run(made, tmp_path / "source", programs=programs)
  assert len(warned(caplog)) == 1
  run(longer, tmp_path / "fork", programs=programs, fork=tmp_path / "source")
  assert len(warned(caplog)) == 1
  run(longest, tmp_path / "fork", programs=programs)
  run(longer, tmp_path / "source", programs=programs)
  assert warned(caplog) == []


@pytest.mark.slow
def test_looking_for_neighbours_costs_two_batches_once_and_none_at_the_start(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  made = config("Mixing", max_train_steps=40, evaluation__train_examples=0)
  run(made, tmp_path / "compiled", programs=programs)
  (program,) = (program for program in programs._programs.values() if program.network.config.model == made.model)
  calls, eval_step = [], program.eval_step
  monkeypatch.setattr(program, "eval_step", lambda *arguments: calls.append(0) or eval_step(*arguments))
  run(made, tmp_path / "run", programs=programs)
  # 250 validation examples are one batch: five evaluations, five times predictions, and the selected checkpoint.
  assert len(calls) == 5 + 5 + 1 + 2


UNKEPT = {
  "sown": "changes its variables during a call: variables/features/0 float32[32, 64] is new. Create them in the constr",
  "clipped": "assigns to its parameters during a call: head/kernel. The new values would be lost",
  "normalized": "assigns to its parameters during a call: head/kernel. ",
  "one": "assigns to its parameters during a call: head/bias. ",
  "constant": "assigns to its parameters during a call: head/bias. ",
  "swapped": "assigns to its parameters during a call: head/bias. ",
  "new": "other float32[] is new",
  "lazy": "hidden/bias float32[64] is new; params/hidden/kernel float32[64, 64] is new",
  "gone": "variables/seen float32[] is gone",
  "shape": "variables/seen float32[] becomes float32[64]",
  "dtype": "variables/seen float32[] becomes int32[]",
  "key": "variables/seen is a random key, which a checkpoint cannot hold",
  "text": "model 'foreign_models:Unkept' cannot be created for inputs of shape (8, 8, 1): TypeError: ",
  "integers": "params/table is int32, but parameters are trained and must be floats; make it an nnx.Variable",
  "whole": "model 'foreign_models:Unkept' returns int32; it must return floats",
  "loop": "model 'foreign_models:Unkept': the loss has no gradient: ValueError: Reverse-mode",
}


def traced(made: Config) -> Any:
  """The state after an update, and the metrics, as shapes."""
  functions, settings = steps(made.resolved()), program_settings(made.resolved())
  state = jax.eval_shape(functions.init, settings)
  batch = functions.task.batch_spec(made.batch_size, train=True)
  return state, *jax.eval_shape(functions.train_step, state, settings, batch)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("bug", UNKEPT)
def test_variables_that_a_run_could_not_keep_are_named(bug: str, parts: int):
  with pytest.raises(UserError) as caught:
    traced(config("Unkept", {"bug": bug}, gradient_accumulation=parts))
  assert UNKEPT[bug].replace("[32,", f"[{32 // parts},") in str(caught.value)


@pytest.mark.parametrize("model", ["Unkept", "Sowing"])
def test_what_is_sown_or_made_of_a_python_number_is_no_matter(model: str):
  state, after, _ = traced(config(model, {"bug": "python"} if model == "Unkept" else {}, averaging__decay=0.9))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
  assert not [name for name in flatten(state) if "features" in name]


@pytest.mark.parametrize("how", ["jit", "remat"])
def test_a_transformation_that_gives_back_parameters_as_they_were_assigns_to_none(how: str):
  state, after, _ = traced(config("Unkept", {"bug": how}))
  assert jax.tree.structure(state) == jax.tree.structure(after)


def test_a_transformation_that_names_the_kinds_of_variables_finds_no_others():
  state, after, _ = traced(config("Scanned"))
  assert jax.tree.structure(state) == jax.tree.structure(after)


def test_a_task_may_call_a_model_with_what_is_no_array():
  state, after, _ = traced(config("Repeated", task__name="foreign_models:Twice", selection__metric="validation/loss"))
  assert jax.tree.structure(state) == jax.tree.structure(after)
  assert {name.split("/")[1] for name in flatten(state) if name.startswith("params/")} == {"Dense_0", "Dense_1"}


@pytest.mark.slow
def test_a_task_may_call_methods_of_the_model_with_any_arguments_or_none(tmp_path: pathlib.Path, programs: Programs):
  made = config("Asking", task__name="foreign_models:Asks", selection__metric="validation/loss", max_train_steps=10)
  run(made, tmp_path, programs=programs)
  evaluated = [line for line in numbers(tmp_path) if "validation/loss" in line]
  assert [line["validation/largest"] for line in evaluated] == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("model", ["Layers", "Repeated"])
def test_a_traced_setting_that_nothing_reads_is_told_with_what_would(model: str):
  task = {"task__name": "foreign_models:Twice"} if model == "Repeated" else {}
  with pytest.raises(UserError) as caught:
    traced(config(model, model__traced={"rate": 0.5}, selection__metric="validation/loss", **task))
  assert str(caught.value) == (
    f"model.traced.rate: no layer of 'foreign_models:{model}' reads this setting, and its call has no such argument;"
    " write def __call__(self, ..., rate), or give model.kwargs.rate"
  )


class OwnError(Exception):
  """Stands for a mistake in code of the project."""


def test_a_mistake_of_our_own_beside_the_model_is_not_blamed_on_it(monkeypatch: pytest.MonkeyPatch):
  def mistaken(*_: Any) -> Any:
    raise OwnError

  monkeypatch.setattr(train_step, "objective", mistaken)
  with pytest.raises(OwnError):
    traced(mlp())


def test_a_random_key_in_an_optimizers_state_is_named(monkeypatch: pytest.MonkeyPatch):
  noisy = optax.add_noise(eta=0.1, gamma=0.5, key=jax.random.key(0))
  monkeypatch.setattr(optimizers, "transformation", lambda *_: noisy)
  with pytest.raises(UserError, match=r"^opt_state/.*key is a random key"):
    traced(mlp())


def test_an_optimizer_whose_state_changes_its_dtype_is_named(monkeypatch: pytest.MonkeyPatch):
  def update(updates: Any, state: Any, params: Any = None) -> Any:
    return updates, jax.tree.map(lambda x: x.astype("bfloat16"), state)

  changing = optax.GradientTransformation(lambda params: {"moment": params}, update)
  monkeypatch.setattr(optimizers, "transformation", lambda *_: changing)
  with pytest.raises(
    UserError, match=r"changes the structure of the state: .*bias float32\[32\] becomes bfloat16\[32\]"
  ):
    traced(mlp())


@pytest.mark.parametrize("name", ["examples"])
def test_a_metric_with_the_name_of_another_number_of_an_evaluation_is_refused(name: str):
  task = mlp().override({"task.name": "foreign_models:Also", "task.kwargs": {"name": name}}).task.build()
  with pytest.raises(UserError, match=f"task 'foreign_models:Also': metrics names a metric {name!r}, which is a name"):
    bind(task, INFO).metrics(jnp.zeros((2, 10)), {"labels": jnp.zeros(2, jnp.int32)}, settings={})


@pytest.mark.slow
def test_a_metric_may_have_a_slash_in_its_name(tmp_path: pathlib.Path, programs: Programs):
  task = {"task.name": "foreign_models:Also", "task.kwargs": {"name": "accuracy/top1"}}
  best = {"selection.metric": "validation/accuracy/top1", "selection.mode": "max"}
  run(mlp(max_train_steps=2).override(task | best), tmp_path, programs=programs)
  evaluated = {line["step"]: line for line in numbers(tmp_path) if "validation/error" in line}
  assert [*evaluated] == [0, 2]
  for line in evaluated.values():
    for split in ("validation", "train_subset"):
      assert line[f"{split}/accuracy/top1"] == pytest.approx(1 - line[f"{split}/error"])
  record = read_json(tmp_path / "best.json") or {}
  assert record["value"] == max(line["validation/accuracy/top1"] for line in evaluated.values())
  assert {"train/accuracy/top1", "validation/accuracy/top1"} <= evaluated[2].keys()


RETURNED = {
  "keys": "it must be a list of keys: return ['inputs', 'labels']",
  "num_outputs": "mlp maps one array to one array, but the task has no num_outputs; name a model of your own",
  "prepare": "it must be a dict, the batch that the other functions receive: return {**batch, ...}",
  "model_inputs": "it must be arrays, or a Call of arrays: return Call(batch['inputs'], name=...)",
  "loss": "for 'loss'; it must be an array [32], or a Mean: return losses",
  "metrics": "it must be a dict: return {'error': errors}, with errors [B], or Mean(total, count), or Sum(total)",
  "rows": "it must be a dict of arrays [B, ...]: return {'predictions': outputs.argmax(axis=-1)}",
  "split_metrics": "it must be a dict of functions of (means, rows): return {'recall': lambda means, rows: ...}",
}
"""The end of the message, with the line that would mend it, if a member of a task returns None."""


def told_at_the_start(folder: pathlib.Path, programs: Programs, changes: dict[str, Any]) -> str:
  """What keeps a run from beginning."""
  with pytest.raises(UserError) as caught:
    run(mlp().override({"selection.metric": "validation/loss", **changes}), folder / "run", programs=programs)
  assert not (folder / "run").exists()
  return str(caught.value)


@pytest.mark.parametrize("how", ["raises", "returns"])
@pytest.mark.parametrize("member", bound_task.MEMBERS)
def test_what_goes_wrong_in_any_member_of_a_task_is_told_before_a_run_begins(
  tmp_path: pathlib.Path, programs: Programs, member: str, how: str
):
  task = {"task.name": "foreign_models:Faulty", "task.kwargs": {"member": member, "how": how}}
  told = told_at_the_start(tmp_path, programs, task)
  if how == "raises":
    assert f"task 'foreign_models:Faulty': {member} fails" in told
    assert "KeyError: 'forgotten' (" in told
    assert "foreign_models.py, line " in told
  else:
    assert RETURNED[member] in told.replace('"', "'")
    if member != "num_outputs":
      assert f"task 'foreign_models:Faulty': {member} returned a NoneType" in told
      assert re.search(r"\(.*foreign_models\.py, line \d+\)$", told)


@pytest.mark.parametrize(
  ("lacks", "mixup", "expected"),
  [
    (
      "labels",
      None,
      [
        "task 'foreign_models:Faulty': loss fails: KeyError: 'labels' (",
        "); the batch has 'inputs'; dataset 'digits' has it: name 'labels' in keys",
      ],
    ),
    (
      "inputs",
      None,
      ["keys does not name 'inputs', which the model is given; name it, or say what the model is given"],
    ),
    (
      "mixed_labels mixing",
      0.2,
      [
        "keys does not name 'mixed_labels', 'mixing', by which dataset 'digits' mixes labels in training",
        "return [..., *info.training_spec]",
        "or set dataset.augmentation.mixup_alpha and cutmix_alpha to null",
      ],
    ),
  ],
)
def test_a_task_that_does_not_name_what_it_needs_of_a_batch_is_refused_with_the_remedy(
  tmp_path: pathlib.Path, programs: Programs, lacks: str, mixup: float | None, expected: list[str]
):
  task = {"task.name": "foreign_models:Faulty", "task.kwargs": {"lacks": lacks}}
  told = told_at_the_start(tmp_path, programs, task | {"dataset.augmentation.mixup_alpha": mixup})
  for part in expected:
    assert part in told

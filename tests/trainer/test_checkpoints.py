"""Checkpoints: verified when read, the right ones kept, damage told and survived."""

import itertools
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformer import transformer
from tiny import mlp, numbers, read_arrays, resnet, state_of

from trialbook.errors import ConfigError, UserError
from trialbook.trainer import Config, Programs, load, run, sharding, train
from trialbook.trainer.checkpoint_evaluation import evaluate_checkpoint
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.checkpoints.checksums import checksums
from trialbook.trainer.config import MeshSettings
from trialbook.trainer.evaluation import evaluate
from trialbook.trainer.sharding import make_mesh


def config(**changes) -> Config:
  return mlp(max_train_steps=60, optimizer__learning_rate=0.5, schedule__name="constant").override(
    {path.replace("__", "."): value for path, value in changes.items()}
  )


def interrupted(workdir: pathlib.Path, at: int, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
  """A run of `config()` that stopped in the evaluation after step `at`."""

  evaluations = itertools.count()

  def stop(*arguments, **named):
    if next(evaluations) == 2 * (at // 10):  # Two splits every ten steps.
      raise KeyboardInterrupt
    return evaluate(*arguments, **named)

  monkeypatch.setattr(train, "evaluate", stop)
  with pytest.raises(KeyboardInterrupt):
    run(config(), workdir, programs=programs)
  monkeypatch.setattr(train, "evaluate", evaluate)


@pytest.mark.slow
def test_a_single_flipped_bit_changes_the_checksum_wherever_it_is():
  rng = np.random.default_rng(0)
  for dtype in ("float32", "bfloat16", "int32", "uint8", "bool"):
    array = jnp.asarray(rng.integers(0, 2, (7, 5)), dtype)
    before = int(checksums({"a": array})[0])
    for row in range(7):
      flipped = np.asarray(array).copy()
      flipped.view(np.uint8).reshape(7, -1)[row, 0] ^= 1
      assert int(checksums({"a": jnp.asarray(flipped)})[0]) != before
  swapped = jnp.arange(10.0).at[jnp.asarray([2, 3])].set(jnp.asarray([3.0, 2.0]))
  assert checksums({"a": swapped})[0] != checksums({"a": jnp.arange(10.0)})[0]


def test_the_checksum_is_that_of_an_independent_sum_and_does_not_depend_on_the_sharding():
  array = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
  words = array.view(np.uint32).ravel().astype(object)
  expected = sum(int(word) * (2 * position + 1) for position, word in enumerate(words)) % 2**32
  mesh = make_mesh()
  for spec in (jax.P(), jax.P("data"), jax.P(None, "data")):
    placed = jax.device_put(array, jax.NamedSharding(mesh, spec))
    assert int(jax.jit(checksums)({"a": placed})[0]) == expected


@pytest.mark.slow
def test_the_best_and_the_latest_are_what_is_on_the_disk_and_best_json_names_the_best(
  tmp_path: pathlib.Path, programs: Programs
):
  result = run(
    config(checkpointing__keep_latest=2, checkpointing__keep_best=3, selection__metric="validation/loss"),
    tmp_path / "run",
    programs=programs,
  )
  best = json.loads((tmp_path / "run" / "best.json").read_text())
  values = {entry["step"]: entry["value"] for entry in best["evaluations"]}
  ranked = sorted(values, key=lambda step: (values[step], step))
  assert list(values) == list(range(0, 61, 10))
  assert ranked[0] not in (0, 60), "the test needs a best step in the middle"
  assert (best["step"], best["value"], result.best_step) == (ranked[0], values[ranked[0]], ranked[0])
  assert storage.saved_steps(tmp_path / "run" / "checkpoints") == sorted({*ranked[:3], 50, 60})
  assert result.checkpoint == tmp_path / "run" / "checkpoints" / str(ranked[0])
  # Restoring it reproduces the recorded numbers exactly, at the end of the run, afterwards, and by hand.
  again = evaluate_checkpoint(tmp_path / "run", "best", "validation")
  assert again["validation/loss"] == best["value"] == best["final"]["validation/loss"]
  model = load(tmp_path / "run")
  assert model.step == ranked[0]
  from trialbook.input_pipeline import load as load_data

  batch = load_data(config().dataset, seed=0, batch_size=32).eval_batch(0, "validation", 250)
  wrong = np.argmax(model.predict(batch["inputs"]), axis=-1) != batch["labels"]
  assert np.mean(wrong) == pytest.approx(again["validation/error"])
  with pytest.raises(ValueError, match="inputs have shape"):
    model.predict(batch["inputs"][:, :4])
  with pytest.raises(ConfigError, match="has no checkpoint '33'"):
    load(tmp_path / "run", step=33)


@pytest.mark.slow
def test_rarer_checkpoints_say_what_best_is_about(tmp_path: pathlib.Path, programs: Programs):
  rare = config(checkpointing__every_evaluations=4, selection__metric="validation/loss")
  result = run(rare, tmp_path / "rare", programs=programs)
  assert storage.saved_steps(tmp_path / "rare" / "checkpoints") == [40, 60]
  assert result.note is not None
  assert "was better" in result.note
  off = run(config(checkpointing__every_evaluations=0, evaluation__test=True), tmp_path / "off", programs=programs)
  assert storage.saved_steps(tmp_path / "off" / "checkpoints") == []
  assert "checkpoints are off" in (off.note or "")
  assert off.checkpoint is None
  assert "test/error" in off.metrics
  assert "test/error" not in off.best


@pytest.mark.slow
def test_the_test_set_is_evaluated_on_the_selected_checkpoint(tmp_path: pathlib.Path, programs: Programs):
  result = run(config(evaluation__test=True), tmp_path / "run", programs=programs)
  assert not [name for line in numbers(tmp_path / "run") for name in line if name.startswith("test/")]
  alone = evaluate_checkpoint(tmp_path / "run", "best", "test")
  assert result.best["test/error"] == alone["test/error"]


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(tmp_path: pathlib.Path, programs: Programs):
  first = run(config(), tmp_path / "run", programs=programs)
  before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
  assert run(config(), tmp_path / "run", programs=programs) == first
  assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.slow
def test_host_fields_may_change_on_resume_and_are_recorded(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  interrupted(tmp_path / "run", 30, programs, monkeypatch)
  run(config(logging__every_steps=7, max_train_steps=70), tmp_path / "run", programs=programs)
  record = json.loads((tmp_path / "run" / "run.json").read_text())
  assert record["changed"] == {"logging.every_steps": [100, 7], "max_train_steps": [60, 70]}
  assert (record["restored_step"], record["step"]) == (20, 70)
  assert [earlier["status"] for earlier in record["earlier"]] == ["stopped"]
  assert [line["step"] for line in numbers(tmp_path / "run")] == list(range(71))


@pytest.mark.slow
def test_another_config_is_refused_with_the_differing_keys(tmp_path: pathlib.Path, programs: Programs):
  run(config(), tmp_path / "run", programs=programs)
  before = (tmp_path / "run" / "config.json").read_bytes()
  with pytest.raises(ConfigError) as caught:
    run(config(optimizer__learning_rate=0.25, model__widths=(16,)), tmp_path / "run", programs=programs)
  text = str(caught.value)
  assert "optimizer.learning_rate: the run has 0.5, this config 0.25" in text
  assert "model.widths: the run has (32,), this config (16,)" in text
  assert "--fork" in text
  assert (tmp_path / "run" / "config.json").read_bytes() == before


@pytest.mark.slow
def test_a_newer_format_is_refused(tmp_path: pathlib.Path, programs: Programs):
  run(config(), tmp_path / "run", programs=programs)
  path = tmp_path / "run" / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
  with pytest.raises(ConfigError, match="format 99, made by a newer version"):
    run(config(), tmp_path / "run", programs=programs)


def flip(path: pathlib.Path) -> None:
  """One bit in the middle of the largest data file."""
  file = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 16
  file.write_bytes(data)


def truncate(path: pathlib.Path) -> None:
  file = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose(path: pathlib.Path) -> None:
  max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size).unlink()


def lose_metadata(path: pathlib.Path) -> None:
  (path / "_CHECKPOINT_METADATA").unlink()


def spoil_weights(path: pathlib.Path, ending: str = "kernel") -> None:
  """A checkpoint that Orbax finds in order, with one wrong number in it."""
  import orbax.checkpoint as ocp

  described = storage.describe(path)
  arrays = read_arrays(path)
  name = next(name for name in arrays if name.startswith(("params/", "variables/")) and name.endswith(ending))
  arrays[name] = arrays[name].copy()
  arrays[name].flat[3] *= np.float32(1 + 2e-7)
  shutil.rmtree(path)
  ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(
    path, args=ocp.args.PyTreeSave(arrays), custom_metadata={"arrays": described}
  )


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip, truncate, lose, lose_metadata, spoil_weights])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on_to_the_same_end(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, damage, caplog
):
  run(config(), tmp_path / "undisturbed", programs=programs)
  interrupted(tmp_path / "run", 50, programs, monkeypatch)
  saved = storage.saved_steps(tmp_path / "run" / "checkpoints")
  damage(tmp_path / "run" / "checkpoints" / str(saved[-1]))
  run(config(), tmp_path / "run", programs=programs)
  assert "damaged checkpoint" in caplog.text
  record = json.loads((tmp_path / "run" / "run.json").read_text())
  assert record["restored_step"] == saved[-2]
  assert numbers(tmp_path / "run") == numbers(tmp_path / "undisturbed")
  for (name, a), (_, b) in zip(
    state_of(tmp_path / "run").items(), state_of(tmp_path / "undisturbed").items(), strict=True
  ):
    np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.slow
def test_when_all_checkpoints_are_damaged_nothing_starts_afresh(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  interrupted(tmp_path / "run", 50, programs, monkeypatch)
  before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
  for step in storage.saved_steps(tmp_path / "run" / "checkpoints"):
    flip(tmp_path / "run" / "checkpoints" / str(step))
  with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
    run(config(), tmp_path / "run", programs=programs)
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  with pytest.raises(UserError, match="but no checkpoint"):
    run(config(), tmp_path / "run", programs=programs)
  assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_workdir_in_use_is_refused(tmp_path: pathlib.Path, programs: Programs):
  from trialbook import files
  from trialbook.trainer.workdir.existing_run import lock

  with (
    files.locked(lock(tmp_path / "run"), "it"),
    pytest.raises(ConfigError, match=r"workdir \S+ is in use by process"),
  ):
    run(config(), tmp_path / "run", programs=programs)
  run(config(), tmp_path / "run", programs=programs)


@pytest.mark.slow
def test_a_fork_starts_from_another_runs_checkpoint_with_another_config(tmp_path: pathlib.Path, programs: Programs):
  run(config(), tmp_path / "parent", programs=programs)
  changed = config(optimizer__learning_rate=0.01, max_train_steps=80)
  result = run(changed, tmp_path / "child", programs=programs, fork=tmp_path / "parent")
  assert (result.status, result.step) == ("complete", 80)
  lines = numbers(tmp_path / "child")
  assert [line["step"] for line in lines] == list(range(81))
  assert lines[:61] == numbers(tmp_path / "parent")
  assert {np.float32(line["learning_rate"]) for line in lines[61:]} == {np.float32(0.01)}
  assert run(changed, tmp_path / "child", programs=programs, fork=tmp_path / "parent") == result
  with pytest.raises(ConfigError, match="already holds a run that is not a fork"):
    run(config(), tmp_path / "parent", programs=programs, fork=tmp_path / "child")


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused_with_the_differences(tmp_path: pathlib.Path, programs: Programs):
  run(config(), tmp_path / "parent", programs=programs)
  other = config(model__widths=(16,), max_train_steps=80)
  with pytest.raises(UserError) as caught:
    run(other, tmp_path / "child", programs=programs, fork=tmp_path / "parent")
  assert "was saved by another model or optimizer" in str(caught.value)
  assert "float32[64, 32], the run needs float32[64, 16]" in str(caught.value)
  assert not (tmp_path / "child" / "config.json").exists()


def template(config: Config, fsdp: int = 1, devices: int = 2) -> Any:
  from trialbook.input_pipeline import load as load_data

  config, mesh = config.resolved(), make_mesh(MeshSettings(fsdp=fsdp), jax.devices()[:devices])
  info = load_data(config.dataset, seed=0, batch_size=config.batch_size).info
  return Programs().get(config, config.task.build(), info, mesh, training=False).state_template


@pytest.mark.slow
@pytest.mark.parametrize(("fsdp", "other"), [(2, 1), (1, 2)])
def test_a_state_is_restored_to_the_bit_however_it_was_split_and_is_to_be(
  tmp_path: pathlib.Path, fsdp: int, other: int
):
  config, rng = transformer(model__kwargs={"depth": 1}), np.random.default_rng(0)
  state = jax.tree.map(
    lambda leaf: jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding), template(config, fsdp)
  )
  path, wanted = tmp_path / "checkpoints" / "7", template(config, other)
  with storage.Saver(tmp_path / "checkpoints", to_keep=lambda steps: steps, tell=lambda steps: None) as saver:
    saver.save(7, state)
    saver.wait()
  saved = flatten(state)
  restored = flatten(storage.restore(path, wanted))
  for (name, array), place in zip(restored.items(), flatten(wanted).values(), strict=True):
    assert array.sharding == place.sharding
    np.testing.assert_array_equal(array, saved[name], err_msg=name)
  assert any(not array.sharding.is_fully_replicated for array in restored.values()) == (other == 2)
  spoil_weights(path)
  with pytest.raises(storage.DamagedCheckpointError, match=r"checksum of params/.*kernel differs"):
    storage.restore(path, wanted)


def ghost(**changes) -> Config:
  """Has rows for each replica, in the variables and in the average."""
  return resnet(**{"model__virtual_batch_size": 4, "schedule__decay_steps": 5, **changes})


@pytest.fixture(scope="module")
def ghost_run(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> pathlib.Path:
  """A run of `ghost()` on two devices."""
  workdir = tmp_path_factory.mktemp("ghost") / "run"
  run(ghost(checkpointing__keep_latest=9), workdir, programs=programs)
  return workdir


def rows_of(arrays: dict[str, Any]) -> list[str]:
  return [name for name in arrays if name.rpartition("/")[2].startswith("replica_")]


@pytest.mark.slow
def test_rows_of_replicas_are_kept_for_as_many_and_replaced_by_their_mean_for_others(ghost_run: pathlib.Path):
  path = ghost_run / "checkpoints" / "6"
  saved = read_arrays(path)
  rows = rows_of(saved)
  assert {name.split("/")[0] for name in rows} == {"variables", "average"}
  for devices in (1, 2):
    restored = flatten(storage.restore(path, template(ghost(), devices=devices)))
    for name, array in restored.items():
      if devices == 1 and name in rows:
        assert not np.array_equal(saved[name][0], saved[name][1]), name
        mean = saved[name].astype(np.float64).mean(0, keepdims=True)
        np.testing.assert_allclose(array, mean, rtol=1e-6, atol=1e-9, err_msg=name)
      else:
        np.testing.assert_array_equal(array, saved[name], err_msg=name)
  other = template(ghost(model__width=4), devices=1)
  with pytest.raises(
    UserError, match=r"variables/stem/norm/replica_mean: .* float32\[2, 8\], the run needs .*\[1, 4\]"
  ) as caught:
    storage.restore(path, {"variables": other["variables"]})
  assert "params" not in str(caught.value)


@pytest.mark.slow
def test_what_was_saved_is_verified_before_rows_are_replaced_by_their_mean(
  tmp_path: pathlib.Path, ghost_run: pathlib.Path
):
  path = tmp_path / "6"
  shutil.copytree(ghost_run / "checkpoints" / "6", path)
  spoil_weights(path, "replica_var")
  with pytest.raises(storage.DamagedCheckpointError, match=r"checksum of variables/.*/replica_var differs"):
    storage.restore(path, template(ghost(), devices=1))


@pytest.mark.slow
def test_a_model_with_rows_of_two_replicas_predicts_on_one_device_what_was_evaluated(ghost_run: pathlib.Path):
  from trialbook.input_pipeline import load as load_data

  recorded = numbers(ghost_run)[-1]
  assert evaluate_checkpoint(ghost_run, "last", "validation").items() <= recorded.items()
  batch = load_data(ghost().dataset, seed=0, batch_size=16).eval_batch(0, "validation", 250)
  logits = load(ghost_run, step="last").predict(batch["inputs"]).astype(np.float64)
  likelihoods = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  loss = -np.mean(likelihoods[np.arange(250), batch["labels"]])
  assert loss == pytest.approx(recorded["validation/loss"], rel=1e-5)
  right = [np.sum((np.argmax(logits, -1) == batch["labels"]) & (batch["labels"] == k)) for k in range(10)]
  assert right == recorded["validation/class_correct"]


@pytest.mark.slow
def test_checkpoints_in_the_middle_change_no_bit_of_a_run_with_rows(
  tmp_path: pathlib.Path, programs: Programs, ghost_run: pathlib.Path
):
  run(ghost(checkpointing__every_evaluations=5), tmp_path / "once", programs=programs)
  assert storage.saved_steps(tmp_path / "once" / "checkpoints") == [0, 6]
  assert storage.saved_steps(ghost_run / "checkpoints") == [0, 3, 6]
  assert numbers(tmp_path / "once") == numbers(ghost_run)
  once, often = state_of(tmp_path / "once"), state_of(ghost_run)
  for name, array in often.items():
    np.testing.assert_array_equal(once[name], array, err_msg=name)


@pytest.mark.slow
def test_a_run_with_rows_goes_on_and_is_a_warm_start_on_another_number_of_devices(
  tmp_path: pathlib.Path, programs: Programs, ghost_run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  run(ghost(max_train_steps=3), tmp_path / "moved", programs=programs)
  saved = read_arrays(tmp_path / "moved" / "checkpoints" / "3")
  monkeypatch.setattr(sharding, "make_mesh", lambda settings: make_mesh(settings, jax.devices()[:1]))
  run(ghost(), tmp_path / "moved", programs=programs)
  for one, other in zip(numbers(tmp_path / "moved"), numbers(ghost_run), strict=True):
    for name in sorted(one.keys() & {"train/loss", "validation/loss"}):
      assert one[name] == pytest.approx(other[name], rel=1e-4), (name, one["step"])
  assert {array.shape[0] for name, array in state_of(tmp_path / "moved").items() if name in rows_of(saved)} == {1}

  source = tmp_path / "moved" / "checkpoints" / "3"
  run(ghost(warm_start__source=str(source), max_train_steps=2), tmp_path / "warm", programs=programs)
  first = read_arrays(tmp_path / "warm" / "checkpoints" / "0")
  for name in rows_of(first):
    mean = saved["average/" + name.removeprefix("average/")].astype(np.float64).mean(0, keepdims=True)
    np.testing.assert_allclose(first[name], mean, rtol=1e-6, atol=1e-9, err_msg=name)

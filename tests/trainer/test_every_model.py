"""Every registered model trains, goes on from a checkpoint, is exported, loaded and predicts, on one device or two."""

import functools
import json
import pathlib
import types

import jax
import jax.export
import numpy as np
import pytest
from tiny import mlp, numbers

from trialbook.input_pipeline import Digits, Table, Text, load
from trialbook.models import MODELS, CnnConfig, MlpConfig, ResNetConfig, TransformerConfig, VitConfig, WideResNetConfig
from trialbook.trainer import Config, Programs, run, sharding
from trialbook.trainer import load as load_model
from trialbook.trainer.bound_task import bind
from trialbook.trainer.export import export
from trialbook.trainer.schedules import Constant
from trialbook.trainer.tasks import Classification, LanguageModel, Regression

# With batch normalization where there is one, and dropout where it costs no seconds to compile.
MLP = MlpConfig(widths=(16,), normalization="batch", dropout_rate=0.1)
WITH: dict[str, list[tuple[object, object, object]]] = {
  "mlp": [
    (MLP, Table(), Classification(label_smoothing=0.1)),
    (MLP, Table(table="diabetes"), Regression()),
  ],
  "cnn": [(CnnConfig(widths=(8,), convolutions_per_stage=1, dropout_rate=0.1), Digits(), Classification())],
  "resnet": [(ResNetConfig(stage_sizes=(1,), width=8), Digits(), Classification())],
  "wide_resnet": [(WideResNetConfig(depth=10, widen_factor=1), Digits(), Classification())],
  "vit": [(VitConfig(width=8, depth=1, heads=2, mlp_ratio=1), Digits(), Classification())],
  "transformer": [
    (TransformerConfig(width=8, depth=1, heads=2, mlp_ratio=1, dropout_rate=0.1), Text(length=8), LanguageModel())
  ],
}


def case_id(case: tuple[str, int]) -> str:
  name, index = case
  _, dataset, task = WITH[name][index]
  return f"{name}-{vars(dataset).get('table', vars(dataset)['name'])}-{vars(task)['name']}"


# Of models of images, test_depth.py takes deeper ones all the way.
QUICK = ("mlp", "transformer")
CASES = [
  pytest.param((name, index), marks=[] if name in QUICK else pytest.mark.long)
  for name, cases in WITH.items()
  for index in range(len(cases))
]


def config_of(case: tuple[str, int], folder: pathlib.Path) -> Config:
  name, index = case
  model, dataset, task = WITH[name][index]
  if isinstance(dataset, Text):
    path = folder / "text"
    path.write_bytes(np.random.default_rng(0).choice(list(b"two words"), size=4000).astype(np.uint8).tobytes())
    dataset = dataset.model_copy(update={"path": str(path)})
  config = mlp(batch_size=8, max_train_steps=2, evaluation__every_steps=2, optimizer__learning_rate=0.01)
  parts = {"model": model, "dataset": dataset, "task": task, "schedule": Constant()}
  return config.model_copy(update=parts).override({"evaluation.batch_size": 16, "evaluation.train_examples": 8})


def test_each_registered_model_is_tried_with_a_config_of_its_own_kind():
  assert WITH.keys() == MODELS.keys(), "a new model needs a tiny config, a dataset and a task in WITH"
  for name, cases in WITH.items():
    assert cases
    assert all(type(model) is MODELS[name][0] for model, _, _ in cases)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_model_goes_all_the_way(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, case: tuple[str, int], devices: int
):
  make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:devices])
  config, workdir = config_of(case, tmp_path), tmp_path / "run"
  metric = config.resolved().selection.metric
  assert metric is not None
  with monkeypatch.context() as patched:
    patched.setattr(
      "trialbook.trainer.start_or_resume.sharding", types.SimpleNamespace(**(vars(sharding) | {"make_mesh": make_mesh}))
    )
    run(config, workdir, programs=programs)
    before = numbers(workdir)
    result = run(config.override({"max_train_steps": 3}), workdir, programs=programs)
  # The same program: what was compiled for two steps trains the third.
  assert result.status == "complete"
  record = json.loads((workdir / "run.json").read_text())
  assert record["restored_step"] == 2
  lines = numbers(workdir)
  assert [line["step"] for line in lines] == [0, 1, 2, 3]
  assert lines[:3] == before
  for line in (lines[0], lines[2], lines[3]):
    assert np.isfinite(line[metric])
  assert np.all(np.isfinite([line["train/loss"] for line in lines[1:]]))
  assert len({line["validation/loss"] for line in (lines[0], lines[2], lines[3])}) == 3

  model = load_model(workdir, "last")
  dataset = load(config.dataset, seed=0, batch_size=8)
  _, examples = dataset.fixed_examples("validation", 16)
  outputs = model.predict(examples["inputs"])
  assert outputs.shape == (16, *dataset.info.label_shape, bind(config.task.build(), dataset.info).num_outputs)
  with np.load(workdir / "predictions" / "3.npz") as saved:
    np.testing.assert_allclose(saved["outputs"], outputs, rtol=1e-4, atol=1e-4)

  folder = export(workdir, "last")
  exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
  with np.load(folder / "weights.npz") as weights:
    found = exported.call(dict(weights), examples["inputs"])
  np.testing.assert_allclose(found, outputs, rtol=1e-4, atol=1e-5)

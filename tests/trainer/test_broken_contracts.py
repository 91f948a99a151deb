"""Each part of what a user's data, model and task promise is broken in turn; the message says where, what, and how to
mend it."""

import pathlib
import textwrap

import jax
import pytest

from trialbook.errors import UserError
from trialbook.trainer import Config, Programs, checks, sharding

GOOD = """
import jax, jax.numpy as jnp, numpy as np
from flax import linen as nn
from trialbook import Call, Mean, Sum

def data():
  rng = np.random.default_rng(0)
  def split(n):
    x = rng.normal(size=(n, 3))
    return {"inputs": {"x": x, "y": x + 1}, "answer": x.sum(axis=1) > 0, "name": ["a"] * n}
  return {"train": split(16), "validation": split(8)}

class Net(nn.Module):
  @nn.compact
  def __call__(self, x, y, train):
    return nn.Dense(2)(x + y)

class Task:
  def keys(self, info):
    return ["inputs", "answer"]
  def num_outputs(self, info):
    return 2
  def prepare(self, batch, rngs):
    return batch
  def model_inputs(self, batch):
    return Call(batch["inputs"]["x"], y=batch["inputs"]["y"])
  def loss(self, outputs, batch):
    return (outputs.sum(axis=1) - batch["answer"]) ** 2
  def metrics(self, outputs, batch):
    return {"loss": self.loss(outputs, batch), "hits": Sum(batch["answer"] * 1.0)}
  def rows(self, outputs, batch, model):
    return {"outputs": outputs}
  def split_metrics(self):
    return {"mean": lambda means, rows: rows["outputs"].mean()}
"""
# Old text, new text -> what the message says.
BREAKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
  "keys: a string": (
    'return ["inputs", "answer"]',
    'return "inputs"',
    ("keys returned a str", "a list of keys", "LINE"),
  ),
  "keys: unknown": ('"answer"]', '"anser"]', ("needs 'anser'", "gives 'inputs', 'answer'", "did you mean 'answer'")),
  "keys: text": ('"answer"]', '"name"]', ("needs 'name'", "train: name are text, but must be numbers")),
  "num_outputs": ("return 2", 'return "2"', ("num_outputs returned a str", "return info.num_classes", "LINE")),
  "num_outputs: another": ("return 2", "return 3", ("model 'MODULE:Net' returns [", "the task needs [", ", ..., 3]")),
  "prepare: nothing": ("    return batch\n", "    pass\n", ("prepare returned a NoneType", "return {**batch", "LINE")),
  "prepare: asks": ("batch, rngs", "batch, keys", ("prepare asks for 'keys'", "settings, rngs, train, info")),
  "model_inputs: a key": (
    'batch["inputs"]["x"]',
    'batch["inputs"]["z"]',
    ("model_inputs fails: KeyError: 'z'", "PLACE"),
  ),
  "model_inputs: too few": (
    ', y=batch["inputs"]["y"]',
    "",
    ("missing a required argument: 'y'", "Call(batch[...], name=...)"),
  ),
  "loss: missing": ("def loss(", "def losses(", ("it has no loss",)),
  "loss: an axis too many": (
    '(outputs.sum(axis=1) - batch["answer"]) ** 2',
    "outputs",
    ("must be one number for each example", "Mean(loss)", "LINE"),
  ),
  "loss: a number": (" ** 2", ".sum()", ("loss returned float32[]", "one number for each example", "LINE")),
  "loss: integers": (
    '    return (outputs.sum(axis=1) - batch["answer"]) ** 2',
    '    return batch["answer"] * 1',
    ("loss returned int32[", "must be floats", "astype(jnp.float32)", "LINE"),
  ),
  "loss: a count": (
    '(outputs.sum(axis=1) - batch["answer"]) ** 2',
    "Mean(outputs, 1)",
    ("loss returned a int for 'loss.count'", "an array [", "LINE"),
  ),
  "loss: Mean without an axis": (
    '    return (outputs.sum(axis=1) - batch["answer"]) ** 2',
    "    return Mean(outputs.sum())",
    ("'loss.total'", "an array [", "LINE"),
  ),
  "loss: raises": (" ** 2", " ** undefined", ("loss fails: NameError", "PLACE")),
  "metrics: a list": (
    '    return {"loss": self.loss(outputs, batch), "hits": Sum(batch["answer"] * 1.0)}',
    "    return []",
    ("metrics returned a list; it must be a dict", "LINE"),
  ),
  "metrics: a reserved name": ('"hits": Sum', '"examples": Sum', ("a name of trialbook's own; rename it",)),
  "metrics: a sum": ('Sum(batch["answer"] * 1.0)', "Sum(outputs.sum())", ("'hits.total'", "LINE")),
  "rows: other examples": (
    '"outputs": outputs}',
    '"outputs": outputs[:1]}',
    ("rows returned", "a row for each example", "LINE"),
  ),
  "split_metrics: numbers": (
    'lambda means, rows: rows["outputs"].mean()',
    "1.0",
    ("split_metrics returned a dict of mean", "functions of (means, rows)", "LINE"),
  ),
  "of 0.1": (
    "def keys(",
    "def initial_batch(self, info, size): pass\n  def keys(",
    ("initial_batch is not called any more", "write keys(self, info)"),
  ),
  "model: no array": (
    "return nn.Dense(2)(x + y)",
    "nn.Dense(2)(x + y); return 'text'",
    ("returns a str; it must return an array",),
  ),
  "model: a tree": (
    "return nn.Dense(2)(x + y)",
    "return {'a': nn.Dense(2)(x + y)}",
    ("returns a dict, but the task has num_outputs", "without num_outputs receives whatever"),
  ),
}


def problems(folder: pathlib.Path, module: str) -> str:
  config = Config(compilation_cache=None, export=False).override(
    {
      "dataset.name": f"{module}:data",
      "model.name": f"{module}:Net",
      "task.name": f"{module}:Task",
      "batch_size": 4,
      "evaluation.batch_size": 6,
    }
  )
  try:
    prepared = checks.prepare(config, folder / "run")
    with prepared.dataset:
      Programs().get(prepared.config, prepared.task, prepared.dataset.info, sharding.make_mesh())
  except UserError as error:
    return "\n".join(error.problems)
  return ""


def written(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> str:
  (folder / f"{name}.py").write_text(textwrap.dedent(text))
  monkeypatch.syspath_prepend(folder)
  return name


@pytest.fixture(autouse=True)
def promotion():
  """As users have it."""
  with jax.numpy_dtype_promotion("standard"):
    yield


def test_what_is_broken_below_is_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  assert problems(tmp_path, written(tmp_path, monkeypatch, "whole_contract", GOOD)) == ""


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_promise_is_told_with_its_place_and_its_mend(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, broken: str
):
  old, new, fragments = BREAKS[broken]
  assert GOOD.count(old) >= 1
  name = f"broken_contract_{list(BREAKS).index(broken)}"
  told = problems(tmp_path, written(tmp_path, monkeypatch, name, GOOD.replace(old, new)))
  assert "Traceback" not in told
  assert name in told
  for fragment in fragments:
    shown = {"LINE": f"({tmp_path / name}.py, line ", "PLACE": f"({tmp_path / name}.py, line "}.get(fragment, fragment)
    assert shown.replace("MODULE", name) in told, told

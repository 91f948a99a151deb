import re
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook import models
from trialbook.models import call_modes, plugin
from trialbook.models.call_modes import Call
from trialbook.models.hyperparameter import Hyperparameter, fill
from trialbook.models.plugin import PluginConfig, PluginError
from trialbook.settings import traced_values

NET = """
  from flax import nnx

  class Net(nnx.Module):
    def __init__(self, width, depth: int = 1, *, num_classes, input_shape, rngs):
      self.hidden = nnx.Linear(input_shape[0], width, rngs=rngs)
      self.output = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x, *, train):
      return self.output(nnx.relu(self.hidden(x)))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
  """A user's directory, current but not on the path; call it to put a module there."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
  before = set(sys.modules)

  def put(name, code):
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))

  yield put
  for name in set(sys.modules) - before:
    if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
      del sys.modules[name]


def model_of(signature, call="self, x, *, train"):
  return f"""
    from flax import nnx

    class Net(nnx.Module):
      def __init__(self{signature}):
        pass

      def __call__({call}):
        return x
  """


def test_a_class_that_imports_nothing_of_ours_is_built_from_the_current_directory(write):
  write("outside_net", NET)
  config = PluginConfig(name="outside_net:Net", kwargs={"width": 7})
  assert models.problems(config) == []
  model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
  assert model(jnp.ones((2, 5)), train=True).shape == (2, 3)
  assert type(model) is plugin.load(config)


def test_the_current_directory_is_searched_last(write, tmp_path):
  write("outside_net", NET)
  before = list(sys.path)
  for _ in range(2):
    plugin.load(PluginConfig(name="outside_net:Net"))
  assert sys.path == [*before, str(tmp_path)]


@pytest.mark.parametrize(
  ("signature", "expected"),
  [
    ("", set()),
    (", rngs", {"rngs"}),
    (", *, num_classes, rngs=None", {"num_classes", "rngs"}),
    (", width=1, **rest", {"num_classes", "input_shape", "rngs"}),
  ],
)
def test_a_constructor_gets_what_it_asks_for(write, signature, expected):
  write("outside_asks", model_of(signature).replace("pass", "Net.seen = dict(locals())"))
  config = PluginConfig(name="outside_asks:Net")
  model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
  seen = {**type(model).seen, **type(model).seen.get("rest", {})}  # pyright: ignore[reportAttributeAccessIssue]
  assert seen.keys() & set(plugin.GIVEN) == expected
  assert seen.get("num_classes", 3) == 3


def test_traced_settings_reach_the_layers_of_ours_that_it_uses(write):
  write(
    "outside_dropout",
    """
    from flax import nnx
    from trialbook.models.dropout import Dropout

    class Net(nnx.Module):
      def __init__(self, rngs):
        self.dropout = Dropout("noise", rngs=rngs)

      def __call__(self, x, train):
        return self.dropout(x, train=train)
    """,
  )
  config = PluginConfig(name="outside_dropout:Net", traced={"noise": 0.75})
  model = models.build(config, input_shape=(5,), num_outputs=5, rngs=nnx.Rngs(0))
  graph, hyperparameters, rest = nnx.split(model, Hyperparameter, ...)
  values = {path.rpartition(".")[2]: value for path, value in traced_values(config).items()}
  y = jax.jit(lambda v, x: nnx.merge(graph, fill(hyperparameters, v), rest, copy=True)(x, train=True))(
    values, jnp.ones((2, 5))
  )
  assert set(np.unique(y)) <= {0.0, 4.0}


@pytest.mark.parametrize(
  ("module", "code", "name", "expected"),
  [
    (
      "outside_a",
      "",
      "outside_b:Net",
      r"no module 'outside_b'; did you mean 'outside_a'\? available: .*; looked in .*/",
    ),
    (
      "outside_a",
      "1 / 0",
      "outside_a:Net",
      r"ZeroDivisionError: division by zero \(.*outside_a\.py, line 1\)",
    ),
    ("outside_a", "import sys; sys.exit(3)", "outside_a:Net", r"SystemExit: 3"),
    ("outside_a", "def (", "outside_a:Net", r"SyntaxError: .*outside_a\.py, line 1"),
    ("outside_a", "\nimport not_here", "outside_a:Net", r"No module named 'not_here' \(.*a\.py, line 2\)"),
    ("outside_a", "", "outside_a.part:Net", r"no module 'outside_a\.part'; 'outside_a' was found at .*a\.py"),
    ("outside_a", "", "email.mine:Net", r"no module 'email\.mine'; 'email' was found at .*email"),
    ("outside_a", NET, "outside_a:Met", r"has no 'Met'; did you mean 'Net'\? available: Net"),
    ("outside_a", "Net = 3", "outside_a:Net", r"is a int; name a class of models, or a function that makes one"),
    ("outside_a", "class Net: ...", "outside_a:Net", r"must be a subclass of flax\.nnx\.Module or flax\.linen\.Module"),
  ],
)
def test_a_class_that_cannot_be_loaded_is_explained(write, module, code, name, expected):
  write(module, code)
  config = PluginConfig(name=name)
  (problem,) = models.problems(config)
  assert problem.startswith(f"model.name {name!r}: ")
  with pytest.raises(PluginError, match=expected):
    plugin.load(config)
  with pytest.raises(PluginError, match=expected):
    models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
  ("signature", "kwargs", "expected"),
  [
    (
      ", width=1, rngs=None",
      {"widht": 2},
      ["model.kwargs.widht: Net has no argument 'widht'; did you mean 'width'? available: width"],
    ),
    (
      ", width, rngs",
      {},
      [
        (
          "model.kwargs.width: Net needs a value for 'width'; give model.kwargs.width "
          "(only num_classes, in_features, input_shape, rngs are passed automatically)"
        )
      ],
    ),
    (
      "",
      {"rngs": 2},
      ["model.kwargs.rngs: the model already receives rngs; leave it out"],
    ),
    (
      ", width, /",
      {},
      ["model.name 'outside_net:Net': its argument 'width' must be accepted by keyword"],
    ),
    (", **rest", {"anything": 1}, []),
  ],
)
def test_settings_that_do_not_fit_the_constructor_are_explained(write, signature, kwargs, expected):
  write("outside_net", model_of(signature))
  assert models.problems(PluginConfig(name="outside_net:Net", kwargs=kwargs)) == expected


@pytest.mark.parametrize(
  ("call", "arguments", "expected"),
  [
    ("self, x, mask, train", Call(1), r"with \(int, train=bool\): missing a required argument: 'mask'"),
    ("self, *, train", Call(1), r"with \(int, train=bool\): too many positional arguments"),
    ("self, x", Call(1, mask=2.0), r"with \(int, mask=float\): got an unexpected keyword argument 'mask'"),
  ],
)
def test_a_call_that_accepts_more_or_less_than_it_is_given_is_explained_with_its_place(
  write, call, arguments, expected
):
  write("outside_net", model_of("", call))
  config = PluginConfig(name="outside_net:Net")
  assert models.problems(config) == []
  model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
  with pytest.raises(PluginError, match=expected) as told:
    plugin.call(model, arguments, train=True)
  assert str(told.value).startswith(f"model.name: Net({call}) cannot be called with")
  assert "The task's model_inputs says what a model is called with: Call(batch[...], name=...)" in str(told.value)
  assert re.search(r"\(.*outside_net\.py, line 8\)$", str(told.value))


def test_arguments_are_passed_as_the_task_gives_them_and_the_mode_beside_them(write):
  write(
    "outside_net", model_of("", "self, source, *, target, train").replace("return x", "return source, target, train")
  )
  model = models.build(PluginConfig(name="outside_net:Net"), input_shape=None, num_outputs=None, rngs=nnx.Rngs(0))
  assert plugin.call(model, Call(1, target=2), train=False) == (1, 2, False)
  # The mode that a task gives itself is not overruled.
  assert plugin.call(model, Call(1, target=2, train=True), train=False) == (1, 2, True)


def test_a_method_is_called_by_its_name_in_the_same_way(write):
  write(
    "outside_net", model_of("") + "\n      def encode(self, x, *, deterministic):\n        return x, deterministic\n"
  )
  model = models.build(PluginConfig(name="outside_net:Net"), input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
  assert plugin.call(model, Call(1), train=False, method="encode") == (1, True)
  with pytest.raises(PluginError, match="Net has no method 'decode'; did you mean 'encode'"):
    plugin.call(model, Call(1), train=False, method="decode")


@pytest.mark.parametrize("call", ["self, x", "self, x, train", "self, x, *, train=False", "self, x, **rest"])
def test_a_call_may_take_train_or_leave_it_out(write, call):
  write("outside_net", model_of("", call))
  config = PluginConfig(name="outside_net:Net")
  assert models.problems(config) == []
  model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
  assert plugin.call(model, Call(jnp.ones((2, 5))), train=True).shape == (2, 5)


@pytest.mark.parametrize("flag", call_modes.MODES)
def test_the_mode_is_passed_by_the_name_that_the_call_has_for_it(write, flag):
  in_training = flag in ("train", "training", "is_training")
  for default in ("", "=False", "=None"):
    write(
      "outside_net",
      f"""
      from flax import nnx

      class Net(nnx.Module):
        def __call__(self, x, {flag}{default}):
          return x, {flag}
      """,
    )
    sys.modules.pop("outside_net", None)
    config = PluginConfig(name="outside_net:Net")
    assert models.problems(config) == []
    model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
    assert plugin.call(model, Call(1), train=True) == (1, in_training)
    assert plugin.call(model, Call(1), train=False) == (1, not in_training)


MAKERS = """
  import functools
  from flax import nnx
  from flax import linen as nn

  class Net(nnx.Module):
    def __init__(self, in_features, num_outputs, width=2, *, rngs):
      self.layer = nnx.Linear(in_features, num_outputs, rngs=rngs)
      self.width = width

    def __call__(self, x):
      return self.layer(x)

  def make(in_channels, n_classes, rngs, width=2):
    return Net(in_channels, n_classes, width, rngs=rngs)

  wide = functools.partial(Net, width=9)

  class Linen(nn.Module):
    num_labels: int
    width: int = 2

    @nn.compact
    def __call__(self, x):
      return nn.Dense(self.num_labels)(nn.Dense(self.width)(x))

  def make_linen(out_features, width=2):
    return Linen(out_features, width=width)

  instance = Linen(3)

  def nothing():
    return None

  made = Net(5, 3, rngs=nnx.Rngs(0))
"""


@pytest.mark.parametrize("name", ["Net", "make", "wide", "Linen", "make_linen", "instance"])
def test_classes_functions_partials_and_linen_modules_make_models_and_get_what_they_ask_for(write, name):
  write("outside_makers", MAKERS)
  kwargs: dict[str, Any] = {"width": 7}
  config = PluginConfig(name=f"outside_makers:{name}", kwargs=kwargs)
  assert models.problems(config) == []
  model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(params=0, dropout=1))
  assert plugin.call(model, Call(jnp.ones((2, 5))), train=True).shape == (2, 3)
  (problem,) = models.problems(PluginConfig(name=f"outside_makers:{name}", kwargs={"widht": 7}))
  assert "'widht'; did you mean 'width'?" in problem


def test_a_parameter_that_has_a_default_keeps_it_unless_it_is_called_as_what_is_always_given(write):
  write(
    "outside_net",
    """
    from flax import nnx

    class Net(nnx.Module):
      def __init__(self, num_classes=2, out_features=256, in_features=7, *, rngs=None):
        self.seen = num_classes, out_features, in_features, rngs is not None

      def __call__(self, x):
        return x
    """,
  )
  model = models.build(PluginConfig(name="outside_net:Net"), input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
  assert vars(model)["seen"] == (3, 256, 7, True)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("nothing", "returned a NoneType; it must return a Flax NNX or Linen module"),
    ("made", "is an NNX module that was made when its file was imported; name its class, or a function that makes it"),
  ],
)
def test_what_makes_no_model_is_explained(write, name, expected):
  write("outside_makers", MAKERS)
  with pytest.raises(PluginError, match=f"model.name 'outside_makers:{name}': {expected}"):
    models.build(PluginConfig(name=f"outside_makers:{name}"), input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))


def test_a_traced_setting_is_passed_to_a_call_that_has_an_argument_for_it(write):
  write("outside_net", model_of("", "self, x, rate=0.5").replace("return x", "return x, rate"))
  config = PluginConfig(name="outside_net:Net", traced={"rate": 0.25, "other": 1.0})
  model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(0))
  assert plugin.call(model, Call(1), train=True, traced={"rate": 0.25, "other": 1.0}) == (1, 0.25)
  assert plugin.passed_settings(model, config.traced) == ["rate"]


def test_a_traced_setting_of_a_linen_model_is_passed_to_its_call(write):
  write(
    "outside_makers",
    MAKERS.replace(
      "def __call__(self, x):\n      return nn.D", "def __call__(self, x, scale):\n      return scale * nn.D"
    ),
  )
  config = PluginConfig(name="outside_makers:Linen", traced={"scale": 0.5, "rate": 0.5})
  model = models.build(config, input_shape=(5,), num_outputs=3, rngs=nnx.Rngs(params=0, dropout=1, default=2))
  half, whole = (
    plugin.call(model, Call(jnp.ones((2, 5))), train=True, traced={"scale": scale, "rate": 0.5}) for scale in (0.5, 1)
  )
  np.testing.assert_allclose(2 * half, whole)
  assert plugin.passed_settings(model, config.traced) == ["scale"]


def test_a_model_without_a_call_is_explained(write):
  write("outside_net", "from flax import nnx\nclass Net(nnx.Module): ...")
  (problem,) = models.problems(PluginConfig(name="outside_net:Net"))
  assert "has no __call__" in problem


def test_all_problems_are_reported_at_once(write):
  write("outside_net", model_of(", width, depth"))
  config = PluginConfig(name="outside_net:Net", kwargs={"widht": 2})
  assert len(models.problems(config)) == 3


def test_the_number_of_classes_is_given_by_the_task_or_by_the_user_and_not_by_both(write):
  write("outside_net", model_of(", num_classes, rngs"))
  given = PluginConfig(name="outside_net:Net", kwargs={"num_classes": 3})
  models.build(given, input_shape=None, num_outputs=None, rngs=nnx.Rngs(0))
  with pytest.raises(PluginError, match="already receives num_classes; leave it out"):
    models.build(given, input_shape=None, num_outputs=3, rngs=nnx.Rngs(0))
  with pytest.raises(PluginError, match=r"needs 'num_classes', which the task does not give; give it as model\.kwargs"):
    models.build(PluginConfig(name="outside_net:Net"), input_shape=None, num_outputs=None, rngs=nnx.Rngs(0))

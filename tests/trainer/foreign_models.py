"""Models in the way of public NNX code: layers and models called without flags, `Sequential`, flax's attention, `sow`.

Those of one mistake each stand beside them, and a task that goes wrong where it is told to.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array, Float

from trialbook import Call
from trialbook.trainer.tasks import Classification


class ConvNet(nnx.Module):
  """Convolution, batch norm and dropout, none of which is told whether it is trained."""

  def __init__(self, rate: float = 0.5, *, num_classes: int, rngs: nnx.Rngs):
    self.conv = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
    self.bn = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(rate, rngs=rngs)
    self.head = nnx.Linear(4 * 16, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 8 8 1"], train: bool) -> Float[Array, "batch classes"]:
    x = nnx.max_pool(nnx.relu(self.bn(self.conv(x))), window_shape=(2, 2), strides=(2, 2))
    return self.head(self.dropout(x.reshape(x.shape[0], -1)))


class Layers(nnx.Module):
  """All layers in one `nnx.Sequential`, which passes no flag on."""

  def __init__(self, *, num_classes: int, rngs: nnx.Rngs):
    self.layers = nnx.Sequential(
      nnx.Linear(64, 16, rngs=rngs),
      nnx.BatchNorm(16, rngs=rngs),
      nnx.relu,
      nnx.Dropout(0.5, rngs=rngs),
      nnx.Linear(16, num_classes, rngs=rngs),
    )

  def __call__(self, x: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch classes"]:
    return self.layers(x.reshape(len(x), -1))


class Attention(nnx.Module):
  """Rows of an image as tokens of flax's attention, whose dropout has no default."""

  def __init__(self, *, num_classes: int, rngs: nnx.Rngs):
    self.attention = nnx.MultiHeadAttention(
      num_heads=2, in_features=8, qkv_features=8, dropout_rate=0.5, decode=False, rngs=rngs
    )
    self.norm = nnx.LayerNorm(8, rngs=rngs)
    self.head = nnx.Linear(8, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch classes"]:
    x = x[..., 0]
    return self.head((x + self.attention(self.norm(x))).mean(axis=1))


class Sowing(ConvNet):
  """Sows activations, and has one perturbed, to be looked at."""

  def __call__(self, x: Float[Array, "batch 8 8 1"], train: bool) -> Float[Array, "batch classes"]:
    x = nnx.relu(self.bn(self.conv(x)))
    self.sow(nnx.Intermediate, "features", x)
    x = self.perturb("features_gradient", nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2)))
    return self.head(self.dropout(x.reshape(x.shape[0], -1)))


IDIOMS = (ConvNet, Layers, Attention, Sowing)


class Frozen(nnx.Module):
  """Batch norm and dropout, frozen by the model's own `train` or at the call; or set so by their constructors only."""

  def __init__(self, how: str, *, num_classes: int, rngs: nnx.Rngs):
    self.how = how
    off = how == "constructor"
    self.bn = nnx.BatchNorm(64, use_running_average=off, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, deterministic=off, rngs=rngs)
    self.head = nnx.Linear(64, num_classes, rngs=rngs)

  def train(self, **attributes: Any) -> None:
    super().train(**attributes)
    if self.how == "train":
      self.eval()

  def __call__(self, x: Float[Array, "batch 8 8 1"], train: bool) -> Float[Array, "batch classes"]:
    off = True if self.how == "call" else None
    return self.head(self.dropout(self.bn(x.reshape(len(x), -1), use_running_average=off), deterministic=off))


class Mixing(nnx.Module):
  """Batch norm ("batch") or dropout ("random") that is told to train always; healthy with neither.

  With `zero_head`, initial outputs do not depend on the inputs.
  """

  def __init__(self, bug: str = "", zero_head: bool = False, *, num_classes: int, rngs: nnx.Rngs):
    self.bug = bug
    self.bn = nnx.BatchNorm(64, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    init = nnx.initializers.zeros if zero_head else nnx.initializers.lecun_normal()
    self.head = nnx.Linear(64, num_classes, kernel_init=init, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 8 8 1"], train: bool) -> Float[Array, "batch classes"]:
    x = self.bn(x.reshape(len(x), -1), use_running_average=False if self.bug == "batch" else not train)
    return self.head(self.dropout(x, deterministic=False if self.bug == "random" else not train))


class Unkept(nnx.Module):
  """Variables that do not stay what they are, or cannot be trained or saved; `bug` says how."""

  def __init__(self, bug: str = "", *, num_classes: int, rngs: nnx.Rngs):
    self.bug = bug
    self.head = nnx.Linear(64, num_classes, rngs=rngs)
    initial = {"key": lambda: jax.random.key(0), "text": lambda: "text", "python": lambda: 0.5}
    self.seen = nnx.Variable(initial.get(bug, lambda: jnp.zeros(()))())
    if bug == "integers":
      self.table = nnx.Param(jnp.arange(3))

  def __call__(self, x: Float[Array, "batch 8 8 1"], train: bool) -> Array:
    x = x.reshape(len(x), -1)
    match self.bug:
      case "sown":
        self.sow(nnx.BatchStat, "features", x)
      case "new":
        self.other = nnx.Variable(jnp.zeros(()))
      case "lazy":
        self.hidden = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
        x = self.hidden(x)
      case "gone":
        self.seen.set_value(None)
      case "shape":
        self.seen.set_value(x.mean(axis=0))
      case "dtype":
        self.seen.set_value(jnp.zeros((), jnp.int32))
      case "python":
        self.seen.set_value(self.seen.get_value() * 0.5)
      case "clipped":
        self.head.kernel[...] = jnp.clip(self.head.kernel[...], -0.1, 0.1)
      case "normalized":
        self.head.kernel.set_value(self.head.kernel.get_value() / jnp.linalg.norm(self.head.kernel.get_value()))
      case "one":
        nnx.state(self.head, nnx.Param)["bias"][0] = 0.0
      case "constant":
        self.head.bias = nnx.Param(jnp.zeros(10))
      case "swapped":
        nnx.jit(lambda model: model.head.bias.set_value(model.head.bias.get_value()[::-1]))(self)
      case "jit":
        return nnx.jit(lambda model, x: model.head(x))(self, x)
      case "remat":
        return nnx.remat(lambda model, x: nnx.jit(lambda model, x: model.head(x))(model, x))(self, x)
    outputs = self.head(x)
    if self.bug == "loop":
      outputs = jax.lax.while_loop(lambda x: x.sum() > 1e9, lambda x: x / 2, outputs)
    return outputs.astype(jnp.int32) if self.bug == "whole" else outputs


class Scanned(nnx.Module):
  """Scans over layers, by a transformation that names all kinds of their variables."""

  def __init__(self, *, num_classes: int, rngs: nnx.Rngs):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def layers(rngs: nnx.Rngs) -> nnx.Linear:
      return nnx.Linear(64, 64, rngs=rngs)

    self.layers = layers(rngs)
    self.head = nnx.Linear(64, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 8 8 1"]) -> Float[Array, "batch classes"]:
    @nnx.scan(in_axes=(nnx.StateAxes({nnx.Param: 0}), nnx.Carry), out_axes=nnx.Carry)
    def forward(layer: nnx.Linear, x: Array) -> Array:
      return nnx.relu(layer(x))

    return self.head(forward(self.layers, x.reshape(len(x), -1)))


class Repeated(linen.Module):
  """One layer, as many times as the call says."""

  num_classes: int

  @linen.compact
  def __call__(self, x: Array, *, times: int) -> Array:
    layer, x = linen.Dense(64), x.reshape(len(x), -1)
    for _ in range(times):
      x = layer(x)
    return linen.Dense(self.num_classes)(x)


class Twice:
  """Classification by a model that is told a number."""

  def __init__(self):
    task: Any = Classification().build()
    self.keys, self.num_outputs, self.loss = task.keys, task.num_outputs, task.loss

  def model_inputs(self, batch: Any) -> Call:
    return Call(batch["inputs"], times=2)


class Asking(nnx.Module):
  """May be asked for its bias, without an argument, and for what a mapping leads to."""

  def __init__(self, *, num_classes: int, rngs: nnx.Rngs):
    self.head = nnx.Linear(64, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 8 8 1"]) -> Array:
    return self.head(x.reshape(len(x), -1))

  def bias(self) -> Array:
    assert self.head.bias is not None
    return self.head.bias[...]

  def named(self, inputs: dict[str, Array], *, train: bool) -> Array:
    return self(inputs["x"]) + float(train)


class Asks:
  """Keeps of each example what the model says by its methods, less what it says anyway: zeros."""

  def __init__(self):
    task: Any = Classification().build()
    self.keys, self.num_outputs, self.loss = task.keys, task.num_outputs, task.loss

  def rows(self, outputs: Array, batch: Any, model: Any) -> dict[str, Array]:
    bias = jnp.broadcast_to(model(method="bias"), outputs.shape) + model(batch["inputs"])
    return {"zeros": model({"x": batch["inputs"]}, method="named") + model(method="bias") - bias}

  def split_metrics(self) -> dict[str, Any]:
    return {"largest": lambda means, rows: abs(rows["zeros"]).max()}


class Also:
  """Classification with the error only, and the accuracy as a metric of another name."""

  def __init__(self, name: str):
    self._task: Any = Classification().build()
    self._name = name
    self.keys, self.num_outputs, self.loss = self._task.keys, self._task.num_outputs, self._task.loss

  def metrics(self, outputs: Array, batch: Any, info: Any) -> dict[str, Array]:
    error = self._task.metrics(outputs, batch, info)["error"]
    return {"error": error, self._name: 1 - error}


class Faulty:
  """Classification, of which one member raises a KeyError ("raises") or returns None ("returns").

  With `lacks`, that is not among its keys.
  """

  def __init__(self, member: str = "", how: str = "", lacks: str = ""):
    self._task: Any = Classification().build()
    self._lacks = lacks
    self.num_outputs, self.metrics = self._task.num_outputs, self._task.metrics
    if member:
      setattr(self, member, lambda *_: {}["forgotten"] if how == "raises" else None)

  def keys(self, info: Any) -> list[str]:
    return [key for key in self._task.keys(info) if key not in self._lacks.split()]

  def loss(self, outputs: Array, batch: Any, settings: Any, info: Any) -> Any:
    return self._task.loss(outputs, batch, settings, info)

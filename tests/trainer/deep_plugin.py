"""A model of twelve layers from outside the repository, which keeps them in each way that Flax offers."""

import jax
from flax import nnx
from jaxtyping import Array, Float

NAMES = ("10", "2", "1", "block", "block-1", "block.2", "block 3", "Block", "_block", "größe", "layer10", "layer9")
"""Keys whose order changes with the separator that joins them to others, or with the case."""


class Layer(nnx.Module):
  """x + f(x), with statistics of its own."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.linear = nnx.Linear(4, 4, rngs=rngs)
    self.norm = nnx.BatchNorm(4, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 4"]) -> Float[Array, "batch 4"]:
    return x + jax.nn.tanh(self.norm(self.linear(x)))


class Deep(nnx.Module):
  """Twelve layers of width 4 in an `nnx.Dict`, eleven in an `nnx.List`, or twelve in an `nnx.Sequential`."""

  def __init__(self, kept: str, *, num_classes: int, input_shape: tuple[int, ...], rngs: nnx.Rngs):
    layers = [Layer(rngs=rngs) for _ in NAMES]
    self.first = nnx.Linear(input_shape[0] * input_shape[1], 4, rngs=rngs)
    self.layers = {
      "dict": lambda: nnx.Dict(dict(zip(NAMES, layers, strict=True))),
      "list": lambda: nnx.List(layers[:11]),
      "sequential": lambda: nnx.Sequential(*layers),
    }[kept]()
    self.output = nnx.Linear(4, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch height width 1"], *, train: bool) -> Float[Array, "batch classes"]:
    for _, module in nnx.iter_modules(self):
      module.set_attributes(raise_if_not_found=False, use_running_average=not train)
    x = self.first(x.reshape(x.shape[0], -1))
    if isinstance(self.layers, nnx.Sequential):
      x = self.layers(x)
    else:
      for layer in self.layers.values() if isinstance(self.layers, nnx.Dict) else self.layers:
        x = layer(x)
    return self.output(x)

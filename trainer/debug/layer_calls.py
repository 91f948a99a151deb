"""Each call of a layer, as it happens: for finding the first layer of a model at which something goes wrong."""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
  """The beginning or the end of a layer's call.

  Attributes:
    layer: where it lies in the model, such as `blocks/0/conv (Conv)`.
    caller: the layer in whose code it is called; "" for the model itself.
    is_end: whether `arrays` are what the call returns; otherwise they are its arguments.
    arrays: those of numbers.
  """

  layer: str
  caller: str
  is_end: bool
  arrays: list[np.ndarray]

  @property
  def place(self) -> str:
    """Return where the arrays were computed, in words."""
    if self.is_end:
      return self.layer
    if not self.caller:
      return "the inputs of the model"
    return f"the code of {self.caller}, before it calls {self.layer}"


Select = Callable[[np.ndarray], np.ndarray | None]


def moments(run: Callable[[], object]) -> list[Moment]:
  """Return all moments of what `run` does, in order of time. `run` must be executed without jit, in one thread."""
  with _watching() as found:
    run()
  return found


def first_not_finite(run: Callable[[], object]) -> str | None:
  """Return where the first number that is not finite came up, in words; None: there is none."""
  ranges: dict[str, str] = {}
  for moment in moments(run):
    bad = [array for array in moment.arrays if not np.isfinite(array).all()]
    if bad:
      numbers = np.concatenate([array.ravel() for array in bad])
      what = "NaN" if np.isnan(numbers).any() else "inf"
      seen = f"{moment.place}: {what} in {(~np.isfinite(numbers)).mean():.0%} of its numbers"
      return f"{seen}; it received {ranges[moment.layer]}" if moment.is_end else seen
    if not moment.is_end:
      numbers = [number for array in moment.arrays if array.size for number in (array.min(), array.max())]
      ranges[moment.layer] = f"numbers from {min(numbers):.3g} to {max(numbers):.3g}" if numbers else "no numbers"
  return None


def first_difference(run: Callable[[], object], again: Callable[[], object], select: Select, tolerance: float) -> str:
  """Return in words where two runs of one model first differ in what `select` takes of each array (None: nothing).

  Args:
    run: executes the model.
    again: executes it with other inputs.
    select: the part of an array that should be the same.
    tolerance: the largest difference that counts as none, relative to the largest number.
  """
  for one, two in zip(moments(run), moments(again), strict=False):
    for first, second in zip(one.arrays, two.arrays, strict=False):
      parts = select(first), select(second)
      if parts[0] is not None and parts[1] is not None and differ(parts[0], parts[1], tolerance):
        return one.place
  return "no particular layer"


def differ(first: np.ndarray, second: np.ndarray, tolerance: float) -> bool:
  """Return whether arrays of one shape differ by more than `tolerance` times the largest number; NaN equals NaN."""
  # A product of one row may be computed in another order than beside other rows, so bits need not agree.
  scale = float(np.nanmax(np.abs(first), initial=1e-30))
  return not np.allclose(first, second, rtol=0, atol=tolerance * scale, equal_nan=True)


@contextlib.contextmanager
def _watching() -> Iterator[list[Moment]]:
  """Collect moments while open, by replacing `__call__` of every class of layers that there is."""
  found: list[Moment] = []
  known: dict[int, tuple[nnx.Module, str]] = {}
  copies: Counter[str] = Counter()
  calling: list[nnx.Module] = []

  def register(root: nnx.Module, path: str) -> None:
    for parts, module in nnx.iter_modules(root):
      known[id(module)] = (module, "/".join(filter(None, (path, *map(str, parts)))))

  def find(module: nnx.Module) -> None:
    """Give a path to a module that is met for the first time: the model, or a copy that a layer made of a part."""
    if not calling:
      register(module, "")
      return
    _, above = known[id(calling[-1])]
    below = f"{above}/" if above else ""
    original = next(
      (path for other, path in known.values() if type(other) is type(module) and path.startswith(below)),
      f"{below}{type(module).__name__}",
    )
    register(module, f"{original}[{copies[original]}]")
    copies[original] += 1

  def name(module: nnx.Module) -> str:
    path, kind = known[id(module)][1], type(module).__name__
    return f"{path} ({kind})" if path else kind

  def watched(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapper(module: nnx.Module, *args: Any, **kwargs: Any) -> Any:
      if calling and module is calling[-1]:  # super().__call__
        return call(module, *args, **kwargs)
      if id(module) not in known:
        find(module)
      caller = name(calling[-1]) if calling else ""
      where = {"layer": name(module), "caller": caller}
      found.append(Moment(**where, is_end=False, arrays=_numbers((args, kwargs))))
      calling.append(module)
      try:
        result = call(module, *args, **kwargs)
      finally:
        calling.pop()
      found.append(Moment(**where, is_end=True, arrays=_numbers(result)))
      return result

    return wrapper

  originals = [(kind, vars(kind)["__call__"]) for kind in _kinds(nnx.Module) if "__call__" in vars(kind)]
  try:
    for kind, call in originals:
      kind.__call__ = watched(call)
    yield found
  finally:
    for kind, call in originals:
      kind.__call__ = call


def _kinds(kind: type) -> set[type]:
  return {kind}.union(*map(_kinds, kind.__subclasses__()))


def _numbers(tree: Any) -> list[np.ndarray]:
  # Inside a transformation, such as rematerialization, there are no numbers to look at.
  arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array | np.ndarray)]
  arrays = [array for array in arrays if not isinstance(array, jax.core.Tracer)]
  wanted = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.number)]
  return [np.asarray(array, np.float32) for array in wanted]

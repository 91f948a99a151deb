"""The arithmetic of each optimizer for one parameter array (PB-90): pure functions of float32 arrays.

A rule is called as `rule(settings, learning_rate, count, grad, buffers)` and returns `(step, buffers)`, to be
applied as parameter ← parameter − step. `settings` holds the optimizer's traced values by field name,
`learning_rate` the scheduled value η, `count` the number of this update (float32, 1 for the first), `buffers`
the arrays that the optimizer keeps for this parameter, of its shape, in the order in which the registry in
`trialbook.trainer.optimizers` names them.

Coefficients that may be close to one come as complements, 1 − β, rounded once from float64, and β itself is
never formed: float32's nearest neighbour of β₂ = 1 − 1e-6 has a 1 − β₂ that is wrong by 1.3 %.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalars = Mapping[str, Float[Array, ""]]
Buffers = tuple[Float[Array, "..."], ...]
Result = tuple[Float[Array, "..."], Buffers]


def sgd(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step of SGD: θ ← θ − η g."""
  del settings, count
  return learning_rate * grad, buffers


def momentum(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step of heavy-ball momentum: v₀ = 0; v ← γ v + g; θ ← θ − η v."""
  del count
  (velocity,) = buffers
  velocity = grad + decayed(velocity, settings["one_minus_momentum"])
  return learning_rate * velocity, (velocity,)


def nesterov(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step of Nesterov momentum: v₀ = 0; v ← γ v + g; θ ← θ − η (γ v + g)."""
  del count
  (velocity,) = buffers
  velocity = grad + decayed(velocity, settings["one_minus_momentum"])
  return learning_rate * (grad + decayed(velocity, settings["one_minus_momentum"])), (velocity,)


def rmsprop(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step of RMSProp.

  v₀ = 1, m₀ = 0; v ← ρ v + (1−ρ) g²; m ← γ m + η/√(v+ε) g; θ ← θ − m.
  """
  del count
  second_moment, velocity = buffers
  second_moment = moving_average(second_moment, jnp.square(grad), settings["one_minus_rho"])
  scaled = learning_rate / jnp.sqrt(second_moment + settings["epsilon"]) * grad
  velocity = scaled + decayed(velocity, settings["one_minus_momentum"])
  return velocity, (second_moment, velocity)


def adam(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step of Adam, in which ε joins √v before the bias correction.

  m₀ = v₀ = 0; m and v moving averages of g and g²; θ ← θ − η m/(√v + ε) · √(1−β₂ᵗ)/(1−β₁ᵗ), t = count. This ε is the
  "ε hat" of Kingma & Ba (2015, end of section 2).
  """
  first_moment, second_moment = buffers = moments(settings, grad, buffers)
  return _before_correction(settings, learning_rate, count, first_moment, second_moment), buffers


def nadam(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step as `adam`, with β₁ m + (1−β₁) g in place of m, where m has been updated already."""
  first_moment, second_moment = buffers = moments(settings, grad, buffers)
  ahead = moving_average(first_moment, grad, settings["one_minus_beta1"])
  return _before_correction(settings, learning_rate, count, ahead, second_moment), buffers


def adam_corrected(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step of Adam in which ε joins √v after the bias correction: θ ← θ − η m̂/(√v̂ + ε).

  Kingma & Ba (2015), algorithm 1; AdamW (Loshchilov & Hutter, 2019) and LAMB (You et al., 2020) build on it.
  """
  first_moment, second_moment = buffers = moments(settings, grad, buffers)
  first = first_moment / bias_correction(settings["one_minus_beta1"], count)
  second = second_moment / bias_correction(settings["one_minus_beta2"], count)
  return learning_rate * first / (jnp.sqrt(second) + settings["epsilon"]), buffers


def lion(settings: Scalars, learning_rate: Array, count: Array, grad: Array, buffers: Buffers) -> Result:
  """Return one step of Lion (Chen et al., 2023): m₀ = 0; θ ← θ − η sign(β₁ m + (1−β₁) g); then m ← β₂ m + (1−β₂) g."""
  del count
  (first_moment,) = buffers
  direction = jnp.sign(moving_average(first_moment, grad, settings["one_minus_beta1"]))
  return learning_rate * direction, (moving_average(first_moment, grad, settings["one_minus_beta2"]),)


def moving_average(previous: Array, new: Array, one_minus_decay: Array) -> Array:
  """Return d·previous + (1−d)·new, so that `previous` = `new` is a fixed point and 1−d keeps its digits."""
  return previous + one_minus_decay * (new - previous)


def decayed(buffer: Array, one_minus_decay: Array) -> Array:
  """Return d·buffer, exactly zero for d = 0."""
  return buffer - one_minus_decay * buffer


def bias_correction(one_minus_decay: Array, count: Array) -> Array:
  """Return 1 − dᵗ, t = count: the weight of t terms in a moving average started at zero. Exact for d = 0."""
  return -jnp.expm1(count * jnp.log1p(-one_minus_decay))


def moments(settings: Scalars, grad: Array, buffers: Buffers) -> tuple[Array, Array]:
  """Return Adam's moving averages of the gradient and of its square."""
  first_moment, second_moment = buffers
  return (
    moving_average(first_moment, grad, settings["one_minus_beta1"]),
    moving_average(second_moment, jnp.square(grad), settings["one_minus_beta2"]),
  )


def _before_correction(settings: Scalars, learning_rate: Array, count: Array, first: Array, second: Array) -> Array:
  correction = jnp.sqrt(bias_correction(settings["one_minus_beta2"], count)) / bias_correction(
    settings["one_minus_beta1"], count
  )
  return learning_rate * correction * first / (jnp.sqrt(second) + settings["epsilon"])

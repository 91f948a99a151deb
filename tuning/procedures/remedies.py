"""The remedies of unstable training, in the playbook's order, and what the model's architecture offers (PB-84)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from trialbook.trainer import Config

Name = Literal["warmup", "clip", "optimizer", "architecture", "learning_rate"]

RESIDUAL = ("resnet", "wide_resnet", "vit", "transformer")
"""Models of trialbook that have residual connections."""
MOMENTUM = ("sgd", "momentum", "nesterov")
"""Optimizers for which Adam is another one."""


@dataclasses.dataclass(frozen=True)
class Remedy:
  """Something to try.

  Attributes:
    name: which remedy; several may share one.
    text: what to do and why, in a sentence.
    changes: of the config that do it: dotted path -> value; empty: a procedure finds them, or a person.
  """

  name: Name
  text: str
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def remedies(config: Config, kind: Literal["early", "mid"], options: str = "") -> list[Remedy]:
  """Return what to try for an instability that is early or in the middle of training, in the playbook's order.

  Warmup is first for an early one. In the middle, clipping is: the learning rate of warmup is reached by then.

  Args:
    config: that is unstable.
    kind: of instability.
    options: of the commands that the sentences name.
  """
  warm, clip = _warmup(config, kind, options), _clip(config, options)
  first = [warm, clip] if kind == "early" else [clip, warm]
  last = Remedy("learning_rate", "As a last resort, keep a smaller learning rate.")
  return [*first, *_optimizer(config), *architecture(config), last]


def _warmup(config: Config, kind: Literal["early", "mid"], options: str) -> Remedy:
  now = config.schedule.warmup_steps
  what = f"Lengthen the warmup, which has {now:,} steps" if now else "Warm the learning rate up"
  when = (
    "It is the best remedy of early instability"
    if kind == "early"
    else "It is a remedy of early instability foremost, but a long one sometimes helps where clipping does not"
  )
  return Remedy("warmup", f"{what}: `trialbook tune warmup{options}`. {when}.")


def _clip(config: Config, options: str) -> Remedy:
  now = config.clip_norm
  what = f"Clip gradients harder than at {now:g}" if now is not None else "Clip gradients"
  return Remedy("clip", f"{what}: `trialbook tune clip{options}`. It helps early and in the middle of training.")


def _optimizer(config: Config) -> list[Remedy]:
  if config.optimizer.name not in MOMENTUM:
    return []
  text = "Try Adam, which sometimes trains where momentum cannot. Search its learning rate anew, from 0.001."
  return [Remedy("optimizer", text, {"optimizer.name": "adam"})]


def architecture(config: Config) -> list[Remedy]:
  """Return what the architecture of a config's model lacks, read from the model's settings."""
  model = config.model
  if ":" in model.name:  # A plug-in, "module:Class".
    return [
      Remedy(
        "architecture",
        f"Look at the code of {model.name}. Does it have residual connections, and normalization? Is normalization"
        " inside of the residual branch, x + f(Norm(x)), and not Norm(x + f(x))? Does the last layer of each residual"
        " branch start at zero? Are initial outputs of the size of the targets?",
      )
    ]
  found = []
  if model.name not in RESIDUAL:
    found.append(
      Remedy(
        "architecture",
        f"Model {model.name} has no residual connections. If it is deep, use one that has them: {', '.join(RESIDUAL)}.",
      )
    )
  if getattr(model, "normalization", None) == "none":
    kind = "layer" if model.name == "mlp" else "batch"
    found.append(Remedy("architecture", "Add normalization, of which there is none.", {"model.normalization": kind}))
  if getattr(model, "norm_placement", None) == "post":
    found.append(
      Remedy(
        "architecture",
        "Move normalization into the residual branch, x + f(Norm(x)). Norm(x + f(x)) is known to cause such problems.",
        {"model.norm_placement": "pre"},
      )
    )
  if getattr(model, "zero_init_residual", None) is False:
    found.append(
      Remedy("architecture", "Start the residual branches at zero.", {"model.zero_init_residual": True}),
    )
  if not found:
    found.append(
      Remedy(
        "architecture",
        f"Model {model.name} follows the advice already: residual connections, normalization inside of the branch, and"
        " branches that start at zero.",
      )
    )
  return found

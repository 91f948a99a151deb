"""What a configuration has that an initial one can do without (PB-07): an initial one is simple, small and fast."""

from typing import Any

from trialbook.settings import find
from trialbook.trainer import Config
from trialbook.tuning.procedures.max_steps import OFF, off_name, without_regularization

SMALL_DEPTH = {"mlp": 3, "cnn": 6, "resnet": 20, "wide_resnet": 16, "vit": 6, "transformer": 6}
"""Most layers of a small model of each kind, as our defaults have: a first configuration is there to be tried often."""

ABSENT = ("weight_decay", "dropout_rate", "label_smoothing", "averaging")
"""Names of fields that are None where they are off. Those of augmentation are zero."""

_WORDS = {
  "weight_decay": "weight decay",
  "dropout_rate": "dropout",
  "label_smoothing": "label smoothing",
  "crop_padding": "random crops",
  "flip_probability": "random flips",
  "erasing_probability": "random erasing",
  "mixup_alpha": "mixup",
  "cutmix_alpha": "CutMix",
  "resized_crop_area": "resized crops down to an area",
  "policy_layers": "RandAugment or TrivialAugment, layers",
  "color_jitter": "colour jitter",
  "time_masks": "masks of time, a number",
  "frequency_masks": "masks of frequency, a number",
  "augmentation.function": "an augmentation by the function",
}


def simplified(config: Config) -> dict[str, Any]:
  """Return the changes that turn augmentation, regularization, averaging and the schedule off; {} if nothing is on.

  What can be absent is left out, so that the program is simpler too.
  """
  changes: dict[str, Any] = {}
  for path, value in without_regularization(config).items():
    if path == "schedule":
      if config.schedule.name != "constant":
        changes["schedule.name"] = "constant"
      elif config.schedule.warmup_steps:
        changes["schedule.warmup_steps"] = 0
      continue
    found = find(config, path)
    if found is not None and found[1] is not None:
      changes[path] = None if path.rpartition(".")[2] in ABSENT else value
  return changes


def switched_on(config: Config) -> list[str]:
  """Return what `simplified` turns off, in words with its value."""
  parts = []
  for path in simplified(config):
    name = path.rpartition(".")[2]
    if path.startswith("schedule."):
      warmup = config.schedule.warmup_steps
      after = f" after {warmup:,} steps of warmup" if warmup else ""
      parts.append(f"a {config.schedule.name} learning rate{after}")
    elif path == "averaging":
      parts.append("parameter averaging")
    else:
      name = off_name(path)
      assert name in OFF
      found = find(config, path)
      value = found[1] if found else 0
      parts.append(f"{_WORDS.get(name, name)} of {value if isinstance(value, str) else f'{value:g}'}")
  return parts


def depth(config: Config) -> int | None:
  """Return the layers with weights of a model of ours, but for the first and last ones; None for others."""
  model: Any = config.model
  match model.name:
    case "mlp":
      return len(model.widths)
    case "cnn":
      return len(model.widths) * model.convolutions_per_stage
    case "resnet":
      return sum(model.stage_sizes) * (2 if model.block == "basic" else 3)
    case "wide_resnet" | "vit" | "transformer":
      return model.depth
    case _:
      return None


def remarks(config: Config) -> list[str]:
  """Return what else a simpler configuration would not have, with no training that shows it."""
  found = []
  layers, small = depth(config), SMALL_DEPTH.get(config.model.name)
  if layers is not None and small is not None and layers > small:
    found.append(
      f"model: {layers} layers are many for a first configuration; {small} train faster, and most of what is learned"
      " about the rest carries over."
    )
  if config.gradient_accumulation > 1:
    found.append(
      f"gradient_accumulation = {config.gradient_accumulation} buys no throughput (PB-08); a smaller batch is simpler."
    )
  return found

"""Runs MaxText's own `train_compile`, and writes what the compiler says of its train step.

  python -m benchmarks.maxtext_compile RESULT.json CHIPS SETTING=VALUE ...

Runs in an environment with MaxText. The compiled step is taken as it passes through jax.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import maxtext  # type: ignore[import-not-found]
from maxtext.trainers.pre_train import train_compile  # type: ignore[import-not-found]

from trialbook.launch.preflight import hlo
from trialbook.launch.preflight.collectives import collectives


def compile_case(result: str, chips: str, settings: list[str]) -> None:
  """Compile by MaxText's settings, and write state, temporaries and bytes of collectives of a chip."""
  made: list[Any] = []
  own = jax.stages.Lowered.compile

  def keep(lowered: Any, *arguments: Any, **named: Any) -> Any:
    made.append(own(lowered, *arguments, **named))
    return made[-1]

  jax.stages.Lowered.compile = keep  # type: ignore[method-assign]
  base = pathlib.Path(maxtext.__path__[0]) / "configs" / "base.yml"
  train_compile.main(["train_compile", str(base), *settings])
  step = max(made, key=lambda one: one.memory_analysis().argument_size_in_bytes)
  memory = step.memory_analysis()
  found = collectives(hlo.parse(step.as_text()), int(chips))
  pathlib.Path(result).write_text(
    json.dumps(
      {
        "state": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "moved": sum(one.times * one.bytes for one in found),
      }
    )
  )


if __name__ == "__main__":
  compile_case(sys.argv[1], sys.argv[2], sys.argv[3:])

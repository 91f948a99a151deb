"""The console command: `trialbook train ...` from anywhere is `python -m trainer ...` in a checkout."""

import os
import runpy
import sys

_ROOMS = {
  "train": "trainer",
  "evaluate": "trainer.evaluate",
  "export": "trainer.export",
  "profile": "trainer.profile",
  "data": "input_pipeline",
  "launch": "launch",
  "tune": "tuning",
}


def main() -> int:
  """Runs the room's own command with the rest of the arguments."""
  if len(sys.argv) < 2 or sys.argv[1] not in _ROOMS:
    sys.stderr.write(f"usage: trialbook {{{','.join(_ROOMS)}}} ...   (each has --help)\n")
    return 0 if sys.argv[1:] in (["--help"], ["-h"]) else 2
  room = _ROOMS[sys.argv.pop(1)]
  # Last on the path: a user's own modules are found, and a user's `models/` cannot shadow ours.
  sys.path.append(os.getcwd())
  runpy.run_module(room, run_name="__main__", alter_sys=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())

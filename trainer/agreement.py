"""Facts that the hosts of a job must have in common before they train together, and that they take from the lead."""

import dataclasses
import os
import pathlib

import jax

from trialbook.errors import UserError
from trialbook.input_pipeline import Dataset
from trialbook.input_pipeline.fingerprint import same as same_fingerprint
from trialbook.settings import leaves
from trialbook.trainer.config import Config
from trialbook.trainer.hosts.joining import Hosts
from trialbook.trainer.program import CODE_SETTINGS
from trialbook.trainer.workdir import existing_run, provenance


def check_alike(config: Config, workdir: pathlib.Path, dataset: Dataset, hosts: Hosts) -> None:
  """Raise UserError, on all hosts, if they are not about to do the same: config, code, versions, data, devices."""
  if hosts.count != jax.process_count():
    raise UserError(
      f"jax has {jax.process_count()} processes, but only {hosts.count} joined; use trialbook.trainer.Guard.join"
      " instead of jax.distributed.initialize, and pass the guard to run"
    )
  if hosts.count == 1:
    return
  contents = existing_run.fingerprints(config, dataset)
  of_lead = hosts.from_lead("the content of the data", contents)
  # Last bits may differ where hosts compute their data.
  contents = {
    split: of_lead[split] if split in of_lead and same_fingerprint(of_lead[split], content) else content
    for split, content in contents.items()
  }
  hosts.agree(
    {f"config {path}": value for path, _, _, value in leaves(config)}
    | {f"the version of {package}": version for package, version in provenance.versions().items()}
    | {f"the code of {file}": digest for file, digest in provenance.code(config).items()}
    | {f"dataset {name}": value for name, value in dataclasses.asdict(dataset.info).items()}
    | {f"the content of {split}": content for split, content in contents.items()}
    | {"the number of its devices": jax.local_device_count(), "the kind of its devices": jax.devices()[0].device_kind}
    | {f"jax's setting {name}": jax.config.values[name] for name in CODE_SETTINGS}
    | {f"the environment's {name}": os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    | {"the workdir": os.fspath(workdir)}
  )
  hosts.check_shared(workdir)

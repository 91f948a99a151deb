"""The types of what a job on other machines keeps: its description, and how long its machines lived."""

import pathlib
from typing import Literal

import pydantic
from typing_extensions import TypedDict

from trialbook.errors import UserError
from trialbook.record import Count, Format, Kind, sentences, stored

Capacity = Literal["on-demand", "spot", "reserved"]


@stored
class Slices(TypedDict):
  """What a job asks of Cloud TPU."""

  project: str
  zone: str
  accelerator_type: str
  runtime_version: str
  capacity: Capacity
  slices: Count
  create_flags: list[str]
  internal_ip: bool


@stored
class JobRecord(TypedDict):
  """`launch/job.json` in the workdir, and the metadata `trialbook-job` of the machines: all that a launcher needs.

  Nothing in it is secret.
  """

  format: Format
  name: str
  arguments: list[str]
  workdir: str
  variables: dict[str, str]
  python: str | None
  setup: list[str]
  digest: str
  inside: str
  environment: str
  port: Count
  preemptions: Count
  failures: Count
  tpu: Slices


@stored
class Life(TypedDict):
  """The time that machines of a job were there, in seconds since the epoch."""

  created: float
  seen: float
  chips: Count


@stored
class Lives(TypedDict):
  """`launch/lives.json`: what the job has been charged for, as far as a launcher saw it."""

  format: Format
  lives: list[Life]


JOB = Kind(JobRecord, "Launch the job anew, under another name")
LIVES = Kind(Lives, "Remove the file to count chip-hours from zero")
_JOB = pydantic.TypeAdapter(JobRecord)


def read_job(folder: pathlib.Path) -> JobRecord | None:
  """Return the job in a folder of the launcher; None if there is none. Raises UserError."""
  return JOB.read(folder / "job.json")


def job_of_text(text: str, where: str) -> JobRecord:
  """Return the job that a text describes. Raises UserError, naming where the text is."""
  try:
    return _JOB.validate_json(text, strict=True)
  except pydantic.ValidationError as error:
    raise UserError(f"{where} describes no job of trialbook: {'; '.join(sentences(error))}") from None


def read_lives(folder: pathlib.Path) -> list[Life]:
  """Return the lives of the machines of a job, in their order. Raises UserError."""
  found = LIVES.read(folder / "lives.json")
  return found["lives"] if found else []


def text_of_job(record: JobRecord) -> str:
  """Return the job as `job_of_text` reads it."""
  return _JOB.dump_json(record).decode()

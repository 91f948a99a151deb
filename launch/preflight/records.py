"""The record of a preflight: what the compiler says of one config on one topology."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from trialbook.record import Count, Format, Kind, stored


@stored
class Memory(TypedDict):
  """Bytes on each chip.

  Attributes:
    arguments: of the train step: state, settings and a batch, with their padding.
    padding: bytes among the arguments that hold no data.
    temporaries: of the train step or of the evaluation step, whichever needs more.
    outputs: results that take no argument's place.
    code: the program itself.
    batches: batches that were made ahead.
    save: what a save adds, beside a running step.
    peak: all of them.
    limit: what programs can have; None: not known.
    known: whether the compiler of the chip has said so; of a GPU only the arguments are known without one.
    state: the state alone, by the shapes of its parts on a chip, without padding.
  """

  arguments: Count
  padding: Count
  temporaries: Count
  outputs: Count
  code: Count
  batches: Count
  save: Count
  peak: Count
  limit: Count | None
  known: bool
  state: Count


@stored
class Group(TypedDict):
  """Collectives of one kind, axis and place.

  Attributes:
    kind: such as "all-gather".
    axis: axes of the mesh along which chips take part.
    place: in the step and the model, as jax names operations.
    instructions: number of collectives in the program.
    executions: how many run in a step, loops counted.
    arrays: arrays that are combined in all instructions together.
    bytes: of a chip in a step, over all executions.
    largest, shape: bytes and type of the largest array.
    in_loop: whether a loop runs them.
    network: "ici" inside of a slice or node, or "dcn" across several.
    ici_seconds, dcn_seconds: the least time that they take in a step, on each network; None: a figure of the chip is
      not known.
  """

  kind: str
  axis: str
  place: str
  instructions: Count
  executions: Count
  arrays: Count
  bytes: Count
  largest: Count
  shape: str
  in_loop: bool
  network: Literal["ici", "dcn"]
  ici_seconds: float | None
  dcn_seconds: float | None


@stored
class Function(TypedDict):
  """One compiled function.

  Attributes:
    flops: of a chip, in an execution.
    asked_flops: of all chips, as the program asks for them.
    passes: `flops`, those of a product as many times as it takes passes of the matrix unit.
    float32_flops: those of `flops` with float32 operands.
    traffic: bytes between a chip and its memory.
    arguments, temporaries, outputs: bytes of a chip.
    collectives: grouped, the largest first.
  """

  flops: float
  asked_flops: float
  passes: float
  float32_flops: float
  traffic: float
  arguments: Count
  temporaries: Count
  outputs: Count
  collectives: list[Group]


@stored
class Bounds(TypedDict):
  """The least seconds of a train step that each part of a chip allows; None: a figure of the chip is not known.

  Attributes:
    compute: by its FLOP/s.
    memory: by the bandwidth of its memory.
    ici: by the links to other chips of the slice.
    dcn: by the network between slices.
    step: the largest of them.
    intensity: FLOPs for each byte of memory traffic.
    utilisation: share of the peak FLOP/s at `step`, of the FLOPs that the program asks for.
    examples_per_second: over all chips, at `step`.
  """

  compute: float | None
  memory: float | None
  ici: float | None
  dcn: float | None
  step: float | None
  intensity: float
  utilisation: float | None
  examples_per_second: float | None


@stored
class Save(TypedDict):
  """A save of the state.

  Attributes:
    bytes: that the host writes which writes most.
    bytes_per_second: assumed speed of a host.
    seconds: at this speed.
    grace_seconds: from the platform's warning to the end of the machine.
  """

  bytes: Count
  bytes_per_second: float
  seconds: float
  grace_seconds: float


@stored
class Host(TypedDict):
  """Memory of a host: batches that wait there, and the copy of the state that is being written."""

  batches: Count
  save: Count
  limit: Count | None


@stored
class Report(TypedDict):
  """A preflight of one config.

  Attributes:
    verdict: "fits", "does not fit", or "not known" where no compiler of the chip was asked.
    reason: of a verdict that is not "fits".
    largest_allocations: of a program that does not fit, as the compiler lists them.
    hops: largest number of links between neighbours along each axis of the mesh.
    parameters: number of them.
    batch_unit: what the batch size must be a multiple of.
    compiler: names and versions.
  """

  format: Format
  config: str
  changes: dict[str, str]
  topology: str
  chip: str
  chips: Count
  hosts: Count
  mesh: dict[str, int]
  hops: dict[str, int | None]
  parameters: Count
  batch_size: Count
  batch_unit: Count
  verdict: Literal["fits", "does not fit", "not known"]
  reason: str
  largest_allocations: list[str]
  memory: Memory
  functions: dict[str, Function]
  bounds: Bounds | None
  save: Save
  host: Host
  warnings: list[str]
  notes: list[str]
  trace_seconds: float
  compile_seconds: float
  compiler: dict[str, str]
  git: NotRequired[str]


REPORT = Kind(Report, "Run the preflight again")

"""`batch-size` finds where throughput stops growing, and why, by measurements that are simulated or real (PB-03…05)."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning.procedures import batch_size, step_measurement
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.step_measurement import Machine, Measurement

CONFIG = Config().override({"batch_size": 64, "model": {"name": "mlp"}})


class Device:
  """A simulated device: a step takes a fixed time and, beyond saturation, a time for each example.

  Args:
    saturates: size up to which a step takes the same time.
    memory: examples that fit; None: all.
    examples: of the training set.
    noise: standard deviation of the logarithm of a block's time.
    waiting: share of waiting for data at and beyond saturation.
    alone: seconds of a step of one device alone, as a share of that of all.
    killed: whether a size that does not fit kills its process, so that no analysis is known.
  """

  def __init__(
    self,
    saturates: int,
    *,
    memory: int | None = None,
    examples: int = 10**6,
    noise: float = 0.0,
    waiting: float = 0.0,
    alone: float | None = None,
    killed: bool = False,
  ):
    self.saturates, self.memory, self.examples, self.noise = saturates, memory, examples, noise
    self.waiting, self.alone, self.killed = waiting, alone, killed
    self.measured: list[int] = []

  def __call__(self, config: Config, size: int, machine: Machine, folder: pathlib.Path) -> Measurement:
    self.measured.append(size)
    own = Measurement(batch_size=size, fits=False, needed_bytes=size * 10**6, limit_bytes=10**9, platform="gpu")
    if size > self.examples:
      return dataclasses.replace(own, refused=True, reason=f"batch_size = {size} is larger than the training set")
    if self.memory is not None and size > self.memory:
      if self.killed:
        return Measurement(batch_size=size, fits=False, reason="its process was killed")
      return dataclasses.replace(own, reason="it needs 2 GB of each device by the compiler's analysis")
    seconds = 0.01 * max(1.0, size / self.saturates)
    random = np.random.default_rng(size)
    waits = self.waiting if size >= self.saturates else 0.01
    return dataclasses.replace(
      own,
      fits=True,
      block_seconds=tuple(seconds * np.exp(self.noise * random.normal(size=5))),
      waiting=waits,
      alone_seconds=None if self.alone is None else self.alone * seconds,
      steps=100,
      seconds=5.0,
      device_kind="simulated",
      devices=machine.devices,
    )


def found(folder, device, config=CONFIG, **more):
  return batch_size.run(Lab(folder=folder, config=config), measure=device, **more)


@pytest.mark.parametrize("noise", [0.0, 0.03])
@pytest.mark.parametrize("saturates", [64, 512, 4096])
def test_the_size_at_which_throughput_stops_growing_is_recommended(tmp_path, saturates, noise):
  device = Device(saturates, noise=noise)
  conclusion = found(tmp_path, device)
  assert conclusion.numbers["saturates_at"] == saturates
  assert conclusion.numbers["proportional_until"] == saturates
  assert f"saturates at batch size {saturates:,} (" in conclusion.verdict
  # Two doublings without growth end the search.
  assert device.measured == [16 * 2**power for power in range(len(device.measured))]
  assert device.measured[-1] == 4 * saturates
  assert stored_config(tmp_path / "recommended").batch_size == saturates
  assert conclusion.numbers["bottleneck"] == "compute"
  assert (tmp_path / "throughput.svg").exists()


def test_growth_of_less_than_doubling_is_growth_and_is_not_called_proportional(tmp_path):
  class Slow(Device):
    """Throughput grows by a half for each doubling up to 256."""

    def __call__(self, config, size, machine, folder):
      made = super().__call__(config, size, machine, folder)
      rate = 1000 * 1.5 ** np.log2(min(size, 256) / 16)
      return dataclasses.replace(made, block_seconds=(size / rate,) * 5)

  conclusion = found(tmp_path, Slow(1))
  assert conclusion.numbers["saturates_at"] == 256
  assert conclusion.numbers["proportional_until"] is None
  assert "A doubled batch doubles throughput (by 1.8 at least) nowhere" in " ".join(conclusion.evidence)


def test_one_size_that_is_slow_does_not_end_the_search(tmp_path):
  class Uneven(Device):
    def __call__(self, config, size, machine, folder):
      made = super().__call__(config, size, machine, folder)
      slower = 2.5 if size == 128 else 1.0
      return dataclasses.replace(made, block_seconds=tuple(slower * one for one in made.block_seconds))

  assert found(tmp_path, Uneven(1024)).numbers["saturates_at"] == 1024


@pytest.mark.parametrize("killed", [False, True])
def test_the_largest_that_fits_is_recommended_where_memory_ends_first(tmp_path, killed):
  device = Device(4096, memory=300, killed=killed)
  conclusion = found(tmp_path, device)
  assert conclusion.numbers["end"] == "memory"
  assert conclusion.numbers["saturates_at"] is None
  assert conclusion.changes == {"batch_size": 256}
  assert "Batch size 256 (25,600 examples/s) is the largest that fits. 512 does not, because" in conclusion.verdict
  assert device.measured[-1] == 512


def test_a_size_above_the_training_set_ends_the_search(tmp_path):
  conclusion = found(tmp_path, Device(4096, examples=1297))
  assert conclusion.numbers["end"] == "refused"
  assert conclusion.changes == {"batch_size": 1024, "evaluation.batch_size": 1024}
  assert "is larger than the training set" in conclusion.verdict


def test_smaller_sizes_are_tried_where_the_first_does_not_fit_or_is_saturated(tmp_path):
  conclusion = found(tmp_path / "a", Device(64, memory=6))
  assert conclusion.changes == {"batch_size": 4}
  conclusion = found(tmp_path / "b", Device(4))
  assert conclusion.numbers["saturates_at"] == 4


@pytest.mark.parametrize(
  ("device", "devices", "bottleneck", "told"),
  [
    (Device(128, waiting=0.6), 1, "input", "the steps wait for data 60% of their time: the input pipeline is"),
    (Device(128, alone=0.5), 8, "synchronisation", "50% of a step is the exchange between devices"),
    (Device(128, alone=0.95), 8, "compute", "the devices' computation is the bottleneck"),
    (Device(128), 1, "compute", "the devices' computation is the bottleneck"),
  ],
)
def test_the_bottleneck_is_named(tmp_path, device, devices, bottleneck, told):
  conclusion = found(tmp_path, device, devices=devices)
  assert conclusion.numbers["saturates_at"] == 128
  assert conclusion.numbers["bottleneck"] == bottleneck
  assert told in " ".join(conclusion.evidence)
  assert ("Make the input pipeline faster" in " ".join(conclusion.actions)) == (bottleneck == "input")


def test_what_must_be_tuned_again_at_the_new_size_is_said(tmp_path):
  actions = " ".join(found(tmp_path / "a", Device(256)).actions)
  assert "Tune the optimizer (learning rate and momentum first) and the regularization again" in actions
  assert "max-steps" in actions
  same = found(tmp_path / "b", Device(64))
  assert same.changes == {}
  assert "Tune" not in " ".join(same.actions)
  normalized = CONFIG.override({"model.normalization": "batch"})
  assert "model.virtual_batch_size=64" in " ".join(found(tmp_path / "c", Device(256), normalized).actions)


def test_sizes_divide_among_devices_parts_and_virtual_batches(tmp_path):
  device = Device(64)
  config = CONFIG.override({"gradient_accumulation": 3, "model.normalization": "batch", "model.virtual_batch_size": 2})
  found(tmp_path, device, config, devices=4)
  assert device.measured[0] == 24
  assert all(size % 24 == 0 for size in device.measured)
  assert batch_size.first_size(8, 20) == 24
  assert batch_size.first_size(64, None) == 64


def test_a_limit_of_sizes_is_kept_and_said(tmp_path):
  device = Device(4096)
  conclusion = found(tmp_path, device, smallest=32, largest=200)
  assert device.measured == [32, 64, 128]
  assert conclusion.changes == {"batch_size": 128}
  assert "the largest that was allowed (--largest=200)" in conclusion.verdict
  with pytest.raises(UserError, match="--largest=8"):
    found(tmp_path / "b", device, largest=8)


def test_nothing_is_recommended_if_nothing_fits(tmp_path):
  device = Device(64, memory=0)
  conclusion = found(tmp_path, device)
  assert device.measured == [16, 8, 4, 2, 1]
  assert conclusion.changes is None
  assert "No batch size can be run: 1 is the smallest" in conclusion.verdict
  assert "mesh.fsdp" in " ".join(conclusion.actions)
  assert not (tmp_path / "recommended").exists()


def test_timings_that_vary_too_much_decide_nothing(tmp_path):
  conclusion = found(tmp_path, Device(256, noise=0.5))
  assert conclusion.changes is None
  assert "Where throughput stops growing is not known" in conclusion.verdict
  assert "while nothing else runs" in conclusion.actions[0]
  # Once the machine is idle, what varied is measured again, and nothing else.
  lines = [json.loads(line) for line in (tmp_path / "measurements.jsonl").read_text().splitlines()[1:]]
  varied = [one["batch_size"] for one in lines if step_measurement.spread(one["block_seconds"]) >= 0.1]
  idle = Device(256)
  again = found(tmp_path, idle)
  assert again.numbers["saturates_at"] == 256
  assert varied
  assert {*idle.measured} & {one["batch_size"] for one in lines} <= {*varied}


def test_what_else_runs_on_the_machine_does_not_count(tmp_path):
  class Shared(Device):
    """Most blocks are disturbed, by up to ten times their time."""

    def __call__(self, config, size, machine, folder):
      made = super().__call__(config, size, machine, folder)
      random = np.random.default_rng(size)
      disturbed = random.uniform(1, 10, 30) * (random.random(30) < 0.7)
      seconds = tuple(made.step_seconds * (1 + disturbed))
      return dataclasses.replace(made, block_seconds=seconds)

  assert found(tmp_path, Shared(256)).numbers["saturates_at"] == 256


def test_a_killed_search_measures_only_what_is_missing(tmp_path):
  class Killed(Device):
    def __call__(self, config, size, machine, folder):
      if size == 128:
        raise KeyboardInterrupt
      return super().__call__(config, size, machine, folder)

  with pytest.raises(KeyboardInterrupt):
    found(tmp_path, Killed(256))
  device = Device(256)
  first = found(tmp_path, device)
  assert device.measured == [128, 256, 512, 1024]
  # A line that was cut off by a kill is measured again.
  path = tmp_path / "measurements.jsonl"
  path.write_text(path.read_text()[:-20])
  again = Device(256)
  assert found(tmp_path, again).as_json() == first.as_json()
  assert again.measured == [1024]
  assert found(tmp_path, again).as_json() == first.as_json()
  assert again.measured == [1024]


def test_measurements_of_another_config_or_machine_are_not_used(tmp_path):
  found(tmp_path, Device(64))
  with pytest.raises(UserError, match=r"other settings \(model.widths\); choose another --dir"):
    found(tmp_path, Device(64), CONFIG.override({"model.widths": (8,)}))
  with pytest.raises(UserError, match="devices, cores or memory"):
    found(tmp_path, Device(64), memory=1.0)

  class Other(Device):
    def __call__(self, config, size, machine, folder):
      return dataclasses.replace(super().__call__(config, size, machine, folder), device_kind="another")

  path = tmp_path / "measurements.jsonl"
  path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
  with pytest.raises(UserError, match="was measured on simulated, and this is another"):
    found(tmp_path, Other(64))


def test_a_preview_measures_nothing(tmp_path):
  lines = batch_size.preview(Lab(folder=tmp_path, config=CONFIG), smallest=8)
  assert lines[0] == "Batch sizes 8, 16, 32 … on 1 device, each in a fresh process."
  assert not any(tmp_path.iterdir())


REAL = Config().override(
  {"model": {"name": "mlp", "widths": (32,)}, "batch_size": 32, "compilation_cache": None, "export": False}
)


@pytest.fixture
def short(monkeypatch):
  """A few short blocks."""
  monkeypatch.setattr(step_measurement, "BLOCK_SECONDS", 0.0)
  monkeypatch.setattr(step_measurement, "MOST_SECONDS", 0.0)
  monkeypatch.setattr(step_measurement, "PIPELINE_SECONDS", 0.0)


@pytest.mark.slow
def test_a_real_size_is_compiled_and_run_in_this_process(short):
  one = step_measurement.measure(REAL, 64, Machine())
  assert one.fits
  assert one.examples_per_second > 0
  assert 0 <= one.waiting <= 1
  assert one.peak_bytes is not None
  assert one.peak_bytes > 10**7
  # Parameters of 64·32 + 32·10 with biases, as many of the optimizer, and as many in a checkpoint's copy; and batches.
  assert one.needed_bytes is not None
  assert one.needed_bytes > 2 * 2 * 4 * (64 * 32 + 32 + 32 * 10 + 10) + 4 * 64 * 65
  assert one.limit_bytes is not None
  assert one.limit_bytes > one.needed_bytes
  assert json.loads(json.dumps(dataclasses.asdict(one)))["steps"] == one.steps


def test_what_does_not_fit_by_the_analysis_is_not_run(short):
  one = step_measurement.measure(REAL, 64, Machine(memory_bytes=10_000))
  assert not one.fits
  assert not one.steps
  assert "by the compiler's analysis, and there are 1e-05 GB; it was not run" in one.reason


def test_a_size_that_no_run_can_have_is_refused_and_a_wrong_config_is_an_error(short):
  one = step_measurement.measure(REAL, 2048, Machine())
  assert one.refused
  assert "larger than the training set" in one.reason
  with pytest.raises(UserError, match="validation/nothing"):
    step_measurement.measure(REAL.override({"selection.metric": "validation/nothing"}), 64, Machine())


@pytest.mark.slow
def test_a_step_of_one_device_alone_is_timed_beside_that_of_all(short, monkeypatch):
  monkeypatch.setattr(step_measurement, "_alone", lambda compiled: step_measurement.time_alone(compiled, 32))
  one = step_measurement.measure(REAL, 64, Machine())
  assert one.alone_seconds is not None
  assert one.alone_seconds > 0


@pytest.mark.long
def test_the_whole_search_on_digits_in_fresh_processes(tmp_path):
  conclusion = batch_size.run(Lab(folder=tmp_path, config=REAL), smallest=256, largest=2048)
  sizes = [row["batch size"] for row in conclusion.table]
  assert sizes[:3] == [256, 512, 1024]
  # On a machine where much else runs, timings decide nothing.
  assert conclusion.changes is not None or "is not known" in conclusion.verdict
  assert (conclusion.changes is None) == ("batch_size" not in conclusion.numbers)
  assert all(row["examples/s"] > 0 for row in conclusion.table if row["fits"] == "yes")
  lines = (tmp_path / "measurements.jsonl").read_text().splitlines()
  assert len(lines) == 1 + len(sizes)
  broken = REAL.override({"selection.metric": "validation/nothing"})
  with pytest.raises(UserError, match="validation/nothing"):
    batch_size.run(Lab(folder=tmp_path / "b", config=broken))

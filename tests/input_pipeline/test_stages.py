"""A batch whose stages are timed is the batch, and a stage that takes long is seen to."""

import sys
import textwrap
import time

import numpy as np
import pytest

from trialbook.input_pipeline import ArrayRecord, Augmentation, Digits, load, write_array_record
from trialbook.input_pipeline.datasets.record_files import RecordFiles


@pytest.fixture
def files(tmp_path):
  return str(write_array_record(tmp_path / "digits", Digits().read().arrays, num_classes=10))


@pytest.mark.parametrize("alpha", [None, 0.4])
@pytest.mark.parametrize("host", [0, 1])
def test_a_timed_batch_is_the_batch(files, alpha, host):
  config = ArrayRecord(path=files, augmentation=Augmentation(crop_padding=1, flip_probability=0.5, mixup_alpha=alpha))
  dataset = load(config, seed=5, batch_size=6, host_index=host, host_count=2)
  for step in (0, 3000):
    batch, seconds = dataset.timed_batch(step)
    expected = dataset.train_batch(step)
    assert batch.keys() == expected.keys()
    assert all(np.array_equal(batch[key], expected[key]) for key in batch)
    assert list(seconds) == ["read", "decode", "augment"]
    assert min(seconds.values()) > 0


def test_a_dataset_in_memory_has_nothing_to_decode():
  assert list(load(Digits(), seed=0, batch_size=8).timed_batch(0)[1]) == ["read"]


@pytest.mark.parametrize("slow", ["read", "decode", "augment"])
def test_the_slow_stage_is_the_one_that_takes_the_time(files, slow, tmp_path, monkeypatch):
  code = """
    import time
    import numpy as np
    def decode(record):
      time.sleep({seconds})
      return {{"inputs": np.frombuffer(record[:64], np.uint8).reshape(8, 8, 1).astype(np.float32), "labels": 0}}
  """
  (tmp_path / f"slowly_{slow}.py").write_text(textwrap.dedent(code.format(seconds=0.005 if slow == "decode" else 0)))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  config = ArrayRecord(path=files, decode=f"slowly_{slow}:decode", augmentation=Augmentation(crop_padding=1))
  dataset = load(config, seed=0, batch_size=8)

  def slowly(function):
    def slow_function(*arguments):
      time.sleep(0.04)
      return function(*arguments)

    return slow_function

  if slow == "read":
    monkeypatch.setattr(RecordFiles, "_read", slowly(RecordFiles._read))
  if slow == "augment":
    monkeypatch.setattr("trialbook.input_pipeline.dataset.augment", slowly(lambda images, *_: images))
  dataset.timed_batch(0)
  seconds = dataset.timed_batch(1)[1]
  assert 0.04 <= seconds[slow] < 0.4
  assert seconds[slow] > 2 * sum(value for name, value in seconds.items() if name != slow)

"""The prefetcher keeps order, raises errors at their step, stays within its depth, and leaves no thread."""

import gc
import threading
import time

import jax
import numpy as np
import pytest

from trialbook.input_pipeline import Digits, Prefetcher, load


@pytest.fixture(autouse=True)
def no_thread_is_left():
  before = set(threading.enumerate())
  yield
  left = [thread for thread in set(threading.enumerate()) - before if thread.name == "prefetch"]
  assert left == []


def _wait_until(condition) -> None:
  deadline = time.monotonic() + 5
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.001)


def test_items_come_in_order_each_once():
  with Prefetcher(lambda step: step * 10, lambda batch: batch + 1, 5, 1000) as items:
    assert list(items) == [(step, step * 10 + 1) for step in range(5, 1000)]


def test_an_empty_range_ends_at_once():
  with Prefetcher(lambda step: step, lambda batch: batch, 3, 3) as items:
    assert list(items) == []


def test_batches_arrive_on_the_devices_as_they_were_made():
  dataset = load(Digits(), seed=0, batch_size=8)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  with Prefetcher(dataset.train_batch, lambda batch: jax.device_put(batch, sharding), 7, 10) as items:
    for step, batch in items:
      assert batch["inputs"].sharding == sharding
      for key, value in dataset.train_batch(step).items():
        assert np.array_equal(batch[key], value)


@pytest.mark.parametrize("where", ["make", "put"])
def test_an_error_is_raised_at_its_step_and_not_before(where):
  def fail_at_4(step: int) -> int:
    if step == 4:
      raise RuntimeError("disk on fire")
    return step

  def succeed(step: int) -> int:
    return step

  make, put = (fail_at_4, succeed) if where == "make" else (succeed, fail_at_4)
  with Prefetcher(make, put, 0, 10) as items:
    assert [next(items) for _ in range(4)] == [(step, step) for step in range(4)]
    with pytest.raises(RuntimeError, match="disk on fire"):
      next(items)
    with pytest.raises(StopIteration):
      next(items)


def test_no_more_than_depth_items_wait():
  made = []
  with Prefetcher(lambda step: made.append(step) or step, lambda batch: batch, 0, 100, depth=3) as items:
    _wait_until(lambda: len(made) == 3)
    time.sleep(0.02)
    assert made == [0, 1, 2]
    next(items)
    _wait_until(lambda: len(made) == 4)
    time.sleep(0.02)
    assert made == [0, 1, 2, 3]
  with pytest.raises(ValueError, match="depth is 0"):
    Prefetcher(lambda step: step, lambda batch: batch, 0, 1, depth=0)


def test_close_ends_a_waiting_thread_at_once_and_may_be_repeated():
  items = Prefetcher(lambda step: step, lambda batch: batch, 0, 10**9)
  next(items)
  begin = time.perf_counter()
  items.close()
  items.close()
  assert time.perf_counter() - begin < 4
  with pytest.raises(RuntimeError, match="step 1 was requested from a closed prefetcher"):
    next(items)


def test_close_makes_no_further_item():
  made, go_on = [], threading.Event()

  def make(step: int) -> int:
    made.append(step)
    go_on.wait(5)
    return step

  items = Prefetcher(make, lambda batch: batch, 0, 10, depth=5)
  _wait_until(lambda: made == [0])
  closing = threading.Thread(target=items.close)
  closing.start()
  time.sleep(0.02)
  go_on.set()
  closing.join()
  assert made == [0]


def test_close_from_another_thread_wakes_a_blocked_consumer():
  go_on = threading.Event()
  items = Prefetcher(lambda step: go_on.wait(5), lambda batch: batch, 0, 10)
  errors = []

  def consume() -> None:
    try:
      next(items)
    except RuntimeError as error:
      errors.append(str(error))

  consumer = threading.Thread(target=consume)
  consumer.start()
  time.sleep(0.02)
  closing = threading.Thread(target=items.close)
  closing.start()
  consumer.join(2)
  assert not consumer.is_alive()
  assert "closed" in errors[0]
  go_on.set()
  closing.join()


def test_an_error_in_the_loop_ends_the_thread():
  def loop() -> None:
    with Prefetcher(lambda step: step, lambda batch: batch, 0, 10**9) as items:
      next(items)
      raise KeyError

  with pytest.raises(KeyError):
    loop()


@pytest.mark.slow
def test_a_forgotten_prefetcher_ends_its_thread():
  items = Prefetcher(lambda step: step, lambda batch: batch, 0, 10**9)
  next(items)
  thread = items._thread
  del items
  gc.collect()
  thread.join(2)
  assert not thread.is_alive()


def test_wait_seconds_is_the_time_that_the_consumer_was_blocked():
  with Prefetcher(lambda step: time.sleep(0.02), lambda batch: batch, 0, 10) as items:
    list(items)
  assert items.wait_seconds > 0.15
  with Prefetcher(lambda step: step, lambda batch: batch, 0, 10, depth=10) as items:
    for thread in threading.enumerate():
      if thread.name == "prefetch":
        thread.join(20)
    list(items)
  assert items.wait_seconds == 0

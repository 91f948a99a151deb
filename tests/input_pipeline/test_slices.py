"""A host whose devices hold slices of a batch that are not neighbours reads just these."""

import numpy as np
import pytest

from trialbook.input_pipeline import Augmentation, Digits, Slices, load

AUGMENTED = Digits(augmentation=Augmentation(crop_padding=1, flip_probability=0.5, mixup_alpha=0.3))
HOSTS = ((0, 2), (1, 3))


def test_the_rows_of_slices_are_ascending_and_together_those_of_the_batch():
  assert Slices((0, 2), 4).rows(12).tolist() == [0, 1, 2, 6, 7, 8]
  assert Slices().rows(3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch_size", [12, 20])
def test_hosts_with_alternate_slices_have_the_batches_of_a_single_host(batch_size: int):
  """Also with mixup, where a slice of 3 or 5 examples cuts pairs."""
  whole = load(AUGMENTED, seed=5, batch_size=batch_size)
  hosts = [load(AUGMENTED, seed=5, batch_size=batch_size, slices=Slices(mine, 4)) for mine in HOSTS]
  for step in (0, 1, 107):
    expected = whole.train_batch(step)
    for mine, host in zip(HOSTS, hosts, strict=True):
      batch = host.train_batch(step)
      assert batch.keys() == expected.keys()
      for key, array in batch.items():
        np.testing.assert_array_equal(array, expected[key][Slices(mine, 4).rows(batch_size)], err_msg=key)


def test_an_evaluation_gives_each_example_once_and_padding_where_the_split_ends():
  # 250 examples: batches of 64, the last with 58.
  whole = load(Digits(), seed=0, batch_size=8)
  hosts = [load(Digits(), seed=0, batch_size=8, slices=Slices(mine, 4)) for mine in HOSTS]
  for index in range(whole.num_eval_batches("validation", 64)):
    expected = whole.eval_batch(index, "validation", 64)
    for mine, host in zip(HOSTS, hosts, strict=True):
      assert host.num_eval_batches("validation", 64) == 4
      for key, array in host.eval_batch(index, "validation", 64).items():
        np.testing.assert_array_equal(array, expected[key][Slices(mine, 4).rows(64)], err_msg=key)

"""Resized crop, policies, jitter, CutMix and masks against SciPy and Pillow; functions of the user's."""

import pathlib
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from trialbook.errors import DataError
from trialbook.input_pipeline import Augmentation, image_policies, load
from trialbook.input_pipeline.augmentation import augment, mix
from trialbook.input_pipeline.datasets.plugin import PluginDataset
from trialbook.input_pipeline.order import Slices

KINDS: dict[str, dict[str, Any]] = {
  "resized crop": {"resized_crop_area": 0.1},
  "RandAugment": {"policy_layers": 2, "policy_magnitude": 0.5},
  "TrivialAugment": {"policy_layers": 1, "policy_magnitude": 1.0, "policy_varies": True},
  "jitter": {"color_jitter": 0.4},
  "masks": {"time_masks": 2, "time_mask_size": 4, "frequency_masks": 1, "frequency_mask_size": 3},
}


def images(n: int, shape: tuple[int, ...] = (9, 12, 3), dtype: str = "uint8") -> np.ndarray:
  return np.random.default_rng(0).integers(1, 256, (n, *shape)).astype(dtype)


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)
def test_an_image_is_changed_by_its_seed_and_position_alone(values: dict[str, Any]):
  config, given = Augmentation(**values), images(30)
  positions = 10**13 + 7 * np.arange(30)
  before = given.copy()
  changed = augment(given, config, 3, positions)
  assert np.array_equal(given, before)
  assert (changed.shape, changed.dtype) == (given.shape, given.dtype)
  assert np.mean([not np.array_equal(*pair) for pair in zip(changed, given, strict=True)]) > 0.6
  for index in (0, 17, 29):
    alone = augment(given[index : index + 1], config, 3, positions[index : index + 1])
    assert np.array_equal(alone[0], changed[index])
  assert not np.array_equal(augment(given, config, 4, positions), changed)
  assert not np.array_equal(augment(given, config, 3, positions + 1), changed)


@pytest.mark.parametrize(
  "zero",
  [{"resized_crop_area": 1.0}, {"policy_layers": 3, "policy_magnitude": 0.0}, {"color_jitter": 0.0}, {"time_masks": 2}],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_strength_zero_changes_no_bit(zero: dict[str, Any], dtype: str):
  given = images(10, dtype=dtype)
  assert np.array_equal(augment(given, Augmentation(**zero), 0, np.arange(10)), given)


def test_a_resized_crop_is_the_window_that_scipy_enlarges():
  given, found = images(40, dtype="float32"), []
  changed = augment(given, Augmentation(resized_crop_area=0.2), 5, np.arange(40))
  rows, columns = np.meshgrid(np.arange(9), np.arange(12), indexing="ij")
  for image, other in zip(given, changed, strict=True):
    # The window is not told, so it is found: the one of a fine grid that fits best.
    ramp = np.stack([rows, columns], axis=-1).astype(np.float32)
    window = augment(ramp[None], Augmentation(resized_crop_area=0.2), 5, np.array([len(found)]))[0]
    expected = [ndimage.map_coordinates(image[..., c], np.moveaxis(window, -1, 0), order=1) for c in range(3)]
    np.testing.assert_allclose(other, np.stack(expected, axis=-1), atol=0.5)
    height, width = np.ptp(window[..., 0]) * 9 / 8, np.ptp(window[..., 1]) * 12 / 11
    found.append(height * width / (9 * 12))
  assert 0.05 < min(found) < 0.35
  assert 0.7 < max(found) <= 1.1


PILLOW = {
  "brightness": ("Brightness", 1 + 0.99 * 0.6),
  "contrast": ("Contrast", 1 + 0.99 * 0.6),
  "color": ("Color", 1 + 0.99 * 0.6),
  "sharpness": ("Sharpness", 1 + 0.99 * 0.6),
}


@pytest.mark.parametrize("name", [*PILLOW, "posterize", "solarize", "autocontrast", "equalize"])
def test_changes_of_colour_are_those_of_pillow(name: str):
  pillow = pytest.importorskip("PIL.Image", reason="pip install 'trialbook[data]'")
  from PIL import ImageEnhance, ImageOps  # pyright: ignore[reportMissingImports]

  image = ndimage.gaussian_filter(images(1, (24, 20, 3))[0].astype(float), (2, 2, 0))
  image = (40 + 2 * (image - image.min())).clip(0, 255).astype(np.uint8)
  theirs = pillow.fromarray(image)
  match name:
    case "posterize":
      theirs = ImageOps.posterize(theirs, 8 - round(0.6 * 6))
    case "solarize":
      theirs = ImageOps.solarize(theirs, round(256 * 0.4))
    case "autocontrast" | "equalize":
      theirs = getattr(ImageOps, name)(theirs)
    case _:
      enhance, factor = PILLOW[name]
      theirs = getattr(ImageEnhance, enhance)(theirs).enhance(factor)
  ours = np.clip(np.rint(image_policies.CHANGES[name](image.astype(np.float32), 0.6, 1.0)), 0, 255)
  expected = np.asarray(theirs, float)
  if name == "sharpness":
    # Pillow leaves the border as it is.
    ours, expected = ours[1:-1, 1:-1], expected[1:-1, 1:-1]
  assert np.abs(ours - expected).max() <= 2
  assert np.abs(expected - image[: len(expected)] if name != "sharpness" else 9).max() > 8


@pytest.mark.parametrize(("name", "sign"), [("turn", 1.0), ("shear_rows", -1.0), ("shift_columns", 1.0)])
def test_changes_of_place_move_pixels_where_scipy_does(name: str, sign: float):
  image, strength = images(1, (15, 15, 1))[0].astype(np.float32), 0.2
  angle = sign * strength * np.deg2rad(135)
  matrix, shift = {
    "turn": (np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), np.zeros(2)),
    "shear_rows": (np.array([[1, sign * strength * 0.99], [0, 1]]), np.zeros(2)),
    "shift_columns": (np.eye(2), np.array([0, sign * strength * 15])),
  }[name]
  center = np.array([7.0, 7.0])
  expected = ndimage.affine_transform(
    image[..., 0], matrix, center - matrix @ center + shift, order=0, mode="grid-constant"
  )
  found = image_policies.CHANGES[name](image, strength, sign)[..., 0]
  assert np.mean(found == expected) > 0.97
  assert np.mean(found == image[..., 0]) < 0.5


def test_cutmix_puts_a_window_of_the_other_into_each_image_and_says_its_share():
  n, size = 4000, 16
  batch = {
    "inputs": np.repeat(np.arange(n, dtype=np.float32), size * size).reshape(n, size, size, 1),
    "labels": np.arange(n),
  }
  mixed = mix(batch, Augmentation(cutmix_alpha=1.0), 0, np.arange(n))
  other = np.arange(n) ^ 1
  assert np.array_equal(mixed["mixed_labels"], other)
  own = mixed["inputs"] == batch["inputs"]
  assert np.array_equal(own, mixed["inputs"] != batch["inputs"][other])
  np.testing.assert_allclose(mixed["mixing"], own.mean(axis=(1, 2, 3)), atol=1e-6)
  for window in ~own[:50, ..., 0]:
    if window.any():
      rows, columns = (np.flatnonzero(window.any(axis=axis)) for axis in (1, 0))
      assert window.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
  # Each pixel is as often inside as a window of that area that is cut off at the border.
  assert 0.25 < (~own).mean() < 0.5
  nothing = mix(batch, Augmentation(cutmix_alpha=0.0), 0, np.arange(n))
  assert np.array_equal(nothing["inputs"], batch["inputs"])
  assert (nothing["mixing"] == 1).all()


def test_masks_hide_stretches_of_time_and_frequency_and_nothing_else():
  spectra = np.ones((3000, 20, 8), np.float32)
  hidden = augment(spectra, Augmentation(time_masks=1, time_mask_size=5), 0, np.arange(3000)) == 0
  assert np.array_equal(hidden.all(axis=2), hidden.any(axis=2))
  lengths = hidden.all(axis=2).sum(axis=1)
  assert np.abs(np.bincount(lengths, minlength=6) / 3000 - 1 / 6).max() < 0.03
  assert hidden.all(axis=2)[lengths == 5].mean(axis=0).min() > 0.03
  hidden = augment(spectra, Augmentation(frequency_masks=2, frequency_mask_size=3), 0, np.arange(3000)) == 0
  assert np.array_equal(hidden.all(axis=1), hidden.any(axis=1))
  assert hidden.all(axis=1).sum(axis=1).max() == 6


OWN = """
import numpy as np

def noisy(example, rng, size=1.0):
  return {**example, "inputs": example["inputs"] + rng.normal(0, size, example["inputs"].shape).astype(np.float32)}

def data():
  x = np.arange(40 * 6, dtype=np.float32).reshape(40, 6)
  split = {"inputs": x, "labels": np.arange(40) % 3}
  return {"train": split, "validation": split}

def pictures():
  split = {"inputs": np.zeros((8, 4, 4, 1), np.float32), "labels": np.arange(8)}
  return {"train": split, "validation": split}

def raises(example, rng):
  return {**example, "inputs": example["input"]}

def wide(example, rng):
  return {**example, "inputs": example["inputs"].astype(np.float64)}

def grows(example, rng):
  return {**example, "inputs": np.zeros(7, np.float32) if rng.random() < 0.2 else example["inputs"]}

def lost(example, rng):
  return {"inputs": example["inputs"]}

def more(example, rng):
  return {**example, "extra": np.zeros(2)}

NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  (tmp_path / "own_changes.py").write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.chdir(tmp_path)


def dataset(function: str, **more: Any) -> Any:
  augmentation = Augmentation(function=f"own_changes:{function}", kwargs=more.pop("kwargs", {}))
  return load(PluginDataset(name="own_changes:data", augmentation=augmentation), seed=1, batch_size=8, **more)


@pytest.mark.usefixtures("own")
def test_a_function_of_the_users_depends_on_seed_and_position_alone():
  whole = dataset("noisy", kwargs={"size": 2.0})
  plain = load(PluginDataset(name="own_changes:data"), seed=1, batch_size=8)
  noise = []
  for step in (0, 3, 7):
    batch = whole.train_batch(step)
    assert batch["inputs"].dtype == np.float32
    noise.append(batch["inputs"] - plain.train_batch(step)["inputs"])
    np.testing.assert_array_equal(whole.train_batch(step)["inputs"], batch["inputs"])
    parts = [dataset("noisy", kwargs={"size": 2.0}, slices=Slices((one,), 2)).train_batch(step) for one in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([part["inputs"] for part in parts]), batch["inputs"])
  noise = np.concatenate(noise)
  assert len({row.tobytes() for row in noise}) == len(noise)
  assert 1.5 < noise.std() < 2.5


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
  ("function", "message"),
  [
    ("nothing", "has no 'nothing'"),
    ("NUMBER", r"is a int; it must be a function of \(example, rng\)"),
    ("raises", r"'own_changes:raises': fails at position \d+: KeyError: 'input' \(.*own_changes.py, line"),
    ("wide", r"returns float64\[6\] for 'inputs' at position \d+; it must be float32\[6\], as the dataset has it"),
    ("grows", r"returns float32\[7\] for 'inputs' at position \d+; it must be float32\[6\]"),
    ("lost", r"returns nothing for 'labels'"),
    ("more", r"returns 'extra', which the dataset does not have"),
  ],
)
def test_a_function_of_the_users_that_does_something_else_is_named(function: str, message: str):
  def batches() -> None:
    made = dataset(function)
    for step in range(5):
      made.train_batch(step)

  with pytest.raises(DataError, match=rf"dataset\.augmentation\.function .*{message}"):
    batches()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"policy_layers": 1}, r"policy_layers needs bytes \(uint8\), not float32"),
    ({"cutmix_alpha": 1.0, "mixup_alpha": 1.0}, "both mix labels; use one of them"),
  ],
)
def test_what_does_not_fit_the_data_is_refused(values: dict[str, Any], message: str):
  with pytest.raises(DataError, match=message):
    load(PluginDataset(name="own_changes:pictures", augmentation=Augmentation(**values)), seed=0, batch_size=8)

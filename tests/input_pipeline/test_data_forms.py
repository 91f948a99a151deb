"""Data as people have it: each form gives the same examples, whoever reads them, and from any step on."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import forms
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from forms import FORMS, SIZES
from tiny import mlp, numbers, state_of

from trialbook.__main__ import main
from trialbook.errors import DataError
from trialbook.input_pipeline import (
  ArrayRecord,
  Data,
  ImageFolder,
  Packed,
  Pad,
  Parquet,
  PluginDataset,
  Tokens,
  load,
  packed_graphs,
  packed_text,
)
from trialbook.trainer import Programs, run

SAME = ("pairs", "table", "in_memory", "parquet")
PROMISED = ("pairs", "packed", "graphs", "image_folder")
"""Those that `make test` trains on."""


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
  return first.keys() == second.keys() and all(
    first[key].dtype == second[key].dtype and np.array_equal(first[key], second[key]) for key in first
  )


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_the_same_for_any_number_of_hosts_and_from_any_step_on(tmp_path: pathlib.Path, form: str):
  config = forms.config(form, tmp_path / form)
  whole = load(config, seed=3, batch_size=4)
  steps = range(2 * whole.info.examples["train"] // 4 + 1)
  batches = [whole.train_batch(step) for step in steps]
  for count in (2, 4):
    hosts = [load(config, seed=3, batch_size=4, host_index=index, host_count=count) for index in range(count)]
    # The last step first, as after a resume.
    for step in (steps[-1], 0, steps[-1] // 2):
      slices = [host.train_batch(step) for host in hosts]
      joined = {key: np.concatenate([part[key] for part in slices]) for key in batches[step]}
      assert equal(joined, batches[step]), step
  assert not equal(batches[0], batches[1])
  assert not equal(load(config, seed=4, batch_size=4).train_batch(0), batches[0])
  assert set(whole.fingerprints(["train"])) == {"train"}


@pytest.mark.parametrize("form", SAME)
def test_forms_of_the_same_examples_have_the_same_batches(tmp_path: pathlib.Path, form: str):
  config = forms.config(form, tmp_path / form)
  dataset = load(config, seed=0, batch_size=4)
  assert dataset.info.num_classes == forms.CLASSES
  for split in SIZES:
    inputs, labels = forms.arrays(split)
    batch = dataset.eval_batch(0, split, SIZES[split])
    np.testing.assert_array_equal(batch["inputs"], inputs)
    np.testing.assert_array_equal(batch["labels"], labels)


@pytest.mark.slow
@pytest.mark.parametrize(
  "form", [form if form in PROMISED else pytest.param(form, marks=pytest.mark.long) for form in FORMS]
)
def test_a_run_on_each_form_resumes_to_the_same_bits(tmp_path: pathlib.Path, programs: Programs, form: str):
  config = mlp(schedule__name="constant", batch_size=4, evaluation__batch_size=4, evaluation__every_steps=2)
  config = config.override(forms.settings(form)).model_copy(update={"dataset": forms.config(form, tmp_path / form)})
  for steps in (2, 4):
    run(config.override({"max_train_steps": steps}), tmp_path / "resumed", programs=programs)
  assert json.loads((tmp_path / "resumed" / "run.json").read_text())["restored_step"] == 2
  run(config.override({"max_train_steps": 4}), tmp_path / "whole", programs=programs)
  whole = state_of(tmp_path / "whole")
  for name, array in state_of(tmp_path / "resumed").items():
    np.testing.assert_array_equal(array, whole[name], err_msg=name)
  lines = [line for line in numbers(tmp_path / "whole") if "train/loss" in line]
  assert all(np.isfinite(line["train/loss"]) for line in lines)


def test_sequences_are_filled_up_and_a_mask_says_what_is_there():
  dataset = load(PluginDataset(name="forms:ragged"), seed=0, batch_size=4)
  batch = dataset.eval_batch(0, "validation", 12)
  for index, sentence in enumerate(forms.sentences("validation")):
    count = len(sentence) - 1
    np.testing.assert_array_equal(batch["inputs"][index], [*sentence[:-1], *[0] * (8 - count)])
    np.testing.assert_array_equal(batch["labels"][index], [*sentence[1:], *[0] * (8 - count)])
    np.testing.assert_array_equal(batch["mask"][index], np.arange(8) < count)


def test_only_what_is_needed_is_read_and_a_mask_is_made_without_it():
  dataset = load(PluginDataset(name="forms:ragged"), seed=0, batch_size=4)
  whole = dataset.train_batch(0)
  dataset.keep(["mask"])
  assert equal(dataset.train_batch(0), {"mask": whole["mask"]})


RAGGED = [np.arange(3), np.arange(5)]


@pytest.mark.parametrize(
  ("splits", "pad", "message"),
  [
    (
      [{"x": one} for one in RAGGED],
      Pad(keys=("x",), length=4),
      "x has length 5, more than the 4 of its Pad; raise that",
    ),
    (
      {"x": RAGGED},
      Pad(keys=("x",), length=4),
      "x has length 5, more than the 4 of its Pad; raise that, or set cut=True",
    ),
    (
      {"x": RAGGED, "y": RAGGED[::-1]},
      Pad(keys=("x", "y"), length=9),
      "y has length 5, but x of the same example has 3",
    ),
    ({"x": RAGGED, "mask": RAGGED}, Pad(keys=("x",), length=9), r"has 'mask' already; name the mask otherwise"),
    ({"x": [1, 2]}, Pad(keys=("x",), length=9), "x is a single value, and cannot be padded"),
  ],
)
def test_what_cannot_be_filled_up_is_refused(
  plugin: Callable[[Any], PluginDataset], splits: Any, pad: Pad, message: str
):
  data = plugin(Data(splits={"train": splits, "validation": splits}, pad=(pad,)))
  with pytest.raises(DataError, match=message):
    load(data, seed=0, batch_size=1).eval_batch(0, "train", 2)


def test_longer_sequences_are_cut_if_that_is_asked_for(plugin: Callable[[Any], PluginDataset]):
  split = {"x": [np.arange(3), np.arange(5)]}
  data = Data(splits={"train": split, "validation": split}, pad=(Pad(keys=("x",), length=4, value=-1, cut=True),))
  batch = load(plugin(data), seed=0, batch_size=1).eval_batch(0, "train", 2)
  assert batch["x"].tolist() == [[0, 1, 2, -1], [0, 1, 2, 3]]
  assert batch["mask"].tolist() == [[True, True, True, False], [True] * 4]


def test_a_tuple_of_other_entries_needs_a_name_for_each(plugin: Callable[[Any], PluginDataset]):
  inputs, labels = forms.arrays("train")
  rows = [(inputs[index], labels[index], 0.5) for index in range(len(labels))]
  splits = {"train": rows, "validation": rows}
  with pytest.raises(DataError, match=r"example 0: is a tuple of 3; name each of its entries: .*keys="):
    load(plugin(Data(splits=splits, num_classes=4)), seed=0, batch_size=4)
  data = Data(splits=splits, num_classes=4, keys=("inputs", "labels", "weights"))
  assert set(load(plugin(data), seed=0, batch_size=4).info.spec) == {"inputs", "labels", "weights"}


def test_the_second_entry_of_a_tuple_is_a_target_if_it_is_no_whole_number(plugin: Callable[[Any], PluginDataset]):
  inputs, _ = forms.arrays("train")
  for split in ((inputs, inputs[:, :1]), [(row, row[:1]) for row in inputs]):
    dataset = load(plugin({"train": split, "validation": split}), seed=0, batch_size=4)
    assert (set(dataset.info.spec), dataset.info.num_targets) == ({"inputs", "targets"}, 1)


def test_a_key_that_is_renamed_must_be_there(plugin: Callable[[Any], PluginDataset]):
  split = {"image": np.zeros((4, 2)), "label": [0, 1, 0, 1]}
  data = Data(splits={"train": split, "validation": split}, keys={"image": "inputs", "lable": "labels"})
  with pytest.raises(DataError, match=r"train: has no 'lable', which keys name; it has 'image', 'label'"):
    load(plugin(data), seed=0, batch_size=4)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
def test_ids_up_to_2_to_the_32_are_kept(plugin: Callable[[Any], PluginDataset], dtype: str):
  ids = np.array([[0], [7], [2**31], [2**32 - 1]], dtype)
  for split in ({"inputs": ids, "user": ids[:, 0]}, [{"inputs": one, "user": one[0]} for one in ids]):
    dataset = load(plugin({"train": split, "validation": split}), seed=0, batch_size=1)
    batch = dataset.eval_batch(0, "validation", 4)
    assert (batch["inputs"].dtype, batch["user"].dtype, dataset.info.input_dtype) == (np.uint32, np.uint32, "uint32")
    np.testing.assert_array_equal(batch["inputs"], ids)


def test_ids_that_are_larger_are_refused(plugin: Callable[[Any], PluginDataset]):
  ids = np.array([[0], [2**32]], np.uint64)
  with pytest.raises(DataError, match=r"inputs are uint64 with values such as 4294967296, but must be below 2\*\*32"):
    load(plugin({"train": {"inputs": ids}, "validation": {"inputs": ids}}), seed=0, batch_size=1)
  signed = ids.astype(np.int64)
  with pytest.raises(DataError, match=r"inputs are int64 with values such as 4294967296.*np\.uint32"):
    load(plugin({"train": {"inputs": signed}, "validation": {"inputs": signed}}), seed=0, batch_size=1)


def test_packed_documents_are_whole_and_their_segments_apart():
  documents = forms.sentences("train")
  split = packed_text(documents, 10)
  assert len(split) < len(documents) / 1.5
  found = []
  for index in range(len(split)):
    row = split[index]
    assert row["mask"].tolist() == (row["segments"] > 0).tolist()
    for segment in range(1, row["segments"].max() + 1):
      where = row["segments"] == segment
      assert row["positions"][where].tolist() == list(range(where.sum()))
      found.append([row["inputs"][where][0], *row["labels"][where]])
      assert row["inputs"][where][1:].tolist() == row["labels"][where][:-1].tolist()
  assert sorted(map(list, found)) == sorted(document.tolist() for document in documents)


def test_a_long_document_continues_in_other_rows_and_each_of_its_tokens_is_a_label_once():
  document = np.arange(100, 125)
  split = packed_text([document, np.arange(3)], 10)
  labels = np.concatenate([split[index]["labels"][split[index]["mask"]] for index in range(len(split))])
  assert sorted(labels) == sorted([*document[1:], 1, 2])
  with pytest.raises(DataError, match="example 0 has 24 tokens, more than the 10 of a row"):
    packed_text([document], 10, cut=False)
  with pytest.raises(DataError, match="document 1 has 1 tokens; it needs two"):
    packed_text([document, np.arange(1)], 10)


def test_packed_graphs_are_whole_and_their_edges_count_the_nodes_of_the_row():
  examples = [forms.graph(index) for index in range(40)]
  split = packed_graphs(examples, nodes=12, edges=12, graphs=5)
  sums = []
  for index in range(len(split)):
    row = split[index]
    assert (len(row["nodes"]), len(row["edges"]), len(row["targets"])) == (12, 12, 5)
    assert not row["is_graph"][-1]
    assert row["graph"][-1] == 4
    for number in np.flatnonzero(row["is_graph"]):
      nodes = row["nodes"][row["graph"] == number]
      np.testing.assert_array_equal(row["targets"][number], nodes.sum(axis=1)[:1])
      sums.append(nodes.sum())
      inside = np.flatnonzero(row["graph"] == number)
      assert np.isin(row["edges"], inside).all(axis=1).sum() == len(nodes)
  np.testing.assert_allclose(sorted(sums), sorted(one["nodes"].sum() for one in examples), rtol=1e-6)


def test_packing_keeps_each_example_once_within_the_budget():
  rng = np.random.default_rng(0)
  sizes = {"nodes": rng.integers(1, 20, 2000), "edges": rng.integers(0, 50, 2000)}
  budget = {"nodes": 40, "edges": 90}
  split = Packed(range(2000), sizes=sizes, budget=budget, collate=lambda rows: {"rows": rows})
  assert sorted(example for row in split.rows for example in row) == list(range(2000))
  for row in split.rows:
    assert all(sizes[name][row].sum() <= budget[name] for name in budget)
  # The least number of rows that could hold them.
  least = max(sizes[name].sum() / budget[name] for name in budget)
  assert len(split) < 1.15 * least


@pytest.mark.parametrize(
  ("sizes", "budget", "message"),
  [
    ({"nodes": [3, 9]}, {"nodes": 8}, "example 1 has 9 nodes, more than the 8 of a row"),
    ({"nodes": [3]}, {"nodes": 8}, r"there are 1 sizes \(nodes\) of 2 examples"),
    ({"nodes": [3, 4]}, {"edges": 8}, "sizes are of nodes, but the budget is of edges"),
    ({"nodes": [0, 0]}, {"nodes": 0}, "a row has no room for nodes: its budget is 0"),
  ],
)
def test_what_cannot_be_packed_is_refused(sizes: Any, budget: Any, message: str):
  with pytest.raises(DataError, match=message):
    Packed([0, 1], sizes=sizes, budget=budget, collate=dict)


class Stream:
  def __iter__(self) -> Iterator[Any]:
    return iter([])


@pytest.mark.parametrize("stream", [Stream(), iter([]), (one for one in ())])
def test_a_stream_without_a_length_is_refused_with_the_ways_that_there_are(
  plugin: Callable[[Any], PluginDataset], stream: Any
):
  with pytest.raises(DataError) as caught:
    load(plugin({"train": stream, "validation": stream}), seed=0, batch_size=1)
  told = str(caught.value)
  for way in ("a stream without a length", "trialbook data write", "dataset.sharding=files", "__len__ and __getitem__"):
    assert way in told


def test_a_stream_is_written_once_and_read_as_arrays_are(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  folder = tmp_path / "records"
  assert main(["data", "write", "forms:streams", f"--to={folder}"]) == 0
  assert "dataset.name=array_record" in capsys.readouterr().out
  written = load(ArrayRecord(path=str(folder)), seed=0, batch_size=4)
  direct = load(PluginDataset(name="forms:in_memory"), seed=0, batch_size=4)
  assert all(equal(written.train_batch(step), direct.train_batch(step)) for step in range(8))


@pytest.mark.parametrize("form", ["pairs", "table", "ragged", "packed", "in_memory"])
def test_other_forms_are_written_too(tmp_path: pathlib.Path, form: str):
  classes = [] if form in ("pairs", "ragged", "packed") else [f"--num_classes={forms.CLASSES}"]
  assert main(["data", "write", f"forms:{form}", f"--to={tmp_path / form}", *classes]) == 0
  written = load(ArrayRecord(path=str(tmp_path / form)), seed=0, batch_size=4)
  assert equal(written.train_batch(5), load(PluginDataset(name=f"forms:{form}"), seed=0, batch_size=4).train_batch(5))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["forms:none"], "forms has no attribute 'none'|'none'"),
    (["forms:in_memory"], "num_classes is required, because there are labels"),
    (["forms:streams", "--kwargs=[]"], "must be a JSON object"),
    (["forms:streams", '--kwargs={"size": 3}'], "unexpected keyword argument 'size'"),
  ],
)
def test_what_cannot_be_written_exits_with_2(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
  try:
    code = main(["data", "write", *arguments, f"--to={tmp_path / 'records'}"])
  except SystemExit as end:
    code = end.code
  assert code == 2
  told = capsys.readouterr().err
  assert any(part in told for part in message.split("|")), told
  assert not (tmp_path / "records").exists()


def test_images_of_a_folder_have_the_class_of_their_folder_and_one_size(tmp_path: pathlib.Path):
  config = forms.image_folder(tmp_path / "images")
  dataset = load(config, seed=0, batch_size=4)
  assert (dataset.info.input_shape, dataset.info.num_classes) == ((8, 8, 3), forms.CLASSES)
  batch = dataset.eval_batch(0, "validation", 12)
  assert batch["labels"].tolist() == sorted(index % forms.CLASSES for index in range(12))
  by_class = [index for label in range(forms.CLASSES) for index in range(label, 12, forms.CLASSES)]
  for index, image in zip(by_class, batch["inputs"], strict=True):
    # JPEG keeps a colour to a few steps.
    assert np.abs(image.astype(int) - (10 * index, 50, 200)).max() <= 4


def test_an_image_is_cropped_around_its_centre(tmp_path: pathlib.Path):
  from PIL import Image

  from trialbook.input_pipeline.images import decoded

  pixels = np.zeros((20, 40, 3), np.uint8)
  pixels[:, 10:30] = 255
  Image.fromarray(pixels).save(tmp_path / "wide.png")
  assert (decoded(tmp_path / "wide.png", (10, 10), 3)[:, 1:-1] == 255).all()
  assert decoded(tmp_path / "wide.png", (10, 20), 1).shape == (10, 20, 1)


def broken_images(folder: pathlib.Path) -> ImageFolder:
  made = forms.image_folder(folder)
  (folder / "train" / "class_1" / "005.png").write_bytes(b"no image")
  return made


def test_a_file_that_is_no_image_is_named_when_it_is_read(tmp_path: pathlib.Path):
  config = broken_images(tmp_path / "images").model_copy(update={"normalization": ((0.0,), (1.0,))})
  dataset = load(config, seed=0, batch_size=4)
  with pytest.raises(DataError, match=r"class_1/005\.png: cannot be read as an image"):
    dataset.eval_batch(0, "train", 24)


def test_folders_that_are_not_as_they_should_be_are_told(tmp_path: pathlib.Path):
  with pytest.raises(DataError, match=r"dataset\.path is not set"):
    load(ImageFolder(), seed=0, batch_size=4)
  with pytest.raises(DataError, match=r"has no folder train and no folder validation; an image is at train/CLASS/FILE"):
    load(ImageFolder(path=str(tmp_path)), seed=0, batch_size=4)
  made = forms.image_folder(tmp_path / "images")
  (tmp_path / "images" / "validation" / "other").mkdir()
  with pytest.raises(DataError, match="validation/other is a class that train/ has not"):
    load(made, seed=0, batch_size=4)


PARQUET: dict[str, tuple[dict[str, Any], str]] = {
  "no path": ({"path": None}, r"dataset\.path is not set"),
  "no files": ({"files": {"train": "train*", "validation": "none*"}}, "is for validation: dataset.files"),
  "a split": ({"files": {"training": "train*"}}, "unknown split 'training'"),
  "a column": ({"columns": {"x": "inputs", "lable": "labels"}}, r"has no column 'lable'; did you mean 'label'"),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet_that_is_not_there_is_told(tmp_path: pathlib.Path, case: str):
  changes, message = PARQUET[case]
  made = forms.parquet(tmp_path / "rows").model_copy(update=changes)
  with pytest.raises(DataError, match=message):
    load(made, seed=0, batch_size=4)


def write_rows(folder: pathlib.Path, columns: dict[str, Any]) -> Parquet:
  for split in SIZES:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")
  return Parquet(path=str(folder))


def test_columns_of_parquet_keep_ids_pad_lists_and_refuse_holes(tmp_path: pathlib.Path):
  rows = {"user": [1, 2**32 - 1], "inputs": [[1], [2, 3]]}
  made = write_rows(tmp_path, rows).model_copy(
    update={"pad": Parquet.model_validate({"pad": ({"keys": ("inputs",), "length": 3},)}).pad}
  )
  batch = load(made, seed=0, batch_size=1).eval_batch(0, "train", 2)
  assert (batch["user"].dtype, batch["user"].tolist()) == (np.uint32, [1, 2**32 - 1])
  assert batch["inputs"].tolist() == [[1, 0, 0], [2, 3, 0]]
  assert batch["mask"].tolist() == [[True, False, False], [True, True, False]]
  made = write_rows(tmp_path, {"inputs": [[1.0], [2.0]], "weights": [0.5, None]})
  with pytest.raises(DataError, match="weights has no value; fill it in"):
    load(made, seed=0, batch_size=1).eval_batch(0, "train", 2)
  (tmp_path / "train.parquet").write_bytes(b"PAR1 no")
  with pytest.raises(DataError, match=r"train\.parquet: cannot be read"):
    load(made, seed=0, batch_size=1)


def test_the_classes_that_hugging_face_has_written_into_a_file_count(tmp_path: pathlib.Path):
  features = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
  rows = pyarrow.table({"inputs": [[1.0], [2.0], [3.0]], "label": [0, 1, 0]})
  rows = rows.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
  for split in SIZES:
    pyarrow.parquet.write_table(rows, tmp_path / f"{split}.parquet")
  made = Parquet(path=str(tmp_path), columns={"inputs": "inputs", "label": "labels"})
  assert load(made, seed=0, batch_size=1).info.num_classes == 3


def test_tokens_are_windows_of_a_file_of_numbers_or_of_npy(tmp_path: pathlib.Path):
  made = forms.tokens(tmp_path / "bare")
  np.save(tmp_path / "tokens.npy", np.arange(2000) % 9)
  again = Tokens(path=str(tmp_path / "tokens.npy"), vocabulary=9, length=8)
  first, second = (load(one, seed=0, batch_size=4) for one in (made, again))
  assert first.info.examples == second.info.examples == {"train": 224, "validation": 12, "test": 12}
  assert equal(first.train_batch(3), second.train_batch(3))
  batch = first.eval_batch(0, "train", 4)
  np.testing.assert_array_equal(batch["inputs"].ravel(), np.arange(32) % 9)
  np.testing.assert_array_equal(batch["labels"].ravel(), np.arange(1, 33) % 9)
  own = again.model_copy(update={"validation_path": str(tmp_path / "tokens.npy")})
  assert load(own, seed=0, batch_size=4).info.examples == {"train": 249, "validation": 249}


TOKENS: dict[str, tuple[dict[str, Any], str]] = {
  "no path": ({"path": None}, r"dataset\.path is not set"),
  "no vocabulary": ({"vocabulary": None}, r"dataset\.vocabulary is not set"),
  "too long": ({"length": 5000}, r"has 1,800 tokens; windows of dataset\.length = 5000 need at least 5001"),
  "another dtype": (
    {"dtype": "int64", "path": "odd.bin"},
    r"has 7 bytes, no whole number of int64; set dataset\.dtype",
  ),
  "a small vocabulary": ({"vocabulary": 5}, "labels must be 0 to 4 for 5 classes"),
  "floats": ({"path": "floats.npy"}, r"holds float64\[9\]; it must be whole numbers"),
  "absent": ({"path": "absent.bin"}, "cannot be read"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_tokens_that_cannot_be_read_are_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, case: str):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "odd.bin").write_bytes(b"1234567")
  np.save(tmp_path / "floats.npy", np.zeros(9))
  changes, message = TOKENS[case]
  config = forms.tokens(tmp_path / "bare").model_copy(update=changes)
  with pytest.raises(DataError, match=message):
    load(config, seed=0, batch_size=4).eval_batch(0, "train", 4)

"""The plots of a report as pictures."""

import re

import altair as alt
import jsonschema
import pytest

from trialbook.tuning import read_results, report
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.reporting.page_data import page_data


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_every_plot_that_has_something_to_show_is_a_picture(hostile, tmp_path, kind):
  results = read_results(hostile)
  folder = report(results, tmp_path / "made/plots", format=kind)
  written = {path.name: path.read_bytes() for path in folder.iterdir()}
  data = page_data(results, [results.objective])
  assert len(written) == len(data["plots"])
  assert {name.rpartition(".")[2] for name in written} == {kind}
  assert {"comparison", "curves", "best_of_k", "steps"} < {name.rpartition(".")[0] for name in written}
  for name, content in written.items():
    if kind == "png":
      assert content.startswith(b"\x89PNG\r\n"), name
    else:
      assert "<script" not in content.decode()
  if kind == "svg":
    for name, titles in {
      "curves": {"step", "validation/error"},
      "best_of_k": {"number of trials", "validation/error"},
      "steps": {"selected step", "trials"},
      "comparison": {"validation/error"},
    }.items():
      texts = re.findall(r"<text[^>]*>([^<]*)</text>", written[f"{name}.svg"].decode())
      assert titles < set(texts), name


@pytest.mark.slow
def test_pictures_of_names_in_any_script_do_not_replace_each_other(tmp_path):
  names = ("学习率", "动量", "a b", "a_b")
  space = tuple(planted.nuisance(name, 0.1, 10.0) for name in names)
  curve = {"validation/error": ([1, 2], [0.9, 0.5])}
  trials = [planted.trial(number, dict.fromkeys(names, number + 1.0), curve) for number in range(2)]
  folder = report(planted.results(trials, space), tmp_path / "plots", format="svg")
  assert len(list(folder.glob("axis*.svg"))) == 4


def test_a_plot_without_data_is_no_picture(tmp_path):
  folder = report(planted.results([], (planted.nuisance("rate", 0.1, 1.0),)), tmp_path / "plots", format="svg")
  assert list(folder.iterdir()) == []


def test_each_plot_fits_the_schema_of_vega_lite(hostile):
  plots = {}
  for results in (read_results(hostile), planted.healthy(0, trials=4, evaluations=10)):
    plots |= {plot["id"].partition(":")[0]: plot for plot in page_data(results, [results.objective])["plots"]}
  named = {"comparison", "axis", "isolation", "curves", "best_of_k", "steps", "grad_norm", "grad_histogram"}
  assert set(plots) == named
  for plot in plots.values():
    assert alt.Chart.from_dict(plot["spec"]).to_dict()["layer"]
  wrong = {"layer": [{"mark": {"type": "pont"}, "encoding": {}}]}
  with pytest.raises(jsonschema.ValidationError):
    alt.Chart.from_dict(wrong)

"""The page of a report is one file that needs nothing and lets nothing in, and says what the other formats say."""

import base64
import dataclasses
import hashlib
import json
import re

import csv_studies
import pytest
from report_pages import Page

from trialbook.tuning import Objective, read_results, report
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.reporting.html import libraries
from trialbook.tuning.reporting.page_data import objectives_of, page_data
from trialbook.tuning.reporting.report import text_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A study that nobody changes."""
  return csv_studies.rates(tmp_path_factory.mktemp("runs") / "rates")


@pytest.fixture(scope="module")
def page(hostile):
  """Its report."""
  path = report(hostile)
  assert path == hostile / "report.html"
  return path.read_text()


@pytest.mark.slow
def test_the_libraries_of_a_page_are_kept_and_need_no_place_to_be_kept(tmp_path, monkeypatch):
  codes = []
  for home in (tmp_path, tmp_path, "/proc/nowhere"):
    monkeypatch.setenv("HOME", str(home))
    codes.append(libraries.__wrapped__())
  assert len(set(codes)) == 1
  (kept,) = tmp_path.rglob("*.js")
  assert kept.read_text() == codes[0]


@pytest.mark.slow
def test_nothing_outside_of_the_page_is_named_in_it(page):
  parsed = Page(page)
  for tag, attributes in parsed.tags:
    assert not {"src", "srcset", "action", "formaction", "background", "poster", "data"} & set(attributes), tag
    assert (attributes.get("href") or "#").startswith("#")
    assert not any(name.startswith("on") for name in attributes)
  assert not {"link", "base", "iframe", "object", "embed", "img", "form"} & {tag for tag, _ in parsed.tags}
  assert not re.search(r"@import|url\(", "".join(parsed.raw["style"]))


def test_its_policy_allows_no_request_and_no_scripts_but_its_own(page):
  parsed = Page(page)
  policy = parsed.policy
  assert policy["default-src"] == ["'none'"]
  assert set(policy) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
  assert policy["base-uri"] == policy["form-action"] == ["'none'"]
  assert set(policy["img-src"]) == {"data:", "blob:"}
  data, *scripts = parsed.raw["script"]
  assert json.loads(data)["format"] == 1
  assert len(scripts) == 2
  digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
  assert policy["script-src"] == [*(f"'sha256-{digest}'" for digest in digests), "'unsafe-eval'"]
  # A browser hashes what it has read, with other ends of lines; and it reads on in a script after these two.
  assert not any("\r" in text or re.search(r"<!--[^>]*<script", text) for text in scripts)


def test_hostile_texts_are_nowhere_in_the_page_and_all_in_its_data(page, hostile):
  parsed = Page(page)
  assert [tag for tag, _ in parsed.tags].count("script") == 3
  assert all(text not in page for text in csv_studies.HOSTILE[:3])
  text = parsed.raw["script"][0]
  assert not set("<>&") & set(text)
  data = json.loads(text)
  results = read_results(hostile)
  first, second, third, _, last = csv_studies.HOSTILE
  assert data["study"]["name"] == results.study.name
  assert data["study"]["goal"] == results.study.goal == " ".join(csv_studies.HOSTILE)
  assert {one["name"] for one in data["hyperparameters"]} == {first, second}
  assert set(data["trials"]["h0"]) == {third, last}
  reason = data["views"][0]["tables"]["trials"]["reason"][-1]
  assert reason == results.trials[-1].reason
  assert all(text in reason for text in csv_studies.HOSTILE)
  assert not any("\u2028" in text for text in parsed.raw["script"])


def test_hostile_texts_mean_themselves_in_markdown(hostile):
  text = report(hostile, format="md").read_text()
  # Indented by six, it is code in an item of a list.
  prose = "\n".join(line for line in text.splitlines() if not line.startswith("      "))
  assert "alert(1)" in prose
  assert not re.search(r"(?<!\\)[<>&`~]", prose)
  assert "\u2028" not in text
  table = [line for line in prose.splitlines() if line.startswith("|")]
  assert len(table) == 2 + 7
  assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}


def test_a_text_that_cannot_be_encoded_does_not_cost_the_report(tmp_path, folder):
  results = read_results(folder)
  odd = dataclasses.replace(results, study=dataclasses.replace(results.study, name="a\ud800b"))
  assert "a?b: 8 complete" in report(odd, tmp_path / "report.md", format="md").read_text()
  assert json.loads(report(odd, tmp_path / "r.json", format="json").read_text())["study"]["name"] == "a\ud800b"


@pytest.mark.slow
def test_a_page_of_100_trials_of_200_evaluations_is_small(tmp_path):
  study = planted.healthy(0, trials=100, evaluations=200)
  assert report(study, tmp_path / "page.html").stat().st_size <= 1.5e6


def test_the_page_and_the_text_give_the_same_answer_and_findings(folder):
  results = read_results(folder).by(Objective("validation/loss", "min", "last"))
  data = page_data(results, objectives_of(results))["views"][0]
  told = json.loads(text_of(results, "json"))
  assert data["answer"] == told["answer"]
  assert [one["title"] for one in data["findings"]] == [one["title"] for one in told["findings"]]
  text = text_of(results, "md").replace("\\", "")
  assert all(one["title"] in text for one in told["findings"])

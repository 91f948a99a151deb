"""What is printed while a run or a study is at work."""

import io
import sys

import pytest

from trialbook.progress import ProgressLine, duration
from trialbook.tuning.progress import StudyProgress
from trialbook.tuning.records import TrialRecord


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


@pytest.mark.parametrize(
  ("seconds", "words"),
  [
    (-1, "0 s"),
    (0.0042, "0.0042 s"),
    (5.65, "5.7 s"),
    (59.4, "59 s"),
    (59.6, "1 min"),
    (63, "1 min"),
    (3599, "1 h"),
    (4800, "1 h 20 min"),
    (86399, "1 d"),
    (51 * 3600, "2 d 3 h"),
  ],
)
def test_a_duration_has_its_two_largest_units(seconds, words):
  assert duration(seconds) == words


def test_a_terminal_has_one_line_that_is_redrawn_under_the_notes(monkeypatch):
  monkeypatch.setattr(sys, "stderr", screen := Terminal())
  line = ProgressLine(enabled=True)
  line.draw("1 of 2")
  line.note("one is done")
  line.draw("2 of 2")
  assert screen.getvalue() == "\r\033[K1 of 2\r\033[Kone is done\n\r\033[K2 of 2"


def test_a_file_has_whole_lines_and_a_line_that_is_off_prints_nothing(monkeypatch):
  monkeypatch.setattr(sys, "stderr", file := io.StringIO())
  for enabled in (True, False):
    line = ProgressLine(enabled=enabled)
    line.draw("1 of 2")
    line.note("one is done")
  assert file.getvalue() == "1 of 2\none is done\n"


def test_a_line_is_due_once_in_an_interval(monkeypatch):
  monkeypatch.setattr("time.perf_counter", lambda: 100.0)
  line = ProgressLine(enabled=True)
  assert [line.is_due(now) for now in (100.0, 109.9, 110.0, 119.9, 120.0)] == [False, False, True, False, True]
  assert not ProgressLine(enabled=False).is_due(1000.0)


@pytest.mark.parametrize(
  ("known", "said"),
  [
    ({"state": "complete", "summary": {"objective": 0.25, "best_step": 4}}, "complete, 0.25 at step 4"),
    ({"state": "infeasible", "reason": "x is too large"}, "infeasible: x is too large"),
    (
      {"state": "complete", "summary": {"objective": 0.9, "best_step": 0, "uncharacteristic": "never got better"}},
      "infeasible, 0.9 at step 0: never got better",
    ),
    (
      {"state": "stopped", "reason": "SIGTERM", "summary": {"step": 20, "objective": 0.82, "best_step": 10}},
      "paused at step 20 (saved)",
    ),
    ({"state": "stopped", "reason": "its worker was stopped"}, "stopped: its worker was stopped"),
    (
      {"state": "pending", "attempts": ({"end": "crashed: ended by SIGKILL"},)},
      "crashed, and will be tried again: ended by SIGKILL",
    ),
  ],
)
def test_a_trial_that_ended_has_a_line_that_says_how(monkeypatch, known, said):
  monkeypatch.setattr(sys, "stderr", file := io.StringIO())
  StudyProgress(4, enabled=True).ended(TrialRecord(trial=3, values={}, changes={}, **known))
  assert file.getvalue().splitlines()[0] == f"trial 3: {said}"

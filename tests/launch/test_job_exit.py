"""One code, one culprit, one reason: every rule by which a job's end follows from those of its hosts."""

import json
import pathlib

import pytest

from trialbook import files
from trialbook.launch.job_exit import Cause, exit_stamps, job_exit, read_causes, with_causes


@pytest.mark.parametrize(
  ("ends", "code", "culprit"),
  [
    pytest.param([(0, 1.0), (0, 2.0)], 0, None, id="all well"),
    pytest.param([(0, 1.0), (1, 2.0)], 1, 1, id="a bug"),
    pytest.param([(7, 2.0), (9, 1.0)], 9, 1, id="the first of two bugs"),
    pytest.param([(-11, 1.0), (0, 2.0)], 1, 0, id="a segmentation fault is a bug"),
    pytest.param([(0, 2.0), (139, 1.0)], 1, 1, id="the same, told by a shell"),
    pytest.param([(-6, 1.0), (2, 2.0)], 2, 1, id="a mistake that ended later than the abort it made"),
    pytest.param([(134, 1.0), (3, 2.0)], 3, 1, id="infeasible, and an abort by the shell's number"),
    pytest.param([(-9, 1.0), (2, 2.0)], 2, 1, id="a mistake and a kill"),
    pytest.param([(75, 1.0), (3, 2.0)], 3, 1, id="infeasible and try again"),
    pytest.param([(3, 2.0), (2, 1.0)], 2, 1, id="the first of two verdicts"),
    pytest.param([(-6, 1.0), (75, 2.0)], 75, 1, id="try again is a better cause than an abort"),
    pytest.param([(75, 1.0), (137, 2.0)], 75, 0, id="try again, and one that had to be killed"),
    pytest.param([(-6, 1.0), (1, 1.1)], 1, 1, id="a bug is a better cause than an abort"),
    pytest.param([(-6, 2.0), (-9, 1.0)], 75, 1, id="a lost host aborts its peer"),
    pytest.param([(1, 2.0), (-9, 1.0)], 75, 1, id="an exception in the peer of a lost host"),
    pytest.param([(1, 1.0), (-9, 2.0)], 1, 0, id="a bug, whose peer had to be killed"),
    pytest.param([(0, 1.0), (137, 2.0)], 75, 1, id="a lost host by the shell's number"),
    pytest.param([(-6, 2.0), (134, 1.0)], 75, 1, id="nothing but aborts"),
    pytest.param([(-15, 1.0), (0, 2.0)], 75, 0, id="told to leave"),
    pytest.param([(143, 1.0), (0, 2.0)], 75, 0, id="told to leave, by the shell's number"),
    pytest.param([(-2, 1.0), (75, 2.0)], 130, 0, id="interrupted"),
    pytest.param([(1, 1.0), (1, 1.0)], 1, 0, id="the lower index of a tie"),
  ],
)
def test_the_end_of_a_job_follows_from_those_of_its_hosts(
  ends: list[tuple[int, float]], code: int, culprit: int | None
):
  assert job_exit(ends)[:2] == (code, culprit)


def test_the_reason_says_what_happened_to_the_culprit():
  assert job_exit([(-6, 2.0), (-9, 1.0)]).reason == "ended by SIGKILL: the host was lost"
  assert job_exit([(2, 1.0)]).reason == "exit code 2: a mistake in the config, the data or the arguments"
  assert job_exit([(17, 1.0)]).reason == "exit code 17: a bug"


def test_the_host_that_wrote_its_cause_first_is_the_culprit_even_if_it_left_last():
  causes = {0: Cause(1, "KeyError: 'x'", 4.9, host=1), 1: Cause(1, "KeyError: 'x'", 5.0, host=1)}
  assert with_causes([(1, 6.0), (1, 9.0)], causes)[:3] == (1, 1, "KeyError: 'x'")


def test_a_host_that_was_aborted_on_its_way_out_ended_with_the_code_it_meant():
  verdict = with_causes([(-6, 6.0), (134, 6.0)], {1: Cause(2, "the workdir is not shared", 5.0, host=1)})
  assert verdict[:3] == (2, 1, "the workdir is not shared")


def test_of_a_host_that_could_not_say_anything_a_witness_is_heard():
  causes = {0: Cause(75, "host 2 is gone", 8.0, host=2), 1: Cause(75, "host 2 is gone", 9.0, host=2)}
  verdict = with_causes([(75, 8.5), (75, 9.5), (-9, 1.0)], causes)
  assert verdict[:3] == (75, 2, "ended by SIGKILL: the host was lost; host 0 reported: host 2 is gone")


def test_a_job_is_preempted_if_sigterm_came_to_a_host_before_anything_else_happened():
  told = {index: Cause(75, "host 1 received SIGTERM", 5.0, host=1, preempted=True) for index in range(2)}
  assert with_causes([(75, 6.0), (75, 6.0)], told).preempted
  # A host that cannot handle it yet dies of it, and its peer notices.
  lost = {0: Cause(75, "host 1 was lost", 5.0, host=1)}
  assert with_causes([(75, 6.0), (-15, 4.0)], lost).preempted
  assert with_causes([(0, 6.0), (-15, 4.0)], {}).preempted
  # The launcher ends the rest of a job that failed by SIGTERM.
  assert not with_causes([(1, 4.0), (-15, 6.0)], {}).preempted


def test_a_cause_does_not_spoil_a_good_end():
  assert with_causes([(0, 6.0)], {0: Cause(75, "preempted", 5.0, host=0)}).code == 0


def test_only_whole_causes_of_this_attempt_are_read_whatever_the_clock_does(tmp_path: pathlib.Path):
  logs = tmp_path / "logs"
  logs.mkdir()
  record = {"format": 1, "code": 75, "cause": "preempted", "time": 100.0, "host": 0}
  files.write_json(logs / "host_0.exit.json", record)
  files.write_json(logs / "host_1.exit.json", record)
  before = exit_stamps(logs)
  files.write_json(logs / "host_0.exit.json", record | {"time": 50.0})
  (logs / "host_2.exit.json").write_text('{"code": 75, "cau')
  (logs / "host_3.exit.json").write_text(json.dumps(record | {"code": 0}))
  (logs / "host_4.exit.json").write_text("[]")
  (logs / "host_6.exit.json").write_text(json.dumps(record))
  assert read_causes(logs, hosts=6, before=before) == {0: Cause(75, "preempted", 50.0, host=0)}

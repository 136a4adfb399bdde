"""The quick slice of smbtorture for every test run; the reader of its output; and what a run is judged by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conformance import verdict
from tests.conformance.ground import FIXTURES
from tests.conformance.run import Wish, once_more, run
from tests.conformance.suites import LEFT_OUT, PATIENCE, PLANS, QUICK, chosen
from tests.conformance.torture import Reader, Suite, listed, members, run_plan
from tests.conformance.verdict import Change, Expectation
from tests.server import Server

TEXT = """\
time: 2024-01-01 00:00:00.000000Z
test: smb2.lock.one
time: 2024-01-01 00:00:00.000001Z
success: smb2.lock.one
test: smb2.lock.two
failure: smb2.lock.two [
../source/lock.c:12: status was NT_STATUS_OK, expected NT_STATUS_X
]
test: smb2.lock.three
skip: smb2.lock.three [
not here
]
test: smb2.lock.four
"""
ONE, TWO, THREE, FOUR = (f"smb2.lock.{name}" for name in ("one", "two", "three", "four"))


def suite(**outcomes: str) -> Suite:
    return Suite("smb2.lock", {f"smb2.lock.{name}": outcome for name, outcome in outcomes.items()}, {ONE: "first\nwhy"}, 1.0)


# -- the reader ------------------------------------------------------------------------------------------------------------------------


def test_output_is_read() -> None:
    reader = Reader()
    for line in TEXT.splitlines():
        reader.feed(line)
    assert reader.outcomes == {ONE: "success", TWO: "failure", THREE: "skip"}
    assert reader.reasons[THREE] == "not here"
    assert reader.running == FOUR


def test_what_hung_is_named() -> None:
    reader = Reader()
    for line in TEXT.splitlines():
        reader.feed(line)
    assert reader.give_up("not done after 3 s") == FOUR
    assert reader.outcomes[FOUR] == "error"
    assert reader.reasons[FOUR] == "not done after 3 s"
    assert reader.give_up("again") is None


FAKE = """\
#!/bin/sh
case "$*" in
*--list*) echo smb2.lock.one.one; echo smb2.lock.two.two; echo smb2.lock.three.three ;;
*smb2.lock) echo test: smb2.lock.one; echo success: smb2.lock.one; echo test: smb2.lock.two; exec sleep 60 ;;
*) for name in "$@"; do :; done; echo "test: $name"; kill -9 $$ ;;
esac
"""


def test_a_test_that_hangs_or_crashes_does_not_hide_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "smbtorture"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    listed.cache_clear()
    server = Server()
    try:
        found = run_plan(server, chosen(("lock",))[0], 0.5)
    finally:
        server.discard()
        listed.cache_clear()
    assert found.outcomes == {ONE: "success", TWO: "error", THREE: "error"}
    assert found.late == (TWO,)
    assert found.reasons == {TWO: "not done after 0.5 s", THREE: "smbtorture ended with status -9 in the middle of it"}


BUSY = """\
#!/bin/sh
case "$*" in
*--list*) echo smb2.lock.one.one ;;
*) echo test: smb2.lock.one
   [ -e MARK ] && echo success: smb2.lock.one || printf 'failure: smb2.lock.one [\\nlate\\n]\\n'
   touch MARK ;;
esac
"""


def test_what_passes_the_second_time_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "smbtorture"
    fake.write_text(BUSY.replace("MARK", str(tmp_path / "mark")))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    listed.cache_clear()
    wish = Wish(jobs=1, patience=5, settings={}, under_load=False, log=None)
    try:
        first = run(chosen(("lock",)), wish)
        second = once_more(first, [ONE], wish)
    finally:
        listed.cache_clear()
    assert first.suites[0].outcomes == {ONE: "failure"}
    assert first.suites[0].reasons == {ONE: "late"}
    assert second.suites[0].outcomes == {ONE: "success"}
    assert second.suites[0].reasons == {}
    assert second.suites[0].unsteady == (ONE,)
    assert once_more(first, [], wish) is first


# -- the table of suites ---------------------------------------------------------------------------------------------------------------


def test_every_suite_of_smbtorture_is_run_or_left_out_with_a_reason() -> None:
    there = {".".join(name.split(".")[:2]) for name in listed()}
    assert there == {plan.suite for plan in PLANS} | set(LEFT_OUT)


def test_titles_are_unique_and_fixtures_exist() -> None:
    assert len({plan.title for plan in PLANS}) == len(PLANS)
    assert {name for plan in PLANS for name in plan.fixtures} <= FIXTURES


def test_names_on_the_command_line() -> None:
    assert [plan.title for plan in chosen(("session",))] == ["smb2.session", "smb2.session@encrypted"]
    assert [plan.title for plan in chosen(("session@encrypted",))] == ["smb2.session@encrypted"]
    assert [plan.title for plan in chosen(("session@",))] == ["smb2.session"]
    assert len(chosen(("session", "session@encrypted", "smb2.session"))) == 2
    (two,) = chosen(("lock.cancel", "lock.lock", "lock.cancel"))
    assert two.tests == ("smb2.lock.cancel", "smb2.lock.lock")
    assert chosen(("lock.cancel", "lock"))[0].tests == ()
    (one,) = chosen(("session@encrypted.bind1",))
    assert members(one) == ["smb2.session.bind1"]
    assert one.key("smb2.session.bind1") == "smb2.session@encrypted.bind1"
    with pytest.raises(LookupError):
        chosen(("nonsense",))


# -- the verdict -----------------------------------------------------------------------------------------------------------------------


def test_what_is_worse_is_found() -> None:
    expected = {
        ONE: Expectation("success"),
        TWO: Expectation("success"),
        THREE: Expectation("failure", "not yet: for a reason"),
        "smb2.locker.one": Expectation("success"),
    }
    found = suite(one="failure", three="error", new="failure", nice="success")
    assert verdict.worse([found], expected) == [
        Change("smb2.lock.new", "unknown", "failure", ""),
        Change(ONE, "success", "failure", "why"),
        Change(THREE, "failure", "error", ""),
        Change(TWO, "success", "absent", ""),
    ]


def test_a_part_of_a_suite_is_judged_for_itself() -> None:
    expected = {ONE: Expectation("success"), TWO: Expectation("success")}
    assert verdict.worse([suite(one="success")._replace(whole=False)], expected) == []


def test_what_is_better_is_told_and_taken_over_and_what_is_worse_is_not() -> None:
    expected = {ONE: Expectation("success"), TWO: Expectation("failure", "not yet: slow"), THREE: Expectation("failure", "not yet: odd")}
    found = suite(one="failure", two="success", three="skip", four="skip")
    assert verdict.better([found], expected) == [Change(TWO, "failure", "success", "not yet: slow")]
    assert verdict.taken_over([found], expected) == {
        ONE: Expectation("success"),
        TWO: Expectation("success"),
        THREE: Expectation("skip", "not yet: odd"),
        FOUR: Expectation("skip", "not yet: skip"),
    }


def test_expectations_survive_their_file(tmp_path: Path) -> None:
    expected = {ONE: Expectation("success"), TWO: Expectation("failure", 'not yet: a "reason"')}
    verdict.write_expected(expected, tmp_path / "file")
    assert verdict.expected(tmp_path / "file") == expected


def test_no_failure_is_expected_without_a_reason() -> None:
    assert verdict.without_reason(verdict.expected()) == []
    for settings in ({"port": "posix"}, {"port": "linux"}):
        assert verdict.without_reason(verdict.expected_of(settings)) == []
    assert set(verdict.expected_of({"port": "posix"})) == set(verdict.expected())


def test_expected_tests_exist() -> None:
    known = {plan.key(name) for plan in PLANS for name in members(plan)}
    assert set(verdict.expected()) <= known


# -- smbtorture ------------------------------------------------------------------------------------------------------------------------


def test_quick_slice() -> None:
    done = run(chosen(QUICK), Wish(jobs=2, patience=PATIENCE, settings={}, under_load=False, log=None))
    assert not done.unfit
    assert all(found.outcomes for found in done.suites), "a suite ran no test"
    assert verdict.worse(done.suites, verdict.expected()) == []
    assert [problem for found in done.suites for problem in found.problems] == []

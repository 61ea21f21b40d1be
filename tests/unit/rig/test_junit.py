"""Runs as JUnit XML."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from mnagent.rig.junit import as_junit
from mnagent.rig.library import Run, Verdict
from tests.support.results import RUN

HELD = Verdict(claim="it was <fast>", held=True)
BROKEN = Verdict(claim="nothing was lost", held=False, detail="3 probes", part="captive")


def suite(run: Run) -> ElementTree.Element:
    return ElementTree.fromstring(as_junit(run))


def test_verdicts_are_cases_by_part() -> None:
    made = suite(replace(RUN, succeeded=False, verdicts=(HELD, BROKEN), facts={"system": "Debian"}))
    assert [(made.get(name)) for name in ("tests", "failures", "errors")] == ["3", "1", "0"]
    cases = {case.attrib["name"]: case for case in made.iter("testcase")}
    assert cases["it was <fast>"].attrib["classname"] == "rig.demo"
    assert cases["nothing was lost"].attrib["classname"] == "rig.demo.captive"
    (failure,) = made.iter("failure")
    assert failure.attrib["message"] == "3 probes"
    told = {each.attrib["name"]: each.attrib["value"] for each in made.iter("property")}
    assert (told["commit"], told["delay"], told["system"]) == (RUN.commit, "20 ms", "Debian")


def test_run_that_broke_is_an_error_also_without_verdicts() -> None:
    (error,) = suite(replace(RUN, succeeded=False, error="no bench")).iter("error")
    assert error.attrib["message"] == "no bench"
    assert len(list(suite(replace(RUN, succeeded=False)).iter("error"))) == 1


def test_run_that_passed_has_neither() -> None:
    made = suite(replace(RUN, succeeded=True, verdicts=(HELD,)))
    assert not list(made.iter("error"))
    assert not list(made.iter("failure"))

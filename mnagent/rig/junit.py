"""A run as JUnit XML, for programs that collect test results."""

from __future__ import annotations

from xml.etree import ElementTree

from mnagent.rig.library import Run


def as_junit(run: Run) -> str:
    """One suite: a case for each verdict, and one for the run itself, which fails with its error
    or where a run without verdicts failed."""
    false = [verdict for verdict in run.verdicts if not verdict.held]
    broken = bool(run.error) or not (run.succeeded or false)
    suite = ElementTree.Element(
        "testsuite",
        name=f"{run.scenario} on {run.target}",
        timestamp=run.started_at.removesuffix("+00:00"),
        time=f"{run.seconds:.1f}",
        tests=str(len(run.verdicts) + 1),
        failures=str(len(false)),
        errors=str(int(broken)),
    )
    facts = {"commit": run.commit, "kernel": run.kernel, "board": run.board, **run.settings}
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {**facts, **run.facts}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    whole = f"rig.{run.scenario}"
    case = ElementTree.SubElement(
        suite, "testcase", classname=whole, name="the run came to its end", time="0"
    )
    if broken:
        ElementTree.SubElement(case, "error", message=run.error or "it did not succeed")
    for verdict in run.verdicts:
        classname = f"{whole}.{verdict.part}" if verdict.part else whole
        case = ElementTree.SubElement(
            suite, "testcase", classname=classname, name=verdict.claim, time="0"
        )
        if not verdict.held:
            ElementTree.SubElement(case, "failure", message=verdict.detail or "it did not hold")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)

"""The demo's report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from mnagent.rig.checks import Check
from mnagent.rig.flows import Flow, FlowStay
from mnagent.rig.handover import Handover
from mnagent.rig.report import (
    Point,
    Result,
    Timeline,
    as_html,
    as_json,
    correspondent_rows,
    flow_rows,
    phases_picture,
    plain_table,
    write_report,
)


def handover(**changes: float | str | None) -> Handover:
    values: dict[str, object] = {
        "origin": "home",
        "destination": "link-a",
        "link_down_at": 9.99,
        "link_up_at": 10.0,
        "care_of_address_at": 10.01,
        "acknowledged_at": 10.05,
        "first_out_at": 10.06,
        "first_in_at": 10.08,
        "ping_resumed_at": 10.1,
        "outgoing_resumed_at": 10.2,
        "incoming_resumed_at": 10.15,
        "lost": 7,
    }
    return Handover(**{**values, **changes})  # type: ignore[arg-type]


def result(*handovers: Handover, held: bool = True) -> Result:
    return Result(
        handovers=list(handovers),
        checks=[Check("it <went> well", held, "quite")],
        tcp_survived=True,
        incoming_tcp_survived=True,
        ping_sent=100,
        ping_lost=7,
        delay=0.02,
        payload_protection="none",
        round_trips=[Point(9.5, 40.0), Point(10.5, 41.0)],
        lost=[10.02],
        progress={"outgoing": [Point(9.5, 1000), Point(11.0, 2000)]},
    )


def test_handover_gap_is_that_of_the_slowest_traffic() -> None:
    assert handover().as_record()["gap_ms"] == 200.0


def test_handover_without_resumption_has_no_gap() -> None:
    record = handover(incoming_resumed_at=None).as_record()
    assert record["gap_ms"] is None
    assert record["outgoing_tcp_gap_ms"] == 200.0


def test_json_holds_what_programs_need() -> None:
    document = json.loads(as_json(result(handover())))
    assert document["tcp_survived"] is True
    assert document["incoming_tcp_survived"] is True
    assert document["ping_lost"] == 7
    first = document["handovers"][0]
    shown = {key: first[key] for key in ("from", "to", "gap_ms", "lost")}
    assert shown == {"from": "home", "to": "link-a", "gap_ms": 200.0, "lost": 7}


def test_result_with_a_failed_check_has_not_succeeded() -> None:
    assert result(handover()).succeeded
    assert not result(handover(), held=False).succeeded


def test_plain_table_aligns_columns() -> None:
    lines = plain_table([handover(), handover(care_of_address_at=None)]).splitlines()
    expected = "home link-a 10 ms 50 ms 60 ms 80 ms 200 ms 7"
    assert lines[1].split() == expected.split()
    assert lines[2].split()[2] == "-"


def test_timeline_is_well_formed_svg() -> None:
    ElementTree.fromstring(Timeline(result(handover())).render())
    ElementTree.fromstring(Timeline(result()).render())
    ElementTree.fromstring(phases_picture([handover()]))


def test_page_escapes_and_needs_nothing_else(tmp_path: Path) -> None:
    page = as_html(result(handover()), ["link-a.pcap"])
    assert "it &lt;went&gt; well" in page
    assert "link-a.pcap" in page
    assert "src=" not in page
    assert "href=" not in page


def test_page_draws_the_phases_of_each_handover() -> None:
    record = {"link_up_at": 10.0, "router_solicited_at": 10.001, "acknowledged_at": 10.05}
    shown = replace(result(handover()), records=[record])
    page = as_html(shown, [])
    assert "RS 1 ms" in page
    assert "BA 50 ms" in page
    assert "BA 50 ms" in as_html(result(handover()), [])


def test_report_is_written_where_asked(tmp_path: Path) -> None:
    page = write_report(result(handover()), tmp_path, json_file=tmp_path / "out.json")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "out.json").read_text())["succeeded"] is True


def test_table_shows_the_direct_path_where_there_was_one() -> None:
    lines = plain_table([handover(direct_at=10.15), handover()]).splitlines()
    assert "direct path" in lines[0]
    expected = "home link-a 10 ms 50 ms 60 ms 80 ms 150 ms 200 ms 7"
    assert lines[1].split() == expected.split()


def test_handover_with_datagrams_waits_for_them() -> None:
    assert handover(has_datagrams=True).resumed_at is None
    assert handover(has_datagrams=True, datagrams_resumed_at=10.3).resumed_at == 10.3


def test_report_of_flows_shows_each_stay_and_the_whole() -> None:
    stay = FlowStay(
        link="link-a",
        is_direct=True,
        began_in_tunnel=True,
        tunnelled_out=3,
        direct_out=4,
        direct_in=4,
        at_home_agent_after_switch=0,
    )
    flow = Flow(name="ping", stays=[stay], round_trip_via_home_agent=100.0, round_trip_direct=40.0)
    assert [row[1:] for row in flow_rows([flow])] == [
        ("link-a", "direct", "-", "-", "0"),
        ("all", "direct", "100.0 ms", "40.0 ms", "0"),
    ]
    optimized = replace(result(handover()), flows=[flow])
    assert "round trip directly" in as_html(optimized, [])
    assert json.loads(as_json(optimized))["flows"][0]["rtt_direct_ms"] == 40.0
    assert "flows" not in json.loads(as_json(result(handover())))


def test_report_shows_the_phases_of_each_correspondent() -> None:
    reached = {"tests_started_at": 10.02, "acknowledged_at": 10.1}
    record = {
        "link_up_at": 10.0,
        "care_of_address": "2001:db8:a::10",
        "correspondents": {"2001:db8:c::99": reached},
    }
    expected = ("2001:db8:c::99", "2001:db8:a::10", "20.0", "-", "-", "100.0", "-", "-")
    assert correspondent_rows([record, {"link_up_at": 1.0}]) == [expected]
    page = as_html(replace(result(handover()), records=[record]), [])
    assert "tests passed" in page
    assert "tests passed" not in as_html(result(handover()), [])


def test_report_says_what_was_tested_and_how_often_it_was_probed() -> None:
    tested = replace(result(handover()), facts={"board": "a <Pi>", "kernel": "6.1"}, interval=0.1)
    document = json.loads(as_json(tested))
    assert document["facts"] == {"board": "a <Pi>", "kernel": "6.1"}
    assert document["interval_ms"] == 100.0
    page = as_html(tested, [])
    assert "What was tested" in page
    assert "a &lt;Pi&gt;" in page
    assert "one each 100 ms" in page


def test_report_without_facts_has_no_place_for_them() -> None:
    assert "What was tested" not in as_html(result(handover()), [])

"""The page's parts: markup, pictures, comparison, who may look, and the pages themselves."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mnagent.rig.library import Handover, Library, Step, Traffic
from mnagent.rig.namespace import RigError
from mnagent.rig.web import pages
from mnagent.rig.web.comparison import Comparison, percentile
from mnagent.rig.web.gate import COOKIE, SESSION, Gate, read_token
from mnagent.rig.web.live import MAX_HANDOVERS, Story
from mnagent.rig.web.markup import Markup, element, join
from mnagent.rig.web.pictures import Column, course, handover_lane, traffic_strip
from mnagent.rig.web.places import Place, local_places
from tests.support.results import HANDOVER, RUN, add_run

TOKEN = "a-token-that-is-long-enough"


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "<i>", " & ", 1.50)
    assert inner == "<b>&lt;i&gt; &amp; 1.5</b>"
    assert element("p", inner, None, [Markup("<hr>"), "<"]) == f"<p>{inner}<hr>&lt;</p>"
    assert join(["<", Markup("<")]) == "&lt;<"


def test_attributes_are_escaped_and_may_be_left_out() -> None:
    made = element("a", class_='"x"', aria_label="a b", hidden=True, href=None, open=False)
    assert made == '<a class="&quot;x&quot;" aria-label="a b" hidden></a>'
    assert element("input", name="token") == '<input name="token">'


def drawn(picture: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def texts(picture: Markup) -> list[str]:
    return [each.text or "" for each in drawn(picture).iter("text")]


def of_class(picture: Markup, name: str) -> list[ElementTree.Element]:
    return [each for each in drawn(picture).iter() if each.get("class") == name]


def percent(shape: ElementTree.Element, name: str) -> float:
    return float(shape.attrib[name].removesuffix("%"))


def story(*extra: Handover | Step | Traffic) -> Story:
    probes = [
        Traffic(at=99.0 + tenth / 10, sent=5, answered=2 if tenth == 10 else 5)
        for tenth in range(20)
    ]
    return Story([Step(at=99.0, text="It <moves>"), *probes, HANDOVER, *extra])


def test_traffic_strip_shows_loss_where_it_was() -> None:
    strip = traffic_strip(story())
    (silent,) = of_class(strip, "silent")
    answered = of_class(strip, "answered")
    assert len(answered) == 20
    (event,) = of_class(strip, "event")
    assert percent(event, "x1") == pytest.approx(percent(silent, "x"), abs=0.1)
    assert float(silent.attrib["height"]) == pytest.approx(48 * 3 / 5, abs=0.1)
    assert "link-a" in texts(strip)


def test_traffic_strip_without_anything_is_a_picture() -> None:
    assert "no probes yet" in drawn(traffic_strip(Story())).attrib["aria-label"]


def test_traffic_strip_of_a_long_run_keeps_to_its_columns() -> None:
    long = Story([Traffic(at=100 + tenth / 10, sent=5, answered=5) for tenth in range(36_000)])
    assert len(of_class(traffic_strip(long), "answered")) <= 241


def test_lane_orders_phases_on_its_scale_and_labels_do_not_cover_each_other() -> None:
    lane = handover_lane(HANDOVER, 120.0)
    circles = [each for each in drawn(lane).iter("circle")]
    places = [percent(each, "cx") for each in circles]
    assert places == sorted(places)
    assert places[-1] < 100
    labels = [each for each in drawn(lane).iter("text") if each.get("class") is None]
    assert [each.text for each in labels] == ["L2", "RS", "BU", "BA", "all"]
    spots = {(each.get("y"), int(percent(each, "x") / 9)) for each in labels}
    assert len(spots) == len(labels)
    assert "acknowledged" not in drawn(lane).attrib["aria-label"]
    assert "BA 49 ms" in drawn(lane).attrib["aria-label"]


def test_lane_of_a_handover_that_has_just_begun_is_a_picture() -> None:
    assert texts(handover_lane(replace(HANDOVER, phases={}), 0.0))[-1] == "L2"


def test_course_joins_commits_and_leaves_gaps_where_nothing_was_measured() -> None:
    columns = [Column("aaaaaaaaaaaaaaaa", 10.0, 20.0), Column("b", None, None), Column("c", 5, 6)]
    picture = course("BA", columns)
    assert len(of_class(picture, "course median")) == 1
    assert len(of_class(picture, "median")) == 2
    assert {"aaaaaaaaaa", "c", "20"} <= set(texts(picture))
    assert texts(course("BA", [Column("only", 1.0, 1.5)])).count("only") == 1


def test_story_keeps_the_newest_word_on_each_handover() -> None:
    newer = replace(HANDOVER, phases={"acknowledged": 50.0})
    assert story(newer).handovers == [newer]
    assert story().now == "It <moves>"
    assert Story().now == "It begins"
    many = Story(replace(HANDOVER, number=number) for number in range(MAX_HANDOVERS + 10))
    assert len(many.handovers) == MAX_HANDOVERS
    assert many.handovers[0].number == 10


def test_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0], 95) == 3.0
    assert percentile(range(1, 101), 95) == 95
    assert percentile([1, 2, 3, 4], 95) == 4


def move(milliseconds: float, to: str = "link-a", part: str = "") -> Handover:
    return replace(HANDOVER, destination=to, part=part, phases={"acknowledged": milliseconds})


def test_comparison_joins_the_runs_of_a_commit_and_orders_commits_by_time() -> None:
    old = replace(RUN, commit="old", succeeded=True, handovers=(move(10.0), move(30.0)))
    again = replace(old, started_at="2026-01-04", succeeded=False, handovers=(move(20.0),))
    new = replace(RUN, commit="new", started_at="2026-01-03", succeeded=True)
    other = replace(RUN, settings={}, succeeded=True)
    running = replace(RUN, commit="now")
    compared = Comparison([again, running, new, other, old])
    assert compared.kinds == [old.series, other.series]
    assert [each.commit for each in compared.columns] == ["old", "new"]
    first = compared.columns[0]
    assert first.since == RUN.started_at
    assert (first.runs, first.passed, first.handovers) == (2, 1, 3)
    assert first.spans("acknowledged") == (20.0, 30.0)
    assert compared.course("acknowledged") == [Column("old", 20.0, 30.0), Column("new", None, None)]


def test_comparison_is_of_what_was_chosen() -> None:
    run = replace(
        RUN, succeeded=True, handovers=(move(10.0), move(90.0, to="home"), move(50.0, part="weak"))
    )
    compared = Comparison([run], chosen="home → home")
    assert compared.choices == ["home → home", "home → link-a", "weak"]
    assert compared.columns[0].spans("acknowledged") == (90.0, 90.0)
    assert Comparison([run], chosen="weak").columns[0].handovers == 1
    assert Comparison([run], series="unknown", chosen="unknown").columns[0].handovers == 3
    assert Comparison([]).columns == []


def test_gate_without_token_admits_by_names_of_loopback_alone() -> None:
    gate = Gate(None)
    assert gate.admits()
    assert gate.log_in("") is None
    for host in ("localhost", "localhost:6275", "127.0.0.1:1", "[::1]:6275", "[::1]"):
        assert gate.knows_host(host)
    for host in ("", "rebound.example", "rebound.example:6275", "127.0.0.1.example:80"):
        assert not gate.knows_host(host)


def test_gate_with_token_admits_who_knows_it() -> None:
    now = 1000.0
    gate = Gate(TOKEN, clock=lambda: now)
    assert gate.knows_host("rig.example:6275")
    assert not gate.admits()
    assert gate.log_in("") is None
    assert gate.log_in(TOKEN + "x") is None
    cookie = gate.log_in(TOKEN)
    assert cookie is not None
    assert TOKEN not in cookie
    assert gate.admits(cookie=cookie)
    assert gate.admits(authorization=f"Bearer {TOKEN}")
    assert not gate.admits(authorization=f"Basic {TOKEN}")
    assert not gate.admits(authorization="Bearer ", cookie=cookie)
    now += SESSION
    assert not gate.admits(cookie=cookie)


@pytest.mark.parametrize("forged", ["9999999999.", "x.y", ".", "", "9999999999.é", "1e9.0"])
def test_gate_refuses_cookies_it_did_not_make(forged: str) -> None:
    assert not Gate(TOKEN).admits(cookie=forged)


def test_gate_refuses_cookies_of_an_earlier_life() -> None:
    cookie = Gate(TOKEN).log_in(TOKEN)
    assert cookie is not None
    assert not Gate(TOKEN).admits(cookie=cookie)
    assert COOKIE not in cookie


def test_token_is_made_where_there_is_none_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = read_token(path)
    assert len(token) >= 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_token(path) == token


def test_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o640)
    with pytest.raises(RigError, match="chmod 600"):
        read_token(path)


def test_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o600)
    with pytest.raises(RigError, match="shorter than 20"):
        read_token(path)


def test_token_is_not_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "token")
    with pytest.raises(OSError):
        read_token(tmp_path / "link")


def test_token_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    read_token(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(RigError, match="not a file of yours"):
        read_token(path)


def test_token_in_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="not a file of yours"):
        read_token(tmp_path)


def parsed(page: str) -> str:
    """A page that is well-formed as far as a reader of XML can tell."""
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<script>" not in page
    assert " style=" not in page
    assert page.count("<h1>") == 1
    return page


def test_page_of_a_run_shows_all_of_it_escaped(tmp_path: Path) -> None:
    entry = Library(tmp_path).entry(
        add_run(tmp_path, image={"name": "pi & co"}, board="<Pi>", held=False)
    )
    assert entry is not None
    page = parsed(pages.run_page(entry, story(), guarded=False))
    for text in ("&lt;Pi&gt;", "pi &amp; co", "nothing was &lt;lost&gt;", "did not hold"):
        assert text in page
    for name in ("report.html", "timeline.svg", "link-a.pcap", "run.json", "live.jsonl"):
        assert f"/runs/{entry.name}/files/{name}" in page
    assert "data-live" not in page
    assert "Log out" not in page


def test_page_of_a_run_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    name = add_run(tmp_path)
    (tmp_path / name / "run.json").write_text("{")
    entry = Library(tmp_path).entry(name)
    assert entry is not None
    assert "truncated" in parsed(pages.run_page(entry, Story(), guarded=True))
    assert "unreadable" in parsed(pages.runs_page([entry], {}, guarded=True))


def test_list_is_chosen_from_and_paged(tmp_path: Path) -> None:
    for second in range(60):
        add_run(tmp_path, started_at=f"2026-01-02T00:00:{second:02}+00:00", handovers=())
    add_run(tmp_path, scenario="wifi", target="wifi-machine")
    entries = Library(tmp_path).entries()
    first = parsed(pages.runs_page(entries, {"scenario": "demo"}, guarded=False))
    assert first.count("/runs/2026") == 50
    assert "scenario=demo&amp;target=&amp;from=50" in first
    second_page = pages.runs_page(entries, {"scenario": "demo", "from": "50"}, guarded=False)
    assert second_page.count("/runs/2026") == 10
    assert pages.runs_page(entries, {"target": "wifi-machine"}, guarded=False).count("-wifi-") == 1
    for odd in ("-1", "x", "²", "9" * 30):
        parsed(pages.runs_page(entries, {"from": odd}, guarded=False))


def test_first_page_says_how_to_get_a_result_where_there_is_none() -> None:
    page = parsed(pages.now_page([], [], ([], ""), guarded=True))
    assert "Nothing is running" in page
    assert "sudo mnagent demo" in page
    assert "Log out" in page
    assert "There is no finished run" in parsed(pages.compare_page(Comparison([]), guarded=False))


def test_place_in_use_is_shown_as_such() -> None:
    places = {each.name: each for each in local_places({"namespaces"})}
    assert places["namespaces"].state == "in use"
    assert "busy" in pages.places_list([Place(name="p", kind="k", state="s", mood="busy")], "")


def test_place_without_its_tools_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    places = {each.name: each for each in local_places(())}
    assert "qemu-system-x86_64" in places["wifi-machine"].state

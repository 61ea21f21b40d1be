"""The pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode

from mnagent.rig.library import LIVE_FILE, PHASES, RUN_FILE, Entry, Handover, Run, Verdict
from mnagent.rig.web.comparison import Comparison
from mnagent.rig.web.live import Story
from mnagent.rig.web.markup import Child, Markup, element, join
from mnagent.rig.web.pictures import course, handover_lane, traffic_strip
from mnagent.rig.web.places import Place

PICTURES: Final = (".svg", ".png")
SHOWN_HANDOVERS: Final = 12
"""Drawn at most on a page, the latest."""
LATEST: Final = 5
"""Past runs on the first page."""
PAGE: Final = 50
"""Runs on one page of the list."""
REFRESH: Final = 5
"""Seconds after which a page with a running run is loaded again where there is no script."""
NAVIGATION: Final = {
    "/": "Now",
    "/runs": "Runs",
    "/compare": "Comparison",
    "/places": "Places",
}


def page(
    title: str, *content: Child, here: str = "", refreshes: bool = False, guarded: bool = False
) -> str:
    """A whole page. ``guarded``: there is a login, hence a way out."""
    refresh = element("meta", http_equiv="refresh", content=REFRESH)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title} · mnagent rig"),
        element("link", rel="stylesheet", href="/static/rig.css"),
        element("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        element("script", src="/static/rig.js", defer=True),
        element("noscript", refresh) if refreshes else None,
    )
    links = [
        element("li", element("a", text, href=path, aria_current="page" if path == here else None))
        for path, text in NAVIGATION.items()
    ]
    leave = element(
        "form", element("button", "Log out"), method="post", action="/logout", class_="leave"
    )
    body = element(
        "body",
        element("a", "Skip to content", href="#content", class_="skip"),
        element(
            "header",
            element("p", "mnagent rig", class_="brand"),
            element("nav", element("ul", links), aria_label="Pages"),
            leave if guarded else None,
        ),
        element("main", element("h1", title), content, id="content", tabindex="-1"),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[Child]]) -> Markup:
    """A table that scrolls by itself where it is wider than the screen."""
    head = element("tr", [element("th", each, scope="col") for each in header])
    body = [
        element("tr", element("th", row[0], scope="row"), [element("td", each) for each in row[1:]])
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption),
            element("thead", head),
            element("tbody", body),
        ),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex="0",
    )


def outcome(entry: Entry) -> Markup:
    """How a run ended, in a word."""
    if entry.run is None:
        return element("span", "unreadable", class_="bad")
    if entry.running:
        return element("span", "running", class_="busy")
    if entry.run.succeeded is None:
        return element("span", "broken off", class_="bad")
    word, class_ = ("passed", "good") if entry.run.succeeded else ("failed", "bad")
    return element("span", word, class_=class_)


def _link(entry: Entry, text: str) -> Markup:
    return element("a", text, href=f"/runs/{quote(entry.name)}")


def _when(run: Run) -> Markup:
    shown = run.started_at.replace("T", " ").removesuffix("+00:00")
    return element("time", shown, datetime=run.started_at)


RUN_COLUMNS: Final = (
    "started (UTC)",
    "outcome",
    "scenario",
    "target",
    "commit",
    "handovers",
    "took",
)


def runs_table(entries: Iterable[Entry], caption: str = "Runs, the latest first") -> Markup:
    """A line each."""
    rows: list[tuple[Child, ...]] = []
    for entry in entries:
        run = entry.run
        if run is None:
            rows.append(
                (_link(entry, entry.name), outcome(entry), _words(entry.fault), "", "", "", "")
            )
            continue
        took = "" if run.succeeded is None else f"{run.seconds:.0f} s"
        count = len(run.handovers) if run.succeeded is not None else ""
        what = (run.scenario, run.target, run.commit, count, took)
        rows.append(
            (element("a", _when(run), href=f"/runs/{quote(entry.name)}"), outcome(entry), *what)
        )
    return table(caption, RUN_COLUMNS, rows)


def story(told: Story) -> Markup:
    """The live part: what a run does, or did."""
    shown = told.handovers[-SHOWN_HANDOVERS:]
    longest = max((max(each.phases.values(), default=0.0) for each in shown), default=0.0)
    lanes = [
        element(
            "figure",
            element("figcaption", f"{each.number}. {each.move}", class_="move"),
            handover_lane(each, longest),
        )
        for each in reversed(shown)
    ]
    return join(
        [
            element("h3", "Traffic"),
            element(
                "p",
                "Probes by when they left, red without an answer. Vertical lines: L2 events.",
                class_="note",
            ),
            element("figure", traffic_strip(told)),
            element("h3", "Handovers, the latest first"),
            element("p", "From the L2 event on, logarithmic: ", _legend(), class_="note"),
            lanes or element("p", "None yet."),
        ]
    )


LEGEND: Final = {
    "RS": "Router Solicitation sent",
    "RA": "Router Advertisement received",
    "CoA": "care-of address ready",
    "BU": "Binding Update sent",
    "BA": "Binding Acknowledgement received",
    "out": "first packet out",
    "in": "first packet in",
    "direct": "direct path in use",
    "all": "all traffic resumed",
}


def _legend() -> str:
    return "; ".join(f"{short}: {text}" for short, text in LEGEND.items()) + "."


def live_section(entry: Entry, told: Story, *, source: str) -> Markup:
    """A running run; the script keeps it up to date from ``source``."""
    run = entry.run
    assert run is not None
    return element(
        "section",
        element("h2", f"{run.scenario} on {run.target}"),
        element(
            "p",
            outcome(entry),
            " since ",
            _when(run),
            f", commit {run.commit}" if run.commit else "",
            ". ",
            element("span", told.now, data_status=True, role="status"),
        ),
        element("div", story(told), data_picture=True),
        data_live=source,
    )


def now_page(
    running: Sequence[tuple[Entry, Story]],
    past: Sequence[Entry],
    places: tuple[Sequence[Place], str],
    *,
    guarded: bool,
) -> str:
    """What goes on; ``places`` as `Places.find` gives them."""
    sections: list[Child] = [
        live_section(entry, told, source=f"/runs/{quote(entry.name)}/live")
        for entry, told in running
    ]
    if not running:
        sections = [
            element("p", "Nothing is running. ", element("span", data_status=True, role="status")),
        ]
    return page(
        "Now",
        element("div", sections, data_live="/live" if not running else None),
        element("h2", "Places"),
        places_list(*places),
        element("h2", "Latest results"),
        runs_table(past[:LATEST]) if past else element("p", "None yet: ", _hint()),
        here="/",
        refreshes=bool(running),
        guarded=guarded,
    )


def _hint() -> Markup:
    return join([element("code", "sudo mnagent demo"), " makes one."])


def places_list(places: Sequence[Place], fault: str) -> Markup:
    """Where scenarios can run, or why that is not known."""
    if fault:
        return element("p", fault, class_="bad")
    if not places:
        return element("p", "The coordinator knows none.")
    rows = [
        (each.name, _place_state(each), _words(each.kind), _words(each.detail)) for each in places
    ]
    return table("Places", ("place", "state", "kind", "about"), rows)


def _words(text: str) -> Markup:
    """In a cell of a table: a text that may take several lines."""
    return element("span", text, class_="words")


def _place_state(place: Place) -> Markup:
    return element("span", place.state, class_=place.mood)


def places_page(places: tuple[Sequence[Place], str], *, guarded: bool) -> str:
    """All places."""
    return page("Places", places_list(*places), here="/places", guarded=guarded)


def _choice(name: str, label: str, values: Iterable[str], chosen: str) -> Markup:
    options = [element("option", "all", value="")]
    options += [element("option", value, value=value, selected=value == chosen) for value in values]
    identifier = f"choice-{name}"
    return join(
        [
            element("label", label, for_=identifier),
            element("select", options, name=name, id=identifier),
        ]
    )


def runs_page(entries: Sequence[Entry], query: Mapping[str, str], *, guarded: bool) -> str:
    """The list, by scenario, target and outcome."""
    runs = [entry.run for entry in entries if entry.run is not None]
    fields = ("scenario", "target")
    chosen = {name: query.get(name, "") for name in fields}
    shown = [
        entry
        for entry in entries
        if all(
            not value or (entry.run is not None and getattr(entry.run, name) == value)
            for name, value in chosen.items()
        )
    ]
    start = (
        max(0, int(query["from"]))
        if query.get("from", "").isascii() and query.get("from", "").isdigit()
        else 0
    )
    choices = [
        _choice(name, name, sorted({getattr(run, name) for run in runs}), chosen[name])
        for name in fields
    ]
    form = element("form", choices, element("button", "Show"), method="get", class_="choices")
    part = shown[start : start + PAGE]
    return page(
        "Runs",
        form if runs else None,
        runs_table(part) if part else element("p", "There is none. ", _hint()),
        _pager(start, len(shown), chosen),
        here="/runs",
        guarded=guarded,
    )


def _pager(start: int, count: int, chosen: Mapping[str, str]) -> Markup | None:
    links = []
    for text, begin in (("Later runs", start - PAGE), ("Earlier runs", start + PAGE)):
        if -PAGE < begin < count:
            query = urlencode({**chosen, "from": max(0, begin)})
            links.append(element("a", text, href=f"/runs?{query}"))
    return element("nav", links, aria_label="More runs", class_="pager") if links else None


def run_page(entry: Entry, told: Story, *, guarded: bool) -> str:
    """One run: live while it runs, then its results."""
    run = entry.run
    if run is None:
        trouble = element("p", entry.fault, class_="bad")
        return page("A run that cannot be read", trouble, _files(entry), guarded=guarded)
    if entry.running:
        live = live_section(entry, told, source=f"/runs/{quote(entry.name)}/live")
        return page(
            f"{run.scenario} on {run.target}", live, _about(entry), refreshes=True, guarded=guarded
        )
    handovers = run.handovers or tuple(told.handovers)
    measured = Story((*told.steps, *told.traffic, *handovers))
    return page(
        f"{run.scenario} on {run.target}",
        element("p", outcome(entry), " ", element("span", run.error) if run.error else None),
        _about(entry),
        _verdicts(run.verdicts),
        element("p", _comparison_link(run)),
        element("h2", "Timeline"),
        story(measured),
        element("h2", "Phases"),
        handovers_table(handovers),
        _pictures(entry),
        element("h2", "Files"),
        _files(entry),
        guarded=guarded,
    )


def _comparison_link(run: Run) -> Markup:
    address = f"/compare?{urlencode({'series': run.series})}"
    return element("a", "Compare with other commits", href=address)


def _about(entry: Entry) -> Markup:
    run = entry.run
    assert run is not None
    image = {f"image {key}": value for key, value in (run.image or {}).items()}
    facts: dict[str, Child] = {
        "started": _when(run),
        "took": f"{run.seconds:.1f} s" if run.succeeded is not None else "",
        "commit": run.commit,
        "target": run.target,
        "board": run.board,
        "kernel": run.kernel,
        **run.settings,
        **run.facts,
        **{key: str(value) for key, value in image.items()},
    }
    pairs = [
        element("div", element("dt", name), element("dd", value))
        for name, value in facts.items()
        if value
    ]
    return element("dl", pairs)


def _verdicts(verdicts: Sequence[Verdict]) -> Markup | None:
    if not verdicts:
        return None
    items = []
    for each in sorted(verdicts, key=lambda one: one.held):
        word, class_ = ("held", "good") if each.held else ("did not hold", "bad")
        part = f"{each.part}: " if each.part else ""
        detail = element("span", f" ({each.detail})", class_="note") if each.detail else None
        items.append(
            element("li", element("span", word, class_=class_), f" {part}{each.claim}", detail)
        )
    return join([element("h2", "Verdicts"), element("ul", items, class_="verdicts")])


def handovers_table(handovers: Iterable[Handover]) -> Markup:
    """The numbers of the timeline."""
    rows = [
        (
            f"{each.number}. {each.move}",
            each.cause,
            *(_milliseconds(each.phases.get(phase)) for phase in PHASES),
            "-" if each.lost is None else each.lost,
        )
        for each in handovers
    ]
    header = ("handover", "cause", *PHASES.values(), "lost")
    return table("Handovers, milliseconds from the L2 event, and lost probes", header, rows)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _address(entry: Entry, name: str) -> str:
    return f"/runs/{quote(entry.name)}/files/{quote(name)}"


def _pictures(entry: Entry) -> Markup | None:
    pictures = [
        element(
            "figure",
            element("figcaption", path.stem),
            element(
                "img", src=_address(entry, path.name), alt=f"Picture: {path.stem}", loading="lazy"
            ),
        )
        for path in entry.files()
        if path.suffix in PICTURES
    ]
    return join([element("h2", "Pictures of the report"), pictures]) if pictures else None


def _files(entry: Entry) -> Markup:
    names = [path.name for path in entry.files()]
    names += [name for name in (RUN_FILE, LIVE_FILE) if entry.file(name) is not None]
    links = [element("li", element("a", name, href=_address(entry, name))) for name in names]
    return element("ul", links, class_="files")


def compare_page(comparison: Comparison, *, guarded: bool) -> str:
    """Median and 95th percentile of each phase, commit by commit."""
    if not comparison.kinds:
        return page(
            "Comparison",
            element("p", "There is no finished run yet. ", _hint()),
            here="/compare",
            guarded=guarded,
        )
    form = element(
        "form",
        _select("series", "runs of", comparison.kinds, comparison.series),
        _choice("handovers", "handovers", comparison.choices, comparison.chosen),
        element("button", "Compare"),
        method="get",
        class_="choices",
    )
    figures = [
        element(
            "figure",
            element("figcaption", LEGEND[short]),
            course(LEGEND[short], comparison.course(phase)),
        )
        for phase, short in PHASES.items()
        if any(each.median is not None for each in comparison.course(phase))
    ]
    return page(
        "Comparison",
        form,
        element(
            "p",
            "Milliseconds from the L2 event. Filled: median; hollow: 95th percentile.",
            class_="note",
        ),
        element("div", figures, class_="courses"),
        _commits_table(comparison),
        here="/compare",
        guarded=guarded,
    )


def _commits_table(comparison: Comparison) -> Markup:
    rows: list[tuple[Child, ...]] = [
        (
            each.commit,
            element("time", each.since[:10], datetime=each.since),
            f"{each.passed} of {each.runs}",
            each.handovers,
            *(_pair(each.spans(phase)) for phase in PHASES),
        )
        for each in reversed(comparison.columns)
    ]
    header = ("commit", "first run", "passed", "handovers", *PHASES.values())
    return table("Median / 95th percentile by commit, the latest first", header, rows)


def _pair(spans: tuple[float | None, float | None]) -> str:
    return "-" if spans[0] is None else " / ".join(_milliseconds(span) for span in spans)


def _select(name: str, label: str, values: Iterable[str], chosen: str) -> Markup:
    options = [element("option", value, value=value, selected=value == chosen) for value in values]
    identifier = f"choice-{name}"
    return join(
        [
            element("label", label, for_=identifier),
            element("select", options, name=name, id=identifier),
        ]
    )


def login_page(*, failed: bool) -> str:
    """Asks for the token."""
    trouble = "That is not the token." if failed else ""
    return page(
        "Log in",
        element("p", trouble, class_="bad", role="alert") if failed else None,
        element(
            "form",
            element("label", "Token, from the file that --token-file names", for_="token"),
            element(
                "input",
                type="password",
                name="token",
                id="token",
                required=True,
                autocomplete="current-password",
                autofocus=True,
            ),
            element("button", "Log in"),
            method="post",
            action="/login",
            class_="choices",
        ),
    )


def trouble_page(title: str, text: str) -> str:
    """Something could not be had."""
    return page(title, element("p", text))

"""What the links of a run carried: the captures, judged as those of the demo are.

They are made in the machine and read outside of it, where a processor is not emulated.
"""

from __future__ import annotations

from pathlib import Path

from mnagent.rig.capture import read_capture
from mnagent.rig.checks import LinkSummary, check_captures, summarize
from mnagent.rig.daemon import MOBILE_NODE_KEYS
from mnagent.rig.keyfile import Association, read_associations
from mnagent.rig.namespace import RigError
from mnagent.rig.topology import FOREIGN_PREFIXES, HOME_ADDRESS, HOME_AGENT
from mnagent.rig.wifi.bench import ACCESS_POINTS, CAPTIVE
from mnagent.rig.wifi.results import Claim, Outcome, Results

AIR = "air"
"""Name of the capture of radio frames, which is for people: all that matters there is encrypted."""


def visited(results: Results) -> set[str]:
    """The links where the station was on its own."""
    links = {ACCESS_POINTS["ap-1"].link}
    for outcome in results.outcomes:
        for roam in outcome.roams:
            links |= {ACCESS_POINTS[name].link for name in (roam.origin, roam.destination)}
    return links


def judge(folder: Path, links: set[str]) -> Outcome:
    """What must be true of the captures in a folder, on these links. Raises RigError when there are
    none."""
    files = {path.stem: path for path in sorted(folder.glob("*.pcap")) if path.stem != AIR}
    if missing := links - files.keys():
        raise RigError(f"no capture of {', '.join(sorted(missing))} in {folder}")
    summaries = {
        name: summarize(read_capture(path), home_address=HOME_ADDRESS, home_agent=HOME_AGENT)
        for name, path in files.items()
    }
    associations = read_associations(folder / MOBILE_NODE_KEYS)
    checks = check_captures(
        summaries,
        foreign={link: FOREIGN_PREFIXES[link] for link in sorted(links - {CAPTIVE})},
        associations=associations,
        payload_protection="none",
    )
    outcome = Outcome(name="captures", title="What the links carried, in captures of each")
    outcome.claims += [Claim(check.claim, check.held, check.detail) for check in checks]
    if CAPTIVE in links:
        outcome.claims += _captive_claims(summaries[CAPTIVE], associations)
    return outcome


def _captive_claims(link: LinkSummary, associations: list[Association]) -> list[Claim]:
    """Where nothing gets through, everything that the node tried can be seen."""
    spis = {one.outbound: one.spi for one in associations if one.purpose == "binding"}
    sent, answered = link.protected[spis[True]], link.protected[spis[False]]
    exposed = link.home_address_in_clear
    return [
        Claim(
            "Binding Updates under ESP on the captive link, and no answer",
            sent > 0 and not answered,
            f"{sent} sent, {answered} answered",
        ),
        Claim(
            "no packet from or to the home address outside the tunnel on the captive link",
            not exposed,
            f"{exposed} of them",
        ),
    ]

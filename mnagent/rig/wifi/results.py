"""What a run of scenarios found: values that travel as JSON from the machine to its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that must be true, and whether it was."""

    text: str
    held: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roam:
    """One change of access point. Instants are CLOCK_BOOTTIME seconds; None is what never came."""

    means: str
    """What made the station roam: ``command``, ``signal``, ..."""
    origin: str
    """Access points, by name."""
    destination: str
    changes_link: bool
    began_at: float
    """When the rig did what makes the station roam."""
    connected_at: float | None = None
    """When nl80211 told of the new association, to a witness of the rig's own."""
    link_up_at: float | None = None
    """When the link could be used, operational state and all, to another such witness."""
    noticed_at: float | None = None
    """When the agent told of the new access point."""
    access_point: str = ""
    """BSSID that the agent told."""
    solicited_at: float | None = None
    advertised_at: float | None = None
    care_of_address_at: float | None = None
    update_sent_at: float | None = None
    acknowledged_at: float | None = None
    updates: int = 0
    """Binding Updates sent."""
    care_of_addresses: tuple[str, ...] = ()
    """Care-of addresses those were about."""
    replies: tuple[float, ...] = ()
    """When the probes left that were answered, around the roam."""
    lost: tuple[float, ...] = ()
    """When the others left."""
    resumed_at: float | None = None
    """When the first answer came to a probe that left after the roam began and the last lost."""

    def since_connected(self, instant: float | None) -> float | None:
        """Milliseconds from the nl80211 event to an instant."""
        if instant is None or self.connected_at is None:
            return None
        return round((instant - self.connected_at) * 1000, 1)

    @property
    def registration_ms(self) -> float | None:
        """From the nl80211 event to the Binding Acknowledgement."""
        return self.since_connected(self.acknowledged_at)

    @property
    def from_link_up_ms(self) -> float | None:
        """From the link's being usable to the Binding Acknowledgement."""
        if self.acknowledged_at is None or self.link_up_at is None:
            return None
        return round((self.acknowledged_at - self.link_up_at) * 1000, 1)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one scenario."""

    name: str
    title: str
    seconds: float = 0.0
    claims: list[Claim] = field(default_factory=list)
    roams: list[Roam] = field(default_factory=list)
    error: str = ""
    """Why it could not be carried out."""

    @property
    def succeeded(self) -> bool:
        """Everything claimed was true."""
        return not self.error and bool(self.claims) and all(claim.held for claim in self.claims)


@dataclass(slots=True, kw_only=True)
class Results:
    """A whole run."""

    kernel: str = ""
    commit: str = ""
    seconds: float = 0.0
    """From boot to the end of the last scenario, on the machine's own clock."""
    host_seconds: float = 0.0
    """The same on the host's clock, which goes on while others have its processors."""
    host_load: float = 0.0
    """Processes that wanted a processor of the host meanwhile, this machine's one among them."""
    round_trips_ms: dict[str, float] = field(default_factory=dict)
    """Medians: ``access-router`` and ``home-agent``, from the station."""
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Every scenario did."""
        return bool(self.outcomes) and all(outcome.succeeded for outcome in self.outcomes)

    def as_record(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Results:
        """The reverse. Raises KeyError or TypeError for what is no such record."""
        outcomes = [
            Outcome(
                **{
                    **outcome,
                    "claims": [Claim(**claim) for claim in outcome["claims"]],
                    "roams": [_roam(roam) for roam in outcome["roams"]],
                }
            )
            for outcome in record["outcomes"]
        ]
        return cls(**{**record, "outcomes": outcomes})


def _roam(record: Mapping[str, Any]) -> Roam:
    lists = {name: tuple(record[name]) for name in ("care_of_addresses", "replies", "lost")}
    fields: dict[str, Any] = {**record, **lists}
    return Roam(**fields)


def median_of(values: list[float | None]) -> float | None:
    """The median of those that are there, None without any."""
    present = [value for value in values if value is not None]
    return round(median(present), 1) if present else None

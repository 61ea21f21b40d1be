"""What the mobile node does about a Binding Acknowledgement's status, said in a sentence."""

from __future__ import annotations

from typing import Final

from mnagent.wire.mobility import BindingStatus, status_sentence

FIRST_REJECTING_STATUS: Final = 128
"""Below it the binding was accepted (RFC 6275 6.1.8)."""

NO_BINDING_STATUSES: Final = frozenset(
    {
        BindingStatus.HOME_REGISTRATION_NOT_SUPPORTED,
        BindingStatus.NOT_HOME_SUBNET,
        BindingStatus.NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE,
    }
)
"""Refusals that tell a deregistering node that there is no binding left to delete."""

_REACTIONS: Final[dict[int, str]] = {
    BindingStatus.ADMINISTRATIVELY_PROHIBITED: "Ask its administrator; trying again later.",
    BindingStatus.HOME_REGISTRATION_NOT_SUPPORTED: (
        "Check the home agent's address in the configuration; trying again later."
    ),
    BindingStatus.NOT_HOME_SUBNET: (
        "Check the home address in the configuration of both ends; trying again later."
    ),
    BindingStatus.DUPLICATE_ADDRESS_DETECTION_FAILED: (
        "This home address is not used any more: free it there or choose another, and restart."
    ),
    BindingStatus.SEQUENCE_NUMBER_OUT_OF_WINDOW: "Sending again with a later one.",
}


def sentence_of(status: int) -> str:
    """What the status means and what follows, for people; also for a status this agent does not
    know."""
    sentence = status_sentence(status)
    if status < FIRST_REJECTING_STATUS:
        return sentence
    return f"{sentence} {_REACTIONS.get(status, 'Trying again later.')}"


def name_of(status: int) -> str:
    """The RFC's name in lower case with dashes, or the number."""
    try:
        return BindingStatus(status).name.lower().replace("_", "-")
    except ValueError:
        return str(status)

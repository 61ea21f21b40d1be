"""Lines of the control protocol."""

from __future__ import annotations

import json
from ipaddress import IPv6Address
from pathlib import Path

import msgspec
import pytest

from mnagent.control.schema import (
    ControlEvent,
    ErrorCode,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode,
    failure,
    result,
)


def test_request_round_trip() -> None:
    line = encode(Request(id=1, method="status"))
    assert line == b'{"id":1,"method":"status"}\n'
    assert decode_request(line) == Request(id=1, method="status")


def test_result_has_id_and_result_only() -> None:
    assert json.loads(encode(result(3, {}))) == {"id": 3, "result": {}}


def test_result_address_and_path_become_strings() -> None:
    line = encode(result(1, {"address": IPv6Address("2001:db8::1"), "path": Path("/run/x")}))
    assert json.loads(line)["result"] == {"address": "2001:db8::1", "path": "/run/x"}


def test_failure_without_request_has_id_null() -> None:
    assert json.loads(encode(failure(None, ErrorCode.TOO_LONG, "why"))) == {
        "id": None,
        "error": {"code": "too-long", "message": "why"},
    }


def test_event_stands_alone_in_its_line() -> None:
    event = ControlEvent(name="link-up", at=1.5, details={"interface": "eth0"})
    line = encode(Reply(event=event))
    assert json.loads(line) == {
        "event": {
            "name": "link-up",
            "at": 1.5,
            "details": {"interface": "eth0"},
            "warning": False,
        }
    }
    assert decode_reply(line).event == event
    assert decode_reply(line).id is msgspec.UNSET


@pytest.mark.parametrize(
    "line", [b"", b"x\n", b"[]\n", b'{"id":"1","method":"a"}', b'{"id":1,"method":"a","b":1}']
)
def test_request_that_is_none_raises_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_request(line)

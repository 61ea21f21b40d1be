"""Records, sequence numbers, saved settings."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from mnagent.core.security import Direction, EspMode, EspTransform, SecurityAssociation
from mnagent.runtime.sequences import (
    CONTROL_BLOCK,
    LAST_SEQUENCE,
    LEDGER_KEY,
    PAYLOAD_BLOCK,
    SequenceKeeper,
    record_key,
)
from mnagent.runtime.settings import SavedSettings
from mnagent.runtime.store import FileStore
from mnagent.system.datapath import FakeDatapath
from mnagent.system.kernel import FakeKernel
from mnagent.system.store import MemoryStore

CONTROL = SecurityAssociation(
    spi=256,
    direction=Direction.OUTBOUND,
    mode=EspMode.TRANSPORT,
    transform=EspTransform.AES_CBC_HMAC_SHA256_128,
    home_address=IPv6Address("2001:db8:1::10"),
    peer=IPv6Address("2001:db8:1::1"),
    encryption_key=bytes(16),
    integrity_key=bytes(32),
)
PAYLOAD = replace(CONTROL, spi=257, mode=EspMode.TUNNEL)
INBOUND = replace(CONTROL, spi=258, direction=Direction.INBOUND)


def test_file_store_keeps_records_over_restarts(tmp_path: Path) -> None:
    FileStore(tmp_path / "records").put("a.b:c-1", "5")
    FileStore(tmp_path / "records").put("a.b:c-1", "6")
    assert FileStore(tmp_path / "records").load() == {"a.b:c-1": "6"}


def test_file_store_is_private(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "records")
    store.put("key", "value")
    (file,) = (tmp_path / "records").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_file_store_ignores_what_a_crash_left(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("key", "old")
    (tmp_path / "key.record.new").write_text("half writ")
    assert FileStore(tmp_path).load() == {"key": "old"}
    assert not (tmp_path / "key.record.new").exists()


def test_file_store_with_a_damaged_record_shows_that_it_is_there(tmp_path: Path) -> None:
    FileStore(tmp_path)
    (tmp_path / f"{LEDGER_KEY}.record").write_bytes(b"00000100=7\xff\xfe")
    assert LEDGER_KEY in FileStore(tmp_path).load()
    with pytest.raises(ValueError, match="damaged"):
        SequenceKeeper(FileStore(tmp_path), FakeDatapath()).start([CONTROL])


def test_file_store_on_a_disk_that_takes_a_part_writes_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    really_write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: really_write(file, bytes(data)[:3]))
    store.put("key", "00000100=1234567")
    assert store.load() == {"key": "00000100=1234567"}


def test_file_store_on_a_full_disk_keeps_the_former_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path)
    store.put("key", "00000100=1234567")
    really_write, room = os.write, [4]

    def write(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "no room")
        room[0] -= (written := really_write(file, bytes(data)[: room[0]]))
        return written

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match=r"no room.*key\.record"):
        store.put("key", "00000100=2345678")
    assert store.load() == {"key": "00000100=1234567"}
    assert [path.name for path in tmp_path.iterdir()] == ["key.record"]


def test_file_store_refuses_a_key_that_is_a_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record key"):
        FileStore(tmp_path).put("../x", "1")


def kept(store: MemoryStore) -> dict[int, int]:
    """The numbers kept, by SPI."""
    pairs = (entry.split("=") for entry in store.records[LEDGER_KEY].split())
    return {int(spi, 16): int(number) for spi, number in pairs}


def test_sequences_are_reserved_before_use() -> None:
    store, datapath = MemoryStore(), FakeDatapath()
    SequenceKeeper(store, datapath).start([CONTROL, PAYLOAD, INBOUND])
    assert datapath.spis == {256: (1, 1 + CONTROL_BLOCK), 257: (1, 1 + PAYLOAD_BLOCK)}
    assert kept(store) == {256: 1 + CONTROL_BLOCK, 257: 1 + PAYLOAD_BLOCK}
    assert len(store.records) == 1


def test_sequences_after_a_crash_go_on_behind_the_block() -> None:
    store = MemoryStore()
    SequenceKeeper(store, FakeDatapath()).start([CONTROL])
    datapath = FakeDatapath()
    SequenceKeeper(store, datapath).start([CONTROL])
    assert datapath.spis[256][0] == 1 + CONTROL_BLOCK


def test_sequences_after_a_clean_stop_go_on_where_they_were() -> None:
    store, datapath = MemoryStore(), FakeDatapath()
    keeper = SequenceKeeper(store, datapath)
    keeper.start([CONTROL])
    datapath.protect(256, b"")
    keeper.stop()
    again = FakeDatapath()
    SequenceKeeper(store, again).start([CONTROL])
    assert again.spis[256][0] == 2


def test_sequences_reserve_more_when_half_a_block_is_left() -> None:
    store, datapath = MemoryStore(), FakeDatapath()
    keeper = SequenceKeeper(store, datapath)
    keeper.start([CONTROL])
    keeper.check()
    assert datapath.spis[256] == (1, 1 + CONTROL_BLOCK)
    used = CONTROL_BLOCK // 2 + 2
    datapath.spis[256] = (used, 1 + CONTROL_BLOCK)
    keeper.check()
    assert datapath.spis[256] == (used, used + CONTROL_BLOCK)
    assert kept(store) == {256: used + CONTROL_BLOCK}


def test_sequences_end_before_they_wrap() -> None:
    store, datapath = MemoryStore(), FakeDatapath()
    store.put(record_key(256), str(LAST_SEQUENCE - 1))
    keeper = SequenceKeeper(store, datapath)
    keeper.start([CONTROL])
    assert datapath.spis[256] == (LAST_SEQUENCE - 1, LAST_SEQUENCE)
    keeper.check()
    assert datapath.spis[256][1] == LAST_SEQUENCE


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (LEDGER_KEY, "x"),
        (LEDGER_KEY, "100=1=2"),
        (LEDGER_KEY, ""),
        (LEDGER_KEY, "100=0"),
        (LEDGER_KEY, f"100={LAST_SEQUENCE + 1}"),
        (record_key(256), "x"),
    ],
)
def test_sequences_with_a_damaged_record_refuse_to_start(key: str, value: str) -> None:
    store = MemoryStore()
    store.put(key, value)
    with pytest.raises(ValueError, match="damaged"):
        SequenceKeeper(store, FakeDatapath()).start([CONTROL])


def test_sequences_kept_the_former_way_are_gone_on_with() -> None:
    store, datapath = MemoryStore(), FakeDatapath()
    store.put(record_key(256), "9000")
    SequenceKeeper(store, datapath).start([CONTROL])
    assert datapath.spis[256] == (9000, 9000 + CONTROL_BLOCK)


def test_sequences_of_an_association_that_went_and_came_go_on_behind_the_block() -> None:
    store, datapath = MemoryStore(), FakeDatapath()
    keeper = SequenceKeeper(store, datapath)
    keeper.start([CONTROL, PAYLOAD])
    datapath.spis[256] = (77, 1 + CONTROL_BLOCK)
    keeper.retire([256, 999])
    assert kept(store) == {256: 1 + CONTROL_BLOCK, 257: 1 + PAYLOAD_BLOCK}
    keeper.start([CONTROL])
    assert datapath.spis[256] == (1 + CONTROL_BLOCK, 1 + 2 * CONTROL_BLOCK)


def test_sequences_of_an_association_that_goes_need_no_room_on_the_disk() -> None:
    class FullStore(MemoryStore):
        is_full = False

        def put(self, key: str, value: str) -> None:
            if self.is_full:
                raise OSError(errno.ENOSPC, "no room")
            super().put(key, value)

    store, datapath = FullStore(), FakeDatapath()
    keeper = SequenceKeeper(store, datapath)
    keeper.start([CONTROL, PAYLOAD])
    store.is_full = True
    keeper.retire([256])
    keeper.check()
    assert datapath.spis[256] == (1, 1 + CONTROL_BLOCK)


def settings(kernel: FakeKernel, journal: Path, boot: str = "boot-1") -> SavedSettings:
    return SavedSettings(kernel, journal, boot_identifier=boot)


def test_settings_are_restored_and_the_journal_goes(tmp_path: Path) -> None:
    kernel, journal = FakeKernel(), tmp_path / "settings.json"
    kernel.settings = {"a": "1", "b": "0"}
    saved = settings(kernel, journal)
    saved.set("a", "0")
    saved.set("a", "2")
    saved.set("b", "0")
    assert saved.originals == {"a": "1"}
    assert journal.exists()
    saved.restore()
    assert kernel.settings == {"a": "1", "b": "0"}
    assert not journal.exists()


def test_settings_of_a_killed_run_are_known_to_the_next(tmp_path: Path) -> None:
    kernel, journal = FakeKernel(), tmp_path / "settings.json"
    kernel.settings = {"a": "1"}
    settings(kernel, journal).set("a", "0")
    again = settings(kernel, journal)
    again.set("a", "0")
    again.restore()
    assert kernel.settings == {"a": "1"}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"boot": "boot-0", "settings": {"a": "9"}}'])
def test_settings_journal_of_another_boot_or_damaged_is_ignored(
    tmp_path: Path, content: str
) -> None:
    journal = tmp_path / "settings.json"
    journal.write_text(content)
    assert settings(FakeKernel(), journal).originals == {}


def test_settings_that_cannot_be_restored_do_not_stop_the_others(tmp_path: Path) -> None:
    class Picky(FakeKernel):
        def write_setting(self, name: str, value: str) -> None:
            if name == "gone" and value == "1":
                raise FileNotFoundError(errno.ENOENT, "no such file")
            if name == "refused" and value == "1":
                raise PermissionError(errno.EPERM, "refused")
            super().write_setting(name, value)

    kernel = Picky()
    kernel.settings = {"gone": "1", "refused": "1", "a": "1"}
    saved = settings(kernel, tmp_path / "settings.json")
    for name in ("gone", "refused", "a"):
        saved.set(name, "0")
    saved.restore()
    assert kernel.settings["a"] == "1"

"""Change notification between real workers, and of what local programs do: which filter hears what, and how a wait ends."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.dtyp.sddl import parse_sddl
from smbd.smb2.messages import directory
from tests.server import Server
from tests.wire_client import FileId, Request, Response, WireClient, notify_body

BASIC, RENAME, LINK, DISPOSITION, EAS, END_OF_FILE = 4, 10, 11, 13, 15, 20
FILE_NAME, DIR_NAME, ATTRIBUTES, SIZE, LAST_WRITE, LAST_ACCESS, CREATION, EA, SECURITY, STREAM_NAME, STREAM_SIZE, STREAM_WRITE = (
    1 << bit for bit in range(12)
)
EVERYTHING = 0xFFF
ADDED, REMOVED, MODIFIED, OLD, NEW, ADDED_STREAM, REMOVED_STREAM, MODIFIED_STREAM = range(1, 9)
DIRECTORY: dict[str, Any] = {"options": c.FILE_DIRECTORY_FILE}
LISTING: dict[str, Any] = {**DIRECTORY, "access": 0x120089}
Event = tuple[int, str]


def events(answer: Response) -> list[Event]:
    """[MS-FSCC] 2.7.1."""
    fields = answer.parse(directory.CHANGE_NOTIFY_RESPONSE)
    raw = answer.part(fields.output_buffer_offset, fields.output_buffer_length)
    found: list[Event] = []
    at = 0
    while True:
        following, action, length = struct.unpack_from("<III", raw, at)
        found.append((action, raw[at + 12 : at + 12 + length].decode("utf-16-le")))
        if not following:
            return found
        at += following


class Watch(NamedTuple):
    """``watcher`` watches the directory ``name``, which is ``folder`` on disk; ``actor`` is another client."""

    watcher: WireClient
    actor: WireClient
    name: str
    folder: Path

    def begin(self, mask: int = EVERYTHING, flags: int = 0, opened: FileId | None = None, size: int = 4096) -> tuple[FileId, int]:
        """Wait for a change; the directory's open and the request."""
        held = opened or self.watcher.open(self.name, **LISTING)
        (message_id,) = self.watcher.send(Request(Command.CHANGE_NOTIFY, notify_body(held, mask, flags, size)))
        assert self.watcher.receive(message_id, interim=True).status == status.PENDING
        return held, message_id

    def heard(self, waiting: tuple[FileId, int], *last: Event) -> list[Event]:
        """What comes until all of ``last`` have."""
        held, message_id = waiting
        found = events(self.watcher.receive(message_id))
        while not set(last) <= set(found):
            (message_id,) = self.watcher.send(Request(Command.CHANGE_NOTIFY, notify_body(held, EVERYTHING)))
            found += events(self.watcher.receive(message_id))
        return found


@pytest.fixture
def watch(server: Server, request: pytest.FixtureRequest) -> Iterator[Watch]:
    name = request.node.name.replace("[", " ").rstrip("]")[:80]
    with server.client() as watcher, server.client() as actor:
        actor.close(actor.open(name, **DIRECTORY))
        yield Watch(watcher, actor, name, server.share / name)


def info(client: WireClient, name: str, info_class: int, data: bytes) -> None:
    held = client.open(name)
    assert client.set_info(held, c.INFO_FILE, info_class, data).status == status.SUCCESS
    client.close(held)


def secure(client: WireClient, name: str) -> None:
    held = client.open(name)
    assert client.set_info(held, c.INFO_SECURITY, 0, parse_sddl("D:(A;;FA;;;WD)").pack(), 4).status == status.SUCCESS
    client.close(held)


def basic(**changes: int) -> bytes:
    fields = {"created": 0, "accessed": 0, "written": 0, "changed": 0, "attributes": 0} | changes
    return struct.pack("<QQQQII", *fields.values(), 0)


def target(name: str) -> bytes:
    raw = name.encode("utf-16-le")
    return bytes(16) + len(raw).to_bytes(4, "little") + raw


def write(client: WireClient, name: str) -> None:
    held = client.open(name)
    client.write(held, 0, b"data")
    client.close(held)


Deed = Callable[[WireClient, str], None]
TIME = 131_000_000_000_000_000
DEEDS: dict[str, tuple[Deed, int, set[Event]]] = {
    "a new file": (lambda w, at: w.close(w.open(f"{at}\\new")), FILE_NAME, {(ADDED, "new")}),
    "a new directory": (lambda w, at: w.close(w.open(f"{at}\\new", **DIRECTORY)), DIR_NAME, {(ADDED, "new")}),
    "a deletion": (lambda w, at: info(w, f"{at}\\file", DISPOSITION, b"\1"), FILE_NAME, {(REMOVED, "file")}),
    "a directory's deletion": (lambda w, at: info(w, f"{at}\\folder", DISPOSITION, b"\1"), DIR_NAME, {(REMOVED, "folder")}),
    "a rename": (lambda w, at: info(w, f"{at}\\file", RENAME, target(f"{at}\\b")), FILE_NAME, {(OLD, "file"), (NEW, "b")}),
    "a directory's": (lambda w, at: info(w, f"{at}\\folder", RENAME, target(f"{at}\\b")), DIR_NAME, {(OLD, "folder"), (NEW, "b")}),
    "away": (lambda w, at: info(w, f"{at}\\file", RENAME, target(f"{at} away")), FILE_NAME, {(REMOVED, "file")}),
    "a link": (lambda w, at: info(w, f"{at}\\file", LINK, target(f"{at}\\link")), FILE_NAME, {(ADDED, "link")}),
    "attributes": (lambda w, at: info(w, f"{at}\\file", BASIC, basic(attributes=2)), ATTRIBUTES, {(MODIFIED, "file")}),
    "a length": (lambda w, at: info(w, f"{at}\\file", END_OF_FILE, struct.pack("<Q", 99)), SIZE | LAST_WRITE, {(MODIFIED, "file")}),
    "a write": (lambda w, at: write(w, f"{at}\\file"), SIZE | LAST_WRITE, {(MODIFIED, "file")}),
    "a time of writing": (lambda w, at: info(w, f"{at}\\file", BASIC, basic(written=TIME)), LAST_WRITE, {(MODIFIED, "file")}),
    "a time of reading": (lambda w, at: info(w, f"{at}\\file", BASIC, basic(accessed=TIME)), LAST_ACCESS, {(MODIFIED, "file")}),
    "a time of birth": (lambda w, at: info(w, f"{at}\\file", BASIC, basic(created=TIME)), CREATION, {(MODIFIED, "file")}),
    "an attribute": (
        lambda w, at: info(w, f"{at}\\file", EAS, struct.pack("<IBBH", 0, 0, 1, 1) + b"A\0v"), EA, {(MODIFIED, "file")},
    ),
    "a descriptor": (lambda w, at: secure(w, f"{at}\\file"), SECURITY, {(MODIFIED, "file")}),
    "a new stream": (lambda w, at: w.close(w.open(f"{at}\\file:new")), STREAM_NAME, {(ADDED_STREAM, "file:new")}),
    "a stream's end": (lambda w, at: info(w, f"{at}\\file:stream", DISPOSITION, b"\1"), STREAM_NAME, {(REMOVED_STREAM, "file:stream")}),
    "a stream's length": (
        lambda w, at: info(w, f"{at}\\file:stream", END_OF_FILE, struct.pack("<Q", 9)),
        STREAM_SIZE | STREAM_WRITE, {(MODIFIED_STREAM, "file:stream")},
    ),
    "a stream's content": (lambda w, at: write(w, f"{at}\\file:stream"), STREAM_SIZE | STREAM_WRITE, {(MODIFIED_STREAM, "file:stream")}),
}  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS)
def test_who_asked_hears_of_it(watch: Watch, deed: str) -> None:
    """Each filter that a deed counts as hears of it, and no other: those hear first of what is done afterwards."""
    act, counts_as, expected = DEEDS[deed]
    actor, name = watch.actor, watch.name
    actor.close(actor.open(f"{name}\\file:stream"))
    actor.close(actor.open(f"{name}\\folder", **DIRECTORY))
    asked = [bit for bit in (1 << number for number in range(12)) if counts_as & bit]
    waiting = [watch.begin(bit) for bit in asked]
    others = watch.begin(EVERYTHING & ~counts_as & ~(ATTRIBUTES | CREATION if deed == "a rename" else 0))
    act(actor, name)
    actor.close(actor.open(f"{name}\\last", **({} if counts_as & DIR_NAME else DIRECTORY)))
    for one in waiting:
        found: set[Event] = set()
        held, message_id = one
        found |= set(events(watch.watcher.receive(message_id)))
        while not expected <= found:
            (message_id,) = watch.watcher.send(Request(Command.CHANGE_NOTIFY, notify_body(held, EVERYTHING)))
            found |= set(events(watch.watcher.receive(message_id)))
        assert found == expected
    assert events(watch.watcher.receive(others[1])) == [(ADDED, "last")]


def test_who_watches_attributes_hears_of_a_files_new_name(watch: Watch) -> None:
    actor, name = watch.actor, watch.name
    actor.close(actor.open(f"{name}\\file"))
    actor.close(actor.open(f"{name}\\folder", **DIRECTORY))
    attributes, both = watch.begin(ATTRIBUTES), watch.begin(CREATION | FILE_NAME)
    info(actor, f"{name}\\folder", RENAME, target(f"{name}\\other"))
    info(actor, f"{name}\\file", RENAME, target(f"{name}\\new"))
    assert events(watch.watcher.receive(attributes[1])) == [(MODIFIED, "new")]
    assert set(events(watch.watcher.receive(both[1]))) <= {(OLD, "file"), (NEW, "new")}


def test_the_first_filter_holds(watch: Watch) -> None:
    held, message_id = watch.begin(DIR_NAME)
    watch.actor.close(watch.actor.open(f"{watch.name}\\first", **DIRECTORY))
    assert events(watch.watcher.receive(message_id)) == [(ADDED, "first")]
    _, message_id = watch.begin(0, opened=held)
    watch.actor.close(watch.actor.open(f"{watch.name}\\file"))
    watch.actor.close(watch.actor.open(f"{watch.name}\\second", **DIRECTORY))
    assert events(watch.watcher.receive(message_id)) == [(ADDED, "second")]
    assert watch.watcher.call(Command.CHANGE_NOTIFY, notify_body(watch.watcher.open(watch.name, **LISTING), 0)).status == (
        status.INVALID_PARAMETER
    )


def test_beneath_is_for_who_asked_for_the_tree(watch: Watch) -> None:
    actor, name = watch.actor, watch.name
    actor.close(actor.open(f"{name}\\one", **DIRECTORY))
    actor.close(actor.open(f"{name}\\one\\two", **DIRECTORY))
    deep, flat = watch.begin(flags=c.WATCH_TREE), watch.begin()
    actor.close(actor.open(f"{name}\\one\\two\\three"))
    actor.close(actor.open(f"{name}\\last"))
    assert (ADDED, "one\\two\\three") in watch.heard(deep, (ADDED, "last"))
    assert watch.heard(flat, (ADDED, "last")) == [(ADDED, "last")]


def test_more_than_there_is_room_for_has_to_be_enumerated(watch: Watch) -> None:
    held, message_id = watch.begin(FILE_NAME, size=64)
    watch.watcher.cancel(message_id)
    assert watch.watcher.receive(message_id).status == status.CANCELLED
    for number in range(10):
        watch.actor.close(watch.actor.open(f"{watch.name}\\{number:020}"))
    watch.actor.close(watch.actor.open(f"{watch.name} sentinel", **DIRECTORY))
    answer = watch.watcher.call(Command.CHANGE_NOTIFY, notify_body(held, FILE_NAME, 0, 64))
    assert answer.status == status.NOTIFY_ENUM_DIR
    assert not answer.parse(directory.CHANGE_NOTIFY_RESPONSE).output_buffer_length


@pytest.mark.parametrize("end", ["close", "tree", "logoff"])
def test_the_end_of_what_it_belongs_to_is_the_end_of_a_wait(watch: Watch, end: str) -> None:
    held, message_id = watch.begin()
    {"close": lambda: watch.watcher.close(held), "tree": watch.watcher.tree_disconnect, "logoff": watch.watcher.logoff}[end]()
    assert watch.watcher.receive(message_id).status == status.NOTIFY_CLEANUP


@pytest.mark.parametrize("initially", [False, True])
def test_the_deletion_of_the_watched_directory_is_the_end_of_a_wait(watch: Watch, initially: bool) -> None:
    held, message_id = watch.begin()
    if initially:
        watch.actor.close(watch.actor.open(watch.name, options=c.FILE_DIRECTORY_FILE | c.FILE_DELETE_ON_CLOSE))
    else:
        info(watch.actor, watch.name, DISPOSITION, b"\1")
    assert watch.watcher.receive(message_id).status == status.DELETE_PENDING
    assert watch.watcher.call(Command.CHANGE_NOTIFY, notify_body(held, EVERYTHING)).status == status.DELETE_PENDING
    watch.watcher.close(held)
    assert not watch.folder.exists()


def test_local_programs_may_be_left_out(make_server: Callable[..., Server]) -> None:
    server = make_server(settings={"kernel change notify": "no"})
    with server.client() as one, server.client() as two:
        held = one.open("", **LISTING)
        (message_id,) = one.send(Request(Command.CHANGE_NOTIFY, notify_body(held, EVERYTHING)))
        assert one.receive(message_id, interim=True).status == status.PENDING
        (server.share / "local").touch()
        two.close(two.open("ours"))
        assert (ADDED, "local") not in events(one.receive(message_id))


LOCAL: dict[str, tuple[Callable[[Path], Any], set[Event]]] = {
    "touch": (lambda at: (at / "new").touch(), {(ADDED, "new")}),
    "mkdir": (lambda at: (at / "new").mkdir(), {(ADDED, "new")}),
    "rm": (lambda at: (at / "file").unlink(), {(REMOVED, "file")}),
    "mv": (lambda at: (at / "file").rename(at / "moved"), {(OLD, "file"), (NEW, "moved")}),
    "mv away": (lambda at: (at / "file").rename(at.parent / f"{at.name} away"), {(REMOVED, "file")}),
    "mv here": (lambda at: (at.parent / "from elsewhere").rename(at / "here"), {(ADDED, "here")}),
    "write": (lambda at: (at / "file").write_text("other"), {(MODIFIED, "file")}),
    "chmod": (lambda at: (at / "file").chmod(0o640), {(MODIFIED, "file")}),
    "utime": (lambda at: os.utime(at / "file", (1, 1)), {(MODIFIED, "file")}),
    "setxattr": (lambda at: os.setxattr(at / "file", "user.colour", b"red"), {(MODIFIED, "file")}),
}


@pytest.mark.parametrize("deed", LOCAL)
def test_what_local_programs_do_is_heard(watch: Watch, deed: str) -> None:
    act, expected = LOCAL[deed]
    (watch.folder / "file").write_text("x")
    (watch.folder.parent / "from elsewhere").write_text("x")
    _until_watched(watch)
    waiting = watch.begin()
    act(watch.folder)
    (watch.folder / "last").touch()
    found = {event for event in watch.heard(waiting, (ADDED, "last"), *expected) if not event[1].startswith("probe")}
    assert {name for _, name in found} == {name for _, name in expected} | {"last"}


def _until_watched(watch: Watch) -> None:
    """The broker follows the table of watchers once a second, and what is there then is no news: until a probe is heard of."""
    _, message_id = watch.begin()
    for number in range(200):
        (watch.folder / f"probe {number}").touch()
        watch.watcher.transport.socket.settimeout(0.2)  # type: ignore[attr-defined]  # a client on a real socket
        try:
            watch.watcher.receive(message_id)
        except TimeoutError:
            continue
        finally:
            watch.watcher.transport.socket.settimeout(20)  # type: ignore[attr-defined]
        return
    raise AssertionError("nothing that a local program does is heard of")

"""Directory leases between real workers: what another client does in a directory is told to whoever caches its listing.

That something breaks nothing is seen from the epoch of the break that follows: it counts every change of the lease.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import control
from smbd.smb2.messages.create_contexts import LEASE, LEASE_V2, REQUEST_LEASE
from tests.process.test_oplocks import acknowledge_lease, begin, file_id_of, lease_of, level_of, notification
from tests.server import Server
from tests.wire_client import FileId, Offer, Request, WireClient, notify_body

R, RH, RW, RWH = 1, 3, 5, 7
FOLDER, FILE, STRANGER = b"D" * 16, b"F" * 16, b"S" * 16
BASIC, RENAME, LINK, DISPOSITION, END_OF_FILE = 4, 10, 11, 13, 20
READ_WRITE = 0x12019F
DIRECTORY: dict[str, Any] = {"options": c.FILE_DIRECTORY_FILE, "access": 0x120089}


def leased(key: bytes, state: int, parent: bytes = b"", epoch: int = 0) -> dict[str, Any]:
    flags = c.LEASE_FLAG_PARENT_LEASE_KEY_SET if parent else 0
    context = LEASE_V2.pack(key, state, flags, 0, parent or bytes(16), epoch, 0)
    return {"oplock": c.OPLOCK_LEVEL_LEASE, "contexts": [(REQUEST_LEASE, context)]}


def name_of(target: str) -> bytes:
    raw = target.encode("utf-16-le")
    return bytes(16) + len(raw).to_bytes(4, "little") + raw


class Scene(NamedTuple):
    """``holder`` caches the directory ``folder``, which it has open as ``held``; ``actor`` is another client."""

    holder: WireClient
    actor: WireClient
    folder: str
    held: FileId

    def told(self, epoch: int, current: int = RH, left: int = 0) -> None:
        """The next break of the directory's lease, acknowledged."""
        fields = notification(self.holder).parse(control.LEASE_BREAK_NOTIFICATION)
        assert (fields.lease_key, fields.current_lease_state, fields.new_lease_state) == (FOLDER, current, left)
        assert fields.new_epoch == epoch
        if current != R:
            assert acknowledge_lease(self.holder, FOLDER, left).status == status.SUCCESS

    def rearm(self, epoch: int) -> None:
        """Cache the listing again."""
        answer = self.holder.create(self.folder, **DIRECTORY, **leased(FOLDER, RH, epoch=epoch))
        assert (lease_of(answer).lease_state, lease_of(answer).epoch) == (RH, epoch + 1)
        self.holder.close(file_id_of(answer))


@pytest.fixture
def scene(server: Server, request: pytest.FixtureRequest) -> Iterator[Scene]:
    folder = request.node.name.replace("[", " ").rstrip("]")[:80]
    with server.client() as holder, server.client() as actor:
        answer = holder.create(folder, **DIRECTORY, **leased(FOLDER, RWH))
        assert level_of(answer) == c.OPLOCK_LEVEL_LEASE
        assert (lease_of(answer).lease_state, lease_of(answer).epoch) == (RH, 1)
        yield Scene(holder, actor, folder, file_id_of(answer))


@pytest.mark.parametrize(("asked", "granted"), [(RWH, RH), (RW, R), (RH, RH), (R, R), (2, 0), (0, 0)])
def test_a_directory_is_never_cached_for_writing(server: Server, asked: int, granted: int) -> None:
    with server.client() as one:
        answer = one.create(f"asked {asked}", **DIRECTORY, **leased(FOLDER, asked))
        assert (lease_of(answer).lease_state if level_of(answer) == c.OPLOCK_LEVEL_LEASE else 0) == granted


def test_oplocks_and_older_leases_are_for_files(server: Server) -> None:
    version_1 = {"oplock": c.OPLOCK_LEVEL_LEASE, "contexts": [(REQUEST_LEASE, LEASE.pack(FOLDER, RH, 0, 0))]}
    with server.client() as new, server.client(offer=Offer(dialects=(0x0210,))) as old:
        for level in (c.OPLOCK_LEVEL_II, c.OPLOCK_LEVEL_EXCLUSIVE, c.OPLOCK_LEVEL_BATCH):
            assert level_of(new.create("folder", oplock=level, **DIRECTORY)) == c.OPLOCK_LEVEL_NONE
        assert level_of(new.create("folder", **DIRECTORY, **version_1)) == c.OPLOCK_LEVEL_NONE
        assert level_of(old.create("folder", **DIRECTORY, **version_1)) == c.OPLOCK_LEVEL_NONE
        assert new.negotiated.capabilities & c.CAP_DIRECTORY_LEASING
        assert not old.negotiated.capabilities & c.CAP_DIRECTORY_LEASING


def test_a_server_that_grants_none_says_so(make_server: Callable[..., Server]) -> None:
    with make_server(settings={"smb3 directory leases": "no"}).client() as one:
        assert not one.negotiated.capabilities & c.CAP_DIRECTORY_LEASING
        assert level_of(one.create("folder", **DIRECTORY, **leased(FOLDER, RH))) == c.OPLOCK_LEVEL_NONE
        assert level_of(one.create("file", **leased(FILE, RH))) == c.OPLOCK_LEVEL_LEASE


def test_a_new_file_breaks_it_unless_its_creator_knows(scene: Scene) -> None:
    holder, actor, folder, _ = scene
    # The key alone decides, whichever client names it.
    for client in (holder, actor):
        client.close(client.open(f"{folder}\\known to {client is actor}", **leased(FILE, RWH, FOLDER)))
    assert actor.create(f"{folder}\\unknown").status == status.SUCCESS
    scene.told(2)
    scene.rearm(2)
    holder.close(holder.open(f"{folder}\\our own but unnamed"))
    scene.told(4)
    scene.rearm(4)
    actor.close(actor.open(f"{folder}\\below", **DIRECTORY))
    scene.told(6)


def test_a_listing_without_handles_ends_without_an_acknowledgement(server: Server) -> None:
    with server.client() as one, server.client() as two:
        one.create("listed", **DIRECTORY, **leased(FOLDER, R))
        two.create("listed\\file")
        fields = notification(one).parse(control.LEASE_BREAK_NOTIFICATION)
        assert (fields.current_lease_state, fields.new_lease_state, fields.flags) == (R, 0, 0)
        assert acknowledge_lease(one, FOLDER, 0).status == status.UNSUCCESSFUL


def test_what_was_written_is_told_when_the_file_is_closed(scene: Scene) -> None:
    _, actor, folder, _ = scene
    known = actor.open(f"{folder}\\file", **leased(FILE, RWH, FOLDER))
    actor.write(known, 0, b"more")
    actor.close(known)
    unknown = actor.open(f"{folder}\\file")
    actor.read_data(unknown, 0, 4)
    actor.close(unknown)
    written = actor.open(f"{folder}\\file")
    for turn in range(3):
        actor.write(written, turn, b"x")
    actor.close(written)
    scene.told(2)


@pytest.mark.parametrize(
    ("info_class", "data"),
    [
        (END_OF_FILE, struct.pack("<Q", 100)),
        (BASIC, struct.pack("<QQQQII", 0, 0, 0, 0, c.FILE_ATTRIBUTE_HIDDEN, 0)),
        (BASIC, struct.pack("<QQQQII", 1 << 56, 0, 0, 0, 0, 0)),
        (BASIC, struct.pack("<QQQQII", 0, 1 << 56, 0, 0, 0, 0)),
        (BASIC, struct.pack("<QQQQII", 0, 0, 1 << 56, 0, 0, 0)),
        (BASIC, struct.pack("<QQQQII", 0, 0, 0, 1 << 56, 0, 0)),
    ],
    ids=["length", "attributes", "created", "read", "written", "changed"],
)
def test_what_a_listing_shows_is_told_when_it_is_set(scene: Scene, info_class: int, data: bytes) -> None:
    _, actor, folder, _ = scene
    known = actor.open(f"{folder}\\file", **leased(FILE, RWH, FOLDER))
    assert actor.set_info(known, c.INFO_FILE, info_class, data).status == status.SUCCESS
    actor.close(known)
    unknown = actor.open(f"{folder}\\file", **leased(FILE, RWH, STRANGER))
    assert actor.set_info(unknown, c.INFO_FILE, info_class, data).status == status.SUCCESS
    scene.told(2)
    scene.rearm(2)
    actor.close(unknown)  # has told already
    assert actor.create(f"{folder}\\other").status == status.SUCCESS
    scene.told(4)


def test_an_overwrite_is_told(scene: Scene) -> None:
    _, actor, folder, _ = scene
    actor.close(actor.open(f"{folder}\\file", **leased(FILE, RWH, FOLDER)))
    actor.close(actor.open(f"{folder}\\file", disposition=c.FILE_OVERWRITE))
    scene.told(2)


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("parent", [b"", FOLDER, STRANGER])
def test_a_rename_is_told_where_a_name_goes_and_where_one_comes(scene: Scene, parent: bytes, across: bool) -> None:
    _, actor, folder, _ = scene
    elsewhere = actor.open(f"{folder} elsewhere", **DIRECTORY)
    actor.close(elsewhere)
    moved = actor.open(f"{folder}\\file", **leased(FILE, RWH, FOLDER))
    actor.close(moved)
    moved = actor.open(f"{folder}\\file", **leased(FILE, RWH, parent))
    target = f"{folder} elsewhere\\moved" if across else f"{folder}\\moved"
    assert actor.set_info(moved, c.INFO_FILE, RENAME, name_of(target)).status == status.SUCCESS
    if parent != FOLDER:
        scene.told(2)
        scene.rearm(2)
    # and back: now the directory is where a name comes to
    assert actor.set_info(moved, c.INFO_FILE, RENAME, name_of(f"{folder}\\back")).status == status.SUCCESS
    if parent == FOLDER:
        assert actor.create(f"{folder}\\unknown").status == status.SUCCESS
    scene.told(2 if parent == FOLDER else 4)


def test_a_second_name_is_told_where_it_comes(scene: Scene) -> None:
    _, actor, folder, _ = scene
    linked = actor.open(f"{folder} source")
    assert actor.set_info(linked, c.INFO_FILE, LINK, name_of(f"{folder}\\second")).status == status.SUCCESS
    scene.told(2)


@pytest.mark.parametrize("initially", [False, True])
@pytest.mark.parametrize("by_the_last", [False, True])
def test_a_deletion_is_told_but_to_whom_it_is_due(scene: Scene, by_the_last: bool, initially: bool) -> None:
    """The open that asked for it and is the last to close has named the directory's key: then its holder knows."""
    _, actor, folder, _ = scene
    names = {"a": f"{folder}\\file"}
    options = {"options": c.FILE_DELETE_ON_CLOSE} if initially else {}
    asking = actor.open(names["a"], **leased(FILE, R, FOLDER), **options)
    other = actor.open(names["a"], **leased(STRANGER, R, FOLDER))
    if not initially:
        assert actor.set_info(asking, c.INFO_FILE, DISPOSITION, b"\1").status == status.SUCCESS
    for held in (other, asking) if by_the_last else (asking, other):
        actor.close(held)
    if by_the_last:
        assert actor.create(f"{folder}\\unknown").status == status.SUCCESS
    scene.told(2)


def test_what_stands_against_sharing_is_told_to_close_its_handles(scene: Scene) -> None:
    holder, actor, folder, _ = scene
    waiting = begin(actor, folder, share=0, **DIRECTORY)
    scene.told(2, RH, R)
    assert actor.receive(waiting).status == status.SHARING_VIOLATION
    scene.rearm(2)
    waiting = begin(actor, folder, share=0, **DIRECTORY)
    fields = notification(holder).parse(control.LEASE_BREAK_NOTIFICATION)
    assert (fields.current_lease_state, fields.new_lease_state, fields.new_epoch) == (RH, R, 4)
    holder.close(scene.held)
    assert actor.receive(waiting).status == status.SUCCESS


@pytest.mark.isolation
def test_a_deletion_by_a_process_that_died_is_told(server: Server) -> None:
    with server.client() as holder:
        answer = holder.create("swept", **DIRECTORY, **leased(FOLDER, RH))
        assert lease_of(answer).lease_state == RH
        with server.client() as actor:
            actor.open("swept\\file", options=c.FILE_DELETE_ON_CLOSE, **leased(FILE, R, FOLDER))
            os.kill(server.worker_of(actor).pid, signal.SIGKILL)
            fields = notification(holder).parse(control.LEASE_BREAK_NOTIFICATION)
        assert (fields.lease_key, fields.new_lease_state, fields.new_epoch) == (FOLDER, 0, 2)
        assert not (server.share / "swept" / "file").exists()


def test_what_local_programs_do_is_told_where_somebody_watches(server: Server) -> None:
    """Whoever hears of it by CHANGE_NOTIFY looks at the directory again: not at what it has cached of it."""
    with server.client() as holder:
        answer = holder.create("local", **DIRECTORY, **leased(FOLDER, RH))
        (message_id,) = holder.send(Request(Command.CHANGE_NOTIFY, notify_body(file_id_of(answer), 0xFFF)))
        assert holder.receive(message_id, interim=True).status == status.PENDING
        holder.transport.socket.settimeout(0.2)  # type: ignore[attr-defined]  # a client on a real socket
        for number in range(100):  # what is there when the broker begins to look is no news
            (server.share / "local" / f"file {number}").touch()
            with suppress(TimeoutError):
                fields = notification(holder).parse(control.LEASE_BREAK_NOTIFICATION)
                break
        assert (fields.lease_key, fields.current_lease_state, fields.new_lease_state) == (FOLDER, RH, 0)
        assert holder.receive(message_id).status == status.SUCCESS


@pytest.mark.isolation
def test_a_holder_that_died_keeps_nobody(server: Server) -> None:
    with server.client() as holder, server.client() as actor:
        holder.create("orphaned", **DIRECTORY, **leased(FOLDER, RH))
        os.kill(server.worker_of(holder).pid, signal.SIGKILL)
        assert actor.create("orphaned\\file").status == status.SUCCESS
        assert lease_of(actor.create("orphaned", **DIRECTORY, **leased(STRANGER, RH))).lease_state == RH

"""Oplocks and leases between real workers: breaks, acknowledgements, time-outs, and holders that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import control, create
from smbd.smb2.messages.create_contexts import LEASE_V2, REQUEST_LEASE, parse_chain
from tests.server import Server, given_settings, stand_in
from tests.wire_client import FileId, Request, Response, WireClient, create_body, set_info_body

R, RH, RWH = 1, 3, 7
KEY, OTHER = b"K" * 16, b"O" * 16
RENAME = 10  # FileRenameInformation


def begin(client: WireClient, name: str, **options: Any) -> int:
    """Send a CREATE and return its MessageId once its interim response is here."""
    (message_id,) = client.send(Request(Command.CREATE, create_body(name, **options)))
    assert client.receive(message_id, interim=True).status == status.PENDING
    return message_id


def notification(client: WireClient) -> Response:
    answer = client.receive(c.UNSOLICITED_MESSAGE_ID)
    assert answer.header.command == Command.OPLOCK_BREAK
    assert not answer.header.flags & c.FLAGS_SIGNED
    return answer


def broken(client: WireClient) -> tuple[FileId, int]:
    """The next oplock break: whose, and to which level."""
    fields = notification(client).parse(control.OPLOCK_BREAK)
    return (fields.file_id_persistent, fields.file_id_volatile), fields.oplock_level


def acknowledge(client: WireClient, file_id: FileId, level: int) -> Response:
    return client.call(Command.OPLOCK_BREAK, control.OPLOCK_BREAK.pack(24, level, 0, 0, *file_id))


def acknowledge_lease(client: WireClient, key: bytes, state: int) -> Response:
    return client.call(Command.OPLOCK_BREAK, control.LEASE_BREAK.pack(36, 0, 0, key, state, 0))


def file_id_of(answer: Response) -> FileId:
    fields = answer.parse(create.CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def level_of(answer: Response) -> int:
    return int(answer.parse(create.CREATE_RESPONSE).oplock_level)


def with_lease(key: bytes, state: int, epoch: int = 0) -> dict[str, Any]:
    return {"oplock": c.OPLOCK_LEVEL_LEASE, "contexts": [(REQUEST_LEASE, LEASE_V2.pack(key, state, 0, 0, bytes(16), epoch, 0))]}


def lease_of(answer: Response) -> Any:
    fields = answer.parse(create.CREATE_RESPONSE)
    chain = answer.part(fields.create_contexts_offset, fields.create_contexts_length)
    return LEASE_V2.unpack(parse_chain(memoryview(chain))[REQUEST_LEASE])


def test_a_batch_oplock_is_broken_by_another_client(server: Server) -> None:
    with server.client() as one, server.client() as two:
        first = one.create("batch", oplock=c.OPLOCK_LEVEL_BATCH)
        assert level_of(first) == c.OPLOCK_LEVEL_BATCH
        held = file_id_of(first)
        waiting = begin(two, "batch", oplock=c.OPLOCK_LEVEL_BATCH)
        assert broken(one) == (held, c.OPLOCK_LEVEL_II)
        assert one.write(held, 0, b"what was cached").status == status.SUCCESS
        answer = acknowledge(one, held, c.OPLOCK_LEVEL_II)
        assert answer.parse(control.OPLOCK_BREAK).oplock_level == c.OPLOCK_LEVEL_II
        second = two.receive(waiting)
        assert level_of(second) == c.OPLOCK_LEVEL_II
        assert two.read_data(file_id_of(second), 0, 100) == b"what was cached"
        # Readers are told of the next write, and nobody waits for them.
        assert two.write(file_id_of(second), 0, b"x").status == status.SUCCESS
        assert broken(one) == (held, c.OPLOCK_LEVEL_NONE)
        assert acknowledge(one, held, c.OPLOCK_LEVEL_NONE).status == status.INVALID_OPLOCK_PROTOCOL


def test_closing_is_an_answer_too(server: Server) -> None:
    with server.client() as one, server.client() as two:
        held = file_id_of(one.create("closed", oplock=c.OPLOCK_LEVEL_BATCH, share=0))
        waiting = begin(two, "closed", oplock=c.OPLOCK_LEVEL_BATCH)
        assert broken(one)[0] == held
        one.close(held)
        assert level_of(two.receive(waiting)) == c.OPLOCK_LEVEL_BATCH


def test_a_waiting_open_is_cancelled(server: Server) -> None:
    with server.client() as one, server.client() as two:
        held = file_id_of(one.create("cancelled", oplock=c.OPLOCK_LEVEL_EXCLUSIVE))
        (message_id,) = two.send(Request(Command.CREATE, create_body("cancelled")))
        interim = two.receive(message_id, interim=True)
        two.cancel(message_id, interim.async_id)
        assert two.receive(message_id).status == status.CANCELLED
        assert acknowledge(one, held, c.OPLOCK_LEVEL_NONE).status == status.SUCCESS
        assert two.create("cancelled").status == status.SUCCESS


@pytest.mark.isolation
def test_a_holder_that_dies_keeps_nobody(server: Server) -> None:
    with server.client() as one, server.client() as two:
        one.create("dead", oplock=c.OPLOCK_LEVEL_BATCH)
        waiting = begin(two, "dead", oplock=c.OPLOCK_LEVEL_BATCH)
        broken(one)
        began = time.monotonic()
        os.kill(server.worker_of(one).pid, signal.SIGKILL)
        assert level_of(two.receive(waiting)) == c.OPLOCK_LEVEL_BATCH
        assert time.monotonic() - began < 30


def test_silence_costs_the_oplock(make_server: Callable[..., Server]) -> None:
    server = make_server(settings={"oplock break timeout": "0.5"})
    with server.client() as one, server.client() as two:
        held = file_id_of(one.create("silent", oplock=c.OPLOCK_LEVEL_BATCH))
        began = time.monotonic()
        waiting = begin(two, "silent", oplock=c.OPLOCK_LEVEL_BATCH)
        broken(one)
        assert level_of(two.receive(waiting)) == c.OPLOCK_LEVEL_II
        assert 0.4 < time.monotonic() - began < 30
        assert acknowledge(one, held, c.OPLOCK_LEVEL_II).status == status.INVALID_OPLOCK_PROTOCOL
        assert one.write(held, 0, b"x").status == status.SUCCESS  # its open is good all the same


def test_a_lease_is_broken_by_another_client(server: Server) -> None:
    with server.client() as one, server.client() as two:
        first = one.create("leased", **with_lease(KEY, RWH, 5))
        assert (level_of(first), lease_of(first).lease_state, lease_of(first).epoch) == (c.OPLOCK_LEVEL_LEASE, RWH, 6)
        assert lease_of(one.create("leased", **with_lease(KEY, R))).lease_state == RWH  # its own key never breaks it
        waiting = begin(two, "leased", **with_lease(OTHER, RWH, 9))
        told = notification(one).parse(control.LEASE_BREAK_NOTIFICATION)
        assert (told.lease_key, told.current_lease_state, told.new_lease_state, told.new_epoch) == (KEY, RWH, RH, 7)
        assert told.flags == c.NOTIFY_BREAK_LEASE_FLAG_ACK_REQUIRED
        assert acknowledge_lease(one, KEY, RWH).status == status.REQUEST_NOT_ACCEPTED
        assert acknowledge_lease(one, KEY, RH).parse(control.LEASE_BREAK).lease_state == RH
        second = two.receive(waiting)
        assert (lease_of(second).lease_state, lease_of(second).epoch) == (RH, 10)
        assert acknowledge_lease(one, b"?" * 16, 0).status == status.OBJECT_NAME_NOT_FOUND


def test_a_rename_waits_for_cached_handles(server: Server) -> None:
    with server.client() as one, server.client() as two:
        one.create("old name", **with_lease(KEY, RH))
        moving = two.open("old name")
        name = "new name".encode("utf-16-le")
        body = set_info_body(moving, c.INFO_FILE, RENAME, bytes(16) + len(name).to_bytes(4, "little") + name)
        (message_id,) = two.send(Request(Command.SET_INFO, body))
        told = notification(one).parse(control.LEASE_BREAK_NOTIFICATION)
        assert (told.current_lease_state, told.new_lease_state) == (RH, R)
        assert two.receive(message_id, interim=True).status == status.PENDING
        assert acknowledge_lease(one, KEY, R).status == status.SUCCESS
        assert two.receive(message_id).status == status.SUCCESS


@pytest.mark.parametrize("related", [True, False])
def test_a_compound_waits_as_a_whole(server: Server, related: bool) -> None:
    with server.client() as one, server.client() as two:
        held = file_id_of(one.create("whole", oplock=c.OPLOCK_LEVEL_BATCH))
        flags = c.FLAGS_RELATED_OPERATIONS if related else 0
        ids = two.send(Request(Command.CREATE, create_body("whole")), Request(Command.ECHO, b"\4\0\0\0", flags=flags))
        broken(one)
        acknowledge(one, held, c.OPLOCK_LEVEL_II)
        assert [two.receive(message_id).status for message_id in ids] == [status.SUCCESS] * 2
        one.close(held)


def renamed(client: WireClient, held: FileId, target: str, *, replace: bool = False) -> int:
    """Send a rename; its MessageId."""
    name = target.encode("utf-16-le")
    body = set_info_body(held, c.INFO_FILE, RENAME, bytes([replace]) + bytes(15) + len(name).to_bytes(4, "little") + name)
    return client.send(Request(Command.SET_INFO, body))[0]


def told_to_close(client: WireClient, key: bytes, current: int, left: int) -> None:
    fields = notification(client).parse(control.LEASE_BREAK_NOTIFICATION)
    assert (fields.lease_key, fields.current_lease_state, fields.new_lease_state) == (key, current, left)


@pytest.mark.parametrize("closing", [True, False])
def test_a_directory_moves_when_what_is_open_in_it_is_closed(server: Server, closing: bool) -> None:
    """[MS-FSA] 2.1.4.2: one after the other is asked; the first that stays open ends it."""
    name = f"moving {closing}"
    with server.client() as one, server.client() as two:
        folder = two.open(name, options=c.FILE_DIRECTORY_FILE)
        held = {key: file_id_of(one.create(f"{name}\\{key!r}", **with_lease(key, RH))) for key in (KEY, OTHER)}
        message_id = renamed(two, folder, f"{name} there")
        assert two.receive(message_id, interim=True).status == status.PENDING
        first = notification(one).parse(control.LEASE_BREAK_NOTIFICATION).lease_key
        if not closing:
            assert acknowledge_lease(one, first, R).status == status.SUCCESS
            assert two.receive(message_id).status == status.ACCESS_DENIED
            assert (server.share / name).is_dir()
            return
        one.close(held.pop(first))
        ((last, file_id),) = held.items()
        told_to_close(one, last, RH, R)
        one.close(file_id)
        assert two.receive(message_id).status == status.SUCCESS
        assert len(list((server.share / f"{name} there").iterdir())) == 2


def test_what_is_opened_meanwhile_keeps_a_directory_where_it_is(server: Server) -> None:
    with server.client() as one, server.client() as two:
        folder = two.open("kept", options=c.FILE_DIRECTORY_FILE)
        held = file_id_of(one.create("kept\\first", **with_lease(KEY, RH)))
        message_id = renamed(two, folder, "not there")
        told_to_close(one, KEY, RH, R)
        assert level_of(one.create("kept\\second", **with_lease(OTHER, RH))) == c.OPLOCK_LEVEL_LEASE
        one.close(held)
        assert two.receive(message_id).status == status.ACCESS_DENIED
        # and what nobody can be asked to close is not asked about
        one.open("kept\\third")
        assert two.receive(renamed(two, folder, "not there"), interim=True).status == status.ACCESS_DENIED


@pytest.mark.parametrize("closing", [True, False])
def test_a_file_is_replaced_when_its_last_open_is_closed(server: Server, closing: bool) -> None:
    with server.client() as one, server.client() as two:
        held = file_id_of(one.create(f"replaced {closing}", **with_lease(KEY, RWH)))
        moved = two.open(f"replacing {closing}")
        message_id = renamed(two, moved, f"replaced {closing}", replace=True)
        told_to_close(one, KEY, RWH, RWH & ~2)
        if closing:
            one.close(held)
            assert two.receive(message_id).status == status.SUCCESS
            return
        assert acknowledge_lease(one, KEY, RWH & ~2).status == status.SUCCESS
        assert two.receive(message_id).status == status.ACCESS_DENIED
        # there is nothing more to be asked for
        message_id = renamed(two, moved, f"replaced {closing}", replace=True)
        assert two.receive(message_id, interim=True).status == status.ACCESS_DENIED
        one.close(held)


@pytest.mark.parametrize("closing", [True, False])
def test_a_target_directory_that_is_locked_up_is_asked_for(server: Server, closing: bool) -> None:
    name = f"locked up {closing}"
    with server.client() as one, server.client() as two:
        folder = {"options": c.FILE_DIRECTORY_FILE, "access": c.DELETE}
        held = file_id_of(one.create(name, **folder, **with_lease(KEY, RH)))
        moved = two.open(f"{name} file")
        message_id = renamed(two, moved, f"{name}\\file")
        told_to_close(one, KEY, RH, R)
        if closing:
            one.close(held)
        else:
            assert acknowledge_lease(one, KEY, R).status == status.SUCCESS
        assert two.receive(message_id).status == (status.SUCCESS if closing else status.SHARING_VIOLATION)


LEASE = """\
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1] + "/leased", "rb+")
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("up", flush=True)
sys.stdin.read()
"""


def test_a_lease_of_a_local_program_holds_up_nobody_but_who_opens_that_file(server: Server) -> None:
    with server.client() as client:
        client.close(client.open("leased"))
        with stand_in(LEASE, server.share) as program:
            waiting = begin(client, "leased")
            client.close(client.open("another"))  # the same worker goes on
            if given_settings().get("port") != "posix":  # where a file cannot be looked at without being opened
                looked = client.open("leased", access=c.FILE_READ_ATTRIBUTES)  # as does who does not want the content
                client.close(looked)
            assert program.poll() is None
        answer = client.receive(waiting)
        assert answer.status == status.SUCCESS
        client.close(file_id_of(answer))


def test_a_lease_that_a_local_program_keeps(make_server: Callable[..., Server]) -> None:
    server = make_server(settings={"oplock break timeout": "0.2"})
    with server.client() as client:
        client.close(client.open("leased"))
        with stand_in(LEASE, server.share):
            answer = client.create("leased")
            assert answer.status == status.SHARING_VIOLATION


def test_one_write_is_told_to_all_who_cache(server: Server) -> None:
    with server.client() as one, server.client() as two, server.client() as three:
        name = "told to all"
        one.create(name, **with_lease(KEY, R))
        held = file_id_of(two.create(name, oplock=c.OPLOCK_LEVEL_II))
        writing = three.open(name)
        assert three.write(writing, 0, b"x").status == status.SUCCESS
        told_to_close(one, KEY, R, 0)
        assert broken(two) == (held, c.OPLOCK_LEVEL_NONE)


def test_all_who_wait_for_one_break_go_on_with_it(server: Server) -> None:
    with server.client() as one, server.client() as two, server.client() as three:
        held = file_id_of(one.create("waited for", oplock=c.OPLOCK_LEVEL_BATCH))
        waiting = [(client, begin(client, "waited for", oplock=c.OPLOCK_LEVEL_II)) for client in (two, three)]
        assert broken(one) == (held, c.OPLOCK_LEVEL_II)
        assert acknowledge(one, held, c.OPLOCK_LEVEL_II).status == status.SUCCESS
        assert [level_of(client.receive(message_id)) for client, message_id in waiting] == [c.OPLOCK_LEVEL_II] * 2


def test_more_is_required_while_a_break_is_under_way(server: Server) -> None:
    """RWH, RH, R, nothing: one step at a time, each acknowledged; the last open goes on after the last of them."""
    with server.client() as one, server.client() as two, server.client() as three:
        one.create("stepwise", **with_lease(KEY, RWH))
        reading = begin(two, "stepwise", **with_lease(OTHER, R))
        overwriting = begin(three, "stepwise", disposition=c.FILE_OVERWRITE)
        told_to_close(one, KEY, RWH, RH)
        assert acknowledge_lease(one, KEY, RH).parse(control.LEASE_BREAK).lease_state == RH
        told_to_close(one, KEY, RH, R)
        assert acknowledge_lease(one, KEY, R).parse(control.LEASE_BREAK).lease_state == R
        told_to_close(one, KEY, R, 0)
        assert level_of(two.receive(reading)) == c.OPLOCK_LEVEL_LEASE
        assert three.receive(overwriting).status == status.SUCCESS


@pytest.mark.isolation
def test_a_wait_that_dies_is_waited_for_by_nobody(server: Server) -> None:
    with server.client() as one, server.client() as two, server.client() as three:
        held = file_id_of(one.create("abandoned", oplock=c.OPLOCK_LEVEL_BATCH))
        begin(two, "abandoned")
        assert broken(one)[0] == held
        os.kill(server.worker_of(two).pid, signal.SIGKILL)
        assert acknowledge(one, held, c.OPLOCK_LEVEL_II).status == status.SUCCESS
        assert level_of(three.create("abandoned", oplock=c.OPLOCK_LEVEL_II)) == c.OPLOCK_LEVEL_II


def lock(client: WireClient, name: str) -> None:
    assert client.lock(client.open(name), (0, 1, 0x12)).status == status.SUCCESS  # exclusive, at once


def shorten(client: WireClient, name: str) -> None:
    assert client.set_info(client.open(name), c.INFO_FILE, 20, bytes(8)).status == status.SUCCESS  # FileEndOfFileInformation


def overwrite(client: WireClient, name: str) -> None:
    assert client.create(name, disposition=c.FILE_OVERWRITE).status == status.SUCCESS


def write(client: WireClient, name: str) -> None:
    assert client.write(client.open(name), 0, b"x").status == status.SUCCESS


@pytest.mark.parametrize("deed", [lock, shorten, overwrite, write])
def test_what_makes_a_cache_wrong_ends_it(server: Server, deed: Callable[[WireClient, str], None]) -> None:
    name = f"wrong {deed.__name__}"
    with server.client() as one, server.client() as two:
        one.create(name, **with_lease(KEY, R))
        deed(two, name)
        told_to_close(one, KEY, R, 0)


@pytest.mark.parametrize("access", [c.FILE_READ_ATTRIBUTES, c.FILE_WRITE_ATTRIBUTES | c.SYNCHRONIZE, c.READ_CONTROL])
def test_looking_breaks_no_lease(server: Server, access: int) -> None:
    """[MS-FSA] 2.1.4.12: who opens a file for its attributes, or to read its descriptor, takes nothing from anybody."""
    name = f"looked at {access}"
    with server.client() as one, server.client() as two:
        first = one.create(name, **with_lease(KEY, RWH))
        assert two.create(name, access=access, disposition=c.FILE_OPEN).status == status.SUCCESS
        waiting = begin(two, name)  # and this one does
        fields = notification(one).parse(control.LEASE_BREAK_NOTIFICATION)
        assert fields.new_epoch == lease_of(first).epoch + 1
        assert acknowledge_lease(one, KEY, RH).status == status.SUCCESS
        assert two.receive(waiting).status == status.SUCCESS


def test_attributes_that_are_overwritten_are_no_look(server: Server) -> None:
    with server.client() as one, server.client() as two:
        one.create("not only looked at", **with_lease(KEY, RH))
        assert two.create("not only looked at", access=c.FILE_READ_ATTRIBUTES, disposition=c.FILE_OVERWRITE).status == status.SUCCESS
        told_to_close(one, KEY, RH, 0)

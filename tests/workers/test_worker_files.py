"""Commands on files through a worker in memory: one behaviour each, and what their preconditions refuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smbd.accounts import IdMap
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.dtyp.sddl import parse_sddl
from smbd.smb2.fscc import query
from smbd.smb2.messages import create, file
from smbd.smb2.messages.create_contexts import MAXIMAL_ACCESS_RESPONSE, QUERY_MAXIMAL_ACCESS_REQUEST, SD_BUFFER, parse_chain
from tests.wire_client import WireClient, create_body, set_info_body
from tests.workers.house import ALICE, BOB, MACHINE, House, token_of
from workers import identity

ON_ERRANDS_TOO = True

MEBIBYTE = 1 << 20
IDS = IdMap(MACHINE, "MILLPOND")
NAMES = 0x0C  # FileNamesInformation
RENAME = 10


def rename_body(target: str, replace: bool = False) -> bytes:
    name = target.encode("utf-16-le")
    return bytes([replace]) + bytes(15) + len(name).to_bytes(4, "little") + name


def test_a_file_is_written_read_and_closed(client: WireClient, folder: Path) -> None:
    opened = client.open("new.txt")
    assert client.write(opened, 0, b"hello").status == status.SUCCESS
    assert client.read_data(opened, 1, 100) == b"ello"
    assert client.flush(opened).status == status.SUCCESS
    closed = client.close(opened, c.CLOSE_FLAG_POSTQUERY_ATTRIB).parse(file.CLOSE_RESPONSE)
    assert closed.end_of_file == 5
    assert client.read(opened, 0, 1).status == status.FILE_CLOSED
    assert (folder / "new.txt").read_bytes() == b"hello"


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_close_that_cannot_tell_anything_closes_all_the_same(house: House, client: WireClient, way: str) -> None:
    worker, other = house.worker_of(client), house.client()
    worker.lines[0].engine.express.off = way == "long"
    opened = client.open("file:stream")
    assert client.write(opened, 0, b"x").status == status.SUCCESS
    overwriting = other.create("file", disposition=c.FILE_OVERWRITE_IF)  # its streams are gone
    assert overwriting.status == status.SUCCESS
    closed = client.close(opened, c.CLOSE_FLAG_POSTQUERY_ATTRIB)
    assert closed.status == status.SUCCESS
    fields = closed.parse(file.CLOSE_RESPONSE)
    assert (fields.flags, fields.last_write_time, fields.end_of_file) == (0, 0, 0)
    assert not worker.opens
    assert client.close(opened).status == status.FILE_CLOSED


@pytest.mark.parametrize("size", [65535, 65536, 65537, MEBIBYTE, 8 * MEBIBYTE])
def test_large_writes_and_reads(client: WireClient, folder: Path, size: int) -> None:
    content = os.urandom(1024) * (size // 1024 + 1)
    opened = client.open("large")
    while client.credits < 200:
        client.echo(credits=256)
    assert client.write(opened, 0, content[:size]).status == status.SUCCESS
    assert (folder / "large").read_bytes() == content[:size]
    assert client.read_data(opened, 0, size) == content[:size]


def test_reading_past_the_end(client: WireClient) -> None:
    opened = client.open("short")
    client.write(opened, 0, b"abc")
    assert client.read(opened, 3, 10).status == status.END_OF_FILE
    assert client.read(opened, 0, 10, minimum=4).status == status.END_OF_FILE
    assert client.read(opened, 1 << 63, 1).status == status.INVALID_PARAMETER


def test_write_through_is_answered_after_the_disk(client: WireClient, folder: Path) -> None:
    opened = client.open("safe")
    assert client.write(opened, 0, b"data", flags=c.WRITEFLAG_WRITE_THROUGH).status == status.SUCCESS
    assert (folder / "safe").read_bytes() == b"data"


def test_share_modes_hold_between_workers(house: House, client: WireClient) -> None:
    client.open("mine", share=c.FILE_SHARE_READ)
    other = house.client()
    assert other.create("mine", access=c.FILE_WRITE_DATA).status == status.SHARING_VIOLATION
    refused = other.create("mine", access=c.FILE_READ_DATA, share=c.FILE_SHARE_READ)  # the first may write
    assert refused.status == status.SHARING_VIOLATION
    assert other.create("mine", access=c.FILE_READ_ATTRIBUTES).status == status.SUCCESS


@pytest.mark.parametrize(("setting", "answer"), [("no", status.CANNOT_DELETE), ("yes", status.SUCCESS)])
def test_who_may_delete_what_is_read_only(make_house: Callable[..., House], folder: Path, setting: str, answer: int) -> None:
    client = make_house(share_text=f"delete readonly = {setting}").client()
    doomed = {"options": c.FILE_DELETE_ON_CLOSE, "attributes": c.FILE_ATTRIBUTE_READONLY}
    assert client.create("new", disposition=c.FILE_CREATE, **doomed).status == answer
    marked = client.open("marked", attributes=c.FILE_ATTRIBUTE_READONLY)
    assert client.set_info(marked, c.INFO_FILE, 13, b"\1").status == answer  # FileDispositionInformation
    client.close(marked)
    assert (folder / "marked").exists() == (answer != status.SUCCESS)
    client.close(client.open("again", attributes=c.FILE_ATTRIBUTE_READONLY))
    assert client.create("again", access=c.DELETE, options=c.FILE_DELETE_ON_CLOSE).status == answer


def test_a_share_without_streams(make_house: Callable[..., House]) -> None:
    client = make_house(share_text="named streams = no").client()
    client.close(client.open("f"))
    for name in ("f:s", "f::$DATA", "f:s:$DATA", "f::nonsense"):
        assert client.create(name).status == status.OBJECT_NAME_INVALID
    looked = client.output(client.query_info(client.open("f"), c.INFO_FILESYSTEM, 5))  # FileFsAttributeInformation
    assert not int.from_bytes(looked[:4], "little") & 0x40000  # FILE_NAMED_STREAMS


def test_delete_on_close(client: WireClient, folder: Path) -> None:
    opened = client.open("doomed", options=c.FILE_DELETE_ON_CLOSE)
    assert (folder / "doomed").exists()
    client.close(opened)
    assert not (folder / "doomed").exists()


def test_the_end_of_the_connection_closes_what_is_open(house: House, client: WireClient, folder: Path) -> None:
    client.open("doomed", options=c.FILE_DELETE_ON_CLOSE)
    client.close_connection()
    worker = house.worker_of(client)
    house.turn_until(lambda: worker.ended)
    worker.close()
    assert not (folder / "doomed").exists()
    assert worker.pool.in_use() == 0


def test_rename_and_its_collisions(client: WireClient, folder: Path) -> None:
    (folder / "taken").write_text("x")
    opened = client.open("old")
    body = rename_body("taken")
    assert client.set_info(opened, c.INFO_FILE, 10, body).status == status.OBJECT_NAME_COLLISION
    assert client.set_info(opened, c.INFO_FILE, 10, rename_body("new")).status == status.SUCCESS
    assert (folder / "new").exists()
    assert client.set_info(opened, c.INFO_FILE, 10, rename_body("taken", True)).status == status.SUCCESS
    assert sorted(os.listdir(folder)) == ["taken"]


def test_a_link_does_not_replace_a_file_that_is_open(house: House, client: WireClient, folder: Path) -> None:
    client.open("victim")
    other = house.client()
    opened = other.open("mine")
    assert other.set_info(opened, c.INFO_FILE, 11, rename_body("victim", True)).status == status.ACCESS_DENIED
    assert other.set_info(opened, c.INFO_FILE, 11, rename_body("another")).status == status.SUCCESS
    assert os.stat(folder / "another").st_ino == os.stat(folder / "mine").st_ino


def test_query_directory_pages_and_ends(client: WireClient, folder: Path) -> None:
    for number in range(40):
        (folder / f"file{number:02}").touch()
    opened = client.open("", options=c.FILE_DIRECTORY_FILE)
    seen, answers = b"", 0
    while (response := client.query_directory(opened, "file*", NAMES, size=512)).status == status.SUCCESS:
        seen += client.output(response)
        answers += 1
    assert response.status == status.NO_MORE_FILES
    assert answers > 1
    assert all(f"file{number:02}".encode("utf-16-le") in seen for number in range(40))
    assert client.query_directory(opened, "none*", flags=c.REOPEN).status == status.NO_SUCH_FILE


@pytest.mark.parametrize("pattern", ["a\0b", "\ud800", "..", "a/b", "a\\b", "x:y", "\1", " ", "A" * 5000])
def test_strange_patterns_find_nothing_and_harm_nobody(client: WireClient, pattern: str) -> None:
    opened = client.open("", options=c.FILE_DIRECTORY_FILE)
    start = 64 + 32
    raw = pattern.encode("utf-16-le", "surrogatepass")
    body = b"".join((b"\x21\0\x0c\0\0\0\0\0", *(word.to_bytes(8, "little") for word in opened)))
    body += start.to_bytes(2, "little") + len(raw).to_bytes(2, "little") + (4096).to_bytes(4, "little") + raw
    answered = client.call(Command.QUERY_DIRECTORY, body).status
    assert answered in (status.NO_SUCH_FILE, status.OBJECT_NAME_INVALID, status.SUCCESS)
    assert client.echo().status == status.SUCCESS


def test_query_info_gives_what_set_info_set(client: WireClient) -> None:
    opened = client.open("sized")
    assert client.set_info(opened, c.INFO_FILE, 20, (12345).to_bytes(8, "little")).status == status.SUCCESS  # FileEndOfFileInformation
    standard = client.output(client.query_info(opened, c.INFO_FILE, query.FILE_STANDARD_INFORMATION))
    assert int.from_bytes(standard[8:16], "little") == 12345
    assert client.query_info(opened, c.INFO_FILE, 99).status == status.INVALID_INFO_CLASS
    assert client.query_info(opened, c.INFO_FILE, query.FILE_STANDARD_INFORMATION, size=4).status == status.INFO_LENGTH_MISMATCH


def test_what_was_not_granted_is_refused(client: WireClient) -> None:
    client.close(client.open("guarded"))
    opened = client.open("guarded", access=c.FILE_READ_ATTRIBUTES)
    assert client.read(opened, 0, 1).status == status.ACCESS_DENIED
    assert client.write(opened, 0, b"x").status == status.ACCESS_DENIED
    assert client.flush(opened).status == status.ACCESS_DENIED
    assert client.set_info(opened, c.INFO_FILE, 20, bytes(8)).status == status.ACCESS_DENIED
    assert client.set_info(opened, c.INFO_FILE, 13, b"\1").status == status.ACCESS_DENIED  # FileDispositionInformation


@pytest.mark.parametrize(
    ("access", "answer"),
    [
        (c.FILE_READ_ATTRIBUTES | c.SYNCHRONIZE, status.ACCESS_DENIED),
        (c.FILE_READ_DATA, status.SUCCESS),
        (c.FILE_WRITE_DATA, status.SUCCESS),
        (c.FILE_APPEND_DATA, status.SUCCESS),
    ],
)
def test_who_may_not_touch_the_data_may_not_lock_it(client: WireClient, access: int, answer: int) -> None:
    client.close(client.open("file"))
    opened = client.open("file", access=access)
    assert client.lock(opened, (0, 10, c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY)).status == answer


def test_a_read_only_share(make_house: Callable[..., House], folder: Path) -> None:
    (folder / "there").write_text("x")
    client = make_house(share_text="read only = yes").client()
    assert client.create("new").status == status.ACCESS_DENIED
    assert client.create("there", access=c.FILE_WRITE_DATA).status == status.ACCESS_DENIED
    assert client.read_data(client.open("there", access=c.FILE_GENERIC_READ), 0, 1) == b"x"


def test_a_stream_needs_the_right_to_its_file(house: House, client: WireClient, folder: Path) -> None:
    """A stored descriptor that lets Bob read only: no new stream, which would open the way to the descriptor itself."""
    opened = client.open("kept")
    everyone_reads = bytes.fromhex("0100048000000000000000000000000014000000") + bytes.fromhex(
        "02001c0001000000" + "0000140089001200" + "010100000000000100000000"
    )
    assert client.set_info(opened, c.INFO_SECURITY, 0, everyone_reads, c.DACL_SECURITY_INFORMATION).status == status.SUCCESS
    client.close(opened)
    other = house.client(BOB)
    assert other.create("kept", access=c.FILE_GENERIC_READ).status == status.SUCCESS
    for access in (c.FILE_WRITE_DATA, c.WRITE_DAC, c.FILE_READ_DATA):
        assert other.create("kept:evil", access=access, disposition=c.FILE_CREATE).status == status.ACCESS_DENIED
    assert client.create("kept:fine:$DATA", access=c.FILE_READ_DATA, disposition=c.FILE_CREATE).status == status.ACCESS_DENIED
    assert client.create("free:fine", disposition=c.FILE_CREATE).status == status.SUCCESS


def test_too_many_open_files(make_house: Callable[..., House]) -> None:
    house = make_house()
    client = house.client()
    limit = house.config.max_open_files
    worker = house.worker_of(client)
    opened = client.open("one")
    (only,) = worker.opens.values()
    for number in range(limit):
        worker.opens[-number - 1] = only
    assert client.create("two").status == status.TOO_MANY_OPENED_FILES
    for number in range(limit):
        del worker.opens[-number - 1]
    assert client.close(opened).status == status.SUCCESS


def test_create_contexts_are_answered(client: WireClient) -> None:
    response = client.create("ctx", contexts=[(b"MxAc", b""), (b"QFid", b"")])
    answer = response.parse(create.CREATE_RESPONSE)
    chain = response.part(answer.create_contexts_offset, answer.create_contexts_length)
    assert b"MxAc" in chain
    assert b"QFid" in chain


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [(b"", status.SUCCESS), (bytes(8), status.SUCCESS), (None, status.NONE_MAPPED), (b"1234", status.INVALID_PARAMETER)],
)
def test_maximal_access_is_told_to_who_does_not_know_it(client: WireClient, timestamp: bytes | None, expected: int) -> None:
    """[MS-SMB2] 3.3.5.9.5: whoever names the time of the last write does. None: that one."""
    written = client.create("file").parse(create.CREATE_RESPONSE).last_write_time
    data = written.to_bytes(8, "little") if timestamp is None else timestamp
    response = client.create("file", contexts=[(QUERY_MAXIMAL_ACCESS_REQUEST, data)])
    if status.is_error(response.status):
        assert response.status == expected
        return
    answer = response.parse(create.CREATE_RESPONSE)
    chain = memoryview(response.part(answer.create_contexts_offset, answer.create_contexts_length))
    told = MAXIMAL_ACCESS_RESPONSE.unpack(parse_chain(chain)[QUERY_MAXIMAL_ACCESS_REQUEST])
    assert told == (expected, c.FILE_ALL_ACCESS if expected == status.SUCCESS else 0)


@pytest.mark.parametrize("cut", range(0, 57, 8))
def test_a_truncated_create(client: WireClient, cut: int) -> None:
    assert client.call(Command.CREATE, create_body("x")[:cut]).status == status.INVALID_PARAMETER


def test_offsets_that_leave_the_request(client: WireClient) -> None:
    opened = client.open("f")
    body = bytearray(set_info_body(opened, c.INFO_FILE, 20, bytes(8)))
    body[8:10] = (60000).to_bytes(2, "little")
    assert client.call(Command.SET_INFO, bytes(body)).status == status.INVALID_PARAMETER
    body[8:10] = (10).to_bytes(2, "little")  # into the header
    assert client.call(Command.SET_INFO, bytes(body)).status == status.INVALID_PARAMETER


@pytest.mark.skipif(os.geteuid() != 0, reason="identities are switched as root only")
@pytest.mark.parametrize("hidden", [False, True])
def test_hide_unreadable(make_house: Callable[..., House], folder: Path, hidden: bool) -> None:
    for above in (folder, *folder.parents[:5]):
        above.chmod(above.stat().st_mode | 0o011)
    folder.chmod(0o755)
    for name in ("open", "closed"):
        (folder / name).touch(0o644)
        (folder / f"{name} folder").mkdir(0o755)
    (folder / "closed").chmod(0o600)
    (folder / "closed folder").chmod(0o700)
    house = make_house(share_text=f"hide unreadable = {'yes' if hidden else 'no'}")
    house.tokens["reader"] = token_of("reader", uid=1002, gid=1002, user_sid=IDS.user_sid(1002))
    client = house.client("reader")
    opened = client.open("", options=c.FILE_DIRECTORY_FILE, access=c.FILE_LIST_DIRECTORY)
    listing = client.output(client.query_directory(opened, "*", NAMES))
    seen = [name for name in ("open", "open folder", "closed", "closed folder") if f"{name}".encode("utf-16-le") in listing]
    assert seen == ["open", "open folder"] + ([] if hidden else ["closed", "closed folder"])
    exact = client.query_directory(opened, "closed", NAMES, flags=c.REOPEN).status
    assert exact == (status.NO_SUCH_FILE if hidden else status.SUCCESS)


@pytest.mark.skipif(os.geteuid() != 0, reason="identities are switched as root only")
def test_who_asked_for_the_deletion_deletes(house: House, folder: Path) -> None:
    """The last to close has no right to the directory; the one who marked the file had it."""
    os.chown(folder, 1001, 1001)
    folder.chmod(0o755)
    for above in folder.parents[:5]:
        above.chmod(above.stat().st_mode | 0o011)
    house.tokens["owner"] = token_of("owner", uid=1001, gid=1001, user_sid=IDS.user_sid(1001))
    house.tokens["reader"] = token_of("reader", uid=1002, gid=1002, user_sid=IDS.user_sid(1002))
    (folder / "f").write_text("x")
    os.chown(folder / "f", 1001, 1001)
    owner, reader = house.client("owner"), house.client("reader")
    reading = reader.open("f", access=c.FILE_READ_DATA)
    marked = owner.open("f", access=c.DELETE)
    assert owner.set_info(marked, c.INFO_FILE, 13, b"\1").status == status.SUCCESS
    owner.close(marked)
    identity.assume(identity.ROOT)
    assert (folder / "f").exists()
    assert reader.close(reading).status == status.SUCCESS
    identity.assume(identity.ROOT)
    assert not (folder / "f").exists()


BACKUP, RESTORE, SECURITY, OWNERSHIP = "SeBackupPrivilege", "SeRestorePrivilege", "SeSecurityPrivilege", "SeTakeOwnershipPrivilege"
READING, WRITING = c.FILE_GENERIC_READ, c.FILE_GENERIC_WRITE | c.WRITE_DAC | c.DELETE


@pytest.mark.parametrize(
    ("privilege", "access", "options", "expected"),
    [
        ("", READING, c.FILE_OPEN_FOR_BACKUP_INTENT, status.ACCESS_DENIED),
        (BACKUP, READING, 0, status.ACCESS_DENIED),
        (BACKUP, READING, c.FILE_OPEN_FOR_BACKUP_INTENT, status.SUCCESS),
        (BACKUP, WRITING, c.FILE_OPEN_FOR_BACKUP_INTENT, status.ACCESS_DENIED),
        (RESTORE, WRITING, c.FILE_OPEN_FOR_BACKUP_INTENT, status.SUCCESS),
        (RESTORE, READING, c.FILE_OPEN_FOR_BACKUP_INTENT, status.ACCESS_DENIED),
        ("", c.ACCESS_SYSTEM_SECURITY, 0, status.PRIVILEGE_NOT_HELD),
        (SECURITY, c.ACCESS_SYSTEM_SECURITY, 0, status.SUCCESS),
        ("", c.WRITE_OWNER, 0, status.ACCESS_DENIED),
        (OWNERSHIP, c.WRITE_OWNER, 0, status.SUCCESS),
        (OWNERSHIP, c.WRITE_DAC, 0, status.ACCESS_DENIED),
    ],
)
def test_privileges(house: House, privilege: str, access: int, options: int, expected: int) -> None:
    """[MS-DTYP] 2.5.3.2, [MS-FSA] 2.1.5.1.2.1: what a privilege gives, and only where the client says that it makes use of it."""
    owner, sddl = house.client(), f"O:{house.tokens[ALICE].user_sid}G:BAD:P(A;;FA;;;{house.tokens[ALICE].user_sid})"
    owner.create("kept", contexts=[(SD_BUFFER, parse_sddl(sddl).pack())])
    folder = f"O:{house.tokens[ALICE].user_sid}G:BAD:P(A;;FA;;;{house.tokens[ALICE].user_sid})(A;;0x1200a8;;;WD)"
    root = owner.open("", options=c.FILE_DIRECTORY_FILE)
    assert owner.set_info(root, c.INFO_SECURITY, 0, parse_sddl(folder).pack(), 4).status == status.SUCCESS
    house.tokens[BOB] = token_of(BOB, privileges=frozenset({privilege} - {""}))
    other = house.client(BOB)
    assert other.create("kept", access=access, options=options, disposition=c.FILE_OPEN).status == expected


def test_a_stream_that_is_open_is_neither_replaced_nor_taken_away(house: House, client: WireClient) -> None:
    other = house.client()
    mine, theirs = client.open("f:mine"), other.open("f:theirs")
    client.write(mine, 0, b"mine")
    other.write(theirs, 0, b"theirs")
    wish = rename_body(":theirs", replace=True)
    assert client.set_info(mine, c.INFO_FILE, 10, wish).status == status.INVALID_PARAMETER
    assert other.read_data(theirs, 0, 10) == b"theirs"
    other.close(theirs)
    assert client.set_info(mine, c.INFO_FILE, 10, wish).status == status.INVALID_PARAMETER  # [MS-FSA] 2.1.5.15.11.1: it holds something
    other.close(other.open("f:theirs", disposition=c.FILE_OVERWRITE))
    second = other.open("f:mine")
    assert client.set_info(mine, c.INFO_FILE, 10, wish).status == status.SHARING_VIOLATION
    other.close(second)
    assert client.set_info(mine, c.INFO_FILE, 10, wish).status == status.SUCCESS
    client.close(mine)
    assert other.read_data(other.open("f:theirs", disposition=c.FILE_OPEN), 0, 10) == b"mine"
    assert other.create("f:mine", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND


def test_a_file_with_several_names_is_open_by_the_one_that_it_was_opened_by(house: House, client: WireClient, folder: Path) -> None:
    """What a killed process was to delete would else be another name than it said."""
    (folder / "one").touch()
    os.link(folder / "one", folder / "two")
    first, second = client.open("one"), client.open("two")
    assert client.set_info(first, c.INFO_FILE, RENAME, rename_body("three")).status == status.SUCCESS
    assert house.sharing is not None
    assert {row.file_id: row.path for row in house.sharing.opens()} == {first[0]: "three", second[0]: "two"}
    os.unlink(folder / "two")
    assert client.set_info(first, c.INFO_FILE, RENAME, rename_body("four")).status == status.SUCCESS
    assert {row.path for row in house.sharing.opens()} == {"four"}


def test_a_search_expression_is_no_longer_than_a_name(client: WireClient, folder: Path) -> None:
    (folder / "found").touch()
    opened = client.open("", options=c.FILE_DIRECTORY_FILE)
    assert client.query_directory(opened, "*>" * 127, flags=c.REOPEN).status == status.SUCCESS
    assert client.query_directory(opened, "*>" * 128, flags=c.REOPEN).status == status.OBJECT_NAME_INVALID

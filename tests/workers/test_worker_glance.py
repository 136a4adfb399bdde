"""A file that one compound opens, looks at and closes: it is never entered in the shared state, and nobody can tell.

It is so on the short way and on the long one, which answer alike, byte for byte.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.fscc import query
from smbd.smb2.messages import create
from tests.wire_client import LAST, Request, Response, WireClient, close_body, create_body, query_info_body
from tests.workers.house import House
from workers.glance import Glances

STAT = c.FILE_READ_ATTRIBUTES | c.SYNCHRONIZE
ALL = Request(Command.QUERY_INFO, query_info_body(LAST, c.INFO_FILE, query.FILE_ALL_INFORMATION))
CLOSE = Request(Command.CLOSE, close_body(LAST))
T = TypeVar("T")
SUCCESS = [status.SUCCESS] * 3


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is: on a slow disk no way is short."""
    monkeypatch.setattr("workers.disk.LONG", 1e9)


@pytest.fixture(params=[False, True], ids=["short", "long"], autouse=True)
def way(request: pytest.FixtureRequest, house: House, client: WireClient) -> None:
    """Without the short way every test says the same."""
    house.worker_of(client).lines[0].engine.express.off = request.param


@pytest.fixture
def recorded(house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all opens that are entered in the shared state."""
    del client
    paths: list[str] = []
    sharing = house.sharing
    assert sharing is not None
    enter = sharing.open
    monkeypatch.setattr(sharing, "open", lambda key, claim: (paths.append(claim.path), enter(key, claim))[1])
    return paths


def stat(client: WireClient, name: str = "f", access: int = STAT, **options: int) -> list[Response]:
    opening = Request(Command.CREATE, create_body(name, access=access, **{"disposition": c.FILE_OPEN, **options}))
    return client.compound(opening, ALL, CLOSE, related=True)


def glance(name: str, access: int = STAT) -> list[Request]:
    """The three elements, to be sent with others."""
    opening = Request(Command.CREATE, create_body(name, access=access, disposition=c.FILE_OPEN))
    return [opening, *(Request(part.command, part.body, flags=c.FLAGS_RELATED_OPERATIONS) for part in (ALL, CLOSE))]


def level_of(answer: Response) -> int:
    return int(answer.parse(create.CREATE_RESPONSE).oplock_level)


def statuses(answers: list[Response]) -> list[int]:
    return [answer.status for answer in answers]


def test_a_glance_is_not_recorded_and_says_what_an_open_would(client: WireClient, folder: Path, recorded: list[str]) -> None:
    (folder / "f").write_bytes(b"content")
    answers = stat(client)
    assert statuses(answers) == SUCCESS
    assert recorded == []
    opened = client.open("f", access=STAT, disposition=c.FILE_OPEN)
    info = client.output(client.query_info(opened, c.INFO_FILE, query.FILE_ALL_INFORMATION))
    assert client.output(answers[1]) == info
    assert recorded == ["f"]


@pytest.mark.parametrize(
    ("access", "options"),
    [
        (STAT | c.FILE_READ_DATA, {}),
        (c.MAXIMUM_ALLOWED, {}),
        (STAT, {"disposition": c.FILE_OPEN_IF}),
        (STAT, {"oplock": c.OPLOCK_LEVEL_BATCH}),
        (STAT | c.DELETE, {"options": c.FILE_DELETE_ON_CLOSE}),
    ],
)
def test_what_others_can_tell_is_recorded(
    client: WireClient, folder: Path, recorded: list[str], access: int, options: dict[str, int]
) -> None:
    (folder / "f").touch()
    assert statuses(stat(client, access=access, **options)) == SUCCESS
    assert recorded == ["f"]


def test_a_compound_that_does_more_is_recorded(client: WireClient, folder: Path, recorded: list[str]) -> None:
    (folder / "f").touch()
    opening = Request(Command.CREATE, create_body("f", access=STAT, disposition=c.FILE_OPEN))
    flush = Request(Command.FLUSH, (24).to_bytes(2, "little") + bytes(6) + b"\xff" * 16)
    client.compound(opening, ALL, related=True)
    client.compound(opening, flush, CLOSE, related=True)
    assert recorded == ["f", "f"]


def test_an_open_that_outlives_its_compound_after_all_is_recorded(house: House, client: WireClient, folder: Path) -> None:
    """The CLOSE is there, but makes no sense."""
    (folder / "f").touch()
    opening = Request(Command.CREATE, create_body("f", access=STAT, disposition=c.FILE_OPEN))
    answers = client.compound(opening, ALL, Request(Command.CLOSE, b"\x19" + close_body(LAST)[1:]), related=True)
    assert statuses(answers) == [status.SUCCESS, status.SUCCESS, status.INVALID_PARAMETER]
    assert house.sharing is not None
    assert [(row.path, row.access) for row in house.sharing.opens()] == [("f", STAT)]
    made = answers[0].parse(create.CREATE_RESPONSE)
    assert client.close((made.file_id_persistent, made.file_id_volatile)).status == status.SUCCESS
    assert house.sharing.opens() == []


def test_a_file_that_is_to_be_deleted_is_not_looked_at(house: House, client: WireClient, folder: Path) -> None:
    (folder / "f").touch()
    other = house.client()
    doomed = other.open("f", access=c.DELETE | STAT, disposition=c.FILE_OPEN)
    assert other.set_info(doomed, c.INFO_FILE, 13, b"\1").status == status.SUCCESS
    assert statuses(stat(client)) == [status.DELETE_PENDING] * 3


def test_attributes_are_looked_at_without_breaking_an_oplock(house: House, client: WireClient, folder: Path) -> None:
    (folder / "f").touch()
    other = house.client()
    assert level_of(other.create("f", oplock=c.OPLOCK_LEVEL_BATCH)) == c.OPLOCK_LEVEL_BATCH
    assert statuses(stat(client)) == SUCCESS


def test_the_descriptor_is_not(house: House, client: WireClient, folder: Path) -> None:
    (folder / "f").touch()
    other = house.client()
    assert level_of(other.create("f", oplock=c.OPLOCK_LEVEL_BATCH)) == c.OPLOCK_LEVEL_BATCH
    client.send(*glance("f", STAT | c.READ_CONTROL))
    engine = house.worker_of(client).lines[0].engine
    house.turn_until(lambda: bool(engine.waiting))
    house.worker_of(other).close()  # its opens, and what it cached, end with it
    assert [client.receive().status for _ in range(3)] == SUCCESS


def test_a_glance_after_another_in_one_compound(client: WireClient, folder: Path, recorded: list[str]) -> None:
    (folder / "f").touch()
    (folder / "g").touch()
    assert statuses(client.compound(*glance("f"), *glance("g"))) == SUCCESS * 2
    assert recorded == []


NAMES = (
    "f", "F", "described", "described", "folder", "folder\\inside", "missing", "missing\\f", "attributed", ".dot", "link", "secret", "",
    "f:s", "f::$DATA", "a?", "\\f",
)  # fmt: skip
ACCESSES = (
    STAT, c.FILE_READ_ATTRIBUTES, c.SYNCHRONIZE, STAT | c.READ_CONTROL, c.FILE_READ_DATA, c.MAXIMUM_ALLOWED, c.FILE_READ_EA, 0,
)  # fmt: skip
OPTIONS = (0, c.FILE_DIRECTORY_FILE, c.FILE_NON_DIRECTORY_FILE, c.FILE_DIRECTORY_FILE | c.FILE_NON_DIRECTORY_FILE, 1 << 31)
SIZES = (4096, 65536, 65537, 104, 100, 40, 8, 0)
CLASSES = (query.FILE_ALL_INFORMATION, *query.MINIMUM, query.FILE_STREAM_INFORMATION, 200)


def furnish(folder: Path) -> None:
    (folder / "folder").mkdir()
    for name in ("f", "folder/inside", "attributed", ".dot", "secret", "described"):
        (folder / name).write_bytes(name.encode() * 1000)
    (folder / "link").symlink_to("f")
    (folder / "secret").chmod(0)
    os.setxattr(folder / "attributed", "user.one", b"1")


def describe(client: WireClient, name: str) -> None:
    """Have a descriptor stored with a file, which says what its mode says."""
    opened = client.open(name, access=c.READ_CONTROL | c.WRITE_DAC, disposition=c.FILE_OPEN)
    descriptor = client.output(client.query_info(opened, c.INFO_SECURITY, 0, additional=c.DACL_SECURITY_INFORMATION))
    assert client.set_info(opened, c.INFO_SECURITY, 0, descriptor, c.DACL_SECURITY_INFORMATION).status == status.SUCCESS
    client.close(opened)


def some_compound(draw: random.Random) -> list[Request]:
    """What clients send, with one thing or another out of the ordinary: the first of each row is the usual one."""

    def pick(row: Sequence[T]) -> T:
        return row[0] if draw.random() < 0.8 else draw.choice(row)

    credits = [pick((1, 0, 3, 40)) for _ in range(3)]
    priority = pick((0, 0x30))
    opening = create_body(
        pick(NAMES), access=pick(ACCESSES), disposition=pick((c.FILE_OPEN, 9)), options=pick(OPTIONS),
        oplock=pick((0, 0x55)),
    )  # fmt: skip
    body = query_info_body(LAST, pick((c.INFO_FILE, c.INFO_SECURITY)), pick(CLASSES), pick(SIZES))
    closing = pick((close_body(LAST), close_body(LAST, c.CLOSE_FLAG_POSTQUERY_ATTRIB), close_body(LAST)[:20]))
    related = c.FLAGS_RELATED_OPERATIONS
    parts = [
        Request(Command.CREATE, opening, credits=credits[0], flags=priority),
        Request(Command.QUERY_INFO, body, credits=credits[1], flags=related | priority),
        Request(Command.CLOSE, closing, credits=credits[2], flags=related | priority),
    ]
    return parts if draw.random() < 0.9 else draw.sample(parts, 2)


def told(answer: Response) -> tuple[object, ...]:
    """Everything but what has to differ."""
    body = bytearray(answer.view[64:])
    if answer.header.command == Command.CREATE and answer.status == status.SUCCESS:
        body[64:80] = bytes(16)  # FileId
    return answer.header._replace(session_id=0, signature=b""), answer.valid, answer.encrypted, bytes(body)


@pytest.mark.parametrize("protection", ["plain", "signed", "encrypted"])
def test_both_ways_answer_alike(
    house: House, client: WireClient, folder: Path, protection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(folder)
    describe(client, "described")
    taken: list[bool] = []
    take = Glances.take
    monkeypatch.setattr(Glances, "take", lambda *args: (taken.append(take(*args)), taken[-1])[1])
    short, long = house.client(), house.client()
    house.worker_of(long).lines[0].engine.express.off = True
    for one in (short, long):
        one.sign, one.seal = protection == "signed", protection == "encrypted"
        while one.credits < 300:
            one.echo(credits=64)
    draw = random.Random(protection)
    for _ in range(400):
        parts = some_compound(draw)
        answers = []
        for one in (short, long):
            one.send(*parts)
            answers.append([told(one.receive()) for _ in parts])
        assert answers[0] == answers[1], parts
    assert sum(taken) > 50

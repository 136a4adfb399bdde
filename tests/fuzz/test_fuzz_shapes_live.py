"""Requests that are well formed as far as their frame goes, and hold what no client means: every control code, every class of information,
chains in circles, links, names and ranges at their edges. Each is answered, on a connection that goes on, and nothing outside the share
is another than before.
"""

# ruff: noqa: E501, PLR0917 - tables of what is thrown, and as many strategies as a request has fields

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.fscc.reparse import TAG_DFS, TAG_LX_SYMLINK, TAG_MOUNT_POINT, TAG_NFS, TAG_SYMLINK
from smbd.smb2.messages import create
from smbd.smb2.messages import create_contexts as contexts
from tests import wire_client as wire
from tests.fuzz.target import LIVE, Target
from tests.server import eventually
from tests.wire_client import FileId, Request

EDGES = (0, 1, 7, 8, 4095, 4096, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 4096, (1 << 63) - 1, 1 << 63)
EDGES += ((1 << 64) - 65536, (1 << 64) - 2, (1 << 64) - 1)
edges = st.sampled_from(EDGES)
NONE: FileId = (c.RELATED_ID, c.RELATED_ID)
HEADER = 64


def throw(target: Target, *requests: Request) -> None:
    """Whatever becomes of each, the ECHO behind it is answered: nobody hangs up on what is no attack on the frame."""
    client = target.client
    for request in requests:
        client.send(request)
        (echo,) = client.send(Request(Command.ECHO, struct.pack("<HH", 4, 0)))
        assert client.receive(echo).status == status.SUCCESS
    target.check()


@pytest.fixture(autouse=True)
def anew(target: Target) -> None:
    """Each test has a connection of its own."""
    afresh(target)


def afresh(target: Target) -> None:
    """All that was open ends."""
    target.client.close_connection()
    target.connect()


def handle(target: Target, which: int) -> FileId:
    """A file's, a folder's, none, or one that nobody has."""
    return (target.file, target.folder, NONE, (1, 1))[which]


@pytest.fixture(scope="module", autouse=True)
def outside(target: Target) -> Iterator[None]:
    """Beside the share lies a folder that clients must not get to: nothing of it changes, its inode's ctime neither."""
    place = target.server.share.parent / "outside"
    place.mkdir()
    (place / "secret").write_text("secret")
    before = [(one.name, os.lstat(one)[:], os.lstat(one).st_ctime_ns) for one in (place, place / "secret")]
    yield
    assert before == [(one.name, os.lstat(one)[:], os.lstat(one).st_ctime_ns) for one in (place, place / "secret")]
    assert os.listdir(place) == ["secret"]


# Control codes


known_codes = st.sampled_from(sorted(getattr(c, name) for name in dir(c) if name.startswith("FSCTL_")))
codes = known_codes | st.integers(0x00090000, 0x000903FF) | st.integers(0x00140000, 0x001403FF) | st.integers(0, 0xFFFFFFFF)
# 3.3.5.15.12: who is told of another negotiation than there was hangs up, and rightly.
codes = codes.filter(lambda code: code != c.FSCTL_VALIDATE_NEGOTIATE_INFO)
inputs = st.binary(max_size=96) | st.builds(
    lambda one, size: bytes([one]) * size, st.sampled_from((0, 1, 0x41, 0xFF)), st.sampled_from((4, 8, 24, 32, 96, 4096, 65400))
)


@LIVE
@given(code=codes, data=inputs, room=st.sampled_from((0, 1, 4, 8, 16, 4096, 65536)), which=st.integers(0, 3))
def test_fuzz_control_codes(target: Target, code: int, data: bytes, room: int, which: int) -> None:
    body = wire.ioctl_body(code, data, handle(target, which), room)
    throw(target, Request(Command.IOCTL, body, charge=1 if len(data) + room <= 65536 else 2))


@LIVE
@given(ranges=st.tuples(edges, edges, edges), source=st.integers(0, 3), target_of=st.integers(0, 3))
def test_fuzz_cloned_ranges(target: Target, ranges: tuple[int, int, int], source: int, target_of: int) -> None:
    data = struct.pack("<QQQQQ", *handle(target, source), *ranges)
    throw(target, Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_DUPLICATE_EXTENTS_TO_FILE, data, handle(target, target_of))))


@LIVE
@given(
    chunks=st.lists(st.tuples(edges, edges, st.sampled_from((0, 1, 4096, 1 << 20, 1 << 31, (1 << 32) - 1))), max_size=5),
    claimed=st.sampled_from((None, 0, 1, 256, 257, 1 << 31, (1 << 32) - 1)),
    write=st.booleans(),
)
def test_fuzz_copied_chunks(target: Target, chunks: list[tuple[int, int, int]], claimed: int | None, write: bool) -> None:
    key = struct.pack("<QQQ", *target.file, 0)
    data = (
        key + struct.pack("<II", len(chunks) if claimed is None else claimed, 0) + b"".join(struct.pack("<QQII", *one, 0) for one in chunks)
    )
    code = c.FSCTL_SRV_COPYCHUNK_WRITE if write else c.FSCTL_SRV_COPYCHUNK
    throw(target, Request(Command.IOCTL, wire.ioctl_body(code, data, target.file, 4096)))
    target.client.call(Command.SET_INFO, wire.set_info_body(target.file, c.INFO_FILE, 20, bytes(8)))  # what was copied far out goes again


@LIVE
@given(locks=st.lists(st.tuples(edges, edges, st.integers(0, 0x1F)), min_size=1, max_size=6), sequence=st.integers(0, (1 << 32) - 1))
def test_fuzz_locks(target: Target, locks: list[tuple[int, int, int]], sequence: int) -> None:
    client = target.client
    opened = client.open("locks.bin")
    at_once = [
        (offset, length, flags | c.LOCKFLAG_FAIL_IMMEDIATELY if not flags & c.LOCKFLAG_UNLOCK else flags) for offset, length, flags in locks
    ]
    throw(target, Request(Command.LOCK, wire.lock_body(opened, *at_once, sequence=sequence)))
    target.client.close(opened)


# Information


@LIVE
@given(
    kind=st.integers(0, 5), info_class=st.integers(0, 255), room=st.sampled_from((0, 1, 2, 4, 8, 16, 24, 40, 56, 100, 4096, 65536)),
    additional=st.sampled_from((0, 1, 7, 15, 0xFFFFFFFF)), which=st.integers(0, 1),
)  # fmt: skip
def test_fuzz_query_info(target: Target, kind: int, info_class: int, room: int, additional: int, which: int) -> None:
    throw(target, Request(Command.QUERY_INFO, wire.query_info_body(handle(target, which), kind, info_class, room, additional)))


@LIVE
@given(
    kind=st.integers(0, 5), info_class=st.integers(0, 255), data=inputs, additional=st.sampled_from((0, 1, 7, 15, 0xFFFFFFFF)),
    which=st.integers(0, 1),
)  # fmt: skip
def test_fuzz_set_info(target: Target, kind: int, info_class: int, data: bytes, additional: int, which: int) -> None:
    client = target.client
    opened = client.open("set info.bin") if not which else client.open("set info", options=c.FILE_DIRECTORY_FILE)
    throw(target, Request(Command.SET_INFO, wire.set_info_body(opened, kind, info_class, data, additional)))
    target.client.close(opened)


PATTERNS = (
    "*",
    "*.*",
    "",
    "a",
    "<",
    "?" * 300,
    "*" * 3000,
    "*a" * 1500,
    '<">' * 900,
    "..",
    "a\\..\\.millpond",
    "x/../../y",
    "\0",
    "\ud800",
)
patterns = st.sampled_from(PATTERNS) | st.text(max_size=8)


@LIVE
@given(
    pattern=patterns,
    info_class=st.integers(0, 127),
    room=st.sampled_from((0, 1, 8, 12, 64, 100, 120, 300, 65536)),
    flags=st.integers(0, 255),
)
def test_fuzz_query_directory(target: Target, pattern: str, info_class: int, room: int, flags: int) -> None:
    raw = pattern.encode("utf-16-le", "surrogatepass")
    fixed = struct.pack("<HBBIQQHHI", 33, info_class, flags, 0, *target.folder, HEADER + 32, len(raw), room)
    throw(target, Request(Command.QUERY_DIRECTORY, fixed + (raw or b"\0")))


def quota_list(sids: Sequence[bytes], steps: Sequence[int | None], head: int) -> bytes:
    """A list of entries with ``head`` bytes before the SID, each with a NextEntryOffset of its own choice."""
    out = b""
    for place, (sid, step) in enumerate(zip(sids, steps, strict=False)):
        size = head + len(sid) + 7 & ~7
        following = size if step is None and place + 1 < len(sids) else step or 0
        out += (struct.pack("<II", following, len(sid)) + bytes(head - 8) + sid).ljust(size, b"\0")
    return out


SID = struct.pack("<BBHII", 1, 2, 0, 0x05000000, 21) + struct.pack("<I", 7)
sids = st.lists(st.sampled_from((SID, SID[:8], b"\1\xff" + bytes(6), b"", bytes(68))), min_size=1, max_size=4)
steps = st.lists(st.sampled_from((None, 0, 4, 8, 24, 0x7FFFFFFC, 0xFFFFFFF8, 0xFFFFFFFF)), min_size=4, max_size=4)


@LIVE
@given(sids=sids, steps=steps, lengths=st.tuples(*[st.sampled_from((None, 0, 8, 0xFFFFFFFF))] * 2), flags=st.integers(0, 3))
def test_fuzz_quotas(
    target: Target, sids: list[bytes], steps: list[int | None], lengths: tuple[int | None, int | None], flags: int
) -> None:
    listed = quota_list(sids, steps, 8)
    first, second = (len(listed) if length is None else length for length in lengths)
    asked = struct.pack("<BBHIII", flags & 1, flags >> 1, 0, first, second, 0) + listed
    fixed = struct.pack("<HBBIHHIIIQQ", 41, c.INFO_QUOTA, 0, 4096, HEADER + 40, 0, len(asked), 0, 0, *target.folder)
    body = wire.set_info_body(target.folder, c.INFO_QUOTA, 0, quota_list(sids, steps, 40))
    throw(target, Request(Command.QUERY_INFO, fixed + asked), Request(Command.SET_INFO, body))


# Names and what comes with them


PARTS = (
    "CON", "NUL.txt", "a.", "a ", ".", "..", "...", "a::$DATA", "a:b:$DATA", ":", "::", ":$I30:$INDEX_ALLOCATION", "$Extend", "\ud800", "\udfff",
    "\0", "\1", "*", "?", "<", "a" * 255, "a" * 256, "é" * 200, "\U0001f40b" * 128, "@GMT-2024.01.01-00.00.00", "@GMT-9999.99.99-99.99.99",
    "@GMT-٢٠٢٤.٠١.٠١-٠٠.٠٠.٠٠", ".millpond", ".MILLPOND", ".millpond ", "MILLP~1", "outside", "secret", "", "a~1", "\uf022", "\uf7ff", "/", "ﬀ",
)  # fmt: skip
paths = st.lists(st.sampled_from(PARTS) | st.text(max_size=5), min_size=1, max_size=6).map("\\".join)
dispositions = st.sampled_from((1, 2, 3, 5))


def create_of(path: str, chain: bytes = b"", *, options: int = 0, disposition: int = 3, oplock: int = 0) -> bytes:
    """A CREATE for attributes alone, with a name and a chain of contexts as they come."""
    raw = path.encode("utf-16-le", "surrogatepass")[:65534]
    start = HEADER + create.CREATE_REQUEST.size
    padding = -len(raw) % 8
    at = start + len(raw) + padding if chain else 0
    access = c.FILE_READ_ATTRIBUTES | c.DELETE | c.FILE_WRITE_DATA
    fixed = create.CREATE_REQUEST.pack(57, 0, oplock, 2, 0, 0, access, 0, 7, disposition, options, start, len(raw), at, len(chain))
    return fixed + raw + bytes(padding) + (chain or b"\0")


@LIVE
@given(path=paths, disposition=dispositions, options=st.sampled_from((0, 1, 0x40, 0x200000, 0x201000, 0x1000)), exact=st.booleans())
def test_fuzz_names(target: Target, path: str, disposition: int, options: int, exact: bool) -> None:
    chain = contexts.build_chain([(contexts.POSIX, struct.pack("<I", 0o7777))]) if exact else b""
    throw(target, Request(Command.CREATE, create_of(path, chain, options=options, disposition=disposition)))


@LIVE
@given(path=paths, rename=st.booleans(), replace=st.sampled_from((0, 1, 3, 0xFFFFFFFF)), newer=st.booleans())
def test_fuzz_new_names(target: Target, path: str, rename: bool, replace: int, newer: bool) -> None:
    client = target.client
    opened = client.open("to be renamed.bin")
    raw = path.encode("utf-16-le", "surrogatepass")
    info_class = (65 if newer else 10) if rename else (72 if newer else 11)
    data = struct.pack("<IIQI", replace if newer else replace & 1, 0, 0, len(raw)) + raw
    throw(target, Request(Command.SET_INFO, wire.set_info_body(opened, c.INFO_FILE, info_class, data)))
    target.client.close(opened)


NAMES = (
    b"ExtA", b"SecD", b"DHnQ", b"DHnC", b"AlSi", b"MxAc", b"TWrp", b"QFid", b"RqLs", b"DH2Q", b"DH2C", b"AAPL", b"none", b"abc", b"", b"long name",
    contexts.APP_INSTANCE_ID, contexts.APP_INSTANCE_VERSION, contexts.SVHDX_OPEN_DEVICE_CONTEXT, contexts.POSIX,
)  # fmt: skip
DATA = (
    b"", bytes(4), bytes(8), bytes(16), bytes(20), bytes(32), bytes(36), bytes(52), b"\xff" * 8, b"\xff" * 16, b"\xff" * 32, b"\xff" * 36, b"\xff" * 52,
    struct.pack("<IIQ16s", 0xFFFFFFFF, 2, 0, b"G" * 16), struct.pack("<IIQ16s", 0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, bytes(16)),
    struct.pack("<16sIIQ16sHH", b"L" * 16, 7, 4, 0, b"L" * 16, 0xFFFF, 0xFFFF), struct.pack("<16sIIQ", b"L" * 16, 0xFFFFFFFF, 0xFFFFFFFF, 0),
    struct.pack("<HH16s", 20, 0, b"A" * 16), struct.pack("<HHIQQ", 24, 0, 0, (1 << 64) - 1, (1 << 64) - 1),
)  # fmt: skip
elements = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(DATA) | st.binary(max_size=60)), min_size=1, max_size=6)
spoils = st.lists(st.tuples(st.integers(0, 5), st.sampled_from((0, 4, 6, 8, 10, 12)), edges), max_size=2)


@LIVE
@given(elements=elements, spoils=spoils, oplock=st.sampled_from((0, 1, 8, 9, 0xFF)), replay=st.booleans(), repeat=st.integers(1, 30))
def test_fuzz_create_contexts(
    target: Target, elements: list[tuple[bytes, bytes]], spoils: list[tuple[int, int, int]], oplock: int, replay: bool, repeat: int
) -> None:
    """Of every kind, several of one kind, too many, and with Next, offsets and lengths that lead in a circle, backwards or out."""
    chain = bytearray(contexts.build_chain(elements * repeat))
    places = [0]
    while following := struct.unpack_from("<I", chain, places[-1])[0]:
        places.append(places[-1] + following)
    for which, field, value in spoils:
        at, size = places[which % len(places)] + field, 4 if field in (0, 12) else 2
        chain[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    flags = c.FLAGS_REPLAY_OPERATION if replay else 0
    afresh(target)  # nobody waits for what another example has cached
    throw(target, Request(Command.CREATE, create_of("contexts.bin", bytes(chain)[:60000], oplock=oplock), flags=flags))


TARGETS = (
    "target", "..\\outside\\secret", "..\\..\\..\\..\\etc\\passwd", "\\etc\\passwd", "/etc/passwd", "\\??\\C:\\", "msdfs:server\\share", "msdfs:a/b",
    ".\\msdfs:server\\share", "a\0b", "\0", "", ".", "..", ".millpond\\streams", "a\\..\\..\\outside", "a" * 255, "a" * 4096, "a\\" * 2040 + "a",
    "\ud800", "@GMT-2024.01.01-00.00.00\\a", "\\", "a\\\\b", "a:b", "~",
)  # fmt: skip


@LIVE
@given(
    name=st.sampled_from(TARGETS), relative=st.integers(0, 1), spoil=st.tuples(st.sampled_from((None, 0, 4, 8, 10, 12, 14, 16)), edges),
    tag=st.sampled_from((TAG_SYMLINK,) * 4 + (TAG_MOUNT_POINT, TAG_NFS, TAG_DFS, TAG_LX_SYMLINK, 0, 1, 0xFFFFFFFF)), directory=st.booleans(),
)  # fmt: skip
def test_fuzz_reparse_points(target: Target, name: str, relative: int, spoil: tuple[int | None, int], tag: int, directory: bool) -> None:
    """Whatever a client makes a link of, and goes through it then: nothing outside is reached, and none is a link of a namespace."""
    client = target.client
    raw = name.encode("utf-16-le", "surrogatepass")
    buffer = bytearray(struct.pack("<IHHHHHHI", tag, 12 + 2 * len(raw) & 0xFFFF, 0, 0, len(raw), len(raw), len(raw), relative) + raw + raw)
    at, value = spoil
    if at is not None:
        size = 4 if at in (0, 16) else 2
        buffer[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    options = c.FILE_OPEN_REPARSE_POINT | (c.FILE_DIRECTORY_FILE if directory else c.FILE_NON_DIRECTORY_FILE)
    answer = client.create("link", options=options | c.FILE_DELETE_ON_CLOSE)
    assert answer.status == status.SUCCESS, status.name(answer.status)
    made = answer.parse(create.CREATE_RESPONSE)
    opened = made.file_id_persistent, made.file_id_volatile
    throw(target, Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_SET_REPARSE_POINT, bytes(buffer), opened, 4096)))
    place = target.server.share / "link"
    if place.is_symlink():
        assert not os.readlink(place).startswith(("/", "msdfs:", ".."))
    for path, ask in (("link", 0), ("link\\secret", 0), ("link:stream", 0), ("link", c.FILE_OPEN_REPARSE_POINT)):
        throw(target, Request(Command.CREATE, create_of(path, options=ask, disposition=1)))
    throw(target, Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_GET_REPARSE_POINT, b"", opened, 16384)))
    afresh(target)  # all that has the link open ends, and the link with it
    eventually(lambda: not os.path.lexists(place))


# Sessions, replays


@LIVE
@given(
    sequences=st.lists(st.sampled_from((0, 1, 2, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF)), min_size=1, max_size=6),
    replay=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_fuzz_channel_sequences(target: Target, sequences: list[int], replay: list[bool]) -> None:
    """Forwards, backwards and round: each request is answered, and what is answered with SUCCESS is what the file holds."""
    client = target.client
    opened = client.open("sequences.bin")
    expected = client.read_data(opened, 0, 1) if client.write(opened, 0, b"\0").status == status.SUCCESS else b""
    for place, (sequence, again) in enumerate(zip(sequences, replay, strict=False), 1):
        flags = c.FLAGS_REPLAY_OPERATION if again else 0
        answer = client.call(Command.WRITE, wire.write_body(opened, 0, bytes([place])), flags=flags, channel_sequence=sequence)
        if answer.status == status.SUCCESS:
            expected = bytes([place])
        else:
            assert answer.status == status.FILE_NOT_AVAILABLE
        assert (target.server.share / "sequences.bin").read_bytes() == expected
    client.close(opened)
    target.check()

"""A local program swaps files and directories of a share for symlinks that lead out of it, all the time, while a client works on them.

Whatever an operation meets, it stays inside: what lies outside is neither read nor written, neither made nor removed, nor are its
attributes changed or its names told.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.dtyp.sddl import parse_sddl
from smbd.smb2.fscc.reparse import Symlink, pack_symlink
from smbd.smb2.messages import create
from smbd.smb2.messages.create_contexts import POSIX
from tests.server import IS_SAMBA, Server, given_settings
from tests.wire_client import FileId, Offer, WireClient, create_body

ROUNDS = 60
ITSELF = c.FILE_OPEN_REPARSE_POINT
SECRET = b"nobody's business"
# renameat2(2) with RENAME_EXCHANGE: at no moment is either name missing.
SWAPPER = """
import ctypes, os, select, sys
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
print("up", flush=True)
while not select.select([0], [], [], 0)[0]:
    for _ in range(50):
        libc.renameat2(-100, b"d", -100, b"way out", 2)
        libc.renameat2(-100, b"f", -100, b"file out", 2)
"""


@contextmanager
def swapping(share: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", SWAPPER, str(share)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield
        finally:
            process.stdin.close()
            assert process.wait(20) == 0


def everything(place: Path) -> list[tuple[object, ...]]:
    """All that could be seen to have changed, but the time of the last access."""
    found: list[tuple[object, ...]] = []
    for one in (place, *sorted(place.rglob("*"))):
        st = one.lstat()
        attributes = [(name, os.getxattr(one, name, follow_symlinks=False)) for name in os.listxattr(one, follow_symlinks=False)]
        content = one.read_bytes() if one.is_file() else b""
        found.append(
            (one, st.st_ino, st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, st.st_mtime_ns, st.st_ctime_ns, attributes, content)
        )
    return found


def make_outside(place: Path) -> Path:
    """Others may do everything there that the client's user might try."""
    place.mkdir()
    (place / "full").mkdir()
    for name in ("only here", "same", "full/inside"):
        (place / name).write_bytes(SECRET)
        (place / name).chmod(0o666)
        os.setxattr(place / name, "user.hidden", SECRET)
    for one in (place, place / "full"):
        one.chmod(0o777)
    return place


class Attack:
    """One client's operations on what is swapped; each is tried many times, and meets one thing or the other."""

    def __init__(self, client: WireClient) -> None:
        self.client = client

    def opened(self, name: str, **options: object) -> FileId | None:
        """Its FileId; None when it was refused."""
        answer = self.client.create(name, **options)
        if answer.status != status.SUCCESS:
            return None
        made = answer.parse(create.CREATE_RESPONSE)
        return made.file_id_persistent, made.file_id_volatile

    def steps(self) -> list[Callable[[str], bool]]:
        return [self.read, self.write, self.make, self.dress, self.rename, self.remove, self.look, self.list, self.into_a_link, self.exact]

    def with_open(self, name: str, act: Callable[[FileId], bool], **options: object) -> bool:
        opened = self.opened(name, **options)
        if opened is None:
            return False
        try:
            return act(opened)
        finally:
            self.client.close(opened)

    def read(self, name: str) -> bool:
        def act(opened: FileId) -> bool:
            answer = self.client.read(opened, 0, 100)
            assert SECRET not in bytes(answer.view)
            return answer.status == status.SUCCESS

        return self.with_open(name, act, disposition=c.FILE_OPEN, access=c.FILE_READ_DATA)

    def write(self, name: str) -> bool:
        def act(opened: FileId) -> bool:
            truncated = self.client.set_info(opened, c.INFO_FILE, 20, pack("<Q", 5)).status  # FileEndOfFileInformation
            return self.client.write(opened, 0, b"ours").status == truncated == status.SUCCESS

        return self.with_open(name, act, disposition=c.FILE_OVERWRITE_IF)

    def make(self, name: str) -> bool:
        """New names, in the file's directory and beneath it; a stream."""
        made = [
            self.opened(f"{name} {kind}", disposition=c.FILE_CREATE, options=options | c.FILE_DELETE_ON_CLOSE) for kind, options in KINDS
        ]
        made.append(self.opened(f"{name}:stream", disposition=c.FILE_OPEN_IF, options=c.FILE_DELETE_ON_CLOSE))
        for opened in made:
            if opened is not None:
                self.client.close(opened)
        return any(made)

    def dress(self, name: str) -> bool:
        """Attributes, times, extended attributes, the descriptor."""

        def act(opened: FileId) -> bool:
            now = 133_500_000_000_000_000
            done = [
                self.client.set_info(opened, c.INFO_FILE, 4, pack("<QQQQII", now, now, now, now, c.FILE_ATTRIBUTE_HIDDEN, 0)),
                self.client.set_info(opened, c.INFO_FILE, 15, pack("<IBBH", 0, 0, 4, 5) + b"MINE\0value"),
                self.client.set_info(opened, c.INFO_SECURITY, 0, parse_sddl("D:(A;;FA;;;WD)").pack(), c.DACL_SECURITY_INFORMATION),
            ]
            told = self.client.query_info(opened, c.INFO_FILE, 15)
            assert SECRET not in bytes(told.view)
            return all(answer.status == status.SUCCESS for answer in done)

        return self.with_open(name, act, disposition=c.FILE_OPEN)

    def rename(self, name: str) -> bool:
        """Something of ours to there, and back; another name for it."""

        def act(opened: FileId) -> bool:
            codes = set()
            for info_class, target in ((10, f"{name} moved"), (10, "mine"), (11, f"{name} linked"), (11, name)):
                raw = target.encode("utf-16-le")
                codes.add(self.client.set_info(opened, c.INFO_FILE, info_class, pack("<QQI", 0, 0, len(raw)) + raw).status)
            linked = self.opened(f"{name} linked", disposition=c.FILE_OPEN, access=c.DELETE, options=c.FILE_DELETE_ON_CLOSE)
            if linked is not None:
                self.client.close(linked)
            return status.SUCCESS in codes

        return self.with_open("mine", act)

    def remove(self, name: str) -> bool:
        """And it is there again afterwards."""
        removed = self.with_open(name, lambda _: True, disposition=c.FILE_OPEN, access=c.DELETE, options=c.FILE_DELETE_ON_CLOSE)
        self.with_open(name, lambda _: True, disposition=c.FILE_OPEN_IF)
        return removed

    def look(self, name: str) -> bool:
        """What there is outside alone is not found, whatever is asked of it."""
        parent = name.rpartition("\\")[0] or "f"
        for missing in ("only here", "full", "full\\inside", "ONLY HERE", "only here:stream"):
            for options in (0, ITSELF):
                answer = self.client.create(f"{parent}\\{missing}", disposition=c.FILE_OPEN, access=c.FILE_READ_ATTRIBUTES, options=options)
                assert answer.status in REFUSALS, status.name(answer.status)
        return self.with_open(name, lambda _: True, disposition=c.FILE_OPEN, access=c.FILE_READ_ATTRIBUTES)

    def list(self, name: str) -> bool:
        def act(opened: FileId) -> bool:
            for pattern in ("*", "only here", "same"):
                answer = self.client.query_directory(opened, pattern, flags=c.REOPEN)
                raw = bytes(answer.view)
                assert "only here".encode("utf-16-le") not in raw
                assert "full".encode("utf-16-le") not in raw
            return True

        parent = name.rpartition("\\")[0]
        return self.with_open(parent, act, disposition=c.FILE_OPEN, options=c.FILE_DIRECTORY_FILE, access=c.FILE_LIST_DIRECTORY)

    def into_a_link(self, name: str) -> bool:
        """A file becomes a symlink, and goes again, where the directory may be another by then."""

        def act(opened: FileId) -> bool:
            link = pack_symlink(Symlink("same", True))
            return self.client.ioctl(c.FSCTL_SET_REPARSE_POINT, link, opened).status == status.SUCCESS

        options = ITSELF | c.FILE_DELETE_ON_CLOSE
        return self.with_open(f"{name} link", act, disposition=c.FILE_CREATE, options=options)

    def exact(self, name: str) -> bool:
        """By the POSIX extensions."""
        body = create_body(name.replace("\\", "/"), disposition=c.FILE_OPEN, contexts=[(POSIX, pack("<I", 0o666))])
        answer = self.client.call(Command.CREATE, body)
        if answer.status != status.SUCCESS:
            return False
        made = answer.parse(create.CREATE_RESPONSE)
        opened = made.file_id_persistent, made.file_id_volatile
        assert SECRET not in bytes(self.client.read(opened, 0, 100).view)
        self.client.close(opened)
        return True


KINDS = (("file", 0), ("folder", c.FILE_DIRECTORY_FILE))
REFUSALS = (
    status.OBJECT_NAME_NOT_FOUND, status.OBJECT_PATH_NOT_FOUND, status.STOPPED_ON_SYMLINK, status.ACCESS_DENIED, status.NOT_A_DIRECTORY,
    status.OBJECT_NAME_INVALID,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(IS_SAMBA, reason="what Samba does then is its own affair")
@pytest.mark.parametrize("port", ["linux", "posix"])
def test_what_lies_outside_stays_as_it_is(make_server: Callable[..., Server], port: str) -> None:
    if port == "posix" and given_settings().get("server mode") == "threaded":
        pytest.skip("port = posix serves forked alone")
    server = make_server(settings={"port": port})
    share, outside = server.share, make_outside(server.share.parent / "outside")
    (share / "d").mkdir()
    (share / "d").chmod(0o777)
    for name in ("f", "d/same"):
        (share / name).write_bytes(b"ours")
        (share / name).chmod(0o666)
    (share / "way out").symlink_to("../outside")
    (share / "file out").symlink_to(outside / "same")
    before = everything(outside)
    offer = Offer()
    offer.contexts = [*offer.make_contexts(), (c.POSIX_EXTENSIONS_AVAILABLE, POSIX)]
    attack = Attack(server.client(offer=offer))
    done: Counter[tuple[str, bool]] = Counter()
    with swapping(share):
        for turn in range(ROUNDS):
            for step in attack.steps():
                done[step.__name__, step("d\\same" if turn % 2 else "f")] += 1
    assert everything(outside) == before
    for step in attack.steps():
        assert done[step.__name__, True], f"{step.__name__} has never been done: {done}"
    assert any(not went_well for _, went_well in done), "nothing was ever refused: the swaps were never met"
    attack.client.close_connection()

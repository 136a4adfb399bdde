"""Previous versions on a real btrfs, where a snapshot is a read-only subvolume: in both of the ways in which they are kept there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from tests.btrfs import mounted, run
from tests.interop.tools import SIGNED, smbclient
from tests.server import Server, eventually
from tests.wire_client import WireClient

TOKEN: Final = "@GMT-2020.09.13-12.26.40"
LATER: Final = "@GMT-2021.01.01-00.00.00"
INFO: Final = '<?xml version="1.0"?>\n<snapshot>\n  <num>{}</num>\n  <date>{}</date>\n</snapshot>\n'
STREAMS: Final = {"small": b"a stream", "large": b"0123456789abcdef" * 2500}  # the second lies in a file of its own


class Layout(NamedTuple):
    """A share on a subvolume. ``below``: where in it; ``snapshot``: where its snapshots are, by token and number."""

    share: str
    modules: str
    below: str
    snapshot: str


LAYOUTS: Final = (
    Layout("plain", "shadow_copy2", "", ".snapshots/{0}"),
    Layout("kept", "snapper", "data", ".snapshots/{1}/snapshot"),
)


@pytest.fixture(scope="module")
def volume() -> Iterator[Path]:
    with mounted() as root:
        yield root


@pytest.fixture(scope="module")
def server(volume: Path) -> Iterator[Server]:
    """What was in each share is in its snapshot; then it was changed."""
    made, modules = Server(), "streams_xattr acl_xattr"
    for layout in LAYOUTS:
        run("btrfs", "subvolume", "create", volume / layout.share)
        shared = volume / layout.share / layout.below
        shared.mkdir(exist_ok=True)
        shared.chmod(0o777)
        made.peer.shares[layout.share] = {"path": str(shared), "read only": "no", "vfs objects": f"{layout.modules} {modules}"}
    with made.running():
        for layout in LAYOUTS:
            with connected(made, layout) as client:
                for name, content in (("note.txt", b"what was"), *((f"note.txt:{name}", content) for name, content in STREAMS.items())):
                    handle = client.open(name)
                    assert client.write(handle, 0, content).status == status.SUCCESS
                    client.close(handle)
            take(volume, layout, TOKEN, 7)
            (volume / layout.share / layout.below / "note.txt").write_text("what is")
        yield made


def take(volume: Path, layout: Layout, token: str, number: int) -> None:
    """A snapshot, as an administrator or snapper makes it."""
    snapshot = volume / layout.share / layout.snapshot.format(token, number)
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    if layout.modules == "snapper":
        date, clock = token.removeprefix("@GMT-").split("-")
        (snapshot.parent / "info.xml").write_text(INFO.format(number, f"{date.replace('.', '-')} {clock.replace('.', ':')}"))
        snapshot.parent.parent.chmod(0o750)
    run("btrfs", "subvolume", "snapshot", "-r", volume / layout.share, snapshot)


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.modules)
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def connected(server: Server, layout: Layout) -> WireClient:
    client = server.client()
    assert client.tree_connect(layout.share).status == status.SUCCESS
    return client


def test_a_snapshot_is_listed_and_read(server: Server, layout: Layout, tmp_path: Path) -> None:
    assert TOKEN in smbclient(server, "allinfo note.txt", SIGNED, share=layout.share)
    assert "note.txt" in smbclient(server, f'ls "{TOKEN}\\*"', SIGNED, share=layout.share)
    smbclient(server, f'lcd {tmp_path}; get "{TOKEN}\\note.txt" was; get note.txt is', SIGNED, share=layout.share)
    assert (tmp_path / "was").read_text() == "what was"
    assert (tmp_path / "is").read_text() == "what is"


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_are_in_it(server: Server, layout: Layout, tmp_path: Path, stream: str) -> None:
    smbclient(server, f'lcd {tmp_path}; get "{TOKEN}\\note.txt:{stream}" was', SIGNED, share=layout.share)
    assert (tmp_path / "was").read_bytes() == STREAMS[stream]


def test_nothing_in_it_is_changed(server: Server, layout: Layout, volume: Path) -> None:
    for command in (f'put /etc/hostname "{TOKEN}\\new"', f'del "{TOKEN}\\note.txt"', f'mkdir "{TOKEN}\\new"'):
        assert "NT_STATUS_MEDIA_WRITE_PROTECTED" in smbclient(server, command, SIGNED, ok=None, share=layout.share)
    with connected(server, layout) as client:
        handle = client.open(f"{TOKEN}\\note.txt", disposition=c.FILE_OPEN)
        assert client.write(handle, 0, b"changed").status == status.MEDIA_WRITE_PROTECTED
        assert client.ioctl(c.FSCTL_SET_COMPRESSION, b"\2\0", handle).status == status.MEDIA_WRITE_PROTECTED
        assert client.read_data(handle, 0, 100) == b"what was"
    was = volume / layout.share / layout.snapshot.format(TOKEN, 7) / layout.below
    assert (was / "note.txt").read_text() == "what was"
    assert sorted(path.name for path in was.iterdir() if not path.name.startswith(".")) == ["note.txt"]


def test_a_snapshot_goes_when_it_is_deleted(server: Server, layout: Layout, volume: Path) -> None:
    """Whoever was in it does not keep the administrator from that, and finds nothing there any more."""
    take(volume, layout, LATER, 8)
    with connected(server, layout) as client:
        handle = client.open(f"{LATER}\\note.txt", disposition=c.FILE_OPEN)
        assert client.read_data(handle, 0, 100) == b"what is"
        client.close(handle)
        snapshot = volume / layout.share / layout.snapshot.format(LATER, 8)
        run("btrfs", "subvolume", "delete", snapshot)
        if layout.modules == "snapper":
            shutil.rmtree(snapshot.parent)
        # What snapshots there are is believed for a while.
        eventually(lambda: client.create(f"{LATER}\\note.txt", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND)
        assert client.read_data(client.open("note.txt", disposition=c.FILE_OPEN), 0, 100) == b"what is"

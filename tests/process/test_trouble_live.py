"""What an administrator gets wrong and what a machine runs out of: one clear line, the right status, no data lost."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smbd.smb2 import status
from tests.interop.tools import smbclient
from tests.server import SHARE, Server, tool


def _refused(server: Server, *names: str) -> str:
    """``run`` ends with status 1 and one line that holds all of ``names``."""
    done = server.command("run")
    text = (done.stderr + done.stdout).strip()
    assert done.returncode == 1, text
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if all(name in line for name in names)]
    assert lines, text
    assert len(text.splitlines()) <= 2, text
    return text


def test_port_in_use(make_server: Callable[..., Server]) -> None:
    server = make_server(start=False)
    server.peer.prepare()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", server.port))
        holder.listen()
        _refused(server, str(server.port), "in use")


def test_missing_folder(make_server: Callable[..., Server]) -> None:
    """The other shares are served; a line names the folder, and the client hears that there is no such share."""
    extra = "not-there"
    server = make_server(start=False)
    folder = server.peer.base / extra
    server.peer.shares["lost"] = {"path": str(folder)}
    server.start()
    with server.client() as client:
        assert status.name(client.tree_connect("lost").status) == "BAD_NETWORK_NAME"
        assert client.tree_connect(SHARE).status == status.SUCCESS
    assert [line for line in server.log.splitlines() if str(folder) in line], server.log
    assert "Traceback" not in server.log


def test_config_that_is_not_there(make_server: Callable[..., Server]) -> None:
    server = make_server(start=False)
    _refused(server, str(server.peer.config))


def test_config_that_cannot_be_read(make_server: Callable[..., Server]) -> None:
    server = make_server(start=False)
    server.peer.config.mkdir()  # root may read everything, but no folder as a file
    _refused(server, str(server.peer.config))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[global]\n    smb ports = many\n", ("smb ports", "many", "2")),
        ("[global]\n    server min protocol = SMB9\n", ("server min protocol", "SMB9")),
        ("[broken\n", ("1",)),
    ],
)
def test_config_with_a_mistake(make_server: Callable[..., Server], text: str, names: tuple[str, ...]) -> None:
    server = make_server(start=False)
    server.peer.prepare()
    server.peer.config.write_text(text)
    _refused(server, str(server.peer.config), *names)


def test_a_second_server_in_the_same_directories(make_server: Callable[..., Server]) -> None:
    server = make_server()
    done = server.command("run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    with server.client() as client:
        assert client.echo().status == status.SUCCESS


def test_wrong_password_is_slow_and_the_right_one_still_works(server: Server) -> None:
    with server.negotiated() as client:
        begin = time.monotonic()
        answer = client.session_setup(server.user, "wrong")
        assert answer.status == status.LOGON_FAILURE
        assert time.monotonic() - begin > 0.3, "no delay after a failed attempt"
        assert client.session_setup(server.user, server.password).status == status.SUCCESS
    assert "Traceback" not in server.log


def test_who_may_not_connect(make_server: Callable[..., Server]) -> None:
    server = make_server(share_settings={"valid users": "news"})
    with server.negotiated() as client:
        assert client.session_setup(server.user, server.password).status == status.SUCCESS
        assert client.tree_connect(SHARE).status == status.ACCESS_DENIED
    with server.client(other=True) as client:
        assert client.echo().status == status.SUCCESS


def test_a_read_only_share(make_server: Callable[..., Server]) -> None:
    server = make_server(share_settings={"read only": "yes"})
    (server.share / "there.txt").write_text("there")
    assert "NT_STATUS_ACCESS_DENIED" in smbclient(server, "put /etc/hostname new.txt", ok=None)
    assert "NT_STATUS_" in smbclient(server, "del there.txt", ok=None)
    assert "getting file" in smbclient(server, "get there.txt /dev/null")
    assert [path.name for path in server.share.iterdir() if not path.name.startswith(".")] == ["there.txt"]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 16 MiB that every user can reach."""
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    folder = Path(tempfile.mkdtemp(prefix="millpond-small-"))
    folder.chmod(0o755)
    subprocess.run([tool("mount"), "-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run([tool("umount"), "-l", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.parametrize("form", ["user", "kernel"])
def test_full_disk(make_server: Callable[..., Server], small_disk: Path, form: str) -> None:
    server = make_server(settings={"data path": form}, share_settings={"path": str(small_disk)})
    chunk = bytes(range(256)) * 4096
    with server.client() as client:
        kept = client.open("kept.bin")
        assert client.write(kept, 0, chunk).status == status.SUCCESS
        file = client.open("filler.bin")
        written = 0
        while (answer := client.write(file, written, chunk)).status == status.SUCCESS:
            written += len(chunk)
            assert written < 32 << 20
        assert status.name(answer.status) == "DISK_FULL"
        assert client.echo().status == status.SUCCESS
        for offset in range(0, written, len(chunk)):
            assert client.read_data(file, offset, len(chunk)) == chunk, "acknowledged data was lost"
        assert client.read_data(kept, 0, len(chunk)) == chunk
        assert client.flush(kept).status == status.SUCCESS
        client.close(file)
        (small_disk / "filler.bin").unlink()
        assert client.write(kept, len(chunk), chunk).status == status.SUCCESS, "room again, and still refused"
        client.close(kept)
    assert "NT_STATUS_DISK_FULL" in _put_too_much(server, small_disk)


def _put_too_much(server: Server, folder: Path) -> str:
    big = server.peer.base / "big"
    big.write_bytes(bytes(20 << 20))
    try:
        return smbclient(server, f'put "{big}" big.bin', ok=None)
    finally:
        big.unlink()
        shutil.rmtree(folder / "big.bin", ignore_errors=True)

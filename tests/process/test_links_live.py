"""Symlinks between workers: one that is to be deleted goes although its worker is killed; one that is made is what others see."""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import pack

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc.reparse import Symlink, pack_symlink
from tests.server import Server, eventually

ITSELF = c.FILE_OPEN_REPARSE_POINT


def test_a_link_whose_worker_is_killed_is_deleted_itself(make_server: Callable[..., Server]) -> None:
    server = make_server()
    (server.share / "target").write_text("content")
    for name, options in (("followed", 0), ("itself", ITSELF)):
        (server.share / name).symlink_to("target" if options else "copy")
    (server.share / "copy").write_text("another file, for what is behind a link goes by its own number")
    client = server.client()
    for name, options in (("followed", 0), ("itself", ITSELF)):
        client.open(name, access=c.DELETE, options=options | c.FILE_DELETE_ON_CLOSE, disposition=c.FILE_OPEN)
    if server.settings.get("server mode") == "threaded":
        client.close_connection()
    else:
        server.worker_of(client).kill()
    eventually(lambda: not {"followed", "itself"} & set(os.listdir(server.share)))
    assert {"target", "copy"} <= set(os.listdir(server.share))


def test_a_file_that_becomes_a_link_is_nobody_elses_any_more(make_server: Callable[..., Server]) -> None:
    server = make_server()
    (server.share / "target").write_text("content")
    with server.client() as one, server.client(other=True) as two:
        opened = one.open("link", options=ITSELF, disposition=c.FILE_CREATE, share=0)
        link = pack_symlink(Symlink("target", True))
        assert one.ioctl(c.FSCTL_SET_REPARSE_POINT, link, opened).status == status.SUCCESS
        assert two.read_data(two.open("link", access=c.FILE_READ_DATA), 0, 100) == b"content"
        assert status.name(two.create("link", options=ITSELF, access=c.FILE_READ_DATA).status) == "SHARING_VIOLATION"
        assert one.close(opened).status == status.SUCCESS
        itself = two.open("link", options=ITSELF, access=c.FILE_READ_ATTRIBUTES, disposition=c.FILE_OPEN)
        assert two.output(two.ioctl(c.FSCTL_GET_REPARSE_POINT, b"", itself)) == link
        delete = pack("<IHH", 0xA000000C, 0, 0)
        assert two.ioctl(c.FSCTL_DELETE_REPARSE_POINT, delete, itself).status == status.ACCESS_DENIED

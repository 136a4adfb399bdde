"""What is thrown at a live server, and what becomes of it: it answers or hangs up in time, and a witness notices nothing.

Owns: ``Target``, a client that is made anew when the server hangs up. Invariant: whoever threw something knows afterwards that the server
still answers, and that its log has no new traceback.
"""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import HealthCheck, settings

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.fscc.reparse import Symlink, pack_symlink
from smbd.smb2.messages.create_contexts import APP_INSTANCE_ID, APP_INSTANCE_VERSION, POSIX
from tests import wire_client as wire
from tests.server import Server
from tests.wire_client import Closed, Request, SocketTransport, WireClient

TIMEOUT = 15.0
EXAMPLES = int(os.environ.get("MILLPOND_EXAMPLES", "100"))
LIVE = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Target:
    """A logged-on client that is made anew when the server hangs up, with an open file and an open folder."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.witness = server.client(timeout=TIMEOUT)
        self.hang_ups = 0
        self._uses = self._read = 0
        self.connect()

    def connect(self) -> None:
        """A fresh connection."""
        self.client = self.server.client(timeout=TIMEOUT, offer=_offer())
        self.file = self.client.open(f"fuzz {os.getpid()}.bin")
        self.folder = self.client.open(f"fuzz folder {os.getpid()}", options=c.FILE_DIRECTORY_FILE)
        self._uses = 0

    def requests(self) -> list[Request]:
        """One valid request of every command."""
        file, folder = self.file, self.folder
        session_setup = struct.pack("<HBBIIHHQ", 25, 0, 1, 1, 0, 88, 16, 0) + b"NTLMSSP\0\1\0\0\0\0\0\0\0"
        share = r"\\localhost\share".encode("utf-16-le")
        return [
            Request(Command.NEGOTIATE, wire.Offer().pack()),
            Request(Command.SESSION_SETUP, session_setup, session_id=0),
            Request(Command.TREE_CONNECT, struct.pack("<HHHH", 9, 0, 72, len(share)) + share),
            Request(Command.CREATE, wire.create_body("mutant.bin", contexts=((b"MxAc", b""), (b"QFid", b""), (b"AlSi", bytes(8))))),
            Request(Command.CLOSE, wire.close_body((1, 1))),
            Request(Command.FLUSH, struct.pack("<HHIQQ", 24, 0, 0, *file)),
            Request(Command.READ, wire.read_body(file, 0, 4096)),
            Request(Command.WRITE, wire.write_body(file, 0, b"payload" * 30)),
            Request(Command.LOCK, wire.lock_body(file, (0, 10, 18), (20, 10, 18))),
            Request(Command.LOCK, wire.lock_body(file, (0, 10, 4))),
            Request(Command.IOCTL, wire.ioctl_body(0x00140204, bytes(24))),
            Request(Command.IOCTL, wire.ioctl_body(0x001440F2, bytes(64), file)),
            Request(Command.IOCTL, wire.ioctl_body(0x000980C8, bytes(16), file)),
            Request(Command.ECHO, struct.pack("<HH", 4, 0)),
            Request(Command.QUERY_DIRECTORY, wire.query_directory_body(folder, "*")),
            Request(Command.CHANGE_NOTIFY, wire.notify_body(folder, 0x17F)),
            Request(Command.QUERY_INFO, wire.query_info_body(file, 1, 18)),
            Request(Command.QUERY_INFO, wire.query_info_body(file, 3, 0, additional=7)),
            Request(Command.SET_INFO, wire.set_info_body(file, 1, 4, bytes(40))),
            Request(Command.SET_INFO, wire.set_info_body(file, 1, 15, _full_ea())),
            Request(Command.OPLOCK_BREAK, struct.pack("<HBBIQQ", 24, 0, 0, 0, *file)),
            Request(Command.CANCEL, struct.pack("<HH", 4, 0)),
            Request(Command.CREATE, wire.create_body("lasting.bin", oplock=9, contexts=_names())),
            Request(Command.CREATE, wire.create_body("lasting.bin", oplock=9, contexts=_names()), flags=c.FLAGS_REPLAY_OPERATION),
            Request(Command.CREATE, wire.create_body("lasting.bin", contexts=((b"DHnQ", bytes(16)), (b"DHnC", struct.pack("<QQ", *file))))),
            Request(Command.CREATE, wire.create_body("lasting.bin", contexts=((b"DH2C", struct.pack("<QQ16sI", *file, b"G" * 16, 2)),))),
            Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_LMR_REQUEST_RESILIENCY, struct.pack("<II", 1000, 0), file)),
            Request(Command.WRITE, wire.write_body(file, 0, b"again"), flags=c.FLAGS_REPLAY_OPERATION, channel_sequence=0x8001),
            Request(Command.LOCK, wire.lock_body(file, (0, 10, 18), sequence=0x400 | 3), channel_sequence=1),
            *_links(file, folder),
        ]

    def throw(self, pdu: bytes, *, announced: int | None = None) -> bool:
        """Sends a PDU and then an ECHO; whether the connection outlived it."""
        self._uses += 1
        if self._uses > 60:
            self.client.close_connection()
            self.connect()
        client = self.client
        try:
            size = len(pdu) if announced is None else announced
            client.transport.send(size.to_bytes(4, "big") + pdu)
            if announced is not None and announced > len(pdu):
                half_close(client)
            else:
                client.next_message_id += 1
                client.send(Request(Command.ECHO, struct.pack("<HH", 4, 0)))
            self._until_echo()
        except (Closed, ConnectionError):
            self.hang_ups += 1
            client.close_connection()
            self.connect()
            return False
        except (ValueError, AssertionError, KeyError, struct.error):
            # what came back is of a session or a shape that this client knows nothing of
            client.close_connection()
            self.connect()
            return False
        return True

    def _until_echo(self) -> None:
        for _ in range(200):
            answer = self.client.receive(interim=True)
            if answer.header.command == Command.ECHO:
                return
        pytest.fail("200 answers and no ECHO among them")

    def check(self) -> None:
        """The witness has noticed nothing, and the log has no new traceback."""
        assert self.witness.echo().status == status.SUCCESS
        log = self.server.log
        fresh, self._read = log[self._read :], len(log)
        assert "Traceback" not in fresh, fresh


def _offer() -> wire.Offer:
    """With the POSIX extensions."""
    made = wire.Offer()
    made.contexts = [*made.make_contexts(), (c.POSIX_EXTENSIONS_AVAILABLE, POSIX)]
    return made


def _links(file: wire.FileId, folder: wire.FileId) -> list[Request]:
    """Reparse points, namespaces, blocks that are shared, and exact names."""
    name = "\\server\\share\\x".encode("utf-16-le")
    referral = struct.pack("<HHIH", 4, 0, 2 + len(name), len(name)) + name
    extents = struct.pack("<QQqqq", *file, 0, 4096, 4096)
    mode = ((POSIX, struct.pack("<I", 0o644)),)
    return [
        Request(Command.CREATE, wire.create_body("exact/name:x", options=c.FILE_OPEN_REPARSE_POINT, contexts=mode)),
        Request(Command.CREATE, wire.create_body("server\\share\\link"), flags=c.FLAGS_DFS_OPERATIONS),
        Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_SET_REPARSE_POINT, pack_symlink(Symlink("target", True)), folder)),
        Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_GET_REPARSE_POINT, b"", folder)),
        Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_DELETE_REPARSE_POINT, struct.pack("<IHH", 0xA000000C, 0, 0), folder)),
        Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_DFS_GET_REFERRALS, struct.pack("<H", 4) + name)),
        Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_DFS_GET_REFERRALS_EX, referral)),
        Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_DUPLICATE_EXTENTS_TO_FILE, extents, file)),
        Request(Command.IOCTL, wire.ioctl_body(c.FSCTL_FILE_LEVEL_TRIM, struct.pack("<IIQQ", 0, 1, 0, 65536), file)),
        Request(Command.QUERY_INFO, wire.query_info_body(file, c.INFO_FILE, 100)),
        Request(Command.QUERY_DIRECTORY, wire.query_directory_body(folder, "*", info_class=100)),
        Request(Command.SET_INFO, wire.set_info_body(file, c.INFO_FILE, 64, struct.pack("<I", 3))),
    ]


def half_close(client: WireClient) -> None:
    assert isinstance(client.transport, SocketTransport)
    client.transport.socket.shutdown(1)


def _names() -> tuple[tuple[bytes, bytes], ...]:
    """The contexts by which an open is found again."""
    instance = struct.pack("<HH16s", 20, 0, b"A" * 16), struct.pack("<HHIQQ", 24, 0, 0, 1, 2)
    asked = b"DH2Q", struct.pack("<IIQ16s", 1000, 2, 0, b"G" * 16)
    return asked, (APP_INSTANCE_ID, instance[0]), (APP_INSTANCE_VERSION, instance[1])


def _full_ea() -> bytes:
    return struct.pack("<IBBH", 0, 0, 4, 5) + b"NAME\0value"

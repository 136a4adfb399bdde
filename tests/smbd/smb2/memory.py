"""A server in memory: a ``Connection`` with the least that answers, and a transport to it for the wire client.

``connect()`` gives a client that has negotiated; ``log_on`` a session whose key both sides simply know.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.connection import Connection, Disconnect, Element, Reply
from smbd.smb2.constants import Command
from smbd.smb2.crypto import Channel, PreauthHash
from smbd.smb2.header import ERROR_BODY, HEADER_SIZE, PROTOCOL_ID
from smbd.smb2.messages import control, file, session, tree
from smbd.smb2.negotiate import NegotiateSettings
from smbd.smb2.reply import pack_replies, reply_size
from smbd.smb2.status import SmbError
from tests.wire_client import Closed, Offer, Response, WireClient

FRONT = 256
GUID = bytes(range(16))
KEY = bytes(range(100, 116))
NOW = 133_000_000_000_000_000


class MemoryServer:
    """Answers NEGOTIATE, a logon of one exchange, TREE_CONNECT, ECHO and READ of zeros; shows ``elements`` as they came."""

    def __init__(self, settings: NegotiateSettings | None = None, key: bytes = KEY) -> None:
        self.settings = settings or NegotiateSettings(GUID, capabilities=0x7F, security_blob=b"hint!")
        generator = random.Random(1)
        self.connection = Connection(self.settings, generator.randbytes)
        self.key = key
        self.session_flags = 0
        self.hashes: dict[int, PreauthHash] = {}
        self.elements: list[Element] = []
        self.answers: deque[bytes] = deque()
        self.closed = ""
        self.handlers: dict[int, Callable[[Element], bytes]] = {}

    # the transport of the client

    def send(self, frames: bytes) -> None:
        if self.closed:
            raise Closed(self.closed)
        try:
            while frames:
                size = int.from_bytes(frames[:4], "big")
                self.frame(memoryview(bytearray(frames[4 : 4 + size])))
                frames = frames[4 + size :]
        except Disconnect as error:
            self.closed = error.reason

    def receive(self) -> bytearray:
        if not self.answers:
            raise Closed(self.closed or "nothing to receive")
        frame = self.answers.popleft()
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4
        return bytearray(frame[4:])

    def close(self) -> None:
        self.closed = "closed by the client"

    # the server

    def frame(self, pdu: memoryview) -> None:
        elements = self.connection.receive(pdu)
        self.elements += elements
        replies = [self.answer(element) for element in elements if element.header.command != Command.CANCEL]
        if replies:
            self.transmit(replies, elements[0].seal)

    def transmit(self, replies: list[Reply], seal: Channel | None = None) -> None:
        buffer = memoryview(bytearray(FRONT + reply_size([reply.body for reply in replies]) + 16))
        self.answers.append(bytes(pack_replies(buffer, FRONT, replies, seal)))

    def answer(self, element: Element) -> Reply:
        header = element.header
        if header.command == Command.NEGOTIATE and not element.error:
            return self.connection.negotiate(element, NOW)
        credits = self.connection.credits.grant(header.credit, charged=header.credit_charge)
        if element.error:
            return Reply(header, element.error, ERROR_BODY, credits, element.sign)
        if header.command == Command.SESSION_SETUP:
            return self.set_up(element, credits)
        try:
            reply = Reply(header, status.SUCCESS, self.handle(element), credits, element.sign)
        except SmbError as error:
            return Reply.refuse(header, error, credits, element.sign)
        if header.command == Command.TREE_CONNECT:
            reply.tree_id = 7
        return reply

    def handle(self, element: Element) -> bytes:
        command = element.header.command
        if command in self.handlers:
            return self.handlers[command](element)
        if command == Command.ECHO:
            return control.ECHO_RESPONSE.pack(4, 0)
        if element.channel is None:
            raise SmbError(status.USER_SESSION_DELETED)
        if command == Command.TREE_CONNECT:
            return tree.TREE_CONNECT_RESPONSE.pack(16, c.SHARE_TYPE_DISK, 0, 0, 0, c.FILE_ALL_ACCESS)
        if command == Command.READ:
            request = file.READ_REQUEST.unpack(element.view, HEADER_SIZE)
            self.connection.check_charge(element.header, 0, request.length)
            return file.READ_RESPONSE.pack(17, 80, 0, request.length, 0, 0) + bytes(request.length)
        raise SmbError(status.NOT_IMPLEMENTED)

    def set_up(self, element: Element, credits: int) -> Reply:
        """Two legs: the first answers MORE_PROCESSING_REQUIRED, so that its response enters the hash."""
        header = element.header
        session_id = header.session_id or 0x100000000019 + len(self.hashes)
        more = header.session_id not in self.hashes
        preauth = self.hashes.setdefault(session_id, self.connection.preauth.copy())
        preauth.update(element.view)
        start = HEADER_SIZE + session.SESSION_SETUP_RESPONSE.size
        body = session.SESSION_SETUP_RESPONSE.pack(9, 0 if more else self.session_flags, start, 4) + b"next"
        if more:
            reply = Reply(header, status.MORE_PROCESSING_REQUIRED, body, credits)
            reply.preauth = preauth
        else:
            channel = self.connection.new_channel(session_id, b"" if self.session_flags else self.key, preauth)
            reply = Reply(header, status.SUCCESS, body, credits, channel)
        reply.session_id = session_id
        return reply


def connect(offer: Offer | None = None, settings: NegotiateSettings | None = None, key: bytes = KEY) -> tuple[WireClient, MemoryServer]:
    """A client that has negotiated, and its server."""
    server = MemoryServer(settings, key)
    client = WireClient(server)
    response = client.negotiate(offer)
    assert response.status == status.SUCCESS, status.name(response.status)
    return client, server


def log_on(client: WireClient, server: MemoryServer, **options: Any) -> Response:
    response = client.logon(lambda token: b"token", lambda: server.key, **options)
    assert response.view[:4] == PROTOCOL_ID
    return response

"""The client's wire: one TCP connection, one session, one tree connect.

Owns: framing, the message-id window, session set-up, and the packed requests that the workloads are made of.
Invariant: replies are read to the end before the buffer is reused; an interim reply (STATUS_PENDING) never counts as an answer.
Requests are packed by compiled structs; nothing is parsed beyond what the loop needs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

import spnego

from bench.load.crypto import (
    AES_CMAC,
    AES_GMAC,
    HMAC_SHA256,
    TAG_SIZE,
    TRANSFORM_SIZE,
    Sealer,
    Signer,
    keys_311,
    preauth_update,
    signer,
)

NEGOTIATE, SESSION_SETUP, TREE_CONNECT = 0, 1, 3
CREATE, CLOSE, READ, WRITE = 5, 6, 8, 9
ECHO, QUERY_DIRECTORY, QUERY_INFO = 13, 14, 16

PENDING = 0x103
MORE_PROCESSING = 0xC0000016
NO_MORE_FILES = 0x80000006

FLAG_RELATED = 0x4
FLAG_SIGNED = 0x8
MAX_REPLY = 24 << 20
MAX_CREDITS = 2048

# [MS-SMB2] 2.2.1.2 header, SYNC form
HEADER = Struct("<4sHHIHHIIQIIQ16s")
_REPLY = Struct("<4sHHIHHIIQ")
_LENGTH = Struct(">I")
_NEGOTIATE = Struct("<HHHHI16sIHH")  # 2.2.3
_NEGOTIATE_REPLY = Struct("<HHHH16sIIIIQQHHI")  # 2.2.4
_CONTEXT = Struct("<HHI")  # 2.2.3.1
_SESSION_SETUP = Struct("<HBBIIHHQ")  # 2.2.5
_SESSION_REPLY = Struct("<HHHH")  # 2.2.6
_TREE_CONNECT = Struct("<HHHH")  # 2.2.9
_CREATE = Struct("<HBBIQQIIIIIHHII")  # 2.2.13
_CLOSE = Struct("<HHI16s")  # 2.2.15
_READ = Struct("<HBBIQ16sIIIHHB")  # 2.2.19
_WRITE = Struct("<HHIQ16sIIHHI")  # 2.2.21
_QUERY_DIRECTORY = Struct("<HBBI16sHHI")  # 2.2.33
_QUERY_INFO = Struct("<HBBIHHIII16s")  # 2.2.37

_MESSAGE_ID_AT = 24
ANY_FILE = b"\xff" * 16  # [MS-SMB2] 3.3.5.2.7.2: the FileId of the element before


class WireFault(Exception):
    """The server answered something that the measurement cannot go on with."""


class Where(NamedTuple):
    """A server and an account on it."""

    port: int
    user: str
    password: str
    share: str = "bench"
    host: str = "127.0.0.1"


class Reply(NamedTuple):
    """One final reply; ``view`` starts at its header and is valid until the next receive."""

    status: int
    message_id: int
    view: memoryview


def charge_of(size: int) -> int:
    """CreditCharge of a payload. [MS-SMB2] 3.2.4.1.5."""
    return max(1, (size + 65535) // 65536)


def read_body(file_id: bytes, offset: int, length: int) -> bytes:
    """A READ request's body."""
    return _READ.pack(49, 0x50, 0, length, offset, file_id, 0, 0, 0, 0, 0, 0)


READ_OFFSET_AT = 64 + 8
WRITE_OFFSET_AT = 64 + 8


def write_body(file_id: bytes, offset: int, payload: bytes) -> bytes:
    """A WRITE request's body with its payload."""
    return _WRITE.pack(49, 112, len(payload), offset, file_id, 0, 0, 0, 0, 0) + payload


def create_body(name: str, *, access: int, disposition: int = 1, options: int = 0, share: int = 7) -> bytes:
    """A CREATE request's body without contexts."""
    wire = name.encode("utf-16-le")
    return _CREATE.pack(57, 0, 0, 2, 0, 0, access, 0, share, disposition, options, 120, len(wire), 0, 0) + (wire or b"\0\0")


def close_body(file_id: bytes) -> bytes:
    """A CLOSE request's body."""
    return _CLOSE.pack(24, 0, 0, file_id)


def query_info_body(file_id: bytes, information_class: int, size: int) -> bytes:
    """A QUERY_INFO request's body for a file information class."""
    return _QUERY_INFO.pack(41, 1, information_class, size, 0, 0, 0, 0, 0, file_id) + b"\0"


def query_directory_body(file_id: bytes, information_class: int, size: int, *, restart: bool) -> bytes:
    """A QUERY_DIRECTORY request's body for the pattern ``*``."""
    return _QUERY_DIRECTORY.pack(33, information_class, int(restart), 0, file_id, 96, 2, size) + b"*\0"


ECHO_BODY = b"\x04\0\0\0"


class Connection:
    """A connection on which one protection ('plain', 'signed' or 'encrypted') is in force after session set-up."""

    __slots__ = (
        "_begin", "_buffer", "_credits", "_end", "_preauth", "_sealer", "_signer", "_signing",
        "dialect", "max_read", "max_transact", "max_write", "message_id", "protection", "session_id", "sock", "tree_id", "where",
    )

    def __init__(self, where: Where, protection: str, buffer: bytearray | None = None, timeout: float = 30.0) -> None:
        self.where = where
        self.protection = protection
        self.sock = socket.create_connection((where.host, where.port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(buffer if buffer is not None else bytearray(MAX_REPLY))
        self._begin = self._end = 0
        self._credits = 1
        self._preauth = bytes(64)
        self._sealer: Sealer | None = None
        self._signer: Signer | None = None
        self._signing = HMAC_SHA256
        self.dialect = self.message_id = self.session_id = self.tree_id = 0
        self.max_read = self.max_write = self.max_transact = 65536

    # -- session -----------------------------------------------------------------------------------------------------------------

    def open(self, *, gather: bool = True) -> None:
        """Negotiate, authenticate, connect to the share, and gather credits for a window."""
        self._negotiate()
        self._authenticate()
        self._tree_connect()
        if gather:
            self._gather_credits()

    def close(self) -> None:
        """End the connection; the server cleans up."""
        self.sock.close()

    @property
    def signing(self) -> int:
        """The signing algorithm in force."""
        return self._signing

    def _negotiate(self) -> None:
        contexts = (
            (1, Struct("<HHH32s").pack(1, 32, 1, os.urandom(32))),  # 2.2.3.1.1 pre-authentication integrity: SHA-512
            (2, Struct("<HH").pack(1, 2)),  # 2.2.3.1.2 encryption: AES-128-GCM
            (8, Struct("<HHH").pack(2, AES_GMAC, AES_CMAC)),  # 2.2.3.1.7 signing
        )
        dialects = Struct("<HH").pack(0x0202, 0x0311)
        start = 64 + _NEGOTIATE.size + len(dialects)
        start += -start % 8
        packed = b"".join(b"".join((_CONTEXT.pack(kind, len(data), 0), data, bytes(-len(data) % 8))) for kind, data in contexts)
        fixed = _NEGOTIATE.pack(36, 2, 1, 0, 0x7F, os.urandom(16), start, len(contexts), 0)
        body = fixed + dialects
        body += bytes(start - 64 - len(body)) + packed
        reply = self.call(NEGOTIATE, body)
        fields = _NEGOTIATE_REPLY.unpack_from(reply.view, 64)
        self.dialect = fields[2]
        self.max_transact, self.max_read, self.max_write = fields[6], fields[7], fields[8]
        if self.dialect == 0x0311:
            self._signing = self._chosen_signing(reply.view, fields[3], fields[13])

    @staticmethod
    def _chosen_signing(view: memoryview, contexts: int, offset: int) -> int:
        chosen = AES_CMAC  # [MS-SMB2] 3.2.5.2: without the context, AES-CMAC
        for _ in range(contexts):
            kind, size, _reserved = _CONTEXT.unpack_from(view, offset)
            if kind == 8:
                chosen = Struct("<HH").unpack_from(view, offset + 8)[1]
            offset += 8 + size
            offset += -offset % 8
        return chosen

    def _authenticate(self) -> None:
        where = self.where
        context = spnego.client(where.user, where.password, hostname=where.host, service="cifs")
        token = context.step() or b""
        while True:
            body = _SESSION_SETUP.pack(25, 0, 1, 0, 0, 64 + 24, len(token), 0) + token
            reply = self.call(SESSION_SETUP, body, check=False)
            self.session_id = HEADER.unpack_from(reply.view)[11]
            _size, _flags, offset, length = _SESSION_REPLY.unpack_from(reply.view, 64)
            if reply.status not in (0, MORE_PROCESSING):
                raise WireFault(f"session set-up: status 0x{reply.status:08x}")
            answer = bytes(reply.view[offset:offset + length])
            if answer:
                token = context.step(answer) or b""
            if reply.status == 0:
                break
        self._protect(context.session_key)

    def _protect(self, session_key: bytes) -> None:
        if self.dialect != 0x0311:
            if self.protection == "encrypted":
                raise WireFault("the server has no SMB 3.1.1, so nothing is encrypted")
            self._signer = signer(self._signing, session_key[:16])
            return
        keys = keys_311(session_key, self._preauth)
        if self.protection == "encrypted":
            self._sealer = Sealer(keys, self.session_id)
        else:
            self._signer = signer(self._signing, keys.signing)

    def _tree_connect(self) -> None:
        path = f"\\\\{self.where.host}\\{self.where.share}".encode("utf-16-le")
        reply = self.call(TREE_CONNECT, _TREE_CONNECT.pack(9, 0, 72, len(path)) + path)
        self.tree_id = HEADER.unpack_from(reply.view)[10]
        if self.protection == "plain":
            self._signer = None  # [MS-SMB2] 3.2.4.1.1: the 3.1.1 TREE_CONNECT itself is always signed or sealed

    def _gather_credits(self) -> None:
        for _ in range(64):
            before = self._credits
            if before >= MAX_CREDITS:
                break
            self.call(ECHO, ECHO_BODY, credits=512)
            if self._credits <= before:
                break

    @property
    def credits(self) -> int:
        """Credits in hand."""
        return self._credits

    # -- requests ----------------------------------------------------------------------------------------------------------------

    def frame(self, *elements: tuple[int, bytes, int], credits: int = 0) -> Frame:
        """A request, or a related compound of (command, body, credit charge), packed once to be sent many times."""
        return Frame(self, elements, credits)

    def call(self, command: int, body: bytes, *, charge: int = 1, credits: int = 1, check: bool = True) -> Reply:
        """One request and its final reply."""
        frame = Frame(self, ((command, body, charge if self.dialect > 0x0202 else 0),), max(credits, charge))
        frame.send()
        if command in (NEGOTIATE, SESSION_SETUP):
            self._preauth = preauth_update(self._preauth, frame.elements[0])
        reply = next(self.replies())
        if command == NEGOTIATE or (command == SESSION_SETUP and reply.status == MORE_PROCESSING):
            self._preauth = preauth_update(self._preauth, reply.view)
        if check and reply.status:
            raise WireFault(f"command {command}: status 0x{reply.status:08x}")
        return reply

    def create(self, name: str, **how: int) -> bytes:
        """Opens ``name``; its FileId."""
        return bytes(self.call(CREATE, create_body(name, **how)).view[128:144])

    def close_file(self, file_id: bytes) -> None:
        """Closes a FileId."""
        self.call(CLOSE, close_body(file_id))

    # -- replies -----------------------------------------------------------------------------------------------------------------

    def replies(self) -> Iterator[Reply]:
        """Final replies in order of arrival: waits for the first, then goes on as long as the buffer holds whole PDUs."""
        found = False
        while not found:
            for pdu in self._pdus():
                for reply in self._split(pdu):
                    found = True
                    yield reply

    def _pdus(self) -> Iterator[memoryview]:
        """Whole PDUs in the buffer; receives once when there is none."""
        buffer = self._buffer
        while True:
            held = self._end - self._begin
            need = 4 + _LENGTH.unpack_from(buffer, self._begin)[0] if held >= 4 else 4
            if held >= need > 4:
                break
            if self._begin and self._begin + need + TAG_SIZE > len(buffer):
                buffer[:held] = bytes(buffer[self._begin:self._end])
                self._begin, self._end = 0, held
            got = self.sock.recv_into(buffer[self._end:len(buffer) - TAG_SIZE])
            if not got:
                raise WireFault("the server closed the connection")
            self._end += got
        while self._end - self._begin >= 4:
            start = self._begin + 4
            stop = start + _LENGTH.unpack_from(buffer, self._begin)[0]
            if stop > self._end:
                return
            self._begin = stop
            frame = buffer[start:stop]
            if self._sealer is not None and frame[0] == 0xFD:
                frame = self._sealer.unseal(frame, buffer[start:stop + TAG_SIZE])
            yield frame
        if self._begin == self._end:
            self._begin = self._end = 0

    def skim(self) -> Iterator[Reply]:
        """As ``replies`` for large plain ones, whose payload the kernel throws away: to see what the server costs, not copies in here.

        Waits for one reply. ``view`` is header and fixed part.
        """
        self._begin = self._end = 0
        while True:
            head = self._take(0, 4 + 64)
            size = _LENGTH.unpack_from(head)[0]
            if _REPLY.unpack_from(head, 4)[3] != PENDING and size > 80:
                break
            yield from self._split(self._take(68, size - 64)[4:])  # an interim reply, which yields nothing, or an error
            if _REPLY.unpack_from(head, 4)[3] != PENDING:
                return
        pdu = self._take(68, 80 - 64)[4:]
        left = size - 80
        while left > 0:
            count = self.sock.recv_into(self._buffer[84:], min(left, len(self._buffer) - 84), socket.MSG_TRUNC)
            if not count:
                raise WireFault("the server closed the connection")
            left -= count
        yield from self._split(pdu)

    def _take(self, at: int, count: int) -> memoryview:
        """Exactly so many bytes to ``at`` in the buffer; the buffer up to their end."""
        stop = at + count
        while at < stop:
            got = self.sock.recv_into(self._buffer[at:stop], 0, socket.MSG_WAITALL)
            if not got:
                raise WireFault("the server closed the connection")
            at += got
        return self._buffer[:stop]

    def _split(self, pdu: memoryview) -> Iterator[Reply]:
        while True:
            _id, _size, _charge, status, _command, granted, _flags, following, message_id = _REPLY.unpack_from(pdu)
            self._credits += granted
            if status != PENDING:
                yield Reply(status, message_id, pdu[:following] if following else pdu)
            if not following:
                return
            pdu = pdu[following:]


class Frame:
    """A packed request: each send gets fresh MessageIds, a signature or a seal, and nothing else is packed again."""

    __slots__ = ("_charge", "_connection", "_sealed", "_wire", "elements", "size")

    def __init__(self, connection: Connection, elements: tuple[tuple[int, bytes, int], ...], credits: int) -> None:
        sealed = connection._sealer is not None
        flags = FLAG_SIGNED if connection._signer is not None else 0
        packed = bytearray(4)
        spans: list[tuple[int, int]] = []
        for index, (command, body, charge) in enumerate(elements):
            last = index == len(elements) - 1
            size = 64 + len(body)
            padded = size if last else size + -size % 8
            related = FLAG_RELATED if index else 0
            begin = len(packed)
            packed += HEADER.pack(
                b"\xfeSMB", 64, charge, 0, command, max(credits, charge, 1), flags | related, 0 if last else padded, 0, 0xFEFF,
                connection.tree_id, connection.session_id, bytes(16),
            )
            packed += body + bytes(padded - size)
            spans.append((begin, len(packed)))
        _LENGTH.pack_into(packed, 0, len(packed) - 4)
        self._wire = memoryview(packed)
        self.size = len(packed)
        # the plain request stays as it is; each send seals it anew into a buffer of its own
        self._sealed = memoryview(bytearray(len(packed) + TRANSFORM_SIZE + TAG_SIZE)) if sealed else None
        self.elements = [self._wire[begin:end] for begin, end in spans]
        self._charge = [max(1, charge) for _command, _body, charge in elements]
        self._connection = connection

    def stamp(self) -> memoryview:
        """Gives the request its MessageIds and protection; the bytes to send, valid until the next stamp."""
        connection = self._connection
        message_id = connection.message_id
        for element, charge in zip(self.elements, self._charge, strict=True):
            Q.pack_into(element, _MESSAGE_ID_AT, message_id)
            message_id += charge
        connection._credits -= message_id - connection.message_id
        connection.message_id = message_id
        if connection._signer is not None:
            for element in self.elements:
                connection._signer(element)
        elif connection._sealer is not None and self._sealed is not None:
            _LENGTH.pack_into(self._sealed, 0, self.size - 4 + TRANSFORM_SIZE)
            connection._sealer.seal(self._wire[4:], self._sealed[4:])
            return self._sealed[:-TAG_SIZE]
        return self._wire

    def send(self) -> None:
        """Stamps and sends."""
        self._connection.sock.sendall(self.stamp())


Q = Struct("<Q")

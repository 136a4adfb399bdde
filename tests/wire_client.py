"""A raw SMB2 client for tests: packs what it is told, hides nothing, and shows every response as it came.

Owns: a blocking transport, message ids, signing, encryption and pre-authentication of one connection. It uses the server's own layouts and
algorithms from the client's side; that those are right is shown by published vectors and by real clients elsewhere.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import spnego

from pools.layout import Layout
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.crypto import Channel, PreauthHash, SessionKeys, new_channel, new_cipher
from smbd.smb2.dialects import DIALECTS, Dialect
from smbd.smb2.header import (
    HEADER,
    HEADER_SIZE,
    NO_SIGNATURE,
    PROTOCOL_ID,
    TRANSFORM_HEADER,
    TRANSFORM_PROTOCOL_ID,
    TRANSFORM_SIZE,
    Header,
    async_id,
)
from smbd.smb2.messages import control, create, directory, file, info, ioctl, session, tree
from smbd.smb2.messages import negotiate as wire
from smbd.smb2.messages.create_contexts import build_chain

FileId = tuple[int, int]
LAST = (c.RELATED_ID, c.RELATED_ID)  # in a related request: the file of the one before
ALL_DIALECTS = (0x0202, 0x0210, 0x0300, 0x0302, 0x0311)
NTLMSSP_OID = bytes.fromhex("060a2b06010401823702020a")
SPNEGO_OID = bytes.fromhex("06062b0601050502")


class Closed(Exception):
    """The server ended the connection."""


class Transport(Protocol):
    def send(self, frames: bytes) -> None: ...

    def receive(self) -> bytearray: ...

    def close(self) -> None: ...


class SocketTransport:
    """Direct TCP: four bytes of length, then the PDU."""

    def __init__(self, address: tuple[str, int], timeout: float) -> None:
        self.socket = socket.create_connection(address, timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, frames: bytes) -> None:
        try:
            self.socket.sendall(frames)
        except ConnectionError as error:
            raise Closed(str(error)) from None

    def receive(self) -> bytearray:
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self.socket.recv_into(view)
            except ConnectionError as error:
                raise Closed(str(error)) from None
            if count == 0:
                raise Closed("end of stream")
            view = view[count:]
        return data

    def close(self) -> None:
        self.socket.close()


@dataclass
class Response:
    """One response. ``valid`` is None for an unsigned one, else whether the signature is right."""

    header: Header
    view: memoryview
    encrypted: bool
    valid: bool | None

    @property
    def status(self) -> int:
        return self.header.status

    @property
    def body(self) -> memoryview:
        return self.view[HEADER_SIZE:]

    @property
    def async_id(self) -> int | None:
        return async_id(self.header)

    @property
    def interim(self) -> bool:
        return self.header.status == status.PENDING and self.async_id is not None

    def parse(self, layout: Layout[Any]) -> Any:
        """The fixed part; AssertionError with the status' name for an error response."""
        assert not status.is_error(self.status), status.name(self.status)
        return layout.unpack(self.view, HEADER_SIZE)

    def part(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` from the header."""
        assert offset + length <= len(self.view)
        return bytes(self.view[offset : offset + length])


@dataclass
class Request:
    """One request to be sent. None takes the client's current value."""

    command: int
    body: bytes = b""
    flags: int = 0
    charge: int = 1
    credits: int = 32
    session_id: int | None = None
    tree_id: int | None = None
    message_id: int | None = None
    async_id: int | None = None
    channel_sequence: int = 0
    sign: bool | None = None
    corrupt: Callable[[memoryview], None] | None = None  # applied last, to the packed request


@dataclass
class Offer:
    """What a NEGOTIATE offers. ``contexts`` replaces the ones made from the algorithms."""

    dialects: Sequence[int] = ALL_DIALECTS
    capabilities: int = 0x7F
    security_mode: int = c.NEGOTIATE_SIGNING_ENABLED
    client_guid: bytes = field(default_factory=lambda: os.urandom(16))
    ciphers: Sequence[int] = (2, 1, 4, 3)
    signing: Sequence[int] = (2, 1, 0)
    contexts: Sequence[tuple[int, bytes]] | None = None

    def pack(self) -> bytes:
        dialects = struct.pack(f"<{len(self.dialects)}H", *self.dialects)
        contexts = self.make_contexts() if self.contexts is None and 0x0311 in self.dialects else list(self.contexts or ())
        chain = wire.build_contexts(contexts)
        offset = HEADER_SIZE + wire.NEGOTIATE_REQUEST.size + len(dialects)
        padding = -offset % 8 if contexts else 0
        fixed = wire.NEGOTIATE_REQUEST.pack(
            36,
            len(self.dialects),
            self.security_mode,
            0,
            self.capabilities,
            self.client_guid,
            offset + padding if contexts else 0,
            len(contexts),
            0,
        )
        return fixed + dialects + bytes(padding) + chain

    def make_contexts(self) -> list[tuple[int, bytes]]:
        contexts = [(c.PREAUTH_INTEGRITY_CAPABILITIES, struct.pack("<HHH32s", 1, 32, c.HASH_SHA512, os.urandom(32)))]
        if self.ciphers:
            contexts.append((c.ENCRYPTION_CAPABILITIES, struct.pack(f"<H{len(self.ciphers)}H", len(self.ciphers), *self.ciphers)))
        if self.signing:
            contexts.append((c.SIGNING_CAPABILITIES, struct.pack(f"<H{len(self.signing)}H", len(self.signing), *self.signing)))
        return contexts


class WireClient:
    """One connection. ``sign`` and ``seal`` say how requests leave; both may be changed at any time."""

    def __init__(self, transport: Transport | tuple[str, int], timeout: float = 10.0, server: str = "localhost") -> None:
        self.transport = SocketTransport(transport, timeout) if isinstance(transport, tuple) else transport
        self.server = server
        self.sign = False
        self.seal = False
        self.next_message_id = 0
        self.credits = 1
        self.dialect: Dialect | None = None
        self.negotiated: Any = None
        self.negotiated_contexts: dict[int, bytes] = {}
        self.cipher_id = 0
        self.signing_id = 0
        self.session_id = 0
        self.session_flags = 0
        self.session_key = b""
        self.tree_id = 0
        self.channels: dict[int, Channel] = {}
        self.first: dict[int, Channel] = {}  # with Session.SigningKey, of sessions that may be bound
        self.preauth = PreauthHash()
        self._last_request = b""
        self._waiting: list[Response] = []
        self._sessions: dict[int, PreauthHash] = {}

    def __enter__(self) -> WireClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close_connection()

    def close_connection(self) -> None:
        self.transport.close()

    # -- frames

    def pack(self, requests: Sequence[Request]) -> bytes:
        """The PDU (no transport length) of one request or a compound, signed or sealed as set."""
        size = sum(HEADER_SIZE + len(request.body) + 7 & ~7 for request in requests)
        start = TRANSFORM_SIZE
        view = memoryview(bytearray(start + size + 16))
        position = start
        for index, request in enumerate(requests):
            end = position + HEADER_SIZE + len(request.body)
            if index + 1 < len(requests):
                end += start - end & 7
            self._pack_one(view[position:end], request, index + 1 < len(requests))
            position = end
        channel = self.channels.get(self.session_id)
        if self.seal and channel is not None and channel.cipher is not None and requests[0].command != Command.SESSION_SETUP:
            return bytes(channel.cipher.seal(view, start, position))
        return bytes(view[start:position])

    def _pack_one(self, view: memoryview, request: Request, more: bool) -> None:
        session_id = self.session_id if request.session_id is None else request.session_id
        message_id = request.message_id
        if message_id is None:
            message_id = self.next_message_id
            if request.command != Command.CANCEL:
                self.next_message_id += max(request.charge, 1)
                self.credits -= max(request.charge, 1)
        channel = self.channels.get(session_id if session_id != c.RELATED_ID else self.session_id)
        sign = self._signs(request, channel) if request.sign is None else request.sign
        low, high = 0, self.tree_id if request.tree_id is None else request.tree_id
        flags = request.flags | (c.FLAGS_SIGNED if sign else 0)
        if request.async_id is not None:
            flags |= c.FLAGS_ASYNC_COMMAND
            low, high = request.async_id & 0xFFFFFFFF, request.async_id >> 32
        following = len(view) if more else 0
        head = (PROTOCOL_ID, HEADER_SIZE, request.charge, request.channel_sequence, request.command, request.credits, flags)
        HEADER.pack_into(view, 0, *head, following, message_id, low, high, session_id, NO_SIGNATURE)
        view[HEADER_SIZE : HEADER_SIZE + len(request.body)] = request.body
        if sign and channel is not None:
            channel.sign(view)
        if request.corrupt is not None:
            request.corrupt(view)

    def _signs(self, request: Request, channel: Channel | None) -> bool:
        if channel is None or channel.signer is None or self.seal:
            return False
        # [MS-SMB2] 3.2.4.1.1: 3.1.1 signs TREE_CONNECT always.
        return self.sign or (request.command == Command.TREE_CONNECT and bool(self.dialect and self.dialect.preauth))

    def send_frame(self, pdu: bytes) -> None:
        self._last_request = pdu
        self.transport.send(len(pdu).to_bytes(4, "big") + pdu)

    def send(self, *requests: Request) -> list[int]:
        """Sends one frame; the message ids of its requests."""
        ids = []
        upcoming = self.next_message_id
        for request in requests:
            ids.append(upcoming if request.message_id is None else request.message_id)
            if request.message_id is None and request.command != Command.CANCEL:
                upcoming += max(request.charge, 1)
        self.send_frame(self.pack(requests))
        return ids

    def receive_frame(self) -> list[Response]:
        """The responses of the next frame."""
        data = self.transport.receive()
        size = len(data)
        view = memoryview(data + bytes(16))
        encrypted = view[:4] == TRANSFORM_PROTOCOL_ID
        plain = view[:size]
        if encrypted:
            channel = self.channels[TRANSFORM_HEADER.unpack(view).session_id]
            assert channel.cipher is not None
            plain = channel.cipher.unseal(view, 0, size)
        responses = []
        while True:
            header = HEADER.unpack(plain)
            part = plain[: header.next_command or len(plain)]
            responses.append(self._response(header, part, encrypted))
            if not header.next_command:
                return responses
            assert header.next_command % 8 == 0
            plain = plain[header.next_command :]

    def _response(self, header: Header, view: memoryview, encrypted: bool) -> Response:
        assert header.protocol_id == PROTOCOL_ID
        assert header.flags & c.FLAGS_SERVER_TO_REDIR
        self.credits += header.credit
        valid: bool | None = None
        if header.flags & c.FLAGS_SIGNED:
            # Samba echoes the open SessionId of a related request.
            session_id = self.session_id if header.session_id == c.RELATED_ID else header.session_id
            channel = self.channels.get(session_id)
            valid = channel.verify(view) if channel is not None else None
        return Response(header, view, encrypted, valid)

    def receive(self, message_id: int | None = None, *, interim: bool = False) -> Response:
        """The next response, or the next to ``message_id``; interim responses are passed over unless asked for. Others wait their turn."""
        while True:
            for index, response in enumerate(self._waiting):
                if message_id in (None, response.header.message_id) and (interim or not response.interim):
                    return self._waiting.pop(index)
            self._waiting += self.receive_frame()

    def call(self, command: int, body: bytes = b"", **options: Any) -> Response:
        """Sends one request and waits for its final response."""
        (message_id,) = self.send(Request(command, body, **options))
        return self.receive(message_id)

    def compound(self, *requests: Request, related: bool = False) -> list[Response]:
        """Sends a compound and waits for all final responses."""
        if related:
            for request in requests[1:]:
                request.flags |= c.FLAGS_RELATED_OPERATIONS
        return [self.receive(message_id) for message_id in self.send(*requests)]

    # -- connection and session

    def negotiate_smb1(self, dialects: Sequence[bytes] = (b"NT LM 0.12", b"SMB 2.002", b"SMB 2.???")) -> Response:
        """The multi-protocol NEGOTIATE; takes message id 0."""
        strings = b"".join(b"\2" + name + b"\0" for name in dialects)
        head = b"\xffSMB\x72" + bytes(4) + b"\x18" + struct.pack("<H", 0xC853) + bytes(20)
        self.send_frame(head + b"\0" + struct.pack("<H", len(strings)) + strings)
        self.next_message_id, self.credits = 1, 0
        return self._negotiated(self.receive())

    def negotiate(self, offer: Offer | None = None, **options: Any) -> Response:
        offer = offer or Offer()
        (message_id,) = self.send(Request(Command.NEGOTIATE, offer.pack(), **{"charge": 0, "credits": 1, **options}))
        response = self.receive(message_id)
        if response.status == status.SUCCESS:
            self._negotiated(response)
            if self.dialect is not None and self.dialect.preauth:
                self.preauth.update(self._last_request)
                self.preauth.update(response.view)
        return response

    def _negotiated(self, response: Response) -> Response:
        self.negotiated = answer = response.parse(wire.NEGOTIATE_RESPONSE)
        self.dialect = DIALECTS.get(answer.dialect_revision)
        if self.dialect is None:
            return response
        self.signing_id = self.dialect.signing
        self.cipher_id = self.dialect.cipher if answer.capabilities & c.CAP_ENCRYPTION else 0
        if self.dialect.preauth:
            contexts = wire.parse_contexts(response.view, answer.negotiate_context_offset, answer.negotiate_context_count)
            self.negotiated_contexts = dict(contexts)
            cipher = self.negotiated_contexts.get(c.ENCRYPTION_CAPABILITIES)
            signing = self.negotiated_contexts.get(c.SIGNING_CAPABILITIES)
            self.cipher_id = int.from_bytes(cipher[2:4], "little") if cipher else 0
            self.signing_id = int.from_bytes(signing[2:4], "little") if signing else c.SIGNING_AES_CMAC
        return response

    def session_setup(self, user: str = "", password: str = "", **options: Any) -> Response:
        """Logs on with NTLM in SPNEGO (no user: anonymous); the last response. On success the session is the client's current one."""
        if not user:
            return self.logon(anonymous_steps(), lambda: b"", **options)
        context = spnego.client(user, password, hostname=self.server, service="cifs", protocol="negotiate")

        def step(token: bytes | None) -> bytes:
            return context.step(token) or b""

        return self.logon(step, lambda: context.session_key, **options)

    def logon(
        self, step: Callable[[bytes | None], bytes], key: Callable[[], bytes], session_id: int = 0, previous: int = 0, flags: int = 0
    ) -> Response:
        """The exchange, with tokens from ``step`` and the session key from ``key``.

        ``session_id``: of the session to authenticate again (or to bind, with the flag).
        """
        again = session_id != 0
        preauth = self.preauth.copy()
        token: bytes | None = None
        while True:
            response = self.session_setup_raw(step(token), session_id, previous, flags)
            preauth.update(self._last_request)
            session_id = response.header.session_id
            answer = response.view
            if response.status not in (status.SUCCESS, status.MORE_PROCESSING_REQUIRED):
                return response
            fixed = session.SESSION_SETUP_RESPONSE.unpack(answer, HEADER_SIZE)
            token = response.part(fixed.security_buffer_offset, fixed.security_buffer_length)
            if response.status == status.SUCCESS:
                break
            preauth.update(answer)
        if token:
            step(token)
        self.session_id, self.session_flags = session_id, fixed.session_flags
        if not again:
            self._keys(session_id, key(), preauth)
        channel = self.channels[session_id]
        if response.header.flags & c.FLAGS_SIGNED:
            response.valid = channel.verify(answer)
        return response

    def bind(self, other: WireClient, step: Callable[[bytes | None], bytes], key: Callable[[], bytes], **options: Any) -> Response:
        """Binds ``other``'s session to this connection; the last response. On success session and tree are this client's current ones."""
        session_id = other.session_id
        first = self.channels[session_id] = other.first[session_id]
        preauth = self.preauth.copy()
        token: bytes | None = None
        while True:
            response = self.session_setup_raw(step(token), session_id, **{"flags": c.SESSION_FLAG_BINDING, "sign": True, **options})
            preauth.update(self._last_request)
            if response.status not in (status.SUCCESS, status.MORE_PROCESSING_REQUIRED):
                del self.channels[session_id]
                return response
            fixed = session.SESSION_SETUP_RESPONSE.unpack(response.view, HEADER_SIZE)
            token = response.part(fixed.security_buffer_offset, fixed.security_buffer_length)
            if response.status == status.SUCCESS:
                break
            preauth.update(response.view)
        assert self.dialect is not None
        keys = SessionKeys(self.dialect, key(), preauth.value)
        channel = self.channels[session_id] = new_channel(session_id, self.signing_id, keys, server=False)
        channel.cipher = first.cipher
        self.first[session_id] = first
        self.session_id, self.tree_id, self.session_flags = session_id, other.tree_id, fixed.session_flags
        response.valid = channel.verify(response.view)
        return response

    def _keys(self, session_id: int, session_key: bytes, preauth: PreauthHash) -> None:
        channel = Channel(session_id)
        anonymous = self.session_flags & (c.SESSION_FLAG_IS_GUEST | c.SESSION_FLAG_IS_NULL)
        if not anonymous:
            assert self.dialect is not None
            self.session_key = session_key
            keys = SessionKeys(self.dialect, session_key, preauth.value, self.cipher_id)
            channel = new_channel(session_id, self.signing_id, keys, server=False)
            if self.cipher_id:
                channel.cipher = new_cipher(session_id, self.cipher_id, keys, os.urandom(4), server=False)
        self.channels[session_id] = self.first[session_id] = channel

    def session_setup_raw(self, token: bytes, session_id: int = 0, previous: int = 0, flags: int = 0, **options: Any) -> Response:
        """One SESSION_SETUP with ``token``."""
        start = HEADER_SIZE + session.SESSION_SETUP_REQUEST.size
        fixed = session.SESSION_SETUP_REQUEST.pack(25, flags, 1, 1, 0, start, len(token), previous)
        return self.call(Command.SESSION_SETUP, fixed + token, session_id=session_id, tree_id=0, **options)

    def logoff(self) -> Response:
        return self.call(Command.LOGOFF, session.LOGOFF_REQUEST.pack(4, 0), tree_id=0)

    def tree_connect(self, share: str, **options: Any) -> Response:
        """Connects to ``share`` (a name, or a whole UNC path); on success it is the client's current tree."""
        path = (share if share.startswith("\\\\") else f"\\\\{self.server}\\{share}").encode("utf-16-le")
        fixed = tree.TREE_CONNECT_REQUEST.pack(9, 0, HEADER_SIZE + tree.TREE_CONNECT_REQUEST.size, len(path))
        response = self.call(Command.TREE_CONNECT, fixed + path, tree_id=0, **options)
        if response.status == status.SUCCESS:
            self.tree_id = response.header.tree_id
        return response

    def tree_disconnect(self) -> Response:
        return self.call(Command.TREE_DISCONNECT, tree.TREE_DISCONNECT_REQUEST.pack(4, 0))

    # -- files

    def open(self, name: str, **options: Any) -> FileId:
        """CREATE that must succeed; the FileId."""
        answer = self.call(Command.CREATE, create_body(name, **options)).parse(create.CREATE_RESPONSE)
        return answer.file_id_persistent, answer.file_id_volatile

    def create(self, name: str, **options: Any) -> Response:
        return self.call(Command.CREATE, create_body(name, **options))

    def close(self, file_id: FileId, flags: int = 0) -> Response:
        return self.call(Command.CLOSE, close_body(file_id, flags))

    def read(self, file_id: FileId, offset: int, length: int, minimum: int = 0) -> Response:
        return self.call(Command.READ, read_body(file_id, offset, length, minimum), charge=charge_of(length))

    def read_data(self, file_id: FileId, offset: int, length: int) -> bytes:
        response = self.read(file_id, offset, length)
        answer = response.parse(file.READ_RESPONSE)
        return response.part(answer.data_offset, answer.data_length)

    def write(self, file_id: FileId, offset: int, data: bytes, flags: int = 0) -> Response:
        return self.call(Command.WRITE, write_body(file_id, offset, data, flags), charge=charge_of(len(data)))

    def flush(self, file_id: FileId) -> Response:
        return self.call(Command.FLUSH, file.FLUSH_REQUEST.pack(24, 0, 0, *file_id))

    def lock(self, file_id: FileId, *locks: tuple[int, int, int], sequence: int = 0) -> Response:
        """``locks``: (offset, length, flags)."""
        return self.call(Command.LOCK, lock_body(file_id, *locks, sequence=sequence))

    def echo(self, **options: Any) -> Response:
        return self.call(Command.ECHO, control.ECHO_REQUEST.pack(4, 0), **options)

    def cancel(self, message_id: int, async_id: int | None = None) -> None:
        """CANCEL has no response of its own."""
        self.send(Request(Command.CANCEL, control.CANCEL_REQUEST.pack(4, 0), message_id=message_id, async_id=async_id, credits=0, charge=0))

    def query_directory(self, file_id: FileId, pattern: str = "*", info_class: int = 37, flags: int = 0, size: int = 65536) -> Response:
        return self.call(Command.QUERY_DIRECTORY, query_directory_body(file_id, pattern, info_class, flags, size), charge=charge_of(size))

    def query_info(self, file_id: FileId, info_type: int, info_class: int, size: int = 65536, additional: int = 0) -> Response:
        return self.call(Command.QUERY_INFO, query_info_body(file_id, info_type, info_class, size, additional), charge=charge_of(size))

    def set_info(self, file_id: FileId, info_type: int, info_class: int, data: bytes, additional: int = 0) -> Response:
        return self.call(Command.SET_INFO, set_info_body(file_id, info_type, info_class, data, additional))

    def ioctl(self, code: int, data: bytes = b"", file_id: FileId = LAST, size: int = 65536) -> Response:
        return self.call(Command.IOCTL, ioctl_body(code, data, file_id, size), charge=charge_of(max(size, len(data))))

    def output(self, response: Response) -> bytes:
        """The output buffer of QUERY_DIRECTORY, QUERY_INFO or IOCTL."""
        if response.header.command == Command.IOCTL:
            answer = response.parse(ioctl.IOCTL_RESPONSE)
            return response.part(answer.output_offset, answer.output_count)
        answer = response.parse(info.QUERY_INFO_RESPONSE)
        return response.part(answer.output_buffer_offset, answer.output_buffer_length)


def charge_of(size: int) -> int:
    """[MS-SMB2] 3.1.5.2."""
    return max(1, (size - 1) // 65536 + 1)


def create_body(
    name: str,
    *,
    access: int = c.FILE_ALL_ACCESS,
    disposition: int = c.FILE_OPEN_IF,
    options: int = 0,
    share: int = c.FILE_SHARE_READ | c.FILE_SHARE_WRITE | c.FILE_SHARE_DELETE,
    attributes: int = 0,
    oplock: int = 0,
    contexts: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    encoded = name.encode("utf-16-le")
    start = HEADER_SIZE + create.CREATE_REQUEST.size
    chain = build_chain(contexts)
    padding = -len(encoded) % 8 if chain else 0
    offset = start + len(encoded) + padding if chain else 0
    fixed = create.CREATE_REQUEST.pack(
        57, 0, oplock, 2, 0, 0, access, attributes, share, disposition, options, start, len(encoded), offset, len(chain)
    )
    return fixed + (encoded + bytes(padding) + chain or b"\0")


def close_body(file_id: FileId, flags: int = 0) -> bytes:
    return file.CLOSE_REQUEST.pack(24, flags, 0, *file_id)


def read_body(file_id: FileId, offset: int, length: int, minimum: int = 0) -> bytes:
    return file.READ_REQUEST.pack(49, 80, 0, length, offset, *file_id, minimum, 0, 0, 0, 0) + b"\0"


def write_body(file_id: FileId, offset: int, data: bytes, flags: int = 0) -> bytes:
    start = HEADER_SIZE + file.WRITE_REQUEST.size
    return file.WRITE_REQUEST.pack(49, start, len(data), offset, *file_id, 0, 0, 0, 0, flags) + (data or b"\0")


def lock_body(file_id: FileId, *locks: tuple[int, int, int], sequence: int = 0) -> bytes:
    elements = b"".join(file.LOCK_ELEMENT.pack(*lock, 0) for lock in locks)
    return file.LOCK_REQUEST.pack(48, len(locks), sequence, *file_id) + elements


def query_directory_body(file_id: FileId, pattern: str = "*", info_class: int = 37, flags: int = 0, size: int = 65536) -> bytes:
    encoded = pattern.encode("utf-16-le")
    start = HEADER_SIZE + directory.QUERY_DIRECTORY_REQUEST.size
    return directory.QUERY_DIRECTORY_REQUEST.pack(33, info_class, flags, 0, *file_id, start, len(encoded), size) + (encoded or b"\0")


def notify_body(file_id: FileId, mask: int, flags: int = 0, size: int = 4096) -> bytes:
    return directory.CHANGE_NOTIFY_REQUEST.pack(32, flags, size, *file_id, mask, 0)


def query_info_body(file_id: FileId, info_type: int, info_class: int, size: int = 65536, additional: int = 0) -> bytes:
    start = HEADER_SIZE + info.QUERY_INFO_REQUEST.size
    return info.QUERY_INFO_REQUEST.pack(41, info_type, info_class, size, start, 0, 0, additional, 0, *file_id) + b"\0"


def set_info_body(file_id: FileId, info_type: int, info_class: int, data: bytes, additional: int = 0) -> bytes:
    start = HEADER_SIZE + info.SET_INFO_REQUEST.size
    return info.SET_INFO_REQUEST.pack(33, info_type, info_class, len(data), start, 0, additional, *file_id) + (data or b"\0")


def ioctl_body(code: int, data: bytes = b"", file_id: FileId = LAST, size: int = 65536) -> bytes:
    start = HEADER_SIZE + ioctl.IOCTL_REQUEST.size
    fixed = ioctl.IOCTL_REQUEST.pack(57, 0, code, *file_id, start if data else 0, len(data), 0, 0, 0, size, c.IOCTL_IS_FSCTL, 0)
    return fixed + (data or b"\0")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def anonymous_steps() -> Callable[[bytes | None], bytes]:
    """NTLM's anonymous logon ([MS-NLMP] 3.1.5.1.2) in SPNEGO, which pyspnego's client does not offer."""
    flags = struct.pack("<I", 0xA0888A15)

    def step(token: bytes | None) -> bytes:
        if token is None:
            message = b"NTLMSSP\0" + struct.pack("<I", 1) + flags + bytes(24)
            init = _der(0xA0, _der(0x30, NTLMSSP_OID)) + _der(0xA2, _der(0x04, message))
            return _der(0x60, SPNEGO_OID + _der(0xA0, _der(0x30, init)))
        if b"NTLMSSP\0\2\0\0\0" not in token:
            return b""
        size = 64
        lm = struct.pack("<HHI", 1, 1, size)
        empty = struct.pack("<HHI", 0, 0, size + 1)
        message = b"NTLMSSP\0" + struct.pack("<I", 3) + lm + empty * 5 + flags + b"\0"
        return _der(0xA1, _der(0x30, _der(0xA2, _der(0x04, message))))

    return step

"""The imaginary client, and the hub and the authenticator as far as its worker asks them.

Owns: one visit: what a client does whose user opens a folder and reads and writes a file. Invariant: every answer is checked for success,
and no wait is longer than ``PATIENCE``: a rehearsal that goes wrong ends.
"""

from __future__ import annotations

import secrets
import socket

from authd.messages import AUTHENTICATE, Step, pack_step
from pools.port import READABLE, polling
from pools.queue import Endpoint
from smbd.lease_messages import LEASE_ASK
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.crypto import Channel, PreauthHash, SessionKeys, new_channel, new_cipher
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.dtyp import Token
from smbd.smb2.fscc.directory import FILE_ID_BOTH_DIRECTORY_INFORMATION
from smbd.smb2.fscc.filesystem import FILE_FS_SIZE_INFORMATION
from smbd.smb2.fscc.query import FILE_ALL_INFORMATION
from smbd.smb2.header import HEADER, HEADER_SIZE, NO_SIGNATURE, PROTOCOL_ID, TRANSFORM_SIZE, TRANSPORT_SIZE
from smbd.smb2.messages import control, create, directory, file, info, negotiate, session, tree
from workers.room import CIPHERS, SIGNERS

DIALECT = c.DIALECT_311
PLAIN, SIGNED, SEALED = range(3)
PROTECTIONS = 3  # by turns, each with one algorithm after the other
SHARE = "rehearsal"
USER = "rehearsal"
PATIENCE = 10.0  # seconds

_FILE = "file"
_KEY = bytes(range(16))
_OUTPUT = 4096
_LAST = (c.RELATED_ID, c.RELATED_ID)


def visit(sock: socket.socket, hub: socket.socket, user: Token, number: int) -> None:
    """The ``number``-th connection, from NEGOTIATE to its end. An exception when something is not as it should be."""
    client = _Client(sock, Endpoint(hub), user, number)
    client.negotiate()
    client.log_on()
    client.work()
    client.leave()
    hub.close()


class _Client:
    """One connection's client."""

    def __init__(self, sock: socket.socket, hub: Endpoint, user: Token, number: int) -> None:
        sock.settimeout(PATIENCE)
        self._sock = sock
        self._hub = hub
        self._ready = polling.poller()
        for end in (sock, hub):
            self._ready.register(end.fileno(), READABLE)
        self._user = user
        turn = number // PROTECTIONS
        self._cipher = list(CIPHERS.values())[turn % len(CIPHERS)]
        self._signing = list(SIGNERS.values())[turn % len(SIGNERS)]
        self._signed = number % PROTECTIONS == SIGNED
        self._sealed = number % PROTECTIONS == SEALED
        self._preauth = PreauthHash()
        self._message_id = 0
        self._session_id = 0
        self._tree_id = 0
        self._channel: Channel | None = None
        self._steps = 0

    # what it does

    def negotiate(self) -> None:
        """[MS-SMB2] 2.2.3, with one algorithm of each kind on offer."""
        integrity = negotiate.PREAUTH_INTEGRITY_CAPABILITIES.pack(1, 32) + _number(c.HASH_SHA512) + bytes(32)
        encryption = _number(1) + _number(self._cipher)
        signing = _number(1) + _number(self._signing)
        kinds = c.PREAUTH_INTEGRITY_CAPABILITIES, c.ENCRYPTION_CAPABILITIES, c.SIGNING_CAPABILITIES
        contexts = negotiate.build_contexts(zip(kinds, (integrity, encryption, signing), strict=True))
        at = HEADER_SIZE + negotiate.NEGOTIATE_REQUEST.size + 2
        mode, capabilities = c.NEGOTIATE_SIGNING_ENABLED, c.CAP_LARGE_MTU | c.CAP_ENCRYPTION
        body = negotiate.NEGOTIATE_REQUEST.pack(36, 1, mode, 0, capabilities, bytes(16), at + -at % 8, 3, 0)
        self.call(Command.NEGOTIATE, body + _number(DIALECT) + bytes(-at % 8) + contexts)

    def log_on(self) -> None:
        """SESSION_SETUP in two steps, then TREE_CONNECT."""
        self._set_up(status.MORE_PROCESSING_REQUIRED)
        self._set_up(status.SUCCESS)
        path = f"\\\\localhost\\{SHARE}".encode("utf-16-le")
        at = HEADER_SIZE + tree.TREE_CONNECT_REQUEST.size
        self.call(Command.TREE_CONNECT, tree.TREE_CONNECT_REQUEST.pack(9, 0, at, len(path)) + path)

    def _set_up(self, expected: int) -> None:
        at = HEADER_SIZE + session.SESSION_SETUP_REQUEST.size
        mode = c.NEGOTIATE_SIGNING_REQUIRED if self._signed else c.NEGOTIATE_SIGNING_ENABLED
        token = b"token"
        self.call(Command.SESSION_SETUP, session.SESSION_SETUP_REQUEST.pack(25, 0, mode, 0, 0, at, len(token), 0) + token, expected)
        if expected == status.SUCCESS:
            keys = SessionKeys(DIALECTS[DIALECT], _KEY, self._preauth.value, self._cipher)
            self._channel = new_channel(self._session_id, self._signing, keys, server=False)
            self._channel.cipher = new_cipher(self._session_id, self._cipher, keys, secrets.token_bytes(4), server=False)

    def work(self) -> None:
        """A file is made, written, read, asked about, listed and deleted."""
        made = self._open(_FILE, c.FILE_GENERIC_READ | c.FILE_GENERIC_WRITE | c.DELETE, c.FILE_CREATE, c.FILE_NON_DIRECTORY_FILE)
        data = bytes(100)
        at = HEADER_SIZE + file.WRITE_REQUEST.size
        self.call(Command.WRITE, file.WRITE_REQUEST.pack(49, at, len(data), 0, *made, 0, 0, 0, 0, 0) + data)
        self.call(Command.READ, file.READ_REQUEST.pack(49, 80, 0, len(data), 0, *made, 0, 0, 0, 0, 0) + b"\0")
        self.call(Command.QUERY_INFO, _ask(c.INFO_FILE, FILE_ALL_INFORMATION, made))
        self.call(Command.CLOSE, file.CLOSE_REQUEST.pack(24, c.CLOSE_FLAG_POSTQUERY_ATTRIB, 0, *made))
        self._look()
        folder = self._open("", c.FILE_GENERIC_READ, c.FILE_OPEN, c.FILE_DIRECTORY_FILE)
        self.call(Command.QUERY_INFO, _ask(c.INFO_FILESYSTEM, FILE_FS_SIZE_INFORMATION, folder))
        self.call(Command.QUERY_DIRECTORY, _list(folder))
        self.call(Command.QUERY_DIRECTORY, _list(folder), status.NO_MORE_FILES)
        self.call(Command.CLOSE, file.CLOSE_REQUEST.pack(24, 0, 0, *folder))
        doomed = self._open(_FILE, c.DELETE, c.FILE_OPEN, c.FILE_NON_DIRECTORY_FILE | c.FILE_DELETE_ON_CLOSE)
        self.call(Command.CLOSE, file.CLOSE_REQUEST.pack(24, 0, 0, *doomed))
        self.call(Command.ECHO, control.ECHO_REQUEST.pack(4, 0))

    def _open(self, name: str, access: int, disposition: int, options: int) -> tuple[int, int]:
        answer = self.call(Command.CREATE, _create(name, access, disposition, options))
        made = create.CREATE_RESPONSE.unpack(answer, HEADER_SIZE)
        return made.file_id_persistent, made.file_id_volatile

    def _look(self) -> None:
        """A compound, as Explorer sends it for every file it shows."""
        parts = (
            (Command.CREATE, _create(_FILE, c.FILE_READ_ATTRIBUTES, c.FILE_OPEN, 0)),
            (Command.QUERY_INFO, _ask(c.INFO_FILE, FILE_ALL_INFORMATION, _LAST)),
            (Command.CLOSE, file.CLOSE_REQUEST.pack(24, 0, 0, *_LAST)),
        )
        frame = bytearray()
        for index, (command, body) in enumerate(parts):
            last = index == len(parts) - 1
            padded = body if last else body + bytes(-len(body) % 8)
            frame += self._element(command, padded, related=index > 0, following=0 if last else HEADER_SIZE + len(padded))
        self._send(frame)
        self._receive(Command.CREATE, status.SUCCESS)

    def leave(self) -> None:
        """Without a word, as most do."""
        self._ready.close()
        self._sock.close()

    # how it talks

    def call(self, command: Command, body: bytes, expected: int = status.SUCCESS) -> bytearray:
        """One request and its answer, from the header on."""
        request = self._element(command, body)
        if self._channel is None:
            self._preauth.update(memoryview(request))
        self._send(request)
        answer = self._receive(command, expected)
        if self._channel is None and (command == Command.NEGOTIATE or expected == status.MORE_PROCESSING_REQUIRED):
            self._preauth.update(memoryview(answer))
        return answer

    def _element(self, command: Command, body: bytes, *, related: bool = False, following: int = 0) -> bytearray:
        # A TREE_CONNECT of 3.1.1 is signed or sealed whatever was agreed ([MS-SMB2] 3.2.4.1.1).
        sign = self._channel is not None and not self._sealed and (self._signed or command == Command.TREE_CONNECT)
        flags = (c.FLAGS_RELATED_OPERATIONS if related else 0) | (c.FLAGS_SIGNED if sign else 0)
        charge, granted = (0, 1) if command == Command.NEGOTIATE else (1, 16)
        head = (PROTOCOL_ID, HEADER_SIZE, charge, 0, int(command), granted, flags, following, self._message_id, 0, self._tree_id)
        self._message_id += 1
        element = bytearray(HEADER.pack(*head, self._session_id, NO_SIGNATURE) + body)
        if sign and self._channel is not None:
            self._channel.sign(memoryview(element))
        return element

    def _send(self, pdu: bytearray) -> None:
        if self._sealed and self._channel is not None and self._channel.cipher is not None:
            room = bytearray(TRANSFORM_SIZE) + pdu + bytes(16)
            pdu = bytearray(self._channel.cipher.seal(memoryview(room), TRANSFORM_SIZE, TRANSFORM_SIZE + len(pdu)))
        self._sock.sendall(len(pdu).to_bytes(TRANSPORT_SIZE, "big") + pdu)

    def _receive(self, command: Command, expected: int) -> bytearray:
        """The next frame; meanwhile the worker's questions to other processes are answered."""
        while True:
            ready = {fd for fd, _ in self._ready.poll(PATIENCE)}
            if not ready:
                raise TimeoutError(f"{command.name}: no answer")
            if self._hub.fileno() in ready:
                self._answer()
            if self._sock.fileno() in ready:
                break
        size = int.from_bytes(self._exactly(TRANSPORT_SIZE), "big")
        answer = self._exactly(size)
        if self._sealed and self._channel is not None and self._channel.cipher is not None:
            answer = bytearray(self._channel.cipher.unseal(memoryview(answer), 0, size))
        header = HEADER.unpack(answer)
        if header.command != command or header.status != expected:
            raise ValueError(f"{command.name}: command {header.command}, {status.name(header.status)}")
        self._session_id, self._tree_id = header.session_id, header.tree_id
        return answer

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        left = memoryview(data)
        while left:  # the kernel does not join what was sent and what came from a file by sendfile, whatever MSG_WAITALL asks for
            received = self._sock.recv_into(left, len(left), socket.MSG_WAITALL)
            if not received:
                raise EOFError("the worker hung up")
            left = left[received:]
        return data

    def _answer(self) -> None:
        """What hub, lessor and authenticator would say."""
        message = self._hub.receive()
        if message is None or message.kind & 1:
            return
        payload = b""
        if message.kind == AUTHENTICATE.number:
            payload = pack_step(self._step())
        elif message.kind == LEASE_ASK.number:
            payload = bytes(message.payload)  # granted, all of it
        self._hub.answer(message, payload)

    def _step(self) -> Step:
        self._steps += 1
        if self._steps == 1:
            return Step(status.MORE_PROCESSING_REQUIRED, b"challenge")
        return Step(status.SUCCESS, b"welcome", _KEY, self._user)


def _number(value: int) -> bytes:
    return negotiate.ALGORITHM_COUNT.pack(value)


def _create(name: str, access: int, disposition: int, options: int) -> bytes:
    encoded = name.encode("utf-16-le")
    at = HEADER_SIZE + create.CREATE_REQUEST.size
    share = c.FILE_SHARE_READ | c.FILE_SHARE_WRITE | c.FILE_SHARE_DELETE
    fixed = create.CREATE_REQUEST.pack(57, 0, 0, 2, 0, 0, access, 0, share, disposition, options, at, len(encoded), 0, 0)
    return fixed + (encoded or b"\0")


def _ask(kind: int, information_class: int, file_id: tuple[int, int]) -> bytes:
    return info.QUERY_INFO_REQUEST.pack(41, kind, information_class, _OUTPUT, 0, 0, 0, 0, 0, *file_id) + b"\0"


def _list(file_id: tuple[int, int]) -> bytes:
    pattern = "*".encode("utf-16-le")
    at = HEADER_SIZE + directory.QUERY_DIRECTORY_REQUEST.size
    fixed = directory.QUERY_DIRECTORY_REQUEST.pack(33, FILE_ID_BOTH_DIRECTORY_INFORMATION, 0, 0, *file_id, at, len(pattern), _OUTPUT)
    return fixed + pattern

"""The short way of the requests that come by the thousand: READ and WRITE of a file, CLOSE, and ECHO.

Owns: the counts that are not written down yet. Invariant: what is answered here is answered as the long way (``engine``, ``dispatch``,
``commands``) would, byte for byte; whatever is unusual - a refusal, a wait, a lock in sight, ids out of order - is left to that way, and
then nothing has happened: no credit was taken, nothing counted, nothing queued. (What a WRITE has written by then is written again.)

A request is read with one unpacking and answered with one packing, behind the answers before it in the batch's buffer; no object is made
for it. tests/workers/test_worker_express.py holds the two ways against each other.
"""

from __future__ import annotations

import hmac
from time import monotonic
from typing import TYPE_CHECKING

from pools.counters import BYTES_READ, BYTES_WRITTEN, COMMANDS_AT, REQUESTS
from pools.layout import joined
from pools.pool import HEADROOM, PoolExhausted
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.credits import CREDIT_SIZE, Disconnect
from smbd.smb2.header import (
    ERROR_BODY,
    HEADER,
    HEADER_SIZE,
    NO_SIGNATURE,
    PROTOCOL_ID,
    SIGNATURE_END,
    SIGNATURE_OFFSET,
    TRANSFORM_SIZE,
    TRANSPORT_SIZE,
)
from smbd.smb2.messages import control, file
from smbd.smb2.status import SmbError
from workers import identity
from workers.changes import modified
from workers.commands.close import close_open, last_words
from workers.session import State
from workers.vfs.errors import smb_error

if TYPE_CHECKING:
    from pools.iovec import FileEntry
    from smbd.smb2.crypto import Channel
    from workers.line import Line
    from workers.open import Open
    from workers.tree import TreeConnect

LARGEST = 32768  # bytes of payload that are read next to other answers: more has a buffer of its own, or never enters the process
TAG_SIZE = 16  # of an AEAD cipher, behind what it sealed

COMMAND_AT = 12  # in a header
_READ = int(c.Command.READ)
_WRITE = int(c.Command.WRITE)
_CLOSE = int(c.Command.CLOSE)
_ECHO = int(c.Command.ECHO)
_READING = c.FILE_READ_DATA | c.FILE_EXECUTE
UNUSUAL = ~(c.FLAGS_SIGNED | c.FLAGS_PRIORITY_MASK) & 0xFFFFFFFF
ECHOED = c.FLAGS_SIGNED | c.FLAGS_PRIORITY_MASK
_CHANGED = c.FILE_NOTIFY_CHANGE_SIZE | c.FILE_NOTIFY_CHANGE_LAST_WRITE
ALL_CREDITS = 65535
_LAST_OFFSET = 0x7FFFFFFFFFFFFFFF
_DATA_MAXIMUM = 0x100  # 3.3.5.13: a DataOffset beyond this is invalid
_READ_REQUEST = joined(HEADER, file.READ_REQUEST)
_READ_RESPONSE = joined(HEADER, file.READ_RESPONSE)
_WRITE_REQUEST = joined(HEADER, file.WRITE_REQUEST)
_WRITE_RESPONSE = joined(HEADER, file.WRITE_RESPONSE)
_CLOSE_REQUEST = joined(HEADER, file.CLOSE_REQUEST)
_CLOSE_RESPONSE = joined(HEADER, file.CLOSE_RESPONSE)
_ECHO_REQUEST = joined(HEADER, control.ECHO_REQUEST)
_ECHO_RESPONSE = joined(HEADER, control.ECHO_RESPONSE)
_FIRST_DATA = _WRITE_REQUEST.size


Ids = tuple[int, int, int, int, int, int]  # of a request: CreditCharge, CreditRequest, Flags, MessageId, TreeId, SessionId


class Express:
    """Answers what it can of one connection's requests. ``off``: nothing."""

    __slots__ = (
        "_closes", "_connection", "_echoes", "_line", "_read", "_reads", "_sender", "_touched", "_worker", "_writes", "_written", "off",
    )  # fmt: skip

    def __init__(self, line: Line) -> None:
        self._line = line
        self._worker = line.worker
        self._connection = line.connection
        self._sender = line.sender
        self.off = False
        self._reads = self._writes = self._closes = self._echoes = 0
        self._read = self._written = 0  # bytes
        self._touched: TreeConnect | None = None  # the last share whose disk was not only read

    def take(self, view: memoryview, start: int, end: int, sealed: Channel | None) -> bool:
        """Answer the request ``view[start:end]``; False when that is not for this way. ``sealed``: whose cipher it was hidden with."""
        if self.off or end - start < _ECHO_REQUEST.size:
            return False
        command = view[start + COMMAND_AT]
        try:
            if command == _READ:
                return self._take_read(view, start, end, sealed)
            if command == _WRITE:
                return self._take_write(view, start, end, sealed)
            if command == _CLOSE:
                return self._take_close(view, start, end, sealed)
            if command == _ECHO:
                return self._take_echo(view, start, end, sealed)
        except (OSError, PoolExhausted, SmbError):
            return False  # a cold page, a full disk, no buffer: the long way meets it again, and has the answer
        return False

    def settle(self, begun: float) -> None:
        """Write the counts down of what was executed since ``begun``. When that took long, the disk that was touched is in doubt."""
        touched = self._touched
        if touched is not None:
            self._touched = None
            touched.disk.held_up(monotonic() - begun)
        counters = self._worker.counters
        if self._reads:
            counters[REQUESTS] += self._reads
            counters[COMMANDS_AT + _READ] += self._reads
            counters[BYTES_READ] += self._read
            self._reads = self._read = 0
        if self._writes:
            counters[REQUESTS] += self._writes
            counters[COMMANDS_AT + _WRITE] += self._writes
            counters[BYTES_WRITTEN] += self._written
            self._writes = self._written = 0
        if self._closes:
            counters[REQUESTS] += self._closes
            counters[COMMANDS_AT + _CLOSE] += self._closes
            self._closes = 0
        if self._echoes:
            counters[REQUESTS] += self._echoes
            counters[COMMANDS_AT + _ECHO] += self._echoes
            self._echoes = 0

    # one by one

    def _take_read(self, view: memoryview, start: int, end: int, sealed: Channel | None) -> bool:
        """[MS-SMB2] 3.3.5.12."""
        if end - start < _READ_REQUEST.size:
            return False
        (
            protocol_id, size, charge, sequence, command, credit, flags, following, message_id, _, tree_id, session_id, signature,
            body_size, _, _, length, offset, persistent, volatile, minimum, remote, _, _, _,
        ) = _READ_REQUEST.unpack_from(view, start)  # fmt: skip
        if protocol_id != PROTOCOL_ID or size != HEADER_SIZE or command != _READ or flags & UNUSUAL or following:
            return False
        if body_size != file.READ_REQUEST_STRUCTURE_SIZE or remote != c.CHANNEL_NONE or not _covered(length, charge):
            return False
        worker = self._worker
        opened = self._open_for(persistent, volatile, tree_id, session_id)
        if opened is None or opened.handle is None or opened.key is None or opened.is_directory or opened.turns is not None:
            return False
        if sequence != opened.usual or not opened.granted & _READING:
            return False
        if offset + length > _LAST_OFFSET or length > worker.max_read:
            return False
        if not self._in_turn(message_id, charge) or worker.sharing.has_locks(opened.key):
            return False
        channel = self._connection.channels.get(session_id)
        if channel is None or not protected(channel, opened.tree.encrypt, flags, sealed):
            return False
        if flags & c.FLAGS_SIGNED and sealed is None and not verified(channel, view[start:end], signature):
            return False
        if opened.tree.identity is not None:
            identity.assume(opened.tree.identity)
        ids = charge, credit, flags, message_id, tree_id, session_id
        if length > LARGEST or length >= worker.leaves_from:
            return self._take_large(opened, (length, offset, minimum), ids, (channel, sealed))
        out, first = self._reserve(_READ_RESPONSE.size + length, sealed)
        data = first + _READ_RESPONSE.size
        got = opened.handle.pread_into(out[data : data + length], offset, True)
        if not got or got < minimum:
            return False
        opened.position = offset + got
        answer_flags = self._pack_read(out, first, got, ids, sealed)
        self._sender.append(protect(out, first, data + got, channel if answer_flags & c.FLAGS_SIGNED else None, sealed))
        return True

    def _take_large(
        self, opened: Open, extent: tuple[int, int, int], ids: Ids, protection: tuple[Channel, Channel | None]
    ) -> bool:
        """A READ whose payload has a buffer of its own, or stays in the kernel. ``extent``: length, offset, MinimumCount."""
        length, offset, minimum = extent
        channel, sealed = protection
        worker, handle = self._worker, opened.handle
        assert handle is not None
        if sealed is None and not ids[2] & c.FLAGS_SIGNED and length >= worker.leaves_from:
            return self._send_extent(opened, handle.extent(offset, length), (offset, minimum), ids)
        buffer = worker.pool.allocate(length)
        got = 0
        try:
            got = handle.pread_into(buffer.view[HEADROOM : HEADROOM + length], offset, True)
        finally:
            if not got or got < minimum:
                buffer.release()
        if not got or got < minimum:
            return False
        first = HEADROOM - _READ_RESPONSE.size
        flags = self._pack_read(buffer.view, first, got, ids, sealed)
        opened.position = offset + got
        end = protect(buffer.view, first, HEADROOM + got, channel if flags & c.FLAGS_SIGNED else None, sealed)
        self._sender.queue(buffer.view[first - before(sealed) : end], buffer)
        return True

    def _send_extent(self, opened: Open, entry: FileEntry | None, place: tuple[int, int], ids: Ids) -> bool:
        """Header and fixed part from here, the payload from the file. ``place``: offset and MinimumCount."""
        if entry is None:
            return False
        got, (offset, minimum), sender = entry.length, place, self._sender
        if not got or got < minimum:
            entry.free()
            return False
        try:
            out, first = self._reserve(_READ_RESPONSE.size, None)
        except PoolExhausted:
            entry.free()
            raise
        self._pack_read(out, first, got, ids, None)
        opened.position = offset + got
        out[first - TRANSPORT_SIZE : first] = (_READ_RESPONSE.size + got).to_bytes(TRANSPORT_SIZE, "big")
        sender.append(first + _READ_RESPONSE.size)
        sender.queue_file(entry)
        return True

    def _pack_read(self, out: memoryview, first: int, got: int, ids: Ids, sealed: Channel | None) -> int:
        """Header and fixed part of a READ's answer, which is counted and charged; the header's flags."""
        charge, credit, flags, message_id, tree_id, session_id = ids
        self._reads += 1
        self._read += got
        answer_flags = flags_of_answer(flags, sealed)
        granted = self._charge(message_id, charge, credit)
        _READ_RESPONSE.pack_into(
            out, first, PROTOCOL_ID, HEADER_SIZE, charge, 0, _READ, granted, answer_flags, 0, message_id, 0, tree_id,
            session_id, NO_SIGNATURE, file.READ_RESPONSE_STRUCTURE_SIZE, _READ_RESPONSE.size, 0, got, 0, 0,
        )  # fmt: skip
        return answer_flags

    def _take_write(self, view: memoryview, start: int, end: int, sealed: Channel | None) -> bool:
        """[MS-SMB2] 3.3.5.13."""
        if end - start < _WRITE_REQUEST.size:
            return False
        (
            protocol_id, size, charge, sequence, command, credit, flags, following, message_id, _, tree_id, session_id, signature,
            body_size, data_offset, length, offset, persistent, volatile, remote, _, _, _, write_flags,
        ) = _WRITE_REQUEST.unpack_from(view, start)  # fmt: skip
        if protocol_id != PROTOCOL_ID or size != HEADER_SIZE or command != _WRITE or flags & UNUSUAL or following:
            return False
        if body_size != file.WRITE_REQUEST_STRUCTURE_SIZE or remote != c.CHANNEL_NONE or write_flags & c.WRITEFLAG_WRITE_THROUGH:
            return False
        if not _covered(length, charge) or not _FIRST_DATA <= data_offset <= _DATA_MAXIMUM or data_offset + length > end - start:
            return False
        worker = self._worker
        opened = self._open_for(persistent, volatile, tree_id, session_id)
        if opened is None or opened.is_directory or opened.handle is None or opened.key is None or not opened.granted & c.FILE_WRITE_DATA:
            return False
        if sequence != opened.usual or opened.write_through or length > worker.max_write or opened.tree.slow or opened.tree.delays:
            return False
        if offset + length > _LAST_OFFSET or not self._in_turn(message_id, charge) or worker.sharing.has_locks(opened.key):
            return False
        channel = self._connection.channels.get(session_id)
        if channel is None or not protected(channel, opened.tree.encrypt, flags, sealed):
            return False
        if flags & c.FLAGS_SIGNED and sealed is None and not verified(channel, view[start:end], signature):
            return False
        if opened.tree.identity is not None:
            identity.assume(opened.tree.identity)
        data = start + data_offset
        opened.handle.pwrite(view[data : data + length], offset)
        worker.breaks.data_changed(opened)
        modified(worker, opened, _CHANGED)
        # Only now: a break that was sent has taken room for itself.
        out, first = self._reserve(_WRITE_RESPONSE.size, sealed)
        opened.position = offset + length
        self._writes += 1
        self._touched = opened.tree
        self._written += length
        answer_flags = flags_of_answer(flags, sealed)
        granted = self._charge(message_id, charge, credit)
        _WRITE_RESPONSE.pack_into(
            out, first, PROTOCOL_ID, HEADER_SIZE, charge, 0, _WRITE, granted, answer_flags, 0, message_id, 0, tree_id,
            session_id, NO_SIGNATURE, file.WRITE_RESPONSE_STRUCTURE_SIZE, 0, length, 0, 0, 0,
        )  # fmt: skip
        signer = channel if answer_flags & c.FLAGS_SIGNED else None
        self._sender.append(protect(out, first, first + _WRITE_RESPONSE.size, signer, sealed))
        return True

    def _take_close(self, view: memoryview, start: int, end: int, sealed: Channel | None) -> bool:
        """[MS-SMB2] 3.3.5.10, of what nobody waits for."""
        if end - start < _CLOSE_REQUEST.size:
            return False
        (
            protocol_id, size, charge, sequence, command, credit, flags, following, message_id, _, tree_id, session_id, signature,
            body_size, close_flags, _, persistent, volatile,
        ) = _CLOSE_REQUEST.unpack_from(view, start)  # fmt: skip
        if protocol_id != PROTOCOL_ID or size != HEADER_SIZE or command != _CLOSE or flags & UNUSUAL or following:
            return False
        worker = self._worker
        opened = self._open_for(persistent, volatile, tree_id, session_id)
        if body_size != file.CLOSE_REQUEST_STRUCTURE_SIZE or opened is None or opened.handle is None or opened.key is None:
            return False
        if opened.notify is not None or opened.lock_waits or opened.in_flight or opened.turns is not None or opened.tree.slow:
            return False
        if opened.held is not None:
            return False
        if sequence != opened.usual or opened.write_through:  # among these are persistent opens, whose end is kept on disk
            return False
        channel = self._connection.channels.get(session_id)
        if channel is None or not self._in_turn(message_id, charge) or not protected(channel, opened.tree.encrypt, flags, sealed):
            return False
        if flags & c.FLAGS_SIGNED and sealed is None and not verified(channel, view[start:end], signature):
            return False
        self._reserve(_CLOSE_RESPONSE.size, sealed)  # there is room: from here on nothing is left to the long way
        if opened.tree.identity is not None:
            identity.assume(opened.tree.identity)
        code, body = status.SUCCESS, last_words(opened, close_flags)
        try:
            close_open(worker, opened)
        except (OSError, SmbError) as error:
            code, body = smb_error(error).status if isinstance(error, OSError) else error.status, ERROR_BODY
            worker.count_error()
        self._touched = opened.tree
        self._closes += 1
        answer_flags = flags_of_answer(flags, sealed)
        granted = self._charge(message_id, charge, credit)
        # Only now: who was woken, or told of a deletion, may have taken room.
        try:
            out, first = self._reserve(_CLOSE_RESPONSE.size, sealed)
        except PoolExhausted:
            raise Disconnect("no buffer for a reply") from None
        HEADER.pack_into(
            out, first, PROTOCOL_ID, HEADER_SIZE, charge, code, _CLOSE, granted, answer_flags, 0, message_id, 0, tree_id,
            session_id, NO_SIGNATURE,
        )  # fmt: skip
        stop = first + HEADER_SIZE + len(body)
        out[first + HEADER_SIZE : stop] = body
        signer = channel if answer_flags & c.FLAGS_SIGNED else None
        self._sender.append(protect(out, first, stop, signer, sealed))
        return True

    def _take_echo(self, view: memoryview, start: int, end: int, sealed: Channel | None) -> bool:
        """[MS-SMB2] 3.3.5.17."""
        (
            protocol_id, size, charge, _, command, credit, flags, following, message_id, _, tree_id, session_id, signature, body_size, _,
        ) = _ECHO_REQUEST.unpack_from(view, start)  # fmt: skip
        if protocol_id != PROTOCOL_ID or size != HEADER_SIZE or command != _ECHO or flags & UNUSUAL or following:
            return False
        channel = self._connection.channels.get(session_id)
        if body_size != control.ECHO_STRUCTURE_SIZE or channel is None or not self._in_turn(message_id, charge):
            return False
        if not protected(channel, False, flags, sealed):
            return False
        if flags & c.FLAGS_SIGNED and sealed is None and not verified(channel, view[start:end], signature):
            return False
        out, first = self._reserve(_ECHO_RESPONSE.size, sealed)
        self._echoes += 1
        answer_flags = flags_of_answer(flags, sealed)
        granted = self._charge(message_id, charge, credit)
        _ECHO_RESPONSE.pack_into(
            out, first, PROTOCOL_ID, HEADER_SIZE, charge, 0, _ECHO, granted, answer_flags, 0, message_id, 0, tree_id,
            session_id, NO_SIGNATURE, control.ECHO_STRUCTURE_SIZE, 0,
        )  # fmt: skip
        signer = channel if answer_flags & c.FLAGS_SIGNED else None
        self._sender.append(protect(out, first, first + _ECHO_RESPONSE.size, signer, sealed))
        return True

    # what they share

    def _open_for(self, persistent: int, volatile: int, tree_id: int, session_id: int) -> Open | None:
        """The Open that the header names as ``dispatch.resolve`` would find it."""
        opened = self._worker.opens.get(volatile)
        if opened is None or opened.persistent != persistent:
            return None
        tree = opened.tree
        session = tree.session
        if session.session_id != session_id or session.state is not State.VALID or session.trees.get(tree_id) is not tree:
            return None  # also: a tree connect that ends, and waits for a slow disk to close what is open
        return opened

    def _reserve(self, size: int, sealed: Channel | None) -> tuple[memoryview, int]:
        """Room for a response of ``size`` bytes with what goes before and behind it: the buffer, and where its header goes."""
        front = before(sealed)
        out, at = self._sender.reserve(front + size + TAG_SIZE)
        return out, at + front

    def _in_turn(self, message_id: int, charge: int) -> bool:
        """Whether the id is the very next of the window and granted: then to charge it is to move the window's end."""
        window = self._connection.credits
        return message_id == window.low and message_id + (charge or 1) <= window.high and not window.used

    def _charge(self, message_id: int, charge: int, credit: int) -> int:
        """Take the credits of a request that is ``_in_turn``; those that its answer grants."""
        connection = self._connection
        charged = (charge or 1) if connection.multi_credit else 1
        window = connection.credits
        window.low = message_id + charged
        return window.grant(credit, 1 if self._line.paused else ALL_CREDITS, charged)


def before(sealed: Channel | None) -> int:
    """Bytes in front of a response's header."""
    return TRANSPORT_SIZE if sealed is None else TRANSPORT_SIZE + TRANSFORM_SIZE


def _covered(length: int, charge: int) -> bool:
    """3.3.5.2.5: whether there is payload, and its charge is enough. (Where nothing is charged there is none of this size.)"""
    return 0 < length <= CREDIT_SIZE or (length > CREDIT_SIZE and (length - 1) // CREDIT_SIZE < charge)


def protected(channel: Channel, encrypt: bool, flags: int, sealed: Channel | None) -> bool:
    """Whether the request has the protection that its session and its share ask for (3.3.5.2.4, 3.3.5.2.9, 3.3.5.2.11)."""
    if sealed is not None:
        return sealed is channel
    if channel.encryption_required or encrypt:
        return False
    return not channel.signing_required or bool(flags & c.FLAGS_SIGNED)


def verified(channel: Channel, element: memoryview, signature: bytes) -> bool:
    """Whether ``signature``, which is the element's own, is its session's. The bytes stay as they came: the long way may look again."""
    verifier = channel.verifier
    if verifier is None:
        return False
    element[SIGNATURE_OFFSET:SIGNATURE_END] = NO_SIGNATURE
    expected = verifier(element)
    element[SIGNATURE_OFFSET:SIGNATURE_END] = signature
    return hmac.compare_digest(signature, expected)


def flags_of_answer(flags: int, sealed: Channel | None) -> int:
    """3.3.4.1.1: the response to a signed request is signed, unless it is encrypted."""
    return (flags & (c.FLAGS_PRIORITY_MASK if sealed is not None else ECHOED)) | c.FLAGS_SERVER_TO_REDIR


def protect(out: memoryview, first: int, end: int, signer: Channel | None, sealed: Channel | None) -> int:
    """Sign or seal the response ``out[first:end]`` and put the transport's length in front; where it ends."""
    if sealed is not None:
        assert sealed.cipher is not None
        sealed.cipher.seal(out, first, end)
        first -= TRANSFORM_SIZE
    elif signer is not None and signer.signer is not None:
        element = out[first:end]
        element[SIGNATURE_OFFSET:SIGNATURE_END] = signer.signer(element)
    out[first - TRANSPORT_SIZE : first] = (end - first).to_bytes(TRANSPORT_SIZE, "big")
    return end

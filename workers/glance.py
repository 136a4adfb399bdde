"""The short way of looking at a file by its name: the compound of CREATE, QUERY_INFO and CLOSE that clients send for every file they show.

Owns: nothing; see ``express`` for the invariant, which is the same. What is done here: the file is opened, looked at and closed, and the
three responses are packed side by side. No open comes to be; the shared state is asked whether one would be let in and disturb nobody
(``opening.claim`` says when). tests/workers/test_worker_glance.py holds this way against the long one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pools.counters import COMMANDS_AT, REQUESTS
from pools.layout import joined
from pools.pool import PoolExhausted
from smbd.sharing import FileKey
from smbd.smb2 import constants as c
from smbd.smb2.fscc import query
from smbd.smb2.fscc.facts import OpenState
from smbd.smb2.header import HEADER, HEADER_SIZE, NO_SIGNATURE, PROTOCOL_ID, SIGNATURE_END, SIGNATURE_OFFSET
from smbd.smb2.messages import create, file, info
from smbd.smb2.names import Path, parse
from smbd.smb2.status import SmbError
from workers import access, identity
from workers.commands.create import ALL_SHARED, INVALID_ATTRIBUTES, INVALID_OPTIONS, UNSUPPORTED_OPTIONS
from workers.commands.query_info import NEEDS_ATTRIBUTES
from workers.express import ALL_CREDITS, COMMAND_AT, UNUSUAL, Express, flags_of_answer, protect, protected, verified
from workers.opening import LOOKING
from workers.session import State

if TYPE_CHECKING:
    from smbd.smb2.crypto import Channel
    from workers.tree import TreeConnect
    from workers.vfs.interface import FileInfo, Sight

_CREATE: Final = int(c.Command.CREATE)
_QUERY_INFO: Final = int(c.Command.QUERY_INFO)
_CLOSE: Final = int(c.Command.CLOSE)
_COMMANDS: Final = (_CREATE, _QUERY_INFO, _CLOSE)
_RELATED: Final = c.FLAGS_RELATED_OPERATIONS
_CREATE_REQUEST: Final = joined(HEADER, create.CREATE_REQUEST)
_CREATE_RESPONSE: Final = joined(HEADER, create.CREATE_RESPONSE)
_QUERY_INFO_REQUEST: Final = joined(HEADER, info.QUERY_INFO_REQUEST)
_QUERY_INFO_RESPONSE: Final = joined(HEADER, info.QUERY_INFO_RESPONSE)
_CLOSE_REQUEST: Final = joined(HEADER, file.CLOSE_REQUEST)
_CLOSE_RESPONSE: Final = joined(HEADER, file.CLOSE_RESPONSE)
_CLOSED: Final = _CLOSE_RESPONSE.size + 7 & ~7
_PADDING: Final = bytes(_CLOSED - _CLOSE_RESPONSE.size)
_LEAST: Final = _CREATE_REQUEST.size + _QUERY_INFO_REQUEST.size + _CLOSE_REQUEST.size
_UNUSUAL_OPTIONS: Final = INVALID_OPTIONS | UNSUPPORTED_OPTIONS | c.FILE_DELETE_ON_CLOSE
_MOST: Final = 65536  # bytes that one credit pays for
_UNTOLD: Final = (0, 0, 0, 0, 0, 0, 0)
_CLASSES: Final = frozenset(query.MINIMUM) - {query.FILE_ALTERNATE_NAME_INFORMATION, query.FILE_NORMALIZED_NAME_INFORMATION}


class _Element(NamedTuple):
    """What the answer to one of the three takes from its request."""

    start: int
    end: int
    charge: int
    credit: int
    flags: int
    message_id: int
    signature: bytes


class _Look(NamedTuple):
    """The compound, read: every field that counts made sense."""

    elements: tuple[_Element, _Element, _Element]
    session_id: int
    tree_id: int
    desired: int
    options: int
    path: Path
    info_class: int
    most: int  # bytes of information that the client takes
    tell_at_close: bool


class Glances(Express):
    """The short ways of one connection, this one among them."""

    __slots__ = ()

    def take(self, view: memoryview, start: int, end: int, sealed: Channel | None) -> bool:
        """See ``Express.take``."""
        if end - start < _LEAST or view[start + COMMAND_AT] != _CREATE:
            return super().take(view, start, end, sealed)
        if self.off:
            return False
        try:
            look = _read(view, start, end)
            return look is not None and self._answer(view, look, sealed)
        except (OSError, PoolExhausted, SmbError):
            return False  # the long way meets it again, and has the answer

    def _answer(self, view: memoryview, look: _Look, sealed: Channel | None) -> bool:
        worker = self._worker
        connection = self._connection
        session = worker.sessions.get(look.session_id)
        if session is None or session.state is not State.VALID:
            return False
        tree = session.trees.get(look.tree_id)
        channel = connection.channels.get(look.session_id)
        if tree is None or tree.vfs is None or tree.slow or tree.delays or channel is None:
            return False
        if len(worker.opens) >= worker.config.max_open_files:
            return False
        if not self._in_order(look.elements) or not _guarded(view, look.elements, tree, channel, sealed):
            return False
        found = self._find(tree, look)
        if found is None:
            return False
        facts = found.info
        volume = facts.dev & 0xFFFFFFFF
        state = OpenState(facts, look.path.wire(), look.desired, ea_size=found.ea_size, volume=volume)
        output = query.query(look.info_class, state)
        if len(output) > look.most:
            return False
        self._reply(look, (facts, output), channel, sealed)
        counters = worker.counters
        counters[REQUESTS] += 3
        for command in _COMMANDS:
            counters[COMMANDS_AT + command] += 1
        return True

    def _in_order(self, elements: tuple[_Element, _Element, _Element]) -> bool:
        """Whether their ids are the very next of the window: see ``_in_turn``."""
        window = self._connection.credits
        expected = window.low
        for element in elements:
            if element.message_id != expected:
                return False
            expected += element.charge or 1
        return expected <= window.high and not window.used

    def _find(self, tree: TreeConnect, look: _Look) -> Sight | None:
        """The file, if the user may open it as he wishes, and nobody need know."""
        vfs = tree.vfs
        assert vfs is not None
        if tree.identity is not None:
            identity.assume(tree.identity)
        self._touched = tree
        found = vfs.look(look.path)
        if found is None or look.desired & ~access.rights(self._worker, tree, found.info, found.security):
            return None
        facts = found.info
        if look.options & (c.FILE_NON_DIRECTORY_FILE if facts.directory else c.FILE_DIRECTORY_FILE):
            return None
        return found if self._worker.sharing.may_look(FileKey(facts.dev, facts.ino), look.desired) else None

    def _reply(self, look: _Look, found: tuple[FileInfo, bytes], channel: Channel, sealed: Channel | None) -> None:
        """The three responses, one behind the other, each padded to a multiple of 8 and signed with its padding (3.3.4.1.3)."""
        facts, output = found
        worker = self._worker
        times = facts.creation_time, facts.last_access_time, facts.last_write_time, facts.change_time
        told = *times, facts.allocation, facts.size, facts.attributes
        second = _CREATE_RESPONSE.size
        third = second + (_QUERY_INFO_RESPONSE.size + len(output) + 7 & ~7)
        out, first = self._reserve(third + _CLOSED, sealed)
        heads = self._heads(look, (second, third - second, 0), sealed)
        number = worker.next_id()
        _CREATE_RESPONSE.pack_into(
            out, first, *heads[0], create.CREATE_RESPONSE_STRUCTURE_SIZE, c.OPLOCK_LEVEL_NONE, 0, c.FILE_OPENED, *told, 0,
            worker.file_id_base | number, worker.volatile_base | number, 0, 0,
        )  # fmt: skip
        at = first + second
        _QUERY_INFO_RESPONSE.pack_into(
            out, at, *heads[1], info.QUERY_INFO_RESPONSE_STRUCTURE_SIZE, _QUERY_INFO_RESPONSE.size, len(output)
        )
        at += _QUERY_INFO_RESPONSE.size
        out[at : first + third] = output.ljust(first + third - at, b"\0")
        at = first + third
        if look.tell_at_close:
            _CLOSE_RESPONSE.pack_into(out, at, *heads[2], file.CLOSE_RESPONSE_STRUCTURE_SIZE, c.CLOSE_FLAG_POSTQUERY_ATTRIB, 0, *told)
        else:
            _CLOSE_RESPONSE.pack_into(out, at, *heads[2], file.CLOSE_RESPONSE_STRUCTURE_SIZE, 0, 0, *_UNTOLD)
        out[at + _CLOSE_RESPONSE.size : at + _CLOSED] = _PADDING
        if sealed is None:
            _sign(out, (first, first + second, at, at + _CLOSED), look.elements, channel)
        self._sender.append(protect(out, first, at + _CLOSED, None, sealed))

    def _heads(self, look: _Look, following: tuple[int, int, int], sealed: Channel | None) -> list[tuple[bytes | int, ...]]:
        """The fields of the three headers; the credits are taken and granted."""
        window, multi = self._connection.credits, self._connection.multi_credit
        last = look.elements[2]
        window.low = last.message_id + ((last.charge or 1) if multi else 1)
        ceiling = 1 if self._line.paused else ALL_CREDITS
        heads: list[tuple[bytes | int, ...]] = []
        for element, command, size in zip(look.elements, _COMMANDS, following, strict=True):
            granted = window.grant(element.credit, ceiling, (element.charge or 1) if multi else 1)
            flags = flags_of_answer(element.flags, sealed) | element.flags & _RELATED
            heads.append(
                (PROTOCOL_ID, HEADER_SIZE, element.charge, 0, command, granted, flags, size, element.message_id, 0, look.tree_id,
                 look.session_id, NO_SIGNATURE)
            )  # fmt: skip
        return heads


def _sign(out: memoryview, borders: tuple[int, int, int, int], elements: tuple[_Element, _Element, _Element], channel: Channel) -> None:
    """3.3.4.1.1: each response whose request was signed."""
    for number, element in enumerate(elements):
        if element.flags & c.FLAGS_SIGNED and channel.signer is not None:
            part = out[borders[number] : borders[number + 1]]
            part[SIGNATURE_OFFSET:SIGNATURE_END] = channel.signer(part)


def _guarded(
    view: memoryview, elements: tuple[_Element, _Element, _Element], tree: TreeConnect, channel: Channel, sealed: Channel | None
) -> bool:
    """Whether each of them has the protection that it needs, and its signature is right."""
    for element in elements:
        if not protected(channel, tree.encrypt, element.flags, sealed):
            return False
        signed = sealed is None and element.flags & c.FLAGS_SIGNED
        if signed and not verified(channel, view[element.start : element.end], element.signature):
            return False
    return True


def _read(view: memoryview, start: int, end: int) -> _Look | None:
    """[MS-SMB2] 3.3.5.9, 3.3.5.20 and 3.3.5.10 as far as they need no file; None for what is not the usual compound."""
    (
        protocol_id, size, charge, _, _, credit, flags, following, message_id, _, tree_id, session_id, signature,
        body_size, _, level, impersonation, _, _, desired, attributes, share_access, disposition, options,
        name_at, name_size, _, contexts,
    ) = _CREATE_REQUEST.unpack_from(view, start)  # fmt: skip
    if protocol_id != PROTOCOL_ID or size != HEADER_SIZE or flags & UNUSUAL or following & 7 or following < _CREATE_REQUEST.size:
        return None
    if body_size != create.CREATE_REQUEST_STRUCTURE_SIZE or level or impersonation > c.IMPERSONATION_DELEGATE or contexts:
        return None
    if not desired or desired & ~LOOKING or attributes & INVALID_ATTRIBUTES or share_access & ~ALL_SHARED:
        return None
    if disposition != c.FILE_OPEN or options & _UNUSUAL_OPTIONS:
        return None
    if name_size and (name_at < _CREATE_REQUEST.size or name_at + name_size > following):
        return None
    rest = _read_rest(view, start + following, end)
    if rest is None:
        return None
    path = parse(view[start + name_at : start + name_at + name_size])
    if path.stream or path.type:
        return None
    first = _Element(start, start + following, charge, credit, flags, message_id, signature)
    second, third, info_class, most, tell = rest
    if info_class in NEEDS_ATTRIBUTES and not desired & c.FILE_READ_ATTRIBUTES:
        return None
    return _Look((first, second, third), session_id, tree_id, desired, options, path, info_class, most, tell)


def _read_rest(view: memoryview, start: int, end: int) -> tuple[_Element, _Element, int, int, bool] | None:
    """The two related elements: of which file they speak, and in which session, was said by the first (3.3.5.2.7.2)."""
    if end - start < _QUERY_INFO_REQUEST.size + _CLOSE_REQUEST.size:
        return None
    (
        protocol_id, size, charge, _, command, credit, flags, following, message_id, _, _, _, signature,
        body_size, info_type, info_class, most, _, _, input_size, _, _, _, _,
    ) = _QUERY_INFO_REQUEST.unpack_from(view, start)  # fmt: skip
    if protocol_id != PROTOCOL_ID or size != HEADER_SIZE or command != _QUERY_INFO or flags & UNUSUAL != _RELATED:
        return None
    if following & 7 or following < _QUERY_INFO_REQUEST.size or start + following + _CLOSE_REQUEST.size > end:
        return None
    if body_size != info.QUERY_INFO_REQUEST_STRUCTURE_SIZE or info_type != c.INFO_FILE or input_size:
        return None
    if info_class not in _CLASSES or not query.MINIMUM[info_class] <= most <= _MOST:
        return None
    second = _Element(start, start + following, charge, credit, flags, message_id, signature)
    start += following
    (
        protocol_id, size, charge, _, command, credit, flags, following, message_id, _, _, _, signature, body_size, close_flags, _, _, _,
    ) = _CLOSE_REQUEST.unpack_from(view, start)  # fmt: skip
    if protocol_id != PROTOCOL_ID or size != HEADER_SIZE or command != _CLOSE or flags & UNUSUAL != _RELATED or following:
        return None
    if body_size != file.CLOSE_REQUEST_STRUCTURE_SIZE:
        return None
    third = _Element(start, end, charge, credit, flags, message_id, signature)
    return second, third, info_class, most, bool(close_flags & c.CLOSE_FLAG_POSTQUERY_ATTRIB)

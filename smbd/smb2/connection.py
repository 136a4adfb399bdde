"""One transport connection as a sans-IO object: frames in, checked elements out; replies in, frames out.

Owns: Connection of [MS-SMB2] 3.3.1.7 as far as the wire needs it: dialect, algorithms, credit window, channels, pre-authentication hash;
the rules for what arrives (what leaves is packed in reply.py).
Invariant: an element without ``error`` has passed decryption or signature as its session requires, and its message ids are charged; whoever
dispatches it need not look at protection again. The plain, unsigned, single request is the fast path and touches nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import unpack_from

from pools.layout import WireError
from smbd.smb2 import negotiate, status
from smbd.smb2.compound import split
from smbd.smb2.constants import (
    COMMAND_COUNT,
    FLAGS_ASYNC_COMMAND,
    FLAGS_RELATED_OPERATIONS,
    FLAGS_SERVER_TO_REDIR,
    FLAGS_SIGNED,
    Command,
)
from smbd.smb2.credits import CreditWindow, Disconnect, check_charge
from smbd.smb2.crypto import (
    Channel,
    PreauthHash,
    SessionKeys,
    Unsealable,
    new_channel,
    new_cipher,
)
from smbd.smb2.dialects import Dialect
from smbd.smb2.header import (
    HEADER,
    HEADER_SIZE,
    NO_SIGNATURE,
    PROTOCOL_ID,
    SMB1_PROTOCOL_ID,
    TRANSFORM_ENCRYPTED,
    TRANSFORM_HEADER,
    TRANSFORM_PROTOCOL_ID,
    TRANSFORM_SIZE,
    Header,
)
from smbd.smb2.messages.ioctl import VALIDATE_NEGOTIATE_INFO_REQUEST, VALIDATE_NEGOTIATE_INFO_RESPONSE
from smbd.smb2.negotiate import Choice, NegotiateSettings
from smbd.smb2.reply import Reply
from smbd.smb2.status import SmbError

__all__ = ["Connection", "Disconnect", "Element", "Reply"]

_NEGOTIATE = int(Command.NEGOTIATE)
_SESSION_SETUP = int(Command.SESSION_SETUP)
_TREE_CONNECT = int(Command.TREE_CONNECT)
_CANCEL = int(Command.CANCEL)
_UNUSUAL = FLAGS_SERVER_TO_REDIR | FLAGS_ASYNC_COMMAND | FLAGS_RELATED_OPERATIONS


class Element:
    """One request of a frame. ``view`` begins with its header; ``error`` is 0 or the status to answer instead of dispatching it.

    ``sign`` and ``seal`` say how the (non-interim) response is to be protected. CANCEL with an error is ignored (3.3.5.16).
    """

    __slots__ = ("channel", "encrypted", "error", "header", "seal", "sign", "view")

    def __init__(self, header: Header, view: memoryview, channel: Channel | None = None, error: int = 0) -> None:
        self.header = header
        self.view = view
        self.channel = channel
        self.error = error
        self.encrypted = False
        self.sign: Channel | None = None
        self.seal: Channel | None = None


class Connection:
    """State and rules of one transport connection. Raises ``Disconnect`` where the specification ends it."""

    __slots__ = ("_multi_credit", "_random", "channels", "choice", "credits", "dialect", "elsewhere", "preauth", "settings")

    def __init__(self, settings: NegotiateSettings, random: Callable[[int], bytes]) -> None:
        self.settings = settings
        self.dialect: Dialect | None = None
        self.choice: Choice | None = None
        self.credits = CreditWindow(settings.max_credits)
        self.channels: dict[int, Channel] = {}
        self.preauth = PreauthHash()
        self.elsewhere: Callable[[int], Channel | None] = _nowhere  # a session of this client's that has no channel here
        self._random = random
        self._multi_credit = False

    # -- receiving

    def receive(self, view: memoryview, start: int = 0, end: int = -1) -> list[Element]:
        """The elements of the frame ``view[start:end]``, transport length excluded (default: all of ``view``).

        An encrypted frame is decrypted in place; with 16 bytes of ``view`` behind ``end`` (their content is kept) nothing has to move.
        """
        if end < 0:
            end = len(view)
        if end - start < HEADER_SIZE:
            return self._receive_short(view, start, end)
        header = HEADER.unpack(view, start)
        if header.protocol_id != PROTOCOL_ID:
            return self._receive_other(view, start, end)
        if header.next_command:
            return self._receive_compound(view[start:end], None)
        return [self._accept(header, view[start:end], None)]

    def unseal(self, view: memoryview, start: int, end: int) -> tuple[memoryview, Channel]:
        """3.3.5.2.1.1: plaintext and channel of a transform PDU. Touches only ``view`` and the session's key: may run on a thread."""
        transform = TRANSFORM_HEADER.unpack(view, start)
        if transform.flags != TRANSFORM_ENCRYPTED:
            raise Disconnect(f"transform header's flags are 0x{transform.flags:04x}")
        if transform.original_message_size != end - start - TRANSFORM_SIZE:
            raise Disconnect(f"transform header says {transform.original_message_size} of {end - start - TRANSFORM_SIZE} bytes")
        if transform.original_message_size < HEADER_SIZE:
            raise Disconnect("an encrypted message shorter than a header")
        channel = self.channels.get(transform.session_id) or self.elsewhere(transform.session_id)
        if channel is None or channel.cipher is None:
            raise Disconnect(f"encrypted with session 0x{transform.session_id:x}, which is not here or has no key")
        try:
            return channel.cipher.unseal(view, start, end), channel
        except Unsealable as error:
            raise Disconnect(f"message of session 0x{transform.session_id:x} {error}") from None

    def receive_plain(self, plain: memoryview, channel: Channel) -> list[Element]:
        """The elements of what ``unseal`` gave."""
        header = HEADER.unpack(plain)
        if header.protocol_id != PROTOCOL_ID:
            raise Disconnect(f"an encrypted message has ProtocolId {header.protocol_id!r}")
        if header.next_command:
            return self._receive_compound(plain, channel)
        return [self._accept(header, plain, channel)]

    def _receive_short(self, view: memoryview, start: int, end: int) -> list[Element]:
        # 3.3.5.2.6: shorter than a header ends the connection; only an SMB1 NEGOTIATE may be.
        if end - start >= 4 and view[start : start + 4] == SMB1_PROTOCOL_ID:
            return [self._receive_smb1(view[start:end])]
        raise Disconnect(f"a message of {end - start} bytes")

    def _receive_other(self, view: memoryview, start: int, end: int) -> list[Element]:
        protocol_id = bytes(view[start : start + 4])
        if protocol_id == TRANSFORM_PROTOCOL_ID:
            return self.receive_plain(*self.unseal(view, start, end))
        if protocol_id == SMB1_PROTOCOL_ID:
            return [self._receive_smb1(view[start:end])]
        # 3.3.5.2: neither known nor (compression) negotiated.
        raise Disconnect(f"ProtocolId {protocol_id!r}")

    def _receive_smb1(self, view: memoryview) -> Element:
        """3.3.5.3: as a NEGOTIATE with MessageId 0, so that it takes and grants a credit like any other."""
        if self.choice is not None:
            raise Disconnect("SMB1 after the negotiation")
        header = Header(PROTOCOL_ID, HEADER_SIZE, 0, 0, _NEGOTIATE, 1, 0, 0, 0, 0, 0, 0, NO_SIGNATURE)
        self.credits.charge(0, 1)
        return Element(header, view)

    def _receive_compound(self, pdu: memoryview, decrypted: Channel | None) -> list[Element]:
        """3.3.5.2.7.2: a related element belongs to the session of the one before, whatever its own SessionId says.

        It is that session whose protection it must have: checked against another, or none, a part of a signed compound could be replaced.
        """
        try:
            parts = split(pdu)
        except WireError as error:
            raise Disconnect(str(error)) from None
        elements: list[Element] = []
        for header, view in parts:
            if elements and header.flags & FLAGS_RELATED_OPERATIONS:
                header = header._replace(session_id=elements[-1].header.session_id)  # noqa: PLW2901
            elements.append(self._accept(header, view, decrypted, first=not elements))
        return elements

    def _accept(self, header: Header, view: memoryview, decrypted: Channel | None, first: bool = True) -> Element:
        """One element: form, credits, then protection."""
        command = header.command
        flags = header.flags
        if header.structure_size != HEADER_SIZE or (command >= COMMAND_COUNT and first and not header.next_command):
            # 3.3.5.2.6. An unknown command inside a compound is answered, as Windows does: its neighbours are good requests.
            raise Disconnect(f"header with StructureSize {header.structure_size}, command {command}")
        if self.dialect is None and command != _NEGOTIATE:
            raise Disconnect(f"command {command} before the negotiation")  # 3.3.5.2
        if command != _CANCEL:
            charge = header.credit_charge if self._multi_credit else 1
            self.credits.charge(header.message_id, charge or 1)
        channel = self.channels.get(header.session_id)
        element = Element(header, view, channel)
        if command >= COMMAND_COUNT:
            element.error = status.INVALID_PARAMETER
        elif flags & _UNUSUAL:
            element.error = _check_flags(header, first)
        if decrypted is not None:
            # 3.3.5.2.1.1: a message may not be smuggled into another session than the one whose key hid it.
            if header.session_id != decrypted.session_id and header.session_id:
                raise Disconnect(f"session 0x{header.session_id:x} inside a message encrypted with 0x{decrypted.session_id:x}")
            element.encrypted = True
            element.seal = decrypted
        elif flags & FLAGS_SIGNED or (channel is not None and (channel.guarded or command == _TREE_CONNECT)):
            self._check_protection(element, channel)
        return element

    def _check_protection(self, element: Element, channel: Channel | None) -> None:
        """3.3.5.2.4 and 3.3.5.2.9 for an unencrypted element; 3.3.5.7 for TREE_CONNECT."""
        header = element.header
        command = header.command
        if header.flags & FLAGS_SIGNED:
            if command == _NEGOTIATE:
                element.error = status.INVALID_PARAMETER
            elif channel is None:
                # A SESSION_SETUP that binds or continues is judged by who knows all sessions and those in progress.
                if command != _SESSION_SETUP:
                    element.error = status.USER_SESSION_DELETED
            else:
                element.sign = channel
                if not channel.verify(element.view):
                    element.error = status.ACCESS_DENIED
        elif channel is not None:
            if channel.signing_required:
                element.sign = channel
                element.error = status.ACCESS_DENIED
            elif command == _TREE_CONNECT and _must_sign(channel) and self.dialect and self.dialect.preauth:
                raise Disconnect("TREE_CONNECT neither signed nor encrypted")
        if channel is not None and channel.encryption_required and command not in (_NEGOTIATE, _SESSION_SETUP):
            element.error = status.ACCESS_DENIED
            element.sign, element.seal = None, channel  # 3.3.4.1.4: even this answer is encrypted

    # -- negotiation and keys

    def negotiate(self, element: Element, system_time: int) -> Reply:
        """Answers NEGOTIATE, in SMB1's or SMB2's form. ``system_time`` is a FILETIME.

        Raises ``Disconnect`` for a second one; a refused request is answered, and may be followed by another.
        """
        if self.dialect is not None:
            raise Disconnect("a second NEGOTIATE")  # 3.3.5.4
        header, settings = element.header, self.settings
        smb2 = element.view[0:4] == PROTOCOL_ID
        credits = self.credits.grant(1)  # more only once a session stands
        try:
            choice = negotiate.choose(element.view, settings, self._random(negotiate.SALT_SIZE)) if smb2 else self._choose_smb1(element)
        except WireError:
            return Reply.refuse(header, SmbError(status.INVALID_PARAMETER), credits)
        except SmbError as error:
            return Reply.refuse(header, error, credits)
        self.choice = choice
        self.dialect = choice.dialect
        self._multi_credit = choice.dialect is not None and choice.dialect.multi_credit
        reply = Reply(header, status.SUCCESS, negotiate.response_body(choice, settings, system_time), credits)
        if choice.dialect is not None and choice.dialect.preauth:
            self.preauth.update(element.view)
            reply.preauth = self.preauth
        return reply

    def resume(self, choice: Choice, preauth: PreauthHash, window: tuple[int, int]) -> None:
        """Go on where another process had come to with this connection. ``window``: the ids that may be used, from and to."""
        self.choice = choice
        self.dialect = choice.dialect
        self._multi_credit = choice.dialect is not None and choice.dialect.multi_credit
        self.preauth = preauth
        self.credits.low, self.credits.high = window

    def _choose_smb1(self, element: Element) -> Choice:
        try:
            choice = negotiate.choose_smb1(negotiate.parse_smb1(element.view), self.settings)
        except WireError as error:
            raise Disconnect(str(error)) from None
        if choice is None:
            raise Disconnect("SMB1 only")  # 3.3.5.3.2
        return choice

    def validate_negotiate(self, data: memoryview, max_output: int) -> bytes:
        """3.3.5.15.12 FSCTL_VALIDATE_NEGOTIATE_INFO: the response, or ``Disconnect`` when the negotiation was tampered with."""
        choice = self.choice
        if choice is None or choice.dialect is None or choice.dialect.preauth:
            raise Disconnect("VALIDATE_NEGOTIATE_INFO in a dialect that has pre-authentication integrity")
        request = VALIDATE_NEGOTIATE_INFO_REQUEST.unpack(data)
        size = VALIDATE_NEGOTIATE_INFO_REQUEST.size
        if max_output < VALIDATE_NEGOTIATE_INFO_RESPONSE.size or len(data) < size + 2 * request.dialect_count:
            raise Disconnect("VALIDATE_NEGOTIATE_INFO of a wrong size")
        dialects = unpack_from(f"<{request.dialect_count}H", data, size)
        agreed = (choice.client_capabilities, choice.client_guid, choice.client_security_mode, choice.client_dialects)
        if (request.capabilities, request.guid, request.security_mode, dialects) != agreed:
            raise Disconnect("VALIDATE_NEGOTIATE_INFO differs from what was negotiated")
        settings = self.settings
        return VALIDATE_NEGOTIATE_INFO_RESPONSE.pack(
            choice.capabilities, settings.server_guid, settings.security_mode, choice.dialect.number
        )

    def new_channel(self, session_id: int, session_key: bytes, preauth: PreauthHash | None) -> Channel:
        """The channel of a session that has just been authenticated, with cipher if one was negotiated; ``channels`` has it from now on.

        ``session_key``: all bytes the authentication gave; empty for guest and anonymous sessions, which neither sign nor encrypt.
        ``preauth``: the session's hash, final SESSION_SETUP request included; used by 3.1.1 only.
        """
        if self.dialect is None or self.choice is None:
            raise Disconnect("a session before the negotiation")
        if not session_key:
            channel = Channel(session_id)
        else:
            cipher_id = self.choice.cipher_id
            keys = SessionKeys(self.dialect, session_key, preauth.value if preauth else b"", cipher_id)
            channel = self._keyed_channel(session_id, keys)
            if cipher_id:
                channel.cipher = new_cipher(session_id, cipher_id, keys, self._random(4))
        self.channels[session_id] = channel
        return channel

    def _keyed_channel(self, session_id: int, keys: SessionKeys) -> Channel:
        assert self.choice is not None
        channel = new_channel(session_id, self.choice.signing_id, keys)
        channel.keys = keys
        return channel

    def bind_channel(self, first: Channel, session_key: bytes, preauth: PreauthHash | None) -> Channel:
        """3.3.5.5.3: another channel of the session that ``first`` was made for, with a signing key of its own and the session's cipher.

        ``session_key`` and ``preauth``: of the exchange that bound it.
        """
        if self.dialect is None:
            raise Disconnect("a binding before the negotiation")
        keys = SessionKeys(self.dialect, session_key, preauth.value if preauth else b"")
        channel = self._keyed_channel(first.session_id, keys)
        channel.cipher = first.cipher
        channel.require(signing=first.signing_required, encryption=first.encryption_required)
        self.channels[first.session_id] = channel
        return channel

    def resume_channel(self, session_id: int, keys: SessionKeys, nonce: tuple[bytes, int]) -> Channel:
        """The first channel of a session that was set up elsewhere, on this very connection. ``nonce``: where its cipher goes on."""
        channel = self._keyed_channel(session_id, keys)
        if self.choice is not None and self.choice.cipher_id:
            prefix, counter = nonce
            channel.cipher = new_cipher(session_id, self.choice.cipher_id, keys, prefix, counter=counter)
        self.channels[session_id] = channel
        return channel

    def check_charge(self, header: Header, send_size: int, expected_response_size: int) -> None:
        """3.3.5.2.5: INVALID_PARAMETER when CreditCharge does not cover the payload."""
        if self._multi_credit:
            check_charge(header.credit_charge, send_size, expected_response_size)

    @property
    def multi_credit(self) -> bool:
        """Connection.SupportsMultiCredit."""
        return self._multi_credit


def _nowhere(_: int) -> Channel | None:
    return None


def _must_sign(channel: Channel) -> bool:
    """3.3.5.7: a session that is neither guest nor anonymous."""
    return channel.signer is not None and not channel.anonymous


def _check_flags(header: Header, first: bool) -> int:
    """The error for flags that a request may not carry."""
    flags = header.flags
    if flags & FLAGS_SERVER_TO_REDIR:
        raise Disconnect("a request with the flag of a response")
    if flags & FLAGS_ASYNC_COMMAND and header.command != _CANCEL:
        return status.INVALID_PARAMETER
    if first and flags & FLAGS_RELATED_OPERATIONS:
        return status.INVALID_PARAMETER  # 3.3.5.2.7.2: nothing to be related to
    return 0

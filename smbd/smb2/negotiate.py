"""Chooses dialect, capabilities and algorithms from a NEGOTIATE request: [MS-SMB2] 3.3.5.3, 3.3.5.4.

Owns: the rules. Pure: from request bytes and settings to a ``Choice`` and to response bytes; the connection keeps the result.
Invariant: nothing the client did not offer, or the settings do not allow, is ever chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import unpack_from

from pools.layout import WireError
from smbd.smb2 import status
from smbd.smb2.constants import (
    CAP_DIRECTORY_LEASING,
    CAP_ENCRYPTION,
    CAP_LARGE_MTU,
    CAP_LEASING,
    CAP_MULTI_CHANNEL,
    CAP_NOTIFICATIONS,
    CAP_PERSISTENT_HANDLES,
    CIPHER_AES128_CCM,
    CIPHER_AES128_GCM,
    CIPHER_AES256_CCM,
    CIPHER_AES256_GCM,
    DIALECT_202,
    DIALECT_210,
    DIALECT_311,
    DIALECT_WILDCARD,
    ENCRYPTION_CAPABILITIES,
    HASH_SHA512,
    NEGOTIATE_SIGNING_ENABLED,
    NEGOTIATE_SIGNING_REQUIRED,
    POSIX_EXTENSIONS_AVAILABLE,
    PREAUTH_INTEGRITY_CAPABILITIES,
    SIGNING_AES_CMAC,
    SIGNING_AES_GMAC,
    SIGNING_CAPABILITIES,
    SIGNING_HMAC_SHA256,
)
from smbd.smb2.dialects import DIALECTS, Dialect
from smbd.smb2.header import HEADER_SIZE, SMB1_HEADER
from smbd.smb2.messages import negotiate as wire
from smbd.smb2.messages.create_contexts import POSIX
from smbd.smb2.status import SmbError

SMB1_NEGOTIATE = 0x72
SMB1_DIALECT_2002 = b"SMB 2.002"
SMB1_DIALECT_WILDCARD = b"SMB 2.???"
SALT_SIZE = 32
SIZE_LIMIT_202 = 65536  # without multi-credit requests nothing larger can be paid for


@dataclass(frozen=True, slots=True)
class NegotiateSettings:
    """What the server offers. Algorithms in order of preference; an empty ``ciphers`` switches encryption off."""

    server_guid: bytes
    min_dialect: int = DIALECT_202
    max_dialect: int = DIALECT_311
    signing_required: bool = False
    ciphers: tuple[int, ...] = (CIPHER_AES128_GCM, CIPHER_AES128_CCM, CIPHER_AES256_GCM, CIPHER_AES256_CCM)
    signing_algorithms: tuple[int, ...] = (SIGNING_AES_GMAC, SIGNING_AES_CMAC, SIGNING_HMAC_SHA256)
    capabilities: int = CAP_LARGE_MTU
    max_transact_size: int = 8 << 20
    max_read_size: int = 8 << 20
    max_write_size: int = 8 << 20
    max_credits: int = 8192
    security_blob: bytes = b""
    start_time: int = 0
    posix: bool = False

    @property
    def security_mode(self) -> int:
        return NEGOTIATE_SIGNING_ENABLED | (NEGOTIATE_SIGNING_REQUIRED if self.signing_required else 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome. ``dialect`` None is the wildcard: an SMB2 NEGOTIATE must follow. ``contexts`` go into the response."""

    dialect: Dialect | None
    capabilities: int
    cipher_id: int = 0
    signing_id: int = SIGNING_HMAC_SHA256
    client_guid: bytes = bytes(16)
    client_capabilities: int = 0
    client_security_mode: int = 0
    client_dialects: tuple[int, ...] = ()
    contexts: tuple[tuple[int, bytes], ...] = ()

    @property
    def posix(self) -> bool:
        """Whether the POSIX extensions may be used."""
        return (POSIX_EXTENSIONS_AVAILABLE, POSIX) in self.contexts


def parse_smb1(pdu: memoryview) -> list[bytes]:
    """The dialect strings of an SMB1 NEGOTIATE ([MS-CIFS] 2.2.4.52.1); ``WireError`` for anything else."""
    header = SMB1_HEADER.unpack(pdu)
    if header.command != SMB1_NEGOTIATE:
        raise WireError(f"SMB1 command 0x{header.command:02x}")
    start = SMB1_HEADER.size
    body = bytes(pdu[start:])
    if len(body) < 3 or body[0] != 0 or 3 + int.from_bytes(body[1:3], "little") > len(body):
        raise WireError("SMB1 NEGOTIATE: word or byte count")
    data = body[3 : 3 + int.from_bytes(body[1:3], "little")]
    if not data.endswith(b"\0") or data[0] != 2:
        raise WireError("SMB1 NEGOTIATE: dialects")
    return data[1:-1].split(b"\0\2")


def choose_smb1(dialects: Sequence[bytes], settings: NegotiateSettings) -> Choice | None:
    """3.3.5.3.1, 3.3.5.3.2: the wildcard, 2.0.2, or None: disconnect without an answer."""
    if SMB1_DIALECT_WILDCARD in dialects and settings.max_dialect >= DIALECT_210:
        return Choice(None, settings.capabilities & CAP_LARGE_MTU)
    if SMB1_DIALECT_2002 in dialects and settings.min_dialect <= DIALECT_202:
        return Choice(DIALECTS[DIALECT_202], 0, client_dialects=(DIALECT_202,))
    return None


def choose(pdu: memoryview, settings: NegotiateSettings, salt: bytes) -> Choice:
    """3.3.5.4: the outcome for the SMB2 NEGOTIATE ``pdu`` (header included). ``SmbError`` or ``WireError`` refuse the request.

    ``salt``: ``SALT_SIZE`` random bytes for the pre-authentication context of the response.
    """
    request = wire.NEGOTIATE_REQUEST.unpack(pdu, HEADER_SIZE)
    if request.structure_size != wire.NEGOTIATE_REQUEST_STRUCTURE_SIZE:
        raise WireError(f"NEGOTIATE: StructureSize {request.structure_size}")
    start = HEADER_SIZE + wire.NEGOTIATE_REQUEST.size
    if request.dialect_count == 0 or start + 2 * request.dialect_count > len(pdu):
        raise SmbError(status.INVALID_PARAMETER)
    offered = unpack_from(f"<{request.dialect_count}H", pdu, start)
    dialect = choose_dialect(offered, settings)
    contexts: tuple[tuple[int, bytes], ...] = ()
    cipher_id, signing_id = 0, dialect.signing
    if dialect.preauth:
        received = wire.parse_contexts(pdu, request.negotiate_context_offset, request.negotiate_context_count)
        cipher_id, signing_id, contexts = _choose_contexts(received, settings, salt)
    elif dialect.cap_encryption and request.capabilities & CAP_ENCRYPTION and dialect.cipher in settings.ciphers:
        cipher_id = dialect.cipher
    return Choice(
        dialect,
        _capabilities(dialect, settings, request.capabilities, cipher_id),
        cipher_id,
        signing_id,
        request.client_guid,
        request.capabilities,
        request.security_mode,
        offered,
        contexts,
    )


def choose_dialect(offered: Sequence[int], settings: NegotiateSettings) -> Dialect:
    """The greatest common dialect, or NOT_SUPPORTED."""
    common = [number for number in offered if number in DIALECTS and settings.min_dialect <= number <= settings.max_dialect]
    if not common:
        raise SmbError(status.NOT_SUPPORTED)
    return DIALECTS[max(common)]


def _capabilities(dialect: Dialect, settings: NegotiateSettings, client: int, cipher_id: int) -> int:
    """Capabilities of the response: what the settings have, the dialect knows and, from SMB 3 on, the client has asked for."""
    capabilities = settings.capabilities & ~CAP_ENCRYPTION
    if not dialect.multi_credit:
        capabilities &= ~CAP_LARGE_MTU
    if not dialect.leasing:
        capabilities &= ~CAP_LEASING
    smb3 = CAP_MULTI_CHANNEL | CAP_DIRECTORY_LEASING | CAP_PERSISTENT_HANDLES | CAP_NOTIFICATIONS
    capabilities &= ~smb3 | (client if dialect.smb3 else 0)
    if dialect.cap_encryption and cipher_id:
        capabilities |= CAP_ENCRYPTION
    return capabilities


def _choose_contexts(
    received: list[tuple[int, bytes]], settings: NegotiateSettings, salt: bytes
) -> tuple[int, int, tuple[tuple[int, bytes], ...]]:
    """Cipher, signing algorithm and the contexts of the response, for 3.1.1.

    Compression, transport (only QUIC could accept it), RDMA transform and the server's name are not answered: we do none of these.
    """
    known = (PREAUTH_INTEGRITY_CAPABILITIES, ENCRYPTION_CAPABILITIES, SIGNING_CAPABILITIES)
    single = {}
    seen = set()
    for context_type, data in received:
        # 3.3.5.4: more than one of a kind, or no pre-authentication integrity at all, is INVALID_PARAMETER.
        if context_type in seen and context_type in _ONCE:
            raise SmbError(status.INVALID_PARAMETER)
        seen.add(context_type)
        if context_type in known:
            single[context_type] = data
    if PREAUTH_INTEGRITY_CAPABILITIES not in single:
        raise SmbError(status.INVALID_PARAMETER)
    contexts = [(PREAUTH_INTEGRITY_CAPABILITIES, _preauth(single[PREAUTH_INTEGRITY_CAPABILITIES], salt))]
    cipher_id, signing_id = 0, SIGNING_AES_CMAC
    if ENCRYPTION_CAPABILITIES in single:
        cipher_id = _preferred(settings.ciphers, _algorithms(single[ENCRYPTION_CAPABILITIES]), 0)
        contexts.append((ENCRYPTION_CAPABILITIES, _one_algorithm(cipher_id)))
    if SIGNING_CAPABILITIES in single:
        offered = _algorithms(single[SIGNING_CAPABILITIES])
        signing_id = _preferred(settings.signing_algorithms, offered, SIGNING_AES_CMAC)
        contexts.append((SIGNING_CAPABILITIES, _one_algorithm(signing_id)))
    if settings.posix and _offers_posix(received):
        contexts.append((POSIX_EXTENSIONS_AVAILABLE, POSIX))
    return cipher_id, signing_id, tuple(contexts)


def _offers_posix(received: list[tuple[int, bytes]]) -> bool:
    """POSIX-SMB2 2.1.1.1: the versions that the client knows, each by the name of its create context."""
    offered = b"".join(data for kind, data in received if kind == POSIX_EXTENSIONS_AVAILABLE)
    return POSIX in (offered[at : at + len(POSIX)] for at in range(0, len(offered), len(POSIX)))


_ONCE = frozenset((1, 2, 3, 6, 7, 8))  # 3.3.5.4 names each of these; a second NETNAME is harmless


def _preauth(data: bytes, salt: bytes) -> bytes:
    """The response's context; INVALID_PARAMETER when malformed, NO_PREAUTH_INTEGRITY_HASH_OVERLAP without SHA-512."""
    request = wire.PREAUTH_INTEGRITY_CAPABILITIES.unpack(data)
    size = wire.PREAUTH_INTEGRITY_CAPABILITIES.size
    count = request.hash_algorithm_count
    if count == 0 or len(data) < size + 2 * count + request.salt_length:
        raise SmbError(status.INVALID_PARAMETER)
    if HASH_SHA512 not in unpack_from(f"<{count}H", data, size):
        raise SmbError(status.NO_PREAUTH_INTEGRITY_HASH_OVERLAP)
    return wire.PREAUTH_INTEGRITY_CAPABILITIES.pack(1, len(salt)) + HASH_SHA512.to_bytes(2, "little") + salt


def _algorithms(data: bytes) -> tuple[int, ...]:
    """The ids of an encryption or signing context; INVALID_PARAMETER for none or for fewer bytes than promised."""
    count = wire.ALGORITHM_COUNT.unpack(data).algorithm_count
    if count == 0 or len(data) < wire.ALGORITHM_COUNT.size + 2 * count:
        raise SmbError(status.INVALID_PARAMETER)
    return unpack_from(f"<{count}H", data, wire.ALGORITHM_COUNT.size)


def _one_algorithm(algorithm: int) -> bytes:
    return wire.ALGORITHM_COUNT.pack(1) + wire.ALGORITHM_COUNT.pack(algorithm)


def _preferred(ours: Sequence[int], theirs: Sequence[int], otherwise: int) -> int:
    """The first of ours that the client has too."""
    return next((algorithm for algorithm in ours if algorithm in theirs), otherwise)


def response_body(choice: Choice, settings: NegotiateSettings, system_time: int) -> bytes:
    """2.2.4: the NEGOTIATE response without its header. ``system_time`` is a FILETIME."""
    limit = 1 << 32 if choice.capabilities & CAP_LARGE_MTU else SIZE_LIMIT_202
    blob = settings.security_blob
    contexts = wire.build_contexts(choice.contexts)
    blob_offset = HEADER_SIZE + wire.NEGOTIATE_RESPONSE.size
    padding = bytes(-len(blob) % 8) if contexts else b""
    fixed = wire.NEGOTIATE_RESPONSE.pack(
        wire.NEGOTIATE_RESPONSE_STRUCTURE_SIZE,
        settings.security_mode,
        choice.dialect.number if choice.dialect else DIALECT_WILDCARD,
        len(choice.contexts),
        settings.server_guid,
        choice.capabilities,
        min(settings.max_transact_size, limit),
        min(settings.max_read_size, limit),
        min(settings.max_write_size, limit),
        system_time,
        settings.start_time,
        blob_offset,
        len(blob),
        blob_offset + len(blob) + len(padding) if contexts else 0,
    )
    return fixed + blob + padding + contexts

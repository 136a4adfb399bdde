"""Client side of signing and encryption, over writable views.

Owns: key derivation, signatures and sealing as the load generator needs them. Written apart from the server's own, so that a
server never measures well because both ends share a mistake.
Invariant: a nonce is used once per key (a counter behind a random prefix).
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from itertools import count
from struct import Struct
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

SIGNATURE = slice(48, 64)
TRANSFORM_SIZE = 52
TAG_SIZE = 16

HMAC_SHA256, AES_CMAC, AES_GMAC = 0, 1, 2  # [MS-SMB2] 2.2.3.1.7 SigningAlgorithms
SIGNING_NAMES = {HMAC_SHA256: "HMAC-SHA256", AES_CMAC: "AES-CMAC", AES_GMAC: "AES-GMAC"}

# [MS-SMB2] 2.2.41: ProtocolId, Signature, Nonce, OriginalMessageSize, Reserved, Flags, SessionId
_TRANSFORM = Struct("<4s16s16sIHHQ")
_NONCE = Struct("<Q3sB")
_ZEROS = bytes(16)
_MAC_NONCE = Struct("<QI")
_MESSAGE_ID = Struct("<Q")

Signer = Callable[[memoryview], None]


class Keys(NamedTuple):
    """The keys of one session, all 128 bits."""

    signing: bytes
    client_to_server: bytes
    server_to_client: bytes


def derive(session_key: bytes, label: bytes, context: bytes) -> bytes:
    """SP800-108 in counter mode with HMAC-SHA256, 128 bits. [MS-SMB2] 3.1.4.2."""
    block = b"\0\0\0\1" + label + b"\0" + context + (128).to_bytes(4, "big")
    return hmac.digest(session_key, block, "sha256")[:16]


def keys_311(session_key: bytes, preauth_hash: bytes) -> Keys:
    """The keys of a 3.1.1 session. [MS-SMB2] 3.2.5.3.1."""
    return Keys(
        derive(session_key, b"SMBSigningKey\0", preauth_hash),
        derive(session_key, b"SMBC2SCipherKey\0", preauth_hash),
        derive(session_key, b"SMBS2CCipherKey\0", preauth_hash),
    )


def preauth_update(value: bytes, message: bytes | memoryview) -> bytes:
    """The next pre-authentication integrity hash. [MS-SMB2] 3.2.5.2."""
    return hashlib.sha512(value + message).digest()


def signer(algorithm: int, key: bytes) -> Signer:
    """A function that writes the signature of one request into its header."""
    if algorithm == AES_GMAC:
        return _gmac(key)
    if algorithm == AES_CMAC:
        return _cmac(key)

    def sign(pdu: memoryview) -> None:
        pdu[SIGNATURE] = _ZEROS
        pdu[SIGNATURE] = hmac.digest(key, pdu, "sha256")[:16]

    return sign


def _gmac(key: bytes) -> Signer:
    encrypt = AESGCM(key).encrypt

    def sign(pdu: memoryview) -> None:
        pdu[SIGNATURE] = _ZEROS
        # [MS-SMB2] 3.1.4.1: MessageId, then the role and CANCEL bits; a client's request that is no CANCEL has neither
        nonce = _MAC_NONCE.pack(_MESSAGE_ID.unpack_from(pdu, 24)[0], 0)
        pdu[SIGNATURE] = encrypt(nonce, b"", pdu)

    return sign


def _cmac(key: bytes) -> Signer:
    cipher = AES(key)

    def sign(pdu: memoryview) -> None:
        pdu[SIGNATURE] = _ZEROS
        mac = CMAC(cipher)
        mac.update(bytes(pdu))
        pdu[SIGNATURE] = mac.finalize()

    return sign


class Sealer:
    """AES-128-GCM both ways for one session."""

    __slots__ = ("_count", "_decrypt", "_encrypt", "_prefix", "_session_id")

    def __init__(self, keys: Keys, session_id: int) -> None:
        self._encrypt = AESGCM(keys.client_to_server).encrypt_into
        self._decrypt = AESGCM(keys.server_to_client).decrypt_into
        self._session_id = session_id
        self._prefix = os.urandom(3)
        self._count = count(1)

    def seal(self, plain: memoryview, frame: memoryview) -> None:
        """Seals ``plain`` into ``frame``, which has 52 bytes more in front and 16 bytes of scratch behind."""
        nonce = _NONCE.pack(next(self._count), self._prefix, 0)
        _TRANSFORM.pack_into(frame, 0, b"\xfdSMB", _ZEROS, nonce + bytes(4), len(plain), 0, 1, self._session_id)
        body = frame[TRANSFORM_SIZE:]
        self._encrypt(nonce, plain, frame[20:TRANSFORM_SIZE], body)
        frame[4:20] = body[len(plain):]

    def unseal(self, frame: memoryview, room: memoryview) -> memoryview:
        """Decrypts ``frame`` in place. ``room`` is the frame and 16 bytes behind it, which come back unchanged."""
        size = len(frame) - TRANSFORM_SIZE
        behind = bytes(room[len(frame):])
        room[len(frame):] = frame[4:20]
        body = room[TRANSFORM_SIZE:]
        self._decrypt(bytes(frame[20:32]), body, frame[20:TRANSFORM_SIZE], body[:size])
        room[len(frame):] = behind
        return body[:size]

"""Keys and algorithms of SMB 3 as functions on writable views: [MS-SMB2] 3.1.4.

Owns: key derivation, pre-authentication integrity, signing, encryption. No I/O; randomness is an argument.
Invariant: a nonce is used once per key: ciphers count up from zero behind a random prefix, and a session's one ``SessionCipher`` is shared
by all its channels. Views are changed in place, nothing is copied but a tag.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from smbd.smb2.constants import (
    CIPHER_AES128_CCM,
    CIPHER_AES128_GCM,
    CIPHER_AES256_CCM,
    CIPHER_AES256_GCM,
    SIGNING_AES_CMAC,
    SIGNING_AES_GMAC,
    Command,
)
from smbd.smb2.dialects import Dialect
from smbd.smb2.header import (
    NO_SIGNATURE,
    SIGNATURE_END,
    SIGNATURE_OFFSET,
    TRANSFORM_ENCRYPTED,
    TRANSFORM_HEADER,
    TRANSFORM_PROTOCOL_ID,
    TRANSFORM_SIZE,
)

Signer = Callable[[memoryview], bytes]
TAG_SIZE = 16
GCM_NONCE_SIZE = 12
CCM_NONCE_SIZE = 11
NONCES = 1 << 56  # of one session


class Unsealable(Exception):
    """A transform PDU that is malformed or does not decrypt: the connection ends (3.3.5.2.1.1)."""


class Aead(Protocol):
    """What AESGCM and AESCCM of cryptography have in common."""

    def encrypt_into(self, nonce: bytes, data: memoryview, associated_data: memoryview | bytes, buf: memoryview) -> int: ...

    def decrypt_into(self, nonce: bytes, data: memoryview, associated_data: memoryview | bytes, buf: memoryview) -> int: ...


def derive_key(key: bytes, label: bytes, context: bytes, size: int = 16) -> bytes:
    """SP 800-108 in counter mode with HMAC-SHA256, r = 32 (3.1.4.2). ``size`` is 16 or 32 bytes: one round."""
    block = b"\0\0\0\1" + label + b"\0" + context + (size * 8).to_bytes(4, "big")
    return hmac.digest(key, block, "sha256")[:size]


class PreauthHash:
    """PreauthIntegrityHashValue of a connection or of a session being set up (3.3.5.4, 3.3.5.5): SHA-512 over (value, message)."""

    __slots__ = ("value",)

    def __init__(self, value: bytes = bytes(64)) -> None:
        self.value = value

    def update(self, message: memoryview | bytes) -> None:
        """Takes in one message, from its SMB2 header to its end, as it travels."""
        digest = hashlib.sha512(self.value)
        digest.update(message)
        self.value = digest.digest()

    def copy(self) -> PreauthHash:
        return PreauthHash(self.value)


class SessionCipher:
    """Encryption and decryption of one session, over all its channels."""

    __slots__ = ("_counter", "_decrypt_into", "_encrypt_into", "_nonce_size", "_padding", "_prefix", "_session_id")

    def __init__(self, session_id: int, cipher_id: int, keys: tuple[bytes, bytes], prefix: bytes, counter: int = 0) -> None:
        """``keys``: to encrypt, to decrypt; ``prefix``: 4 random bytes; ``counter``: where the nonces go on, if others have been used."""
        encrypt, self._nonce_size = new_aead(cipher_id, keys[0])
        decrypt, _ = new_aead(cipher_id, keys[1])
        self._encrypt_into = encrypt.encrypt_into
        self._decrypt_into = decrypt.decrypt_into
        self._session_id = session_id
        self._prefix = prefix[:4]
        self._padding = bytes(16 - self._nonce_size)
        self._counter = counter

    @property
    def next_nonce(self) -> tuple[bytes, int]:
        """Prefix and counter of the next message, for whoever carries the session on elsewhere."""
        return self._prefix, self._counter

    def seal(self, view: memoryview, start: int, end: int) -> memoryview:
        """Encrypts ``view[start:end]`` in place behind a transform header; the view of both.

        Needs 52 bytes before ``start`` and 16 after ``end``, whose content is lost.
        """
        counter = self._counter
        if counter >= NONCES:
            raise OverflowError("nonces of this session are used up")
        self._counter = counter + 1
        nonce = self._prefix + counter.to_bytes(self._nonce_size - 4, "little")
        first = start - TRANSFORM_SIZE
        size = end - start
        padded = nonce + self._padding
        TRANSFORM_HEADER.pack_into(view, first, TRANSFORM_PROTOCOL_ID, NO_SIGNATURE, padded, size, 0, TRANSFORM_ENCRYPTED, self._session_id)
        self._encrypt_into(nonce, view[start:end], view[first + 20 : start], view[start : end + TAG_SIZE])
        view[first + 4 : first + 20] = view[end : end + TAG_SIZE]
        return view[first:end]

    def unseal(self, view: memoryview, start: int, end: int) -> memoryview:
        """Decrypts the transform PDU ``view[start:end]`` in place; the view of its plaintext. ``Unsealable`` when it is not genuine.

        The tag must follow the ciphertext for the cipher: it is put into the 16 bytes after ``end`` for that time where ``view`` has them,
        else the ciphertext moves 16 bytes to the front, over the header.
        """
        body = start + TRANSFORM_SIZE
        nonce = bytes(view[start + 20 : start + 20 + self._nonce_size])
        aad = bytes(view[start + 20 : body])
        tag = bytes(view[start + 4 : start + 20])
        behind = None
        tagged = end + TAG_SIZE
        if tagged <= len(view):
            behind = bytes(view[end:tagged])
        else:
            view[body - TAG_SIZE : end - TAG_SIZE] = view[body:end]
            body, end, tagged = body - TAG_SIZE, end - TAG_SIZE, end
        view[end:tagged] = tag
        plain = view[body:end]
        try:
            self._decrypt_into(nonce, view[body:tagged], aad, plain)
        except InvalidTag:
            raise Unsealable("does not decrypt") from None
        finally:
            if behind is not None:
                view[end:tagged] = behind
        return plain


class Channel:
    """What protects a session's messages on one connection: the signing key, the session's cipher, what is required.

    ``signer`` is None for guest and anonymous sessions, which have no key; ``keys`` is what a session's first channel was made from.
    ``guarded``: everything after the logon has to be signed or encrypted.
    """

    __slots__ = (
        "anonymous",
        "cipher",
        "encryption_required",
        "guarded",
        "keys",
        "session_id",
        "signer",
        "signing_required",
        "verifier",
    )

    def __init__(self, session_id: int, signer: Signer | None = None, verifier: Signer | None = None) -> None:
        self.session_id = session_id
        self.signer = signer
        self.verifier = verifier
        self.cipher: SessionCipher | None = None
        self.keys: SessionKeys | None = None
        self.signing_required = False
        self.encryption_required = False
        self.guarded = False
        self.anonymous = False  # it may hold a key; nobody's identity hangs on it, so nothing must be signed

    def require(self, *, signing: bool = False, encryption: bool = False) -> None:
        """Session.SigningRequired; Session.EncryptData with unencrypted access rejected."""
        self.signing_required = signing
        self.encryption_required = encryption
        self.guarded = signing or encryption

    def sign(self, view: memoryview) -> None:
        """Writes the signature of the PDU ``view`` (one element, padding included) whose Signature field is zero."""
        if self.signer is not None:
            view[SIGNATURE_OFFSET:SIGNATURE_END] = self.signer(view)

    def verify(self, view: memoryview) -> bool:
        """Whether the signature of ``view`` is this session's; leaves the bytes as they were."""
        if self.verifier is None:
            return False
        claimed = bytes(view[SIGNATURE_OFFSET:SIGNATURE_END])
        view[SIGNATURE_OFFSET:SIGNATURE_END] = NO_SIGNATURE
        expected = self.verifier(view)
        view[SIGNATURE_OFFSET:SIGNATURE_END] = claimed
        return hmac.compare_digest(claimed, expected)


def new_aead(cipher_id: int, key: bytes) -> tuple[Aead, int]:
    """The cipher and its nonce's size (2.2.41: 11 bytes for CCM, 12 for GCM)."""
    if cipher_id in (CIPHER_AES128_GCM, CIPHER_AES256_GCM):
        return AESGCM(key), GCM_NONCE_SIZE
    return AESCCM(key, tag_length=TAG_SIZE), CCM_NONCE_SIZE


def new_signer(signing_id: int, key: bytes, *, server: bool) -> Signer:
    """The function from a PDU with zeroed Signature to its signature (3.1.4.1). ``server``: whose messages it signs."""
    if signing_id == SIGNING_AES_GMAC:
        return _gmac_signer(key, server)
    if signing_id == SIGNING_AES_CMAC:
        return _cmac_signer(key)
    return lambda view: hmac.digest(key, view, "sha256")[:16]


def _cmac_signer(key: bytes) -> Signer:
    keyed = CMAC(AES(key))

    def sign(view: memoryview) -> bytes:
        mac = keyed.copy()
        mac.update(view)  # type: ignore[arg-type]  # any buffer serves; the stub knows only bytes
        return mac.finalize()

    return sign


def _gmac_signer(key: bytes, server: bool) -> Signer:
    encrypt = AESGCM(key).encrypt
    role = b"\1\0\0\0" if server else b"\0\0\0\0"

    def sign(view: memoryview) -> bytes:
        # 3.1.4.1: MessageId, then a bit for the server's messages and a bit for CANCEL, which reuses its target's MessageId.
        cancel = not server and view[12] == Command.CANCEL and view[13] == 0
        return encrypt(bytes(view[24:32]) + (b"\2\0\0\0" if cancel else role), b"", view)

    return sign


_KEY_SIZES = {CIPHER_AES128_CCM: 16, CIPHER_AES128_GCM: 16, CIPHER_AES256_CCM: 32, CIPHER_AES256_GCM: 32}


class _Labels:
    """(label, context) of 3.1.4.2; from 3.1.1 on the context is the pre-authentication hash."""

    SIGNING: Final = (b"SMB2AESCMAC\0", b"SmbSign\0")
    APPLICATION: Final = (b"SMB2APP\0", b"SmbRpc\0")
    SERVER_OUT: Final = (b"SMB2AESCCM\0", b"ServerOut\0")
    SERVER_IN: Final = (b"SMB2AESCCM\0", b"ServerIn \0")
    SIGNING_311: Final = b"SMBSigningKey\0"
    APPLICATION_311: Final = b"SMBAppKey\0"
    SERVER_OUT_311: Final = b"SMBS2CCipherKey\0"
    SERVER_IN_311: Final = b"SMBC2SCipherKey\0"


class SessionKeys:
    """The keys of 3.3.5.5.3. ``signing`` belongs to the channel, the rest to the session."""

    __slots__ = ("application", "preauth_hash", "server_in", "server_out", "session_key", "signing")

    def __init__(self, dialect: Dialect, session_key: bytes, preauth_hash: bytes = b"", cipher_id: int = 0) -> None:
        """``session_key``: all that the authentication gave (FullSessionKey); SessionKey is its first 16 bytes, filled up with zeros."""
        self.session_key, self.preauth_hash = session_key, preauth_hash
        short = session_key[:16].ljust(16, b"\0")
        size = _KEY_SIZES.get(cipher_id, 16)
        # 3.3.5.5.3: 256-bit ciphers take the full key, everything else the first 16 bytes.
        cipher_base = session_key.ljust(16, b"\0") if size == 32 else short
        if dialect.preauth:
            self.signing = derive_key(short, _Labels.SIGNING_311, preauth_hash)
            self.application = derive_key(short, _Labels.APPLICATION_311, preauth_hash)
            self.server_out = derive_key(cipher_base, _Labels.SERVER_OUT_311, preauth_hash, size)
            self.server_in = derive_key(cipher_base, _Labels.SERVER_IN_311, preauth_hash, size)
        elif dialect.smb3:
            self.signing = derive_key(short, *_Labels.SIGNING)
            self.application = derive_key(short, *_Labels.APPLICATION)
            self.server_out = derive_key(short, *_Labels.SERVER_OUT)
            self.server_in = derive_key(short, *_Labels.SERVER_IN)
        else:
            self.signing = self.application = short
            self.server_out = self.server_in = b""


def new_channel(session_id: int, signing_id: int, keys: SessionKeys, *, server: bool = True) -> Channel:
    """A channel that signs and verifies; its cipher is set by ``new_cipher`` or taken from the session's first channel (binding)."""
    return Channel(
        session_id,
        new_signer(signing_id, keys.signing, server=server),
        new_signer(signing_id, keys.signing, server=not server),
    )


def new_cipher(
    session_id: int, cipher_id: int, keys: SessionKeys, prefix: bytes, *, counter: int = 0, server: bool = True
) -> SessionCipher:
    """The session's cipher. ``prefix``: 4 random bytes."""
    ours, theirs = (keys.server_out, keys.server_in) if server else (keys.server_in, keys.server_out)
    return SessionCipher(session_id, cipher_id, (ours, theirs), prefix, counter)

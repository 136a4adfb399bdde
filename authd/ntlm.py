"""NTLM as the deciding side needs it: reading an AUTHENTICATE message and checking its proof.

Owns: [MS-NLMP] 2.2.1.3 and the NTLMv2 arithmetic of 3.3.2. Pure: a hash and bytes in, a key or None out.
Invariant: proofs are computed over the bytes the client sent, never over a re-packed copy, and compared in constant time. NTLMv1 and LM
responses prove nothing here.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from pools.layout import U16, U32, Layout, Raw8, Raw16, WireError

SIGNATURE = b"NTLMSSP\0"
NEGOTIATE, CHALLENGE, AUTHENTICATE = 1, 2, 3
ZERO_KEY = bytes(16)

# [MS-NLMP] 2.2.2.5 NEGOTIATE
NEGOTIATE_UNICODE = 0x00000001
NEGOTIATE_SIGN = 0x00000010
NEGOTIATE_SEAL = 0x00000020
NEGOTIATE_KEY_EXCH = 0x40000000
ANONYMOUS = 0x00000800

# [MS-NLMP] 2.2.2.1 AV_PAIR
AV_EOL, AV_FLAGS = 0, 6
AV_FLAG_MIC = 0x00000002

MIC_OFFSET, MIC_END = 72, 88
MIN_V2_RESPONSE = 16 + 28
"""NTProofStr and the fixed part of NTLMv2_CLIENT_CHALLENGE: anything shorter is not NTLMv2."""


class _Head(NamedTuple):
    signature: Raw8
    message_type: U32


class _Authenticate(NamedTuple):
    """[MS-NLMP] 2.2.1.3 AUTHENTICATE_MESSAGE, up to NegotiateFlags."""

    signature: Raw8
    message_type: U32
    lm_length: U16
    lm_max_length: U16
    lm_offset: U32
    nt_length: U16
    nt_max_length: U16
    nt_offset: U32
    domain_length: U16
    domain_max_length: U16
    domain_offset: U32
    user_length: U16
    user_max_length: U16
    user_offset: U32
    workstation_length: U16
    workstation_max_length: U16
    workstation_offset: U32
    key_length: U16
    key_max_length: U16
    key_offset: U32
    negotiate_flags: U32


class _Mic(NamedTuple):
    mic: Raw16


class _AvPair(NamedTuple):
    """[MS-NLMP] 2.2.2.1 AV_PAIR, without its value."""

    av_id: U16
    av_length: U16


class _Flags(NamedTuple):
    value: U32


HEAD = Layout(_Head)
AUTHENTICATE_MESSAGE = Layout(_Authenticate)
MIC = Layout(_Mic)
AV_PAIR = Layout(_AvPair)
FLAGS = Layout(_Flags)


class Authenticate(NamedTuple):
    """What an AUTHENTICATE message says. ``raw`` is the message itself."""

    lm_response: bytes
    nt_response: bytes
    domain: str
    user: str
    workstation: str
    encrypted_key: bytes
    flags: int
    raw: bytes

    @property
    def anonymous(self) -> bool:
        """[MS-NLMP] 3.2.5.1.2: no user name, no NT response and an LM response that is empty or one zero byte."""
        return not self.user and not self.nt_response and self.lm_response in (b"", b"\0")


def message_type(message: bytes) -> int:
    """NEGOTIATE, CHALLENGE, AUTHENTICATE, or 0 when it is no NTLM message."""
    if len(message) < HEAD.size or not message.startswith(SIGNATURE):
        return 0
    return HEAD.unpack(message).message_type


def parse_authenticate(message: bytes) -> Authenticate:
    """The message's fields; ``WireError`` when a field or an AV pair lies outside of where it should, or a name is not text."""
    head = AUTHENTICATE_MESSAGE.unpack(message)
    if head.signature != SIGNATURE or head.message_type != AUTHENTICATE:
        raise WireError("not an AUTHENTICATE message")
    encoding = "utf-16-le" if head.negotiate_flags & NEGOTIATE_UNICODE else "cp850"

    def field(length: int, offset: int) -> bytes:
        if length and (offset < AUTHENTICATE_MESSAGE.size or offset + length > len(message)):
            raise WireError(f"NTLM field of {length} bytes at {offset} in {len(message)}")
        return message[offset : offset + length] if length else b""

    def text(length: int, offset: int) -> str:
        try:
            return field(length, offset).decode(encoding)
        except UnicodeDecodeError as error:
            raise WireError("an NTLM name is not text") from error

    auth = Authenticate(
        lm_response=field(head.lm_length, head.lm_offset),
        nt_response=field(head.nt_length, head.nt_offset),
        domain=text(head.domain_length, head.domain_offset),
        user=text(head.user_length, head.user_offset),
        workstation=text(head.workstation_length, head.workstation_offset),
        encrypted_key=field(head.key_length, head.key_offset),
        flags=head.negotiate_flags,
        raw=message,
    )
    mic_promised(auth)  # AV pairs that do not fit are refused before any proof is looked at
    return auth


def prove(nt_hash: bytes, auth: Authenticate, server_challenge: bytes) -> bytes | None:
    """[MS-NLMP] 3.3.2: the SessionBaseKey if the client knows the password behind ``nt_hash``, else None.

    Clients do not agree on the case of the domain they hash, and some hash none: each spelling is as good a proof as the others.
    """
    for domain in dict.fromkeys((auth.domain, _upper(auth.domain), "")):
        key = _hmac(nt_hash, (_upper(auth.user) + domain).encode("utf-16-le", errors="surrogatepass"))
        base_key = _prove_with(key, auth, server_challenge)
        if base_key is not None:
            return base_key
    return None


def _prove_with(response_key: bytes, auth: Authenticate, server_challenge: bytes) -> bytes | None:
    if len(auth.nt_response) >= MIN_V2_RESPONSE:
        given, blob = auth.nt_response[:16], auth.nt_response[16:]
    elif not auth.nt_response and len(auth.lm_response) == 24:
        given, blob = auth.lm_response[:16], auth.lm_response[16:]  # LMv2: the blob is the client's challenge alone
    else:
        return None
    proof = _hmac(response_key, server_challenge + blob)
    return _hmac(response_key, proof) if hmac.compare_digest(proof, given) else None


def _upper(text: str) -> str:
    """Upper case letter by letter, as clients do it: a letter whose upper case is two letters stays."""
    return "".join(upper if len(upper := letter.upper()) == 1 else letter for letter in text)


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "md5")


def mic_promised(auth: Authenticate) -> bool:
    """Whether the client's MsvAvFlags say that the message carries a MIC. ``WireError`` for AV pairs that do not fit."""
    pairs, offset = auth.nt_response[MIN_V2_RESPONSE:], 0
    while offset + AV_PAIR.size <= len(pairs):
        pair = AV_PAIR.unpack(pairs, offset)
        offset += AV_PAIR.size
        if pair.av_id == AV_EOL:
            break
        if offset + pair.av_length > len(pairs):
            raise WireError("an AV pair ends outside the response")
        if pair.av_id == AV_FLAGS:
            return bool(FLAGS.unpack(pairs, offset).value & AV_FLAG_MIC)
        offset += pair.av_length
    return False


def mic_valid(key: bytes, negotiate: bytes, challenge: bytes, auth: Authenticate) -> bool:
    """[MS-NLMP] 3.2.5.1.2: HMAC-MD5 over the three messages, the last with a zero MIC."""
    if len(auth.raw) < MIC_END:
        return False
    given = MIC.unpack(auth.raw, MIC_OFFSET).mic
    blank = auth.raw[:MIC_OFFSET] + bytes(MIC_END - MIC_OFFSET) + auth.raw[MIC_END:]
    return hmac.compare_digest(_hmac(key, negotiate + challenge + blank), given)


def dummy_hash(secret: bytes, name: str) -> bytes:
    """A hash nobody knows a password for: an unknown user costs the same time as a known one."""
    return hashlib.sha256(secret + name.encode(errors="surrogatepass")).digest()[:16]

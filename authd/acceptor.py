"""pyspnego's acceptor, told what to accept.

Owns: the only use of pyspnego's context classes, private names included. Invariant: a context completes only with a key that ``ntlm.prove``
returned, or, for an anonymous client, with the key of zeros that [MS-NLMP] 3.4.5.1 gives it.

pyspnego carries SPNEGO, the mechListMIC, the sealing state and the messages. Three of its steps are replaced: its CHALLENGE names the
host it runs on instead of the configured names; its check re-packs the client's response before comparing, which refuses clients that
pad differently, reads hashes from a file by exact ``domain\\user`` and knows neither LMv2 nor anonymous clients; and it would insist on a
mechListMIC from clients that need not send one ([RFC4178] 5 asks for it only when the mechanism is not the client's first choice).
"""

from __future__ import annotations

import os
import secrets
from typing import Any, NamedTuple

from spnego._context import ContextReq, GSSMech
from spnego._negotiate import NegotiateProxy
from spnego._ntlm import NTLMProxy
from spnego._ntlm_raw.crypto import rc4k
from spnego._ntlm_raw.messages import AvId, Challenge, FileTime, Negotiate, NegotiateFlags, TargetInfo, Version
from spnego._spnego import NegState, NegTokenInit, NegTokenResp, unpack_token
from spnego.exceptions import InvalidTokenError

from authd import ntlm

NTLM_OID = GSSMech.ntlm.value
SUPPORTED = (
    NegotiateFlags.unicode
    | NegotiateFlags.oem
    | NegotiateFlags.sign
    | NegotiateFlags.seal
    | NegotiateFlags.extended_session_security
    | NegotiateFlags.version
    | NegotiateFlags.key_128
    | NegotiateFlags.key_56
    | NegotiateFlags.key_exch
)
ALWAYS = (
    NegotiateFlags.request_target
    | NegotiateFlags.ntlm
    | NegotiateFlags.always_sign
    | NegotiateFlags.target_info
    | NegotiateFlags.target_type_server
)


class TargetNames(NamedTuple):
    """What the server calls itself in a CHALLENGE ([MS-NLMP] 2.2.2.1)."""

    netbios_computer: str
    netbios_domain: str
    dns_computer: str
    dns_domain: str


class NtlmAcceptor(NTLMProxy):
    """The NTLM side of one conversation. ``base_key`` must be set before the AUTHENTICATE message is stepped."""

    def __init__(self, names: TargetNames) -> None:
        # The base class insists on a credential file. None is ever read: the steps below do not call the code that would. A level from
        # whoever started the server must not stop it either.
        os.environ["NTLM_USER_FILE"] = __file__
        os.environ.pop("LM_COMPAT_LEVEL", None)
        super().__init__(context_req=ContextReq.none, usage="accept", protocol="ntlm")
        self.names = names
        self.base_key: bytes | None = None

    @property
    def server_challenge(self) -> bytes:
        """The challenge sent; empty before the NEGOTIATE message came and after the end."""
        return bytes(self._temp_challenge.server_challenge) if self._temp_challenge else b""

    @property
    def _requires_mech_list_mic(self) -> bool:
        return False

    def _step_accept_negotiate(self, token: bytes) -> bytes:
        negotiate = Negotiate.unpack(token)
        flags = negotiate.flags & SUPPORTED | ALWAYS
        if flags & NegotiateFlags.unicode:
            flags &= ~NegotiateFlags.oem
        info = TargetInfo()
        info[AvId.nb_domain_name] = self.names.netbios_domain
        info[AvId.nb_computer_name] = self.names.netbios_computer
        info[AvId.dns_domain_name] = self.names.dns_domain
        info[AvId.dns_computer_name] = self.names.dns_computer
        info[AvId.timestamp] = FileTime.now()
        version = Version(6, 1) if flags & NegotiateFlags.version else None
        name = (
            self.names.netbios_computer
            if flags & NegotiateFlags.unicode
            else self.names.netbios_computer.encode("ascii", "replace").decode()
        )
        challenge = Challenge(flags, secrets.token_bytes(8), target_name=name, target_info=info, version=version)
        self._temp_negotiate, self._temp_challenge = negotiate, challenge
        return bytes(challenge.pack())

    def _step_accept_authenticate(self, token: bytes, channel_bindings: Any = None) -> None:  # noqa: ARG002  # [MS-SMB2] has no channel to bind to
        auth = ntlm.parse_authenticate(token)
        if self.base_key is None or self._temp_negotiate is None or self._temp_challenge is None:
            raise InvalidTokenError(context_msg="AUTHENTICATE without a proof")
        exchange = auth.flags & ntlm.NEGOTIATE_KEY_EXCH and auth.flags & (ntlm.NEGOTIATE_SIGN | ntlm.NEGOTIATE_SEAL)
        if exchange and len(auth.encrypted_key) != 16:
            raise InvalidTokenError(context_msg="EncryptedRandomSessionKey is not 16 bytes")
        key = rc4k(self.base_key, auth.encrypted_key) if exchange else self.base_key
        if ntlm.mic_promised(auth) and not ntlm.mic_valid(key, self._temp_negotiate.pack(), self._temp_challenge.pack(), auth):
            raise InvalidTokenError(context_msg="wrong MIC")
        self._session_key = key
        self._context_attr = auth.flags
        self._complete = True


class Acceptor(NegotiateProxy):
    """SPNEGO around one NtlmAcceptor; raw NTLMSSP is taken too."""

    def __init__(self, names: TargetNames) -> None:
        self.ntlm = NtlmAcceptor(names)
        self.ntlm._is_wrapped = True
        super().__init__(context_req=ContextReq.none, usage="accept", protocol="negotiate", _negotiate_contexts={GSSMech.ntlm: self.ntlm})

    @classmethod
    def available_protocols(cls, options: Any = None) -> list[str]:  # noqa: ARG003  # the base class's signature
        """What is on offer, whatever else is installed beside pyspnego."""
        return ["ntlm", "negotiate"]


class Token(NamedTuple):
    """A client's token, opened: the mechanism's message (b'' when there is none for NTLM), and what to hand to the acceptor."""

    message: bytes
    forward: bytes
    wrapped: bool


def open_token(token: bytes) -> Token:
    """Read a token's outer layer. ``InvalidTokenError`` when NTLM is not among what it offers; parsers' errors for malformed bytes."""
    opened = unpack_token(token)
    if isinstance(opened, NegTokenInit):
        if NTLM_OID not in opened.mech_types:
            raise InvalidTokenError(context_msg="the client offers no mechanism that is known here")
        if opened.mech_token and opened.mech_types[0] != NTLM_OID:
            # [RFC4178] 3.2: an optimistic token for a mechanism that is not chosen is ignored.
            return Token(b"", NegTokenInit(mech_types=opened.mech_types).pack(), True)
        return Token(opened.mech_token or b"", token, True)
    if isinstance(opened, NegTokenResp):
        return Token(opened.response_token or b"", token, True)
    if not token.startswith(ntlm.SIGNATURE):
        raise InvalidTokenError(context_msg="neither SPNEGO nor NTLMSSP")
    return Token(token, token, False)


def accept_completed() -> bytes:
    """[RFC4178] 4.2.2: the last word to a client whose mechListMIC cannot be checked because it has no key: guests, anonymous."""
    return bytes(NegTokenResp(neg_state=NegState.accept_complete).pack())

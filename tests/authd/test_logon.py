"""Whole logons in memory: pyspnego's and impacket's initiators against our conversations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import spnego
from hypothesis import given, settings
from hypothesis import strategies as st
from impacket import ntlm as impacket_ntlm
from spnego._ntlm_raw.crypto import ntowfv1
from spnego._spnego import NegState, NegTokenInit, NegTokenResp, unpack_token

from authd import ntlm
from authd.acceptor import NTLM_OID
from authd.client import initial_token
from authd.conversation import Conversations, Key, Outcome, Policy
from authd.messages import MORE_PROCESSING, SUCCESS, Step
from smbd.smb2 import status

Make = Callable[..., Conversations]
KEY = Key(16, 1, 7)
ADDRESS = "192.0.2.1"


def step(conversations: Conversations, token: bytes, key: Key = KEY) -> Step:
    return conversations.step(key, token, ADDRESS, 100.0).step


def logon(conversations: Conversations, user: str, password: str, protocol: str = "negotiate") -> tuple[Step, spnego.ContextProxy]:
    """Run the client's side to its end; returns the server's last step."""
    client = spnego.client(
        user, password, hostname="millpond", service="cifs", protocol=protocol, options=spnego.NegotiateOptions.use_negotiate
    )
    token = client.step(initial_token() if protocol == "negotiate" else None)
    for _ in range(5):
        answer = step(conversations, token or b"")
        if answer.status != MORE_PROCESSING:
            if answer.token and answer.status == SUCCESS and not client.complete:
                client.step(answer.token)
            return answer, client
        token = client.step(answer.token)
    raise AssertionError("no end")


@pytest.mark.parametrize("protocol", ["negotiate", "ntlm"])
@pytest.mark.parametrize("user", ["alice", "ALICE", "ANY\\alice", "millpond\\Alice", "alice@example.org"])
def test_right_password(conversations: Make, user: str, protocol: str) -> None:
    table = conversations()
    answer, client = logon(table, user, "Pässword-1", protocol)
    assert answer.status == SUCCESS
    assert client.complete
    assert answer.session_key == client.session_key
    assert len(answer.session_key) == 16
    assert answer.identity is not None
    assert (answer.identity.name, answer.identity.guest, answer.identity.anonymous) == ("alice", False, False)
    assert len(table) == 0


def test_name_beyond_ascii(conversations: Make) -> None:
    answer, _ = logon(conversations(), "bÖB", "secret")
    assert answer.identity is not None
    assert answer.identity.name == "Böb"


@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("alice", ""), ("mallory", "secret"), ("carol", "wrong")])
def test_refused(conversations: Make, user: str, password: str) -> None:
    table = conversations()
    answer, _ = logon(table, user, password)
    assert answer == Step(status.LOGON_FAILURE, b"")
    assert len(table) == 0


def test_disabled_is_told_only_to_who_knows_the_password(conversations: Make) -> None:
    assert logon(conversations(), "carol", "secret")[0].status == status.ACCOUNT_DISABLED


@pytest.mark.parametrize(
    ("policy", "user", "guest"), [("bad_user", "mallory", True), ("bad_user", "alice", False), ("bad_password", "alice", True)]
)
def test_map_to_guest(conversations: Make, policy: str, user: str, guest: bool) -> None:
    answer, _ = logon(conversations(Policy(policy)), user, "wrong", "ntlm")
    assert answer.status == (SUCCESS if guest else status.LOGON_FAILURE)
    if guest:
        assert answer.identity is not None
        assert answer.identity.guest
        assert answer.session_key == bytes(16)


def test_domains_may_be_limited(conversations: Make) -> None:
    policy = Policy(domains=frozenset({"", "millpond"}))
    assert logon(conversations(policy), "MILLPOND\\alice", "Pässword-1")[0].status == SUCCESS
    assert logon(conversations(policy), "OTHER\\alice", "Pässword-1")[0].status == status.LOGON_FAILURE


def impacket_logon(
    table: Conversations, user: str, password: str, nt: str | bytes = "", *, sign: bool = True, v2: bool = True
) -> tuple[Step, bytes]:
    first = impacket_ntlm.getNTLMSSPType1("", "", sign, use_ntlmv2=v2)
    challenge = step(table, NegTokenInit([NTLM_OID], mech_token=first.getData()).pack())
    assert challenge.status == MORE_PROCESSING
    inner = unpack_token(challenge.token).response_token
    third, key = impacket_ntlm.getNTLMSSPType3(first, inner, user, password, "DOM", "", nt, use_ntlmv2=v2)
    return step(table, NegTokenResp(response_token=third.getData()).pack()), key


@pytest.mark.parametrize("sign", [True, False])
def test_impacket(conversations: Make, sign: bool) -> None:
    answer, key = impacket_logon(conversations(), "alice", "Pässword-1", sign=sign)
    assert answer.status == SUCCESS
    assert answer.session_key == key
    assert unpack_token(answer.token).neg_state == NegState.accept_complete


def test_impacket_with_a_hash(conversations: Make) -> None:
    answer, key = impacket_logon(conversations(), "alice", "", ntowfv1("Pässword-1"))
    assert (answer.status, answer.session_key) == (SUCCESS, key)


def test_ntlmv1_proves_nothing(conversations: Make) -> None:
    answer, _ = impacket_logon(conversations(), "alice", "Pässword-1", v2=False)
    assert answer.status == status.LOGON_FAILURE


def test_anonymous(conversations: Make) -> None:
    for sign in (True, False):
        answer, key = impacket_logon(conversations(), "", "", sign=sign)
        assert answer.status == SUCCESS
        assert answer.identity is not None
        assert answer.identity.anonymous
        assert answer.session_key == (key if sign else bytes(16))
    refused, _ = impacket_logon(conversations(Policy(anonymous=False)), "", "")
    assert refused.status == status.ACCESS_DENIED


def test_the_mic_guards_the_first_message(conversations: Make) -> None:
    client = spnego.client("alice", "Pässword-1", protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    first = bytearray(client.step() or b"")
    first[12] ^= 0x20  # somebody on the way takes NEGOTIATE_SEAL out
    table = conversations()
    third = client.step(step(table, bytes(first)).token)
    assert third is not None
    assert ntlm.mic_promised(ntlm.parse_authenticate(third))
    assert step(table, third).status == status.LOGON_FAILURE


def test_optimistic_token_of_another_mechanism_is_ignored(conversations: Make) -> None:
    table = conversations()
    answer = step(table, NegTokenInit(["1.2.840.113554.1.2.2", NTLM_OID], mech_token=b"a Kerberos ticket").pack())
    assert answer.status == MORE_PROCESSING
    told = unpack_token(answer.token)
    assert (told.neg_state, told.supported_mech) == (NegState.request_mic, NTLM_OID)


def test_no_common_mechanism(conversations: Make) -> None:
    answer = step(conversations(), NegTokenInit(["1.2.840.113554.1.2.2"], mech_token=b"ticket").pack())
    assert answer.status == status.INVALID_PARAMETER


def test_authenticate_cannot_come_first_or_twice(conversations: Make) -> None:
    table = conversations()
    client = spnego.client("alice", "Pässword-1", protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    third = client.step(step(table, client.step() or b"").token) or b""
    assert step(table, third).status == SUCCESS
    assert step(table, third).status == status.NO_LOGON_SERVERS


def test_the_challenge_names_the_server(conversations: Make) -> None:
    client = spnego.client("a", "b", protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    challenge = impacket_ntlm.NTLMAuthChallenge(step(conversations(), client.step() or b"").token)
    pairs = impacket_ntlm.AV_PAIRS(challenge["TargetInfoFields"])
    assert pairs[impacket_ntlm.NTLMSSP_AV_HOSTNAME][1].decode("utf-16-le") == "MILLPOND"
    assert pairs[impacket_ntlm.NTLMSSP_AV_DOMAINNAME][1].decode("utf-16-le") == "WORKGROUP"
    assert pairs[impacket_ntlm.NTLMSSP_AV_TIME] is not None


def test_too_many_conversations(conversations: Make) -> None:
    table = conversations(per_peer=2, in_all=3)
    client = spnego.client("a", "b", protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    first = client.step() or b""
    assert [step(table, first, Key(16, 1, number)).status for number in range(3)] == [MORE_PROCESSING] * 2 + [
        status.INSUFF_SERVER_RESOURCES
    ]
    assert step(table, first, Key(17, 1, 0)).status == MORE_PROCESSING
    assert step(table, first, Key(18, 1, 0)).status == status.INSUFF_SERVER_RESOURCES
    table.drop_peer(16, 1)
    assert len(table) == 1
    table.expire(100.0 + 61)
    assert len(table) == 0


def test_a_failure_is_answered_late(conversations: Make) -> None:
    table = conversations()
    delays = []
    for _ in range(25):
        client = spnego.client("alice", "wrong", protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
        challenge = step(table, client.step() or b"").token
        delays.append(table.step(KEY, client.step(challenge) or b"", ADDRESS, 100.0).delay)
    assert delays[0] == 1.0
    assert delays[-1] == 3.0


def test_guessing_stops_but_locks_nobody_out(conversations: Make) -> None:
    table = conversations()
    for index in range(150):
        table.gate.limiter.failed(f"198.51.100.{index % 3}", "alice", 100.0)
    client = spnego.client("alice", "Pässword-1", protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    challenge = table.step(KEY, client.step() or b"", "198.51.100.1", 100.0).step.token
    token = client.step(challenge) or b""
    assert table.step(KEY, token, "198.51.100.1", 100.0).step.status == status.LOGON_FAILURE
    assert logon(table, "alice", "Pässword-1")[0].status == SUCCESS


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_token_raises(data: st.DataObject) -> None:
    from authd.acceptor import TargetNames
    from authd.conversation import Gate
    from authd.identity import Identities
    from authd.limits import Limiter
    from authd.users import UserDatabase
    from smbd.accounts import IdMap
    from tests.authd.conftest import MACHINE

    gate = Gate(
        UserDatabase("/nonexistent/smbpasswd"),
        Identities(IdMap(MACHINE, "M"), "nobody"),
        TargetNames("M", "W", "m", ""),
        Limiter(0.0),
        b"",
    )
    table = Conversations(gate)
    client = spnego.client("alice", "x", protocol="negotiate", options=spnego.NegotiateOptions.use_negotiate)
    first = client.step(initial_token()) or b""
    rounds = data.draw(st.integers(0, 1))
    token = first if not rounds else client.step(step(table, first).token) or b""
    mutated = bytearray(token)
    for _ in range(data.draw(st.integers(0, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(mutated)))
    tail = data.draw(st.binary(max_size=20))
    answer = step(table, bytes(mutated[:end]) + tail)
    assert answer.status in (MORE_PROCESSING, status.LOGON_FAILURE, status.INVALID_PARAMETER, status.NO_LOGON_SERVERS, SUCCESS)
    assert answer.status != SUCCESS or answer.identity is None or answer.identity.anonymous


@pytest.mark.parametrize(
    "token",
    [b"", b"\x60", b"NTLMSSP\0", b"\x60\x82\xff\xff", b"\xa0" * 16000, b"NTLMSSP\0\x09\0\0\0" + bytes(40), b"\0" * 16384, b"x" * 17000],
)
def test_no_odd_token_raises(conversations: Make, token: bytes) -> None:
    assert step(conversations(), token).status == status.INVALID_PARAMETER


def test_tokens_nested_a_thousand_deep(conversations: Make) -> None:
    token = b""
    oid = bytes.fromhex("06062b0601050502")
    while len(token) < 15000:
        body = oid + token
        token = b"\x60\x82" + len(body).to_bytes(2, "big") + body
    assert step(conversations(), token).status == status.INVALID_PARAMETER


def test_all_of_a_network_of_ipv6_guesses_together(conversations: Make) -> None:
    """One client has more addresses there than can be remembered."""
    table = conversations()
    for number in range(60):
        assert guess(table, f"2001:db8:1:2::{number:x}", number).step.status == status.LOGON_FAILURE
    assert guess(table, "2001:db8:1:2::ffff", 100).delay > 1.0
    assert guess(table, "2001:db8:1:3::1", 101).delay == 1.0


def guess(table: Conversations, address: str, number: int) -> Outcome:
    """A wrong password from ``address``."""
    client = spnego.client("alice", "wrong", hostname="millpond", service="cifs", protocol="ntlm")
    key = Key(16, 1, number)
    challenge = table.step(key, client.step() or b"", address, 100.0)
    return table.step(key, client.step(challenge.step.token) or b"", address, 100.0)

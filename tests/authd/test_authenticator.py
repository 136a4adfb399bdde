"""The message table: what is answered, what is answered late, and what ends its sender."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import spnego
from hypothesis import given
from hypothesis import strategies as st
from spnego._spnego import NegTokenInit

from authd import client, messages
from authd.acceptor import NTLM_OID
from authd.messages import MORE_PROCESSING, SUCCESS, Step, pack_step, unpack_step
from authd.service import Authenticator
from authd.users import UserDatabase
from pools.layout import WireError
from pools.port import credentials
from pools.queue import PEER, PEER_DIED, RELOAD, Deferred, Message
from smbd import accounts
from smbd.accounts import SidType
from smbd.config import Config
from smbd.config_messages import pack_config
from smbd.smb2 import status
from smbd.smb2.dtyp.sid import SID
from smbd.smb2.dtyp.token import Token

WORKER = (16, 3)


class Desk:
    """An authenticator with a clock in the test's hand, asked as a worker asks."""

    def __init__(self, config: Config) -> None:
        self.now = 100.0
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.authenticator = Authenticator(config, lambda: self.now)
        self.authenticator.after = lambda seconds, call: self.later.append((seconds, call))

    def handle(self, kind: int, payload: bytes, sender: tuple[int, int] = WORKER) -> object:
        return self.authenticator.handlers()[kind](Message(kind, *sender, 1, payload))

    async def ask(self, destination: int, kind: int, payload: bytes = b"", timeout: float = 30.0) -> Message:
        answer = self.handle(kind, payload)
        if isinstance(answer, Deferred):
            seconds, call = self.later.pop()
            self.now += seconds
            call()
            answer = answer._early.payload if answer._early else b""
        assert isinstance(answer, bytes)
        return Message(kind + 1, destination, 1, 1, answer)

    def send(self, destination: int, kind: int, payload: bytes = b"") -> None:
        assert self.handle(kind, payload) is None

    def authenticate(self, conversation: int, token: bytes) -> Step:
        return asyncio.run(client.authenticate(self.ask, conversation, token, "192.0.2.1"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    UserDatabase(tmp_path / "smbpasswd").add("alice", "secret")
    return Config(smb_passwd_file=str(tmp_path / "smbpasswd"), state_directory=str(tmp_path), netbios_name="MILLPOND")


@pytest.fixture
def desk(config: Config) -> Desk:
    return Desk(config)


def ntlm_client(password: str = "secret") -> spnego.ContextProxy:
    return spnego.client("alice", password, protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)


def test_a_logon(desk: Desk) -> None:
    side = ntlm_client()
    challenge = desk.authenticate(1, side.step() or b"")
    assert challenge.status == MORE_PROCESSING
    done = desk.authenticate(1, side.step(challenge.token) or b"")
    assert (done.status, done.session_key) == (SUCCESS, side.session_key)
    assert done.identity is not None
    assert done.identity.name == "alice"


def confirmed(desk: Desk, peer: tuple[int, int], session_key: bytes) -> str:
    """Who has logged on so, as another worker is told."""
    found = asyncio.run(client.confirm(desk.ask, peer, messages.proof_of(session_key), 5.0))
    return "nobody" if found is None else found.name


def test_another_worker_is_told_who_has_logged_on(desk: Desk) -> None:
    side = ntlm_client()
    desk.authenticate(1, side.step(desk.authenticate(1, side.step() or b"").token) or b"")
    assert confirmed(desk, (17, 3), side.session_key) == "nobody"
    assert confirmed(desk, WORKER, bytes(16)) == "nobody"
    assert confirmed(desk, WORKER, side.session_key) == "alice"
    assert confirmed(desk, WORKER, side.session_key) == "nobody"


@pytest.mark.parametrize("how", ["refused", "death", "time", "nobody in particular"])
def test_of_others_it_is_told_nothing(desk: Desk, how: str) -> None:
    side = ntlm_client("wrong" if how == "refused" else "secret")
    if how == "nobody in particular":
        side = spnego.client("", "", protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
    done = desk.authenticate(1, side.step(desk.authenticate(1, side.step() or b"").token) or b"")
    if how == "death":
        desk.handle(PEER_DIED, PEER.pack(*WORKER))
    elif how == "time":
        desk.now += 31
        desk.authenticator.expire()
    assert confirmed(desk, WORKER, done.session_key) == "nobody"


def test_a_refusal_waits_on_a_timer(desk: Desk) -> None:
    side = ntlm_client("wrong")
    challenge = desk.authenticate(1, side.step() or b"")
    answer = desk.handle(messages.AUTHENTICATE.number, messages.pack_authenticate(1, side.step(challenge.token) or b"", "192.0.2.1"))
    assert isinstance(answer, Deferred)
    assert [seconds for seconds, _ in desk.later] == [1.0]


def test_conversations_belong_to_their_worker(desk: Desk) -> None:
    side = ntlm_client()
    challenge = desk.authenticate(1, side.step() or b"")
    third = messages.pack_authenticate(1, side.step(challenge.token) or b"", "192.0.2.1")
    for other in ((17, 3), (16, 4)):
        answer = desk.handle(messages.AUTHENTICATE.number, third, other)
        assert isinstance(answer, bytes)
        assert unpack_step(answer).status == status.NO_LOGON_SERVERS


@pytest.mark.parametrize("how", ["forget", "death", "time"])
def test_conversations_end(desk: Desk, how: str) -> None:
    side = ntlm_client()
    challenge = desk.authenticate(1, side.step() or b"")
    if how == "forget":
        client.forget(desk.send, 1)
    elif how == "death":
        desk.handle(PEER_DIED, PEER.pack(*WORKER))
    else:
        desk.now += 46
        desk.authenticator.expire()
    assert desk.authenticate(1, side.step(challenge.token) or b"").status == status.NO_LOGON_SERVERS


def test_a_reload_counts_for_logons_in_the_middle_and_after(desk: Desk, config: Config, tmp_path: Path) -> None:
    UserDatabase(tmp_path / "other").add("alice", "new")
    desk.handle(RELOAD, pack_config(Config(smb_passwd_file=str(tmp_path / "other"), state_directory=str(tmp_path), netbios_name="M")))
    side = ntlm_client("new")
    challenge = desk.authenticate(1, side.step() or b"")
    assert desk.authenticate(1, side.step(challenge.token) or b"").status == SUCCESS


def test_a_database_that_cannot_be_read(desk: Desk, config: Config) -> None:
    Path(config.smb_passwd_file).write_bytes(b"\xff\xff")
    side = ntlm_client()
    challenge = desk.authenticate(1, side.step() or b"")
    assert desk.authenticate(1, side.step(challenge.token) or b"").status == status.NO_LOGON_SERVERS


def test_lookups(desk: Desk) -> None:
    names = asyncio.run(
        client.lookup_names(desk.ask, ["alice", "MILLPOND\\ALICE", "root", "OTHER\\root", "Everyone", "no such", "MILLPOND"])
    )
    assert [found.kind for found in names] == [
        SidType.USER,
        SidType.USER,
        SidType.USER,
        SidType.UNKNOWN,
        SidType.WELL_KNOWN_GROUP,
        SidType.UNKNOWN,
        SidType.DOMAIN,
    ]
    sids = asyncio.run(client.lookup_sids(desk.ask, [names[0].sid, names[2].sid, "S-1-22-2-0", "nonsense", "S-1-5-21-9-9-9-1"]))
    assert [(found.kind, found.name) for found in sids] == [
        (SidType.USER, "alice"),
        (SidType.USER, "root"),
        (SidType.GROUP, "root"),
        (SidType.INVALID, ""),
        (SidType.UNKNOWN, ""),
    ]


def test_list_users(desk: Desk) -> None:
    answer = desk.handle(accounts.LIST_USERS.number, accounts.PAGE.pack(0, 0))
    assert isinstance(answer, bytes)
    total, users = accounts.unpack_users(answer)
    assert (total, [user.name for user in users]) == (1, ["alice"])


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (messages.AUTHENTICATE.number, b""),
        (messages.AUTHENTICATE.number, messages.AUTHENTICATE_REQUEST.pack(1, 0, 5) + b"four"),
        (messages.AUTHENTICATE.number, messages.AUTHENTICATE_REQUEST.pack(1, 0, 20000) + bytes(20000)),
        (messages.FORGET.number, b"short"),
        (accounts.LOOKUP_NAMES.number, b"\xff\xff"),
        (accounts.LIST_USERS.number, b""),
    ],
)
def test_a_record_that_is_none_is_refused_with_its_sender(desk: Desk, kind: int, payload: bytes) -> None:
    with pytest.raises(WireError):
        desk.handle(kind, payload)


SIDS = st.builds(SID, st.integers(0, 2**48 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=15).map(tuple))
IDS = st.integers(0, 2**32 - 1)
NAME = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
TOKENS = st.builds(
    Token,
    user_sid=SIDS,
    group_sids=st.lists(SIDS, max_size=5).map(tuple),
    privileges=st.frozensets(NAME, max_size=3),
    uid=IDS,
    gid=IDS,
    groups=st.lists(IDS, max_size=5).map(tuple),
    name=NAME,
    domain=NAME,
    guest=st.booleans(),
    anonymous=st.booleans(),
)


@given(st.binary(max_size=50), st.binary(min_size=16, max_size=16), TOKENS)
def test_steps_round_trip(token: bytes, key: bytes, identity: Token) -> None:
    step = Step(SUCCESS, token, key, identity)
    packed = pack_step(step)
    assert unpack_step(packed) == step
    for end in range(0, len(packed), 7):
        with pytest.raises(WireError):
            unpack_step(packed[:end])


def test_a_refusal_holds_no_key() -> None:
    assert unpack_step(pack_step(Step(status.LOGON_FAILURE, b""))) == Step(status.LOGON_FAILURE, b"")


def test_the_initial_token_is_what_pyspnego_would_pack() -> None:
    assert client.initial_token() == NegTokenInit([NTLM_OID], hint_name=client.HINT).pack()


def test_ids_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    from authd import identity

    monkeypatch.setattr(credentials, "effective_uid", lambda: 1000)
    monkeypatch.setattr(credentials, "real", lambda: (1000, 1000))
    assert identity.ids_of("root", 5) == identity.own_ids()


@pytest.mark.parametrize("written", [0, 0xFFFFFFFF, -1])
def test_a_line_of_the_database_makes_nobody_root(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    from authd import identity

    monkeypatch.setattr(credentials, "effective_uid", lambda: 0)
    assert identity.ids_of("no-such-unix-account", written) == (identity.OVERFLOW_ID, identity.OVERFLOW_ID, ())
    assert identity.ids_of("no-such-unix-account", 0x30000000) == (0x30000000, 0x30000000, ())


def test_username_map(tmp_path: Path) -> None:
    from authd.identity import UserMap

    path = tmp_path / "map"
    path.write_text('# comment\n!root = admin "The Boss"\nalice = ally\nnobody = *\n')
    users = UserMap(str(path))
    assert [users.unix_name(name) for name in ("ADMIN", "the boss", "ally", "other")] == ["root", "root", "nobody", "nobody"]

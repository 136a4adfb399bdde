"""What is known of logons that have just succeeded: to whom it is told, how often, for how long."""

from __future__ import annotations

import pytest

from authd import proofs
from authd.messages import NO_KEY, pack_confirmed, proof_of, unpack_confirmed
from authd.proofs import Proof, Proofs
from smbd.smb2.dtyp.sid import SID
from smbd.smb2.dtyp.token import Token

ALICE = Token(SID.parse("S-1-5-21-1-2-3-1000"), name="alice", groups=(7, 8), privileges=frozenset({"SeBackupPrivilege"}))
KEY = bytes(range(16))
LOGON = Proof(16, 1, proof_of(KEY))


@pytest.fixture
def known() -> Proofs:
    made = Proofs()
    made.note(LOGON, ALICE, 100.0)
    return made


def test_a_logon_is_told_once(known: Proofs) -> None:
    assert known.take(LOGON, 101.0) == ALICE
    assert known.take(LOGON, 101.0) is None


@pytest.mark.parametrize("other", [Proof(17, 1, proof_of(KEY)), Proof(16, 2, proof_of(KEY)), Proof(16, 1, proof_of(NO_KEY))])
def test_another_worker_s_and_another_key_s_is_another(known: Proofs, other: Proof) -> None:
    assert known.take(other, 101.0) is None
    assert known.take(LOGON, 101.0) == ALICE


def test_it_is_forgotten_in_time_and_with_its_worker(known: Proofs) -> None:
    known.note(LOGON._replace(slot=17), ALICE, 110.0)
    assert known.take(LOGON, 100.0 + proofs.LIFETIME) is None
    known.drop_peer(17, 2)
    assert len(known) == 1
    known.drop_peer(17, 1)
    assert len(known) == 0


def test_there_are_never_too_many(known: Proofs) -> None:
    for slot in range(proofs.REMEMBERED):
        known.note(LOGON._replace(slot=100 + slot), ALICE, 101.0)
    assert len(known) == proofs.REMEMBERED
    assert known.take(LOGON, 101.0) is None
    assert known.take(LOGON._replace(slot=100), 101.0) == ALICE


def test_on_the_wire() -> None:
    assert unpack_confirmed(pack_confirmed(ALICE)) == ALICE
    assert unpack_confirmed(pack_confirmed(None)) is None
    assert KEY not in pack_confirmed(ALICE)
    assert len(LOGON.proof) == 16

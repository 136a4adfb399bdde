"""Acting as a user: only when the tests run as root."""

from __future__ import annotations

import os
import threading

import pytest

from workers import identity
from workers.identity import Identity

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="identities can only be switched by root")
ALICE = Identity(50_001, 50_001, (50_010, 50_011))
BOB = Identity(50_002, 50_002, ())


@pytest.fixture(autouse=True)
def back_to_root():
    yield
    identity.assume(Identity(0, 0, tuple(os.getgroups())))


def test_assume_and_back():
    identity.assume(ALICE)
    assert (os.geteuid(), os.getegid(), sorted(os.getgroups())) == (50_001, 50_001, [50_010, 50_011])
    assert identity.current() == ALICE
    with identity.as_root():
        assert os.geteuid() == 0
    assert os.geteuid() == 50_001
    identity.assume(BOB)
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (50_002, 50_002, [])


def test_each_thread_has_its_own():
    seen = {}
    ready = threading.Barrier(3)

    def act(who):
        identity.assume(who)
        ready.wait(10)
        seen[who.uid] = (os.geteuid(), os.getgroups())
        ready.wait(10)

    threads = [threading.Thread(target=act, args=(who,)) for who in (ALICE, BOB)]
    for thread in threads:
        thread.start()
    ready.wait(10)
    assert os.geteuid() == 0
    ready.wait(10)
    for thread in threads:
        thread.join()
    assert seen == {50_001: (50_001, [50_010, 50_011]), 50_002: (50_002, [])}


def test_unchanged_costs_no_call(monkeypatch):
    identity.assume(ALICE)
    calls = []
    monkeypatch.setattr(identity.credentials, "set_effective", lambda *args: calls.append(args))
    identity.assume(Identity(*ALICE))
    assert calls == []


def test_as_root_nests():
    identity.assume(ALICE)
    with identity.as_root(), identity.as_root():
        assert os.geteuid() == 0
    assert os.geteuid() == 50_001


def opened_to_all(share):
    os.chmod(share.root, 0o777)


def change_mode(share, name, mode):
    handle = share.open(name)
    handle.chmod(mode)
    handle.close()


def test_files_belong_to_who_makes_them_and_posix_rights_hold(share):
    opened_to_all(share)
    identity.assume(ALICE)
    share.put("hers", b"private")
    handle = share.open("hers")
    assert (handle.info().uid, handle.info().gid) == (50_001, 50_001)
    handle.chmod(0o600)
    handle.set_security(b"descriptor")
    handle.set_attributes(0x22)
    handle.close()
    identity.assume(BOB)
    handle = share.open("hers")  # may be named and described, not read
    assert handle.opened.attributes == 0x22
    assert handle.security() == b"descriptor"
    for read, write in ((True, False), (False, True)):
        with pytest.raises(PermissionError):
            handle.activate(read, write)
    for call in (lambda: handle.set_attributes(0x20), lambda: handle.set_ea("x", b"1"), lambda: handle.set_times(write=1 << 56)):
        with pytest.raises(PermissionError):
            call()
    with pytest.raises(PermissionError):
        handle.chown(50_001, -1)
    with pytest.raises(PermissionError):
        handle.chmod(0o777)
    handle.close()


def test_stored_streams_need_the_rights_of_their_file(share):
    opened_to_all(share)
    identity.assume(ALICE)
    share.put("f", b"x")
    share.put("f:large", b"s" * 40_000)
    identity.assume(BOB)
    assert share.read("f:large") == b"s" * 40_000  # mode 0644
    handle = share.open("f:large")
    with pytest.raises(PermissionError):
        handle.activate(True, True)
    handle.close()
    with pytest.raises(PermissionError):
        os.open(".millpond", os.O_RDONLY, dir_fd=share.vfs.root.fd)


def test_a_writer_who_is_no_owner_may_set_times(share):
    opened_to_all(share)
    identity.assume(ALICE)
    share.put("f", b"x")
    change_mode(share, "f", 0o666)
    identity.assume(BOB)
    handle = share.open("f")
    handle.set_times(write=132_000_000_000_000_000)
    assert handle.info().last_write_time == 132_000_000_000_000_000
    handle.close()


def test_a_closed_parent_is_access_denied(share):
    opened_to_all(share)
    identity.assume(ALICE)
    share.put("d", directory=True)
    share.put("d\\f")
    change_mode(share, "d", 0o700)
    identity.assume(BOB)
    with pytest.raises(PermissionError):
        share.open("d\\f")
    with pytest.raises(PermissionError):
        share.put("d\\g")


def test_a_directory_that_may_be_entered_but_not_listed(share):
    opened_to_all(share)
    identity.assume(ALICE)
    share.put("d", directory=True)
    share.put("d\\File", b"x")
    change_mode(share, "d", 0o711)
    identity.assume(BOB)
    assert share.read("d\\File") == b"x"
    with pytest.raises(FileNotFoundError):
        share.open("d\\FILE")  # finding another spelling would need the list
    with pytest.raises(PermissionError):
        share.names("d")


def test_extended_attributes_need_the_right_to_read(share):
    opened_to_all(share)
    identity.assume(ALICE)
    share.put("f", b"x", eas=(("secret", b"1"),))
    share.put("f:small", b"s")
    change_mode(share, "f", 0o600)
    identity.assume(BOB)
    handle = share.open("f")
    with pytest.raises(PermissionError):
        handle.eas()
    handle.close()
    handle = share.open("f:small")
    with pytest.raises(PermissionError):
        handle.activate(True, False)
    handle.close()


@pytest.mark.parametrize("number", [-1, 0xFFFFFFFF, 1 << 32])
def test_what_the_kernel_takes_for_unchanged_is_no_identity(number):
    """setresuid(2) with -1 keeps the id: root's."""
    for wrong in (Identity(number, 1, ()), Identity(50_001, number, ()), Identity(50_001, 50_001, (number,))):
        with pytest.raises(OSError, match="no user's or group's id"):
            identity.assume(wrong)
    identity.assume(ALICE)
    assert os.geteuid() == 50_001

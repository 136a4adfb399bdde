"""The posix module against a real directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading

import pytest

from smbd.smb2 import status
from smbd.smb2.names import matcher, parse_text
from smbd.smb2.status import SmbError
from workers.vfs import handle as posix_handle
from workers.vfs.errors import smb_error
from workers.vfs.interface import LinkMet, NewFile, PathNotFound

READONLY, HIDDEN, SYSTEM, DIRECTORY, ARCHIVE, NORMAL, SPARSE = 1, 2, 4, 0x10, 0x20, 0x80, 0x200


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_write_then_read(share):
    share.put("a.txt", b"hello")
    assert share.read("A.TXT") == b"hello"
    assert (share.root / "a.txt").read_bytes() == b"hello"


def test_case_insensitive_lookup_keeps_the_disks_spelling(share):
    share.put("Ordner", directory=True)
    share.put("ORDNER\\Übung.TXT", b"1")
    handle = share.open("oRdNeR\\üBUNG.txt")
    assert handle.path.wire() == "Ordner\\Übung.TXT"
    handle.close()


def test_create_in_another_case_is_a_collision(share):
    share.put("Name")
    with pytest.raises(FileExistsError):
        share.put("nAME")


def test_missing_last_and_missing_parent_are_told_apart(share):
    share.put("file")
    with pytest.raises(FileNotFoundError):
        share.open("nothing")
    for name in ("nothing\\x", "file\\x", "a\\b\\c"):
        with pytest.raises(PathNotFound):
            share.open(name)
        with pytest.raises(PathNotFound):
            share.put(name)


def test_types_in_names(share):
    share.put("d", directory=True)
    share.put("f")
    with pytest.raises(SmbError) as caught:
        share.open("d::$DATA")
    assert caught.value.status == status.FILE_IS_A_DIRECTORY
    with pytest.raises(SmbError) as caught:
        share.open("f::$INDEX_ALLOCATION")
    assert caught.value.status == status.NOT_A_DIRECTORY
    share.open("d\\").close()
    share.open("f::$DATA").close()


def test_new_files_have_archive_and_need_no_xattr(share):
    handle = share.make("plain")
    assert handle.info().attributes == ARCHIVE
    assert os.listxattr(share.root / "plain") == []
    handle.close()
    handle = share.make("dir", directory=True)
    assert handle.info().attributes == DIRECTORY
    handle.close()


def test_attributes_survive(share):
    handle = share.make("f", attributes=HIDDEN)
    assert handle.opened.attributes == HIDDEN | ARCHIVE
    handle.set_attributes(READONLY | SYSTEM)
    handle.close()
    handle = share.open("f")
    assert handle.opened.attributes == READONLY | SYSTEM
    handle.set_attributes(NORMAL)
    assert handle.info().attributes == NORMAL
    handle.set_attributes(0)
    assert handle.info().attributes == NORMAL
    with pytest.raises(SmbError):
        handle.set_attributes(DIRECTORY)
    handle.close()


def test_dot_files_are_hidden(share):
    share.put(".profile")
    handle = share.open(".profile")
    assert handle.info().attributes == HIDDEN | ARCHIVE
    handle.close()
    root = share.open("")
    assert dict(share.vfs.scan(root))[".profile"].attributes == HIDDEN | ARCHIVE
    root.close()


def test_times(share):
    moment = 132_000_000_000_000_000
    handle = share.make("f", b"x")
    handle.set_times(creation=moment, access=moment + 10, write=moment + 20)
    info = handle.info()
    assert (info.creation_time, info.last_access_time, info.last_write_time) == (moment, moment + 10, moment + 20)
    handle.pwrite(b"more", 0)
    assert handle.info().last_write_time == moment + 20  # sticky for this open
    handle.set_times(write=-2)
    handle.pwrite(b"more", 0)
    assert handle.info().last_write_time > moment + 20
    frozen = handle.info().last_write_time
    handle.set_times(write=-1)
    handle.truncate(0)
    assert handle.info().last_write_time == frozen
    handle.close()
    old = share.make("old")
    old.set_times(write=100_000_000_000_000_000)  # before 1970
    assert old.info().last_write_time == 100_000_000_000_000_000
    old.close()


def test_rename_and_its_rules(share):
    share.put("a", b"a")
    share.put("b", b"b")
    share.put("d", directory=True)
    handle = share.open("a")
    with pytest.raises(FileExistsError):
        share.vfs.rename(handle, parse_text("B"), False)
    with pytest.raises(PermissionError):
        share.vfs.rename(handle, parse_text("d"), True)
    share.vfs.rename(handle, parse_text("A"), False)  # case only
    assert share.names() == {"A", "b", "d"}
    share.vfs.rename(handle, parse_text("B"), True)
    assert share.names() == {"B", "d"}
    share.vfs.rename(handle, parse_text("D\\moved"), False)
    assert handle.path.wire() == "d\\moved"
    handle.close()
    assert share.read("d\\moved") == b"a"


def test_rename_onto_another_link_of_the_same_file(share):
    share.put("one", b"1")
    handle = share.open("one")
    share.vfs.link(handle, parse_text("two"), False)
    assert handle.info().links == 2
    with pytest.raises(FileExistsError):
        share.vfs.rename(handle, parse_text("two"), False)
    share.vfs.rename(handle, parse_text("two"), True)
    assert share.names() == {"two"}
    handle.close()


def test_a_link_that_is_refused_costs_nothing(share, monkeypatch):
    share.put("one", b"1")
    share.put("two", b"2")
    handle = share.open("one")

    def refuse(*_):
        raise PermissionError(errno.EPERM, "protected_hardlinks")

    with monkeypatch.context() as patch:
        patch.setattr("pools.port.files.link", refuse)
        with pytest.raises(PermissionError):
            share.vfs.link(handle, parse_text("TWO"), True)
    assert share.read("two") == b"2"
    share.vfs.link(handle, parse_text("TWO"), True)
    handle.close()
    assert share.names() == {"one", "TWO"}
    assert share.read("two") == b"1"


@pytest.mark.parametrize("name", ["one", "ONE", "two"])
def test_a_link_by_a_name_that_the_file_has(share, name):
    share.put("one", b"1")
    os.link(share.root / "one", share.root / "two")
    handle = share.open("one")
    share.vfs.link(handle, parse_text(name), True)
    handle.close()
    assert set(os.listdir(share.root)) == {"one", "two"}
    assert share.read("one") == share.read("two") == b"1"


def test_a_file_that_becomes_a_link_leaves_no_stream_behind(share):
    share.put("f")
    share.put("f:s", bytes(100_000))
    handle = share.open("f")
    made = share.vfs.replace(handle, b"elsewhere")
    handle.close()
    made.close()
    assert os.readlink(share.root / "f") == "elsewhere"
    assert not [entry for entry in (share.root / ".millpond").rglob("*") if entry.is_file()]


def test_unlink_follows_a_moved_parent_and_never_takes_a_replacement(share):
    share.put("d", directory=True)
    share.put("d\\f")
    handle = share.open("d\\f")
    os.rename(share.root / "d", share.root / "e")
    assert handle.current_path().wire() == "e\\f"
    share.vfs.unlink(handle)
    assert share.names("e") == set()
    with pytest.raises(FileNotFoundError):
        share.vfs.unlink(handle)
    handle.close()
    share.put("g")
    handle = share.open("g")
    (share.root / "g").unlink()
    (share.root / "g").write_text("another file of this name")
    with pytest.raises(FileNotFoundError):
        share.vfs.unlink(handle)
    handle.close()
    assert share.names() == {"e", "g"}


def test_directories(share):
    share.put("d", directory=True)
    handle = share.open("d")
    assert share.vfs.is_empty(handle)
    share.put("d\\f")
    assert not share.vfs.is_empty(handle)
    with pytest.raises(OSError) as caught:
        share.vfs.unlink(handle)
    assert smb_error(caught.value).status == status.DIRECTORY_NOT_EMPTY
    with pytest.raises(SmbError):
        handle.activate(True, True)
    share.vfs.unlink(share.open("d\\f"))
    share.vfs.unlink(handle)
    handle.close()
    assert share.names() == set()
    root = share.open("")
    with pytest.raises(PermissionError):
        share.vfs.unlink(root)
    root.close()


def test_a_listing_is_not_moved_by_one_that_was_begun_before(share):
    wanted = {f"a_file_with_a_longer_name_{number:04}" for number in range(1500)}
    for name in wanted:
        (share.root / name).touch()
    root = share.open("")
    before = share.vfs.scan(root, names_only=True)
    for _ in range(700):
        next(before)
    listing = share.vfs.scan(root, names_only=True)
    found = [next(listing)[0]]
    before.close()
    found += [name for name, _ in listing]
    assert len(found) == len(wanted)
    assert set(found) == wanted
    root.close()


def test_scan(share):
    wanted = {f"n{index}" for index in range(300)} | {"Ünï", "日本"}
    for name in wanted:
        (share.root / name).write_bytes(b"12345")
    root = share.open("")
    found = dict(share.vfs.scan(root))
    assert set(found) == wanted
    assert all(info.size == 5 and info.ino for info in found.values())
    assert {name for name, _ in share.vfs.scan(root, names_only=True)} == wanted
    assert {name for name, _ in share.vfs.scan(root, match=matcher("ü*"))} == {"Ünï"}
    os.mkfifo(share.root / "fifo")
    assert {name for name, _ in share.vfs.scan(root, names_only=True)} == wanted
    root.close()


def test_names_that_smb_cannot_say_are_shown_and_found(share):
    for raw in (b"a:b", b"end.", b"end ", b"q?", b"\xff\xfe", b"back\\slash"):
        (share.root / os.fsdecode(raw)).write_bytes(raw)
    shown = share.names()
    assert shown == {"a\uf022b", "end\uf029", "end\uf028", "q\uf025", "\uf7ff\uf7fe", "back\uf026slash"}
    for name in shown:
        assert name.encode("utf-16-le")
        share.read(name)
    assert share.read("\uf7ff\uf7fe") == b"\xff\xfe"
    handle = share.open("end\uf029")
    share.vfs.rename(handle, parse_text("plain"), False)
    handle.close()
    assert (share.root / "plain").read_bytes() == b"end."


def test_ranges_of_sparse_files(share):
    handle = share.make("sparse")
    handle.set_sparse(True)
    assert handle.info().attributes & SPARSE
    handle.truncate(1 << 20)
    handle.pwrite(b"x" * 65536, 65536 * 4)
    assert handle.allocated_ranges(0, 1 << 20) == [(65536 * 4, 65536)]
    handle.zero_range(65536 * 4, 65536)
    assert handle.allocated_ranges(0, 1 << 20) == []
    assert handle.info().size == 1 << 20
    handle.set_sparse(False)
    assert handle.allocated_ranges(10, 1 << 30) == [(10, (1 << 20) - 10)]
    handle.close()


def test_zero_range_keeps_the_size(share):
    handle = share.make("f", b"a" * 10000)
    handle.zero_range(5000, 1 << 40)
    handle.close()
    assert share.read("f") == b"a" * 5000 + bytes(5000)


def test_where_no_range_is_set_to_zero_it_is_a_hole(share, monkeypatch):
    """Zeros are not written one by one to a file of any size while its client's other requests, and others, wait."""
    handle = share.make("f", b"a" * 10000)
    handle.truncate(1 << 40)

    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "not here")

    def too_long(*_):
        raise AssertionError("a terabyte of zeros")

    monkeypatch.setattr("pools.port.files.zero_range", unknown)
    monkeypatch.setattr("pools.port.files.pwrite", too_long)
    handle.zero_range(5000, 1 << 40)
    handle.truncate(10000)
    handle.close()
    assert share.read("f") == b"a" * 5000 + bytes(5000)


def test_allocate(share):
    handle = share.make("f", allocation=1 << 20)
    assert handle.opened.allocation >= 1 << 20
    assert handle.opened.size == 0
    handle.pwrite(b"12345678", 0)
    handle.allocate(4)
    assert handle.info().size == 4
    handle.close()


def test_copy_range(share):
    source = share.make("s", bytes(range(256)) * 1000)
    target = share.make("t")
    assert target.copy_range(source, 100, 10, 1 << 20) == 255_900
    assert target.info().size == 255_910
    assert target.copy_range(target, 0, 5, 100) == 100  # overlapping: by hand
    for handle in (source, target):
        handle.close()
    assert share.read("t")[110:1000] == (bytes(10) + (bytes(range(256)) * 1000)[100:])[110:1000]


def test_read_past_the_end_and_offsets_beyond_all_measure(share):
    handle = share.make("f", b"abc")
    view = memoryview(bytearray(8))
    assert handle.pread_into(view, 3) == 0
    assert handle.pread_into(view, 1 << 63) == 0
    assert handle.pread_into(view, 1, nowait=True) == 2
    for call in (lambda: handle.pwrite(b"x", (1 << 64) - 1), lambda: handle.truncate(1 << 63), lambda: handle.allocate(1 << 63)):
        with pytest.raises(OSError):
            call()
    handle.close()


def test_clear_is_what_overwriting_does(share):
    handle = share.make("f", b"abc")
    handle.set_ea("one", b"1")
    share.put("f:stream", b"s")
    handle.clear()
    assert handle.info().size == 0
    assert handle.eas() == []
    assert [entry.name for entry in handle.streams()] == [""]
    handle.close()


def test_extended_attributes(share):
    handle = share.make("f", eas=(("First", b"1"),))
    handle.set_ea("FIRST", b"22")
    handle.set_ea("second", b"\x00\xff")
    assert sorted(handle.eas()) == [("First", b"22"), ("second", b"\x00\xff")]
    assert handle.ea_size() == 4 + 5 + 5 + 2 + 5 + 6 + 2
    handle.set_ea("Second", b"")
    assert handle.eas() == [("First", b"22")]
    for reserved in ("DOSATTRIB", "DosStream.x:$DATA", "millpond.sd", "MILLPOND.stream.x"):
        with pytest.raises(SmbError):
            handle.set_ea(reserved, b"x")
    with pytest.raises(SmbError):
        handle.set_ea("bad:name", b"x")
    handle.close()


def test_what_was_bare_when_it_was_opened_is_read_as_it_is_now(share):
    """``bare`` spares the questions at an open; whoever asks later hears what others have set meanwhile."""
    share.put("f")
    early = share.open("f")
    other = share.open("f")
    other.set_security(b"descriptor")
    other.set_attributes(HIDDEN)
    late = share.open("f")
    assert (early.bare, late.bare) == (True, False)
    assert early.security() == late.security() == b"descriptor"
    assert early.info().attributes & HIDDEN
    assert not early.opened.attributes & HIDDEN
    for handle in (early, other, late):
        handle.close()


def test_a_new_file_in_a_directory_that_is_open_already(share):
    share.put("A", directory=True)
    parent = share.open("a")
    made = share.vfs.create(parse_text("a\\new"), NewFile(), parent)
    assert made.path.wire() == "A\\new"
    made.close()
    assert share.names("A") == {"new"}
    with pytest.raises(FileExistsError):
        share.vfs.create(parse_text("a\\NEW"), NewFile(), parent)
    parent.close()


def test_security_descriptors(share):
    handle = share.make("f", security=b"\x01\x00descriptor")
    assert handle.security() == b"\x01\x00descriptor"
    handle.set_security(b"other")
    assert handle.security() == b"other"
    handle.close()
    handle = share.make("g")
    assert handle.security() is None
    handle.close()


def test_modes(share):
    share.put("f")
    share.put("d", directory=True)
    assert stat.S_IMODE((share.root / "f").stat().st_mode) == 0o644
    assert stat.S_IMODE((share.root / "d").stat().st_mode) == 0o755


@pytest.mark.parametrize(("directory", "mode"), [(False, 0o600), (True, 0o700), (False, 0), (True, 0)])
def test_a_mode_holds_from_the_first_moment_on(share, monkeypatch, directory, mode):
    """Who opens a file before it is closed to him reads what comes into it later."""
    seen = []
    chmod = posix_handle.files.chmod

    def watched(fd, wanted):
        seen.append(os.fstat(fd).st_mode & 0o077)
        chmod(fd, wanted)

    monkeypatch.setattr("pools.port.files.chmod", watched)
    share.put("new", directory=directory, mode=mode)
    assert seen == [0]
    assert stat.S_IMODE((share.root / "new").stat().st_mode) == mode


def test_the_reserved_directory_has_no_name(share):
    share.put("f")
    share.put("f:large", b"x" * 50_000)
    assert (share.root / ".millpond").is_dir()
    assert share.names() == {"f"}
    (share.root / "link").symlink_to(".millpond")
    for name in (".millpond", ".MILLPOND", ".millpond\\streams", "link", "link\\streams"):
        with pytest.raises((FileNotFoundError, PathNotFound, PermissionError, LinkMet)):
            share.open(name)
    with pytest.raises(PermissionError):
        share.put(".Millpond")
    handle = share.open("f")
    with pytest.raises(PermissionError):
        share.vfs.rename(handle, parse_text(".MILLPOND\\x"), False)
    handle.close()


def test_special_files_are_not_served(share):
    os.mkfifo(share.root / "fifo")
    with pytest.raises(PermissionError):
        share.open("fifo")
    assert share.names() == set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, status.DISK_FULL),
        (errno.EDQUOT, status.DISK_FULL),
        (errno.EMFILE, status.TOO_MANY_OPENED_FILES),
        (errno.ENFILE, status.INSUFFICIENT_RESOURCES),
        (errno.EROFS, status.MEDIA_WRITE_PROTECTED),
        (errno.EACCES, status.ACCESS_DENIED),
        (errno.ENOENT, status.OBJECT_NAME_NOT_FOUND),
        (errno.ENOTEMPTY, status.DIRECTORY_NOT_EMPTY),
        (0, status.UNSUCCESSFUL),
    ],
)
def test_errno_to_status(code, expected):
    assert smb_error(OSError(code, "")).status == expected


def test_path_not_found_is_no_file_not_found():
    error = PathNotFound(errno.ENOENT, "x")
    assert not isinstance(error, FileNotFoundError)
    assert smb_error(error).status == status.OBJECT_PATH_NOT_FOUND


def test_no_descriptor_is_lost(share):
    share.put("d", directory=True)
    share.put("f", b"x")
    share.put("f:s", b"x" * 40_000)
    before = descriptors()
    for name in ("f", "F", "f:S", "d", "nothing", "nothing\\x", "f\\x", "f:none", "d::$DATA", "f::$INDEX_ALLOCATION"):
        with contextlib.suppress(OSError, SmbError):
            share.open(name).close()
    for name in ("f", "f:s", "d", "no\\x"):
        with pytest.raises(OSError):
            share.vfs.create(parse_text(name), NewFile())
    share.names()
    assert descriptors() == before


def test_threads_do_not_mix_their_results(share):
    for index in range(4):
        share.put(f"f{index}", b"x" * index)
    wrong = []

    def watch(index):
        handle = share.open(f"f{index}")
        for _ in range(3000):
            if handle.info().size != index:
                wrong.append(index)
        handle.close()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=watch, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []

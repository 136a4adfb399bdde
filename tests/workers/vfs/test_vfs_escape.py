"""No name, symlink or race leaves the share."""

from __future__ import annotations

import os
import threading
import time

import pytest

from pools.port import choice
from smbd.smb2 import constants as c
from smbd.smb2.fscc import reparse
from smbd.smb2.names import Path, parse_text
from smbd.smb2.status import SmbError
from workers.vfs.interface import LinkMet, NewFile, PathNotFound

REFUSED = (LinkMet, PermissionError, FileNotFoundError, PathNotFound, SmbError)


@pytest.fixture(params=choice.NAMES, autouse=True)
def port(request):
    """The kernel keeps the paths beneath the root, or our own walk does."""
    before = choice.in_use()
    choice.use(request.param)
    yield request.param
    choice.use(before)


@pytest.fixture
def share(port, share):
    return share


@pytest.fixture
def outside(share):
    place = share.root.parent / "outside"
    place.mkdir()
    (place / "secret").write_text("secret")
    return place


def test_symlinks_inside_are_followed(share):
    share.put("d", directory=True)
    share.put("d\\f", b"in")
    (share.root / "file").symlink_to("d/f")
    (share.root / "dir").symlink_to("d")
    (share.root / "d" / "up").symlink_to("../d")
    assert share.read("file") == b"in"
    assert share.read("dir\\f") == b"in"
    assert share.read("DIR\\F") == b"in"
    assert share.read("d\\up\\f") == b"in"
    share.put("dir\\new", b"n")
    assert share.read("d\\new") == b"n"
    assert share.names() == {"d", "file", "dir"}


def test_deleting_through_a_symlink_deletes_the_symlink(share):
    share.put("target", b"t")
    (share.root / "link").symlink_to("target")
    handle = share.open("link")
    share.vfs.unlink(handle)
    handle.close()
    assert share.names() == {"target"}


@pytest.mark.parametrize(
    "target", ["../outside/secret", "/etc/passwd", "../outside", "..", "/", "nowhere", "self", "/proc/self/root", "/proc/self/fd/0"]
)
def test_symlinks_to_outside_lead_nowhere(share, outside, target):
    (share.root / "self").symlink_to("self")
    (share.root / "link").symlink_to(target)
    for name in ("link", "LINK", "link\\secret", "link\\outside\\secret", "link:stream"):
        with pytest.raises(REFUSED):
            share.open(name)
        with pytest.raises((*REFUSED, FileExistsError)):
            share.vfs.create(parse_text(name), NewFile())
    root = share.open("")
    for _, info in share.vfs.scan(root):
        assert info.attributes & c.FILE_ATTRIBUTE_REPARSE_POINT
        assert (info.reparse_tag, info.size) == (reparse.TAG_SYMLINK, 0)
    root.close()
    assert share.names() == {"link", "self"}
    assert (outside / "secret").read_text() == "secret"
    assert os.listdir(outside) == ["secret"]


def test_dots_that_got_past_the_parser_are_stopped_by_the_port(share, outside):
    for components in (("..", "outside", "secret"), ("x", "..", "..", "outside", "secret"), ("..",)):
        with pytest.raises((*REFUSED, OSError)):
            share.vfs.open(Path(components))
        with pytest.raises((*REFUSED, OSError)):
            share.vfs.create(Path((*components, "new")), NewFile())
    assert os.listdir(outside) == ["secret"]


def test_rename_and_link_do_not_leave(share, outside):
    (share.root / "out").symlink_to("../outside")
    share.put("f", b"f")
    handle = share.open("f")
    for call in (share.vfs.rename, share.vfs.link):
        with pytest.raises((*REFUSED, OSError)):
            call(handle, parse_text("out\\f"), True)
    handle.close()
    assert os.listdir(outside) == ["secret"]


def one_of_four(share, attempt):
    name = f"d\\n{attempt % 7}"
    if attempt % 4 == 0:
        assert share.read("d\\secret") == b"public"
    elif attempt % 4 == 1:
        share.put(f"d\\x{attempt}")
    elif attempt % 4 == 2:
        handle = share.make(f"d\\y{attempt}")
        try:
            share.vfs.rename(handle, parse_text(name), True)
        finally:
            handle.close()
    else:
        handle = share.make(f"d\\z{attempt}")
        try:
            share.vfs.unlink(handle)
        finally:
            handle.close()


def test_a_racing_rename_never_shows_the_outside(share, outside):
    """A directory and a symlink to the outside change places all the time; whatever an operation meets, it stays inside."""
    inside = share.root / "d"
    inside.mkdir()
    (inside / "secret").write_text("public")
    (share.root / "evil").symlink_to("../outside")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            os.rename(inside, share.root / "aside")
            os.rename(share.root / "evil", inside)
            os.rename(inside, share.root / "evil")
            os.rename(share.root / "aside", inside)

    racer = threading.Thread(target=swap)
    racer.start()
    done = dict.fromkeys(range(4), 0)
    deadline = time.monotonic() + 20
    attempt = 0
    try:
        # each kind of operation must have met the directory at least once, else nothing was tried
        while attempt < 4000 or (not all(done.values()) and time.monotonic() < deadline):
            attempt += 1
            try:
                one_of_four(share, attempt)
                done[attempt % 4] += 1
            except (*REFUSED, FileExistsError, NotADirectoryError):
                continue
    finally:
        stop.set()
        racer.join()
    assert all(done.values())
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "secret"


@pytest.mark.parametrize("way", ["self", "d\\up"])
@pytest.mark.parametrize("name", [".millpond", ".MillPond"])
def test_our_directory_is_not_made_through_a_symlink_to_the_root(share, way, name):
    (share.root / "self").symlink_to(".")
    share.put("d", directory=True)
    (share.root / "d" / "up").symlink_to("..")
    share.put("mine")
    for directory in (True, False):
        with pytest.raises(REFUSED):
            share.vfs.create(parse_text(f"{way}\\{name}"), NewFile(directory=directory))
    handle = share.open("mine")
    for act in (share.vfs.rename, share.vfs.link):
        with pytest.raises(REFUSED):
            act(handle, parse_text(f"{way}\\{name}"), True)
    handle.close()
    assert not os.path.lexists(share.root / name)
    with pytest.raises(REFUSED):
        share.put(f"d\\{name}")
    (share.root / ".millpond").mkdir(exist_ok=True)  # where attributes are kept it is there already
    assert ".millpond" not in share.names(way)


@pytest.mark.parametrize(
    "way", ["inner\\.millpond", "inner\\.MILLPOND\\streams", "inner\\.millpond\\streams\\token", "way\\streams\\token", "way"]
)
def test_what_a_share_within_this_one_keeps_is_out_of_reach(share, way):
    """Its root is a folder of ours, its streams lie in a directory of this name there."""
    inner = share.root / "inner" / ".millpond" / "streams"
    inner.mkdir(parents=True)
    (inner / "token").write_bytes(b"another user's stream")
    (share.root / "way").symlink_to("inner/.millpond")
    with pytest.raises(REFUSED):
        share.open(way).close()
    assert ".millpond" not in share.names("inner")

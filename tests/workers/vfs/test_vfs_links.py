"""Targets of symbolic links: from the wire to the disk and back."""

from __future__ import annotations

import pytest

from pools.port import choice
from smbd.smb2.fscc.reparse import Symlink, parse_symlink
from smbd.smb2.names import parse_text
from workers.vfs.interface import LinkMet
from workers.vfs.links import LinkHandle, buffer_of, target_of


@pytest.fixture(params=choice.NAMES, autouse=True)
def port(request):
    before = choice.in_use()
    choice.use(request.param)
    yield request.param
    choice.use(before)


@pytest.fixture
def share(port, share):
    return share


@pytest.mark.parametrize(
    ("target", "depth", "expected"),
    [
        ("f", 0, b"f"),
        ("d\\f", 0, b"d/f"),
        ("d/f", 0, b"d/f"),
        ("..\\f", 1, b"../f"),
        ("..\\..\\f", 1, None),
        ("..", 0, None),
        ("d\\..\\..\\f", 0, None),
        ("d\\..\\.\\f", 0, b"d/.././f"),
        (".", 0, b"."),
        ("\\f", 0, None),
        ("f\\", 0, None),
        ("d\\\\f", 0, None),
        (".MillPond\\streams", 3, None),
        ("d\\.millpond", 0, None),
        ("x" * 4095, 0, b"x" * 4095),
        ("x" * 4096, 0, None),
        ("é" * 2048, 0, None),
    ],
)
def test_what_lies_on_the_disk(target, depth, expected):
    assert target_of(Symlink(target, True), depth) == expected
    assert target_of(Symlink(target, False), depth) is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"../d/f", Symlink("..\\d\\f", True, "..\\d\\f")),
        (b"/etc/passwd", Symlink("\\etc\\passwd", False, "\\etc\\passwd")),
        (b"a:b\\c/\xff", Symlink("a\uf022b\uf026c\\\uf7ff", True, "a\uf022b\uf026c\\\uf7ff")),
    ],
)
def test_what_clients_are_told(target, expected):
    assert parse_symlink(buffer_of(target, msdfs=False)) == expected


def test_a_link_is_acted_on_only_while_it_is_the_very_same(share):
    (share.root / "link").symlink_to("a")
    handle = share.vfs.open(parse_text("link"), itself=True)
    assert isinstance(handle, LinkHandle)
    (share.root / "link").rename(share.root / "kept")
    (share.root / "link").symlink_to("b")
    for act in (lambda: share.vfs.unlink(handle), lambda: share.vfs.rename(handle, parse_text("x"), False), handle.info):
        with pytest.raises(FileNotFoundError):
            act()
    handle.close()
    assert sorted(path.name for path in share.root.iterdir() if path.is_symlink()) == ["kept", "link"]


def test_times_of_a_link_are_its_own(share):
    (share.root / "link").symlink_to("target")
    share.put("target", b"t")
    before = (share.root / "target").stat().st_mtime_ns
    handle = share.vfs.open(parse_text("link"), itself=True)
    handle.set_times(write=133_000_000_000_000_000)
    assert handle.info().last_write_time == 133_000_000_000_000_000
    handle.close()
    assert (share.root / "target").stat().st_mtime_ns == before


def test_a_file_and_a_link_take_each_others_place(share):
    for directory in (False, True):
        made = share.make("f", directory=directory)
        link = share.vfs.replace(made, b"nowhere")
        made.close()
        assert (share.root / "f").is_symlink()
        assert share.names() == {"f"}
        with pytest.raises(LinkMet):
            share.open("F")
        again = share.vfs.replace(link, None)
        link.close()
        assert (share.root / "f").is_file()
        share.vfs.unlink(again)
        again.close()
        assert share.names() == set()


def test_a_link_that_cannot_be_made_leaves_nothing_open(share):
    share.put("d", directory=True)
    share.put("d\\inside", b"content")
    handle = share.open("d")
    with pytest.raises(OSError):
        share.vfs.replace(handle, b"nowhere")
    handle.close()
    assert share.read("d\\inside") == b"content"

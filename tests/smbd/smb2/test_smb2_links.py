"""Reparse buffers, DFS requests and POSIX names from strangers: whatever comes, it is understood within its bounds or refused."""

from __future__ import annotations

from contextlib import suppress
from struct import unpack_from

from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.smb2 import status
from smbd.smb2.fscc import reparse
from smbd.smb2.messages import dfs
from smbd.smb2.names import EXACT, beneath_share, parse_posix
from smbd.smb2.status import SmbError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)


@given(TEXT, st.booleans(), TEXT)
def test_a_symbolic_link_is_read_as_it_was_packed(target: str, relative: bool, shown: str) -> None:
    link = reparse.Symlink(target, relative, shown)
    packed = reparse.pack_symlink(link)
    assert reparse.check(memoryview(packed), None) == reparse.TAG_SYMLINK
    assert reparse.parse_symlink(packed) == link
    error = reparse.stopped(packed, "\\rest")
    assert error.status == status.STOPPED_ON_SYMLINK
    assert unpack_from("<I", error.data)[0] == len(error.data) - 4


@given(st.binary(max_size=80), st.binary(max_size=8))
def test_any_bytes_as_a_reparse_buffer(data: bytes, head: bytes) -> None:
    tags = (b"", reparse.TAG_SYMLINK.to_bytes(4, "little"), reparse.TAG_MOUNT_POINT.to_bytes(4, "little"))
    for start in tags:
        whole = start + head + data
        try:
            tag = reparse.check(memoryview(whole), None)
        except SmbError:
            assert reparse.stored(whole) is None
            continue
        assert tag == reparse.tag_of(whole)
        if tag == reparse.TAG_SYMLINK:
            with suppress(SmbError):
                assert len(reparse.parse_symlink(whole).target) <= len(whole) // 2


@given(st.binary(min_size=0, max_size=60), st.integers(0, 0xFFFF))
def test_any_bytes_as_the_names_of_a_symbolic_link(names: bytes, number: int) -> None:
    fields = (number, len(names) & ~1, 0, number)
    whole = reparse.SYMLINK_BUFFER.pack(reparse.TAG_SYMLINK, 12 + len(names), 0, *fields, 1) + names
    with suppress(SmbError):
        assert reparse.parse_symlink(whole).target.encode("utf-16-le") in names


@given(st.binary(max_size=80))
def test_any_bytes_as_a_request_for_a_referral(data: bytes) -> None:
    for read in (dfs.read_request, dfs.read_request_ex):
        with suppress(SmbError, WireError):
            asked = read(memoryview(data))
            assert len(asked.name) <= len(data) // 2
            assert "\0" not in asked.name


@given(TEXT, st.lists(TEXT, min_size=1, max_size=5), st.integers(1, 9), st.booleans())
def test_a_referral_has_room_or_is_none(path: str, targets: list[str], level: int, root: bool) -> None:
    referral = dfs.Referral(path, tuple(targets), root, 600)
    whole = dfs.pack(referral, level, 1 << 16)
    assert whole is not None
    assert dfs.pack(referral, level, len(whole)) == whole
    assert dfs.pack(referral, level, len(whole) - 1) is None
    consumed, count, _ = unpack_from("<HHI", whole)
    assert (consumed, count) == (len(path.encode("utf-16-le")), len(targets))
    at = dfs.RESPONSE.size
    for target in targets:
        version, size = unpack_from("<HH", whole, at)
        raw = target.encode("utf-16-le") + b"\0\0"
        if version == 1:
            assert whole[at + dfs.V1.size : at + size] == raw
        else:
            first, _, address = unpack_from("<HHH", whole, at + (16 if version == 2 else 12))
            assert whole[at + address :].startswith(raw)
            assert whole[at + first :].startswith(path.encode("utf-16-le") + b"\0\0")
        at += size


@given(st.text(max_size=80))
def test_any_text_as_a_name_of_the_posix_extensions(text: str) -> None:
    with suppress(SmbError):
        path = parse_posix(text)
        assert path.type == EXACT
        for part in path.components:
            assert part not in ("", ".", "..")
            assert not {"/", "\0"} & set(part)


@given(TEXT)
def test_a_name_of_a_namespace_is_beneath_its_share(text: str) -> None:
    assert beneath_share(f"server\\Share\\{text}", "share") == text.lstrip("\\")
    assert beneath_share("server\\SHARE", "share") == ""
    assert not beneath_share(text, "share").startswith("\\")

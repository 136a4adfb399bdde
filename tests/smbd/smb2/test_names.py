"""Names on the wire, matching, folding, 8.3."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import names, status
from smbd.smb2.names import DATA, INDEX_ALLOCATION, Path
from smbd.smb2.status import SmbError


def refusal(text):
    with pytest.raises(SmbError) as caught:
        names.parse(text.encode("utf-16-le"))
    return caught.value.status


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", Path()),
        ("a", Path(("a",))),
        ("a\\b c\\ü.txt", Path(("a", "b c", "ü.txt"))),
        ("a\\", Path(("a",), "", INDEX_ALLOCATION)),
        ("a:s", Path(("a",), "s", DATA)),
        ("a\\b:s:$DATA", Path(("a", "b"), "s", DATA)),
        ("a:s:$data", Path(("a",), "s", DATA)),
        ("a::$DATA", Path(("a",), "", DATA)),
        ("a::$INDEX_ALLOCATION", Path(("a",), "", INDEX_ALLOCATION)),
        ("a:$I30:$INDEX_ALLOCATION", Path(("a",), "", INDEX_ALLOCATION)),
        (":s", Path((), "s", DATA)),
        ("a:s*?<>|", Path(("a",), "s*?<>|", DATA)),
        ("...", Path(("...",))),
        ("a\\..\\b", Path(("b",))),
        ("a\\b\\..\\..\\c\\d\\..", Path(("c",))),
        ("a\\..", Path()),
        ("a\\..\\", Path((), "", INDEX_ALLOCATION)),
        ("😀", Path(("😀",))),
    ],
)
def test_parse(text, path):
    assert names.parse(text.encode("utf-16-le")) == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\a", status.INVALID_PARAMETER),
        ("\\", status.INVALID_PARAMETER),
        ("a\\\\b", status.OBJECT_NAME_INVALID),
        (".", status.OBJECT_NAME_INVALID),
        ("a\\.\\b", status.OBJECT_NAME_INVALID),
        ("..", status.OBJECT_PATH_SYNTAX_BAD),
        ("..\\a", status.OBJECT_PATH_SYNTAX_BAD),
        ("a\\..\\..", status.OBJECT_PATH_SYNTAX_BAD),
        ("a\\..\\..\\share\\a", status.OBJECT_PATH_SYNTAX_BAD),
        ("a\\.\\..", status.OBJECT_NAME_INVALID),
        ("a*\\..", status.OBJECT_NAME_INVALID),
        ("a\\..:", status.OBJECT_NAME_INVALID),
        ("a\0b", status.OBJECT_NAME_INVALID),
        ("a*", status.OBJECT_NAME_INVALID),
        ('a"', status.OBJECT_NAME_INVALID),
        ("a\x1f", status.OBJECT_NAME_INVALID),
        ("a:", status.OBJECT_NAME_INVALID),
        ("a:s:$EA", status.OBJECT_NAME_INVALID),
        ("a:s:$DATA:x", status.OBJECT_NAME_INVALID),
        ("a:b\\c", status.OBJECT_NAME_INVALID),
        ("a\\:s", status.OBJECT_NAME_INVALID),
        ("a:s\0:$DATA", status.OBJECT_NAME_INVALID),
        ("x" * 256, status.OBJECT_NAME_INVALID),
        ("a:" + "x" * 256, status.OBJECT_NAME_INVALID),
        ("x\\" * 20_000, status.NAME_TOO_LONG),
    ],
)
def test_refused(text, expected):
    assert refusal(text) == expected


@pytest.mark.parametrize("raw", [b"a", b"\x00\xd8", b"\x00\xdc", b"a\x00\x00\xdc"])
def test_what_is_no_utf16(raw):
    with pytest.raises(SmbError) as caught:
        names.parse(raw)
    assert caught.value.status == status.OBJECT_NAME_INVALID


@given(st.binary(max_size=60))
def test_anything_is_a_safe_path_or_refused(raw):
    try:
        path = names.parse(raw)
    except SmbError:
        return
    for component in path.components:
        assert component not in ("", ".", "..")
        assert not set(component) & set('/\\\0:*?"<>|')


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters='\\/:*?"<>|' + "".join(map(chr, range(32)))), min_size=1, max_size=9),
        max_size=4,
    )
)
def test_round_trip(parts):
    path = Path(tuple(part for part in parts if part not in (".", "..")))
    assert names.parse_text(path.wire()).components == path.components


def test_parents():
    path = Path(("a", "b"), "s", DATA)
    assert path.name == "b"
    assert path.parent == Path(("a",))
    assert path.base == Path(("a", "b"))
    assert path.wire() == "a\\b:s"
    assert Path().parent == Path()
    assert Path(("a",)).child("c") == Path(("a", "c"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [(":new:$DATA", "new"), (":new", "new"), ("::$data", ""), (":a b?*:$DATA", "a b?*"), (f":{'x' * 255}", "x" * 255)],
)
def test_what_a_stream_is_to_be_called(text: str, expected: str) -> None:
    assert names.parse_stream(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (":", status.INVALID_PARAMETER), ("::", status.INVALID_PARAMETER), (":a:", status.INVALID_PARAMETER),
        (":a:b:$DATA", status.INVALID_PARAMETER), ("f:a", status.INVALID_PARAMETER), (":a\\b", status.INVALID_PARAMETER),
        (":a/b:$DATA", status.INVALID_PARAMETER), (f":{'x' * 256}", status.INVALID_PARAMETER),
        (":a:$INDEX_ALLOCATION", status.OBJECT_TYPE_MISMATCH), ("::$EA", status.OBJECT_TYPE_MISMATCH),
    ],
)  # fmt: skip
def test_what_no_stream_is_called(text: str, code: int) -> None:
    with pytest.raises(SmbError) as caught:
        names.parse_stream(text)
    assert caught.value.status == code


@pytest.mark.parametrize(
    ("expression", "name", "expected"),
    [
        ("*", "anything", True),
        ("*.*", "nodot", True),
        ("*.txt", "A.TXT", True),
        ("*.txt", "a.txt.bak", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("abc", "ABC", True),
        ("ü*", "ÜBER", True),
        ("<", "abc", True),  # DOS_STAR: "*." of old
        ("<", "abc.txt", False),
        ("<.txt", "a.b.txt", True),
        ("<.b", "a.b.txt", False),
        ("a>>>>", "abc", True),  # DOS_QM: at the end it is nothing
        ("a>>>>", "abcdef", False),
        ("a>>>.txt", "ab.txt", True),
        ("a>>>.txt", "abcde.txt", False),
        ('abc"', "abc", True),  # DOS_DOT
        ('abc"', "abc.", True),
        ('abc"*', "abc.txt", True),
        ('abc"*', "abcd", False),
        ('>>>>>>>>">>>', "short.c", True),
        ('>>>>>>>>">>>', "muchtoolong.c", False),
        ("[a]", "[a]", True),
        ("[a]", "a", False),
        ("a.b", "axb", False),
    ],
)
def test_matching(expression, name, expected):
    assert names.matcher(expression)(name) is expected
    assert names._Positions(names.fold(expression)).match(names.fold(name)) is expected or expression == "*.*"


@given(st.text('ab.*?<>"', max_size=12), st.text("ab.", max_size=9))
def test_both_ways_of_matching_agree(expression, name):
    regex = re.compile(names._to_regex(names.fold(expression)), re.DOTALL).fullmatch(names.fold(name)) is not None
    assert names._Positions(names.fold(expression)).match(names.fold(name)) is regex
    assert names.matcher(expression or "x")(name) is (regex if expression not in ("", "*.*") else expression == "*.*")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", ["*", "<", ">", '"', "?", "*a", "<a", "*>", "<>", '>"', '*"', "*?", "<*", "a", "a.>"])
@pytest.mark.parametrize("end", ["", "b"])
def test_a_hostile_expression_ends(part, end):
    """As many wildcards as a request has room for, against names that almost match: some thousand of them in seconds, not in years."""
    for count in (127, 32766 // len(part)):
        match = names.matcher(part * count + end)
        for name in ("a" * 255, "a." * 127, "." * 255):
            assert match(name) in (True, False)
    assert names.matcher("*" * 32767)("any")
    assert not names.matcher("*" * 32766 + "b")("any")


def test_folding():
    assert names.fold("Straße") == "STRAßE"
    assert names.fold("ÄÖÜéñж") == "ÄÖÜÉÑЖ"
    assert names.fold("ı") == "ı"
    assert names.fold("µ") == "µ"
    assert names.fold("ÿ") == "Ÿ"


@given(st.text(max_size=20))
def test_folding_keeps_length_and_is_stable(text):
    assert len(names.fold(text)) == len(text)
    assert names.fold(names.fold(text)) == names.fold(text)


def test_display():
    assert names.display("plain.txt") == "plain.txt"
    assert names.display("a:b*") == "a\uf022b\uf021"
    assert names.display("end. ") == "end.\uf028"
    assert names.display("\udcff") == "\uf7ff"


@given(st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw and b"/" not in raw))
def test_any_name_on_disk_can_be_shown_and_sent_back(raw):
    shown = names.display(raw.decode("utf-8", "surrogateescape"))
    path = names.parse(shown.encode("utf-16-le"))
    assert path.components == (shown,)


@pytest.mark.parametrize("name", ["A.TXT", "readme.md", "12345678.123", "x"])
def test_short_already(name):
    assert names.short_name(name) == ""


@given(st.text(min_size=1, max_size=40))
def test_short_names_are_short(name):
    short = names.short_name(name)
    assert short == "" or names.is_short(short)
    assert names.short_name(names.display(name)) == short
    assert names.short_name(name.lower()) == short or names.fold(name.lower()) != names.fold(name)


def test_a_slash_separates_too():
    assert names.parse_text("a/b\\c") == names.Path(("a", "b", "c"))
    for bad in ("a//b", "a/../../b", "a:b/c", "/a", "a/."):
        with pytest.raises(SmbError):
            names.parse_text(bad)

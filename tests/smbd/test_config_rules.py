"""Who may connect from where and as whom, what %-macros become, and what options of modules say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.config import ConfigError, Share, parse
from smbd.config.access import NO_ACCESS, access, find, listed, visible
from smbd.config.hosts import admitted, source
from smbd.config.macros import Client, expand, may_give, table
from smbd.config.shadow import Shadow


@pytest.mark.parametrize(
    ("allow", "deny", "address", "allowed"),
    [
        ("", "", "8.8.8.8", True),
        ("192.168.", "", "192.168.4.5", True),
        ("192.168.", "", "192.169.4.5", False),
        ("192.168.", "", "127.0.0.1", True),
        ("192.168.", "127.", "127.0.0.1", False),
        ("10.0.0.0/255.0.0.0", "", "10.9.9.9", True),
        ("10.0.0.0/8", "", "11.0.0.1", False),
        ("", "ALL", "10.0.0.1", False),
        ("10.0.0.1", "ALL", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", "10.0.0.3", True),
        ("10. EXCEPT 10.0.0.7", "", "10.0.0.7", False),
        ("10. EXCEPT 10.0.0.7", "", "10.0.0.8", True),
        ("fe80::/10", "", "fe80::1%eth0", True),
        ("2001:db8::/32", "", "2001:db9::1", False),
        ("192.168.0.0/16", "", "::ffff:192.168.1.1", True),
        ("localhost", "ALL", "::1", True),
        ("300.1.2.3/99", "", "10.0.0.1", False),
        ("10.", "", "not an address", False),
    ],
)
def test_hosts(allow: str, deny: str, address: str, allowed: bool) -> None:
    assert admitted(allow.split(), deny.split(), address) is allowed


def test_hosts_by_name_count_where_names_are_known() -> None:
    assert admitted([".example.org"], [], "10.0.0.1", ["a.Example.org"])
    assert not admitted([".example.org"], [], "10.0.0.1")


def test_a_network_of_ipv6_is_one_source() -> None:
    assert source("192.0.2.7") == "192.0.2.7"
    assert source("2001:db8:1:2::7") == source("2001:db8:1:2:ffff::1") != source("2001:db8:1:3::7")
    assert source("fe80::1%eth0") == source("fe80::2%eth0")
    assert source("") == ""


def test_lists_of_users() -> None:
    assert listed(["ANN"], "ann", [])
    assert listed(["@Staff"], "bob", ["staff"])
    assert listed(["+staff"], "bob", ["staff"])
    assert not listed(["&staff"], "bob", ["staff"])
    assert listed(["DOMAIN\\bob"], "bob", [])
    assert listed(["%S"], "bob", [], "bob")
    assert not listed(["staff"], "bob", ["staff"])


def share(**parameters: object) -> Share:
    return Share(name="x", path="/tmp", **parameters)  # type: ignore[arg-type]


def test_access_of_users() -> None:
    assert access(share(), "ann", []) == (True, True, False, False)
    assert access(share(read_only=False), "ann", []) == (True, False, False, False)
    assert access(share(valid_users=("bob",)), "ann", []) == NO_ACCESS
    assert access(share(valid_users=("ann",), invalid_users=("@out",)), "ann", ["out"]) == NO_ACCESS
    assert access(share(write_list=("ann",)), "ann", []).read_only is False
    assert access(share(read_only=False, read_list=("ann",)), "ann", []).read_only is True
    assert access(share(read_list=("ann",), write_list=("@g",)), "ann", ["g"]).read_only is False
    assert access(share(admin_users=("ann",)), "ann", []).admin is True
    assert access(share(available=False), "ann", []) == NO_ACCESS


def test_access_of_guests() -> None:
    assert access(share(), "nobody", [], guest=True) == NO_ACCESS
    assert access(share(guest_ok=True), "nobody", [], guest=True).guest is True
    assert access(share(guest_ok=True, guest_only=True, admin_users=("ann",)), "ann", []) == (True, True, False, True)


def test_homes() -> None:
    config = parse("[homes]\nread only = no\n[real]\npath = /srv")
    homes = {"ann": "/home/ann%1"}
    ann = find(config, "ann", "bob", homes.get)
    assert ann is not None
    assert (ann.name, ann.path, ann.read_only) == ("ann", "/home/ann%%1", False)
    assert find(config, "HOMES", "ann", homes.get) == ann
    assert find(config, "nobody", "ann", homes.get) is None
    assert find(config, "REAL", "ann", homes.get) is config.shares["real"]
    assert find(parse(""), "ann", "ann", homes.get) is None
    assert [one.name for one in visible(config)] == ["real", "IPC$"]


def test_macros() -> None:
    letters = table(Client(session_user="ann", address="10.0.0.1", server="MILL"), share())
    assert expand("/srv/%U on %L from %I (%S at %P) 100%% %X", letters) == "/srv/ann on MILL from 10.0.0.1 (x at /tmp) 100% %X"


@given(st.text())
def test_a_client_chooses_no_folder_by_its_name(name: str) -> None:
    letters = table(Client(session_user=name, user=name, machine=name, domain=name))
    for letter in "UumMD":
        found = expand(f"%{letter}", letters)
        assert "/" not in found
        assert found not in (".", "..")


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("/srv/%U", "/srv/anna", True),
        ("/srv/%U/x", "/srv/anna/x", True),
        ("/srv/%U", "/srv/anna/x", False),
        ("/srv/%U", "/srv/..", False),
        ("/srv/%U", "/srv/", False),
        ("/srv/%U", "/mnt/anna", False),
        ("/srv/%U", "", False),
        ("%H/shared", "/home/anna/shared", True),
        ("%H/shared", "/home/anna/../shared", False),
        ("%$(POND)/%m-%I", "/srv/pond/laptop-::1", True),
        ("/100%%/%S", "/100%/data", True),
        ("/a.b/%S", "/axb/data", False),
        ("/srv/%U", "/srv/an\nna", True),
        ("/srv/%U", "/srv/anna\n", True),
    ],
)
def test_what_a_path_with_macros_may_have_become(text: str, path: str, expected: bool) -> None:
    assert may_give(text, path) is expected


def test_merging_memory_is_warned_about() -> None:
    config = parse("[global]\nmerge memory = yes\n", "test")
    assert config.merge_memory
    assert [warning.text for warning in config.warnings if "merge memory" in warning.text]
    assert not [warning for warning in parse("[global]\n", "test").warnings if "merge memory" in warning.text]


SHADOW = "[s]\npath = /\nvfs objects = shadow_copy2 acl_xattr\n"


def test_snapshots_are_what_the_options_say():
    options = "shadow:snapdir = .zfs/snapshot\nshadow:sscanf = yes\nshadow:format = s-%lu\nshadow: fixinodes = yes\n"
    share = parse(SHADOW + options).shares["s"]
    assert share.shadow == Shadow(snapdir=".zfs/snapshot", seconds=True, format="s-%lu", fix_inodes=True)
    assert parse("[s]\npath = /\nshadow:snapdir = x\n").shares["s"].shadow is None
    assert parse("[s]\npath = /\nvfs objects = snapper\n").shares["s"].shadow == Shadow(snapper=True)


@pytest.mark.parametrize(
    "option",
    [
        "format = snapshot",
        "format = %Q",
        "format = %Y/%m",
        "sscanf = yes",
        "localtime = perhaps",
        "basedir = relative",
        "snapsharepath = ../up",
        "snapprefix = ^daily",
        "snapprefix = \\(\nshadow:format = _GMT%Y",
    ],
)
def test_snapshots_that_nobody_could_find_are_an_error(option):
    with pytest.raises(ConfigError, match="shadow:"):
        parse(f"{SHADOW}shadow:{option}\n")


def test_a_vfs_module_without_effect_is_told():
    warnings = parse("[s]\npath = /\nvfs objects = recycle streams_xattr\n").warnings
    assert any("'recycle' has no effect" in str(warning) for warning in warnings)
    assert not any("streams_xattr" in str(warning) for warning in warnings)


def test_options_of_a_module_hold_for_every_share():
    config = parse("[global]\nsmbd:writetimeupdatedelay = 2000000\n[s]\npath = /\nacl_xattr:security_acl_name = user.NTACL\n")
    assert (config.shares["s"].write_time_delay, config.shares["s"].acl_name) == (2.0, "user.NTACL")


@pytest.mark.parametrize("option", ["smbd:writetimeupdatedelay = soon", "acl_xattr:security_acl_name = NTACL"])
def test_options_that_make_no_sense_are_an_error(option):
    with pytest.raises(ConfigError, match=option.split(" ")[0]):
        parse(f"[s]\npath = /\n{option}\n")

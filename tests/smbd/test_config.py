"""Configuration: the syntax, each kind of value, the rules between sections, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.config import Config, ConfigError, Share, load, parse
from smbd.config.build import GLOBALS, SHARES
from smbd.config.known import WITHOUT_EFFECT
from smbd.config.model import parameters
from smbd.config.reader import Reader, squeeze
from smbd.config.show import as_json, as_text


def share(text: str) -> Share:
    """The share [x] with these lines, in a file without anything else."""
    found = parse(f"[x]\npath = /tmp\n{text}\n").share("X")
    assert found is not None
    return found


def warnings(text: str) -> list[str]:
    return [str(one) for one in parse(text, "f").warnings]


# ---- syntax ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["read only = no", "READ ONLY=No", "ReadOnly = 0", "  read   only =   false  ", "writable = yes", "write ok = true"]
)
def test_names_ignore_case_and_space_and_know_synonyms(line: str) -> None:
    assert share(line).read_only is False


def test_continuation_comments_and_settings_before_any_section() -> None:
    config = parse("workgroup = \\\n  HOME\n# comment \\\n; another\n[x]\n path = /tmp\n valid users = ann, \\\n   bob\n")
    assert config.workgroup == "HOME"
    assert config.shares["x"].valid_users == ("ann", "bob")


def test_a_comment_sign_within_a_value_belongs_to_it() -> None:
    assert share("comment = number # 1 ; or 2").comment == "number # 1 ; or 2"


def test_quotes_hold_spaces_together() -> None:
    assert share('valid users = "Ann Lee" @"the staff", bob').valid_users == ("Ann Lee", "@the staff", "bob")
    assert share('comment = "  spaced  "').comment == "  spaced  "


def test_the_last_of_two_lines_counts() -> None:
    assert share("public = no\nguest ok = yes").guest_ok is True


def test_parametric_options_are_kept() -> None:
    assert share("fruit:Metadata = stream").options == {"fruit:metadata": "stream"}


def test_include_reads_another_file_in_place(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("comment = from there\n[y]\npath = /var\n")
    (tmp_path / "main").write_text("[x]\npath = /tmp\ninclude = more\n")
    config = load(str(tmp_path / "main"))
    assert config.shares["x"].comment == "from there"
    assert config.shares["y"].path == "/var"
    assert config.files == (str(tmp_path / "main"), str(tmp_path / "more"))


def test_include_of_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "main").write_text("include = main\n")
    with pytest.raises(ConfigError, match="includes itself"):
        load(str(tmp_path / "main"))


def test_include_that_is_missing_or_depends_on_the_client_is_a_warning() -> None:
    assert warnings("include = /nowhere/at/all\ninclude = /etc/%m.conf") == [
        "f:1: include '/nowhere/at/all': no such file",
        "f:2: include '/etc/%m.conf' is left out: %m is not known before a client connects",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x\npath = /tmp", "f:1: '[x' is not a section"),
        ("\n\nnonsense", "f:3: 'nonsense' is neither"),
        ("[x]\npath = /tmp\n\nread only = maybe", "f:4: read only = maybe: 'maybe' is neither yes nor no"),
        ("smb2 max read = lots", "f:1: smb2 max read = lots: 'lots' is not a size"),
        ("smb ports = 0", "f:1: smb ports = 0: 0 is not between 1 and 65535"),
        ("pool decay = 1000000001", "f:1: pool decay = 1000000001: 1000000001 seconds are more than 1000000000"),
        ("[x]\npath = /tmp\ncreate mask = 0999", "f:3: create mask = 0999: '0999' is not an octal mode"),
        ("server mode = either", "f:1: server mode = either: 'either' is none of: forked, threaded"),
        ("port = 4450", "f:1: port = 4450: '4450' is none of: linux, posix (the TCP port is 'smb ports')"),
        ("pool mode = elastic", "f:1: pool mode = elastic: 'elastic' is none of: dynamic, static, malloc"),
        ("pool classes = 4K 48K", "f:1: pool classes = 4K 48K: 48K is none of: 4K 8K 16K"),
        ("pool classes = 4K 8M", "f: pool classes: 64K is missing"),
        ("pool reserve slabs = 64K", "f:1: pool reserve slabs = 64K: '64K' is not SIZE:COUNT, as in 64K:2"),
        ("pool reserve slabs = 4K:1 64K:1 8K:1", "f: pool reserve slabs: 8K is not among the pool classes"),
        ("pool mode = static\npool ceiling = 20M", "f: pool static slabs take 28000K, pool ceiling allows 20480K: no connection"),
        ("pool budget = 1K", "f: pool reserve slabs take"),
        ("[x]\npath = tmp", "f:1: path = tmp in [x] is not absolute"),
        ("server min protocol = SMB3\nserver max protocol = SMB2", "f: server min protocol is above"),
        ("[x]\ncopy = y", "f:2: copy = y: no such section above"),
    ],
)
def test_errors_name_file_line_and_remedy(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(said)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("smb ports = x\nlog level = y\nnonsense", "f")
    assert [one.line for one in (caught.value, *caught.value.further)] == [3, 1, 2]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"[global]\nworkgroup = caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "latin"))
    assert (caught.value.line, caught.value.text) == (2, "is not UTF-8 text")


# ---- meaning ---------------------------------------------------------------------------------------------------------------------------


def test_defaults_stand_as_in_smb_conf() -> None:
    config = parse("")
    assert (config.smb_ports, config.server_min_protocol, config.server_max_protocol) == ((445,), 0x0202, 0x0311)
    assert (config.map_to_guest, config.server_signing, config.server_smb_encrypt) == ("never", "auto", "default")
    assert config.netbios_name
    assert config.pool_budget > 0
    plain = share("")
    assert (plain.read_only, plain.guest_ok, plain.create_mask, plain.directory_mask) == (True, False, 0o744, 0o755)


def test_the_pipe_share_is_always_there() -> None:
    ipc = parse("").share("ipc$")
    assert ipc is not None
    assert (ipc.name, ipc.kind, ipc.path) == ("IPC$", "pipe", "")
    limited = parse("[IPC$]\nhosts allow = 10.\navailable = no").share("IPC$")
    assert limited is not None
    assert limited.hosts_allow == ("10.",)


def test_share_parameters_in_global_are_defaults_wherever_they_stand() -> None:
    config = parse("[x]\npath = /tmp\n[global]\nread only = no\n[y]\npath = /tmp\nread only = yes")
    assert (config.shares["x"].read_only, config.shares["y"].read_only) == (False, True)


def test_what_both_sections_have_is_the_servers_in_global() -> None:
    config = parse("smb encrypt = required\nhosts allow = 10.\n[x]\npath = /tmp")
    assert (config.server_smb_encrypt, config.hosts_allow) == ("required", ("10.",))
    assert (config.shares["x"].smb_encrypt, config.shares["x"].hosts_allow) == ("default", ())


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("smb ports = 445, 4450", "smb_ports", (445, 4450)),
        ("min protocol = smb2", "server_min_protocol", 0x0210),
        ("server min protocol = NT1", "server_min_protocol", 0x0202),
        ("server max protocol = SMB3_02", "server_max_protocol", 0x0302),
        ("server signing = required", "server_signing", "mandatory"),
        ("server signing = No", "server_signing", "disabled"),
        ("smb encrypt = if_required", "server_smb_encrypt", "default"),
        ("server smb encrypt = mandatory", "server_smb_encrypt", "required"),
        ("map to guest = Bad  User", "map_to_guest", "bad_user"),
        ("smb2 max write = 1M", "smb2_max_write", 1 << 20),
        ("log level = 3 auth:5", "log_level", 3),
        ("smb3 encryption algorithms = -AES-128-CCM -aes-256-ccm", "server_smb3_encryption_algorithms", ("AES-128-GCM", "AES-256-GCM")),
        ("server smb3 signing algorithms = hmac-sha256, aes-128-cmac", "server_smb3_signing_algorithms", ("HMAC-SHA256", "AES-128-CMAC")),
        ("private directory = /p", "smb_passwd_file", "/p/smbpasswd"),
        ("pool decay = 0.5", "pool_decay", 0.5),
        ("pool classes = 8M, 64K 8K 64K", "pool_classes", (8192, 65536, 8 << 20)),
        ("pool classes = 8K 64K 8M", "pool_reserve_slabs", ((8192, 1), (65536, 1))),
        ("pool classes = 64K 8M", "pool_static_slabs", ((65536, 8), (8 << 20, 2))),
        ("pool reserve slabs = 64K:2 4K:1 1M:0", "pool_reserve_slabs", ((4096, 1), (65536, 2))),
    ],
)
def test_values(line: str, attribute: str, value: object) -> None:
    assert getattr(parse(line), attribute) == value


def test_copy_takes_what_stands_above() -> None:
    found = parse("[a]\npath = /tmp\ncomment = A\nread only = no\n[b]\ncomment = B\ncopy = A\n").shares["b"]
    assert (found.path, found.comment, found.read_only) == ("/tmp", "B", False)


def test_warnings_name_what_is_ignored_and_why() -> None:
    assert warnings("pool budgt = 1\nos level = 3\n[x]\npath = /tmp\nworkgroup = W\n[x]\nreadonyl = no") == [
        "f:1: unknown parameter 'pool budgt': ignored (did you mean 'pool budget'?)",
        "f:2: 'os level' has no effect in Millpond: ignored",
        "f:5: 'workgroup' belongs in [global]: ignored in [x]",
        "f:6: [x] stands here again: both parts are taken together",
        "f:7: unknown parameter 'readonyl': ignored (did you mean 'read only'?)",
    ]


def test_shares_that_cannot_be_served_are_not_available() -> None:
    config = parse("[a]\ncomment = no path\n[printers]\npath = /tmp\nprintable = yes\n[gone]\npath = /not/there", "f")
    assert config.share("a") is None
    assert config.share("printers") is None
    assert [one.line for one in config.warnings] == [5, 1, 3, 6]


def test_a_configuration_is_frozen_and_can_be_sent_to_another_process() -> None:
    config = parse("[x]\npath = /tmp")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.workgroup = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == config


def test_no_name_means_two_things() -> None:
    for kind, index in ((Config, GLOBALS), (Share, SHARES)):
        found = parameters(kind)
        assert len(index) == sum(1 + len(one.synonyms) + len(one.inverses) for one in found)
        for one in found:
            shown = one.kind.show(one.default)
            assert not shown or one.kind.read(shown) == one.default, one.name


def test_what_has_no_effect_is_no_parameter() -> None:
    assert not {squeeze(name) for name in WITHOUT_EFFECT} & (set(GLOBALS) | set(SHARES))


# ---- the way back ----------------------------------------------------------------------------------------------------------------------

SAMPLE = """
[global]
 server min protocol = SMB3_00
 smb ports = 445 4450
 pool budget = 100M
[Public Things]
 path = /tmp
 comment = "  odd "
 force user = "dom\\"
 valid users = @staff "ann lee"
 create mask = 0600
 fruit:metadata = stream
"""


@pytest.mark.parametrize("defaults", [False, True])
def test_what_is_shown_is_the_same_configuration(defaults: bool) -> None:
    config = parse(SAMPLE)
    again = parse(as_text(config, defaults))
    assert dataclasses.replace(again, warnings=(), files=()) == dataclasses.replace(config, warnings=(), files=())


def test_json_has_names_of_smb_conf_and_plain_values() -> None:
    found = as_json(parse(SAMPLE))
    assert found["global"]["server min protocol"] == "SMB3_00"
    assert found["global"]["pool budget"] == 100 << 20
    assert found["shares"]["Public Things"]["create mask"] == "0600"
    assert found["shares"]["Public Things"]["read only"] is True


_line = st.text(alphabet=st.sampled_from("[]=;#\\ \t\r\"%abpath/readonly0:global\u00e9\n"), max_size=200)


@given(_line)
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        assert parse(text).share("ipc$") is not None


@given(_line)
def test_every_setting_carries_a_line_of_the_text(text: str) -> None:
    lines = Reader().read(text, "f")
    for setting in lines.settings:
        assert 1 <= setting.line <= text.count("\n") + 1


def test_a_ceiling_too_low_for_the_largest_request_is_warned_about() -> None:
    assert "not enough for a request of 8M" in str(parse("pool ceiling = 4M", "f").warnings[0])
    assert parse("pool ceiling = 32M", "f").warnings == ()


def test_static_slabs_too_small_for_the_largest_request_are_warned_about() -> None:
    text = "pool mode = static\npool static slabs = 4K:1 64K:2"
    (warning,) = parse(text, "f").warnings
    assert "the largest buffer is 64K, larger reads and writes will be refused" in str(warning)
    assert parse(f"{text} 8M:1", "f").warnings == ()
    assert parse(text + "".join(f"\nsmb2 max {what} = 64K" for what in ("read", "write", "trans")), "f").warnings == ()
    assert parse(text.replace("static\n", "dynamic\n"), "f").warnings == ()

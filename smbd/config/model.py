"""The effective configuration: frozen dataclasses whose fields are the table of parameters.

Owns: ``Config`` (the [global] section), ``Share`` (every other section) and, in each field's metadata, its name in smb.conf, its synonyms
and its kind of value. Invariant: nothing here changes after it was built; a reload builds anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from pools.buffer import CAPACITIES
from pools.plan import USUAL_PLAN, usual_reserve, usual_static
from pools.port import choice, processes, sockets
from smbd.config import values
from smbd.config.shadow import Shadow
from smbd.config.values import Kind

T = TypeVar("T")

KIB, MIB = 1 << 10, 1 << 20
SMB_2_0_2, SMB_2_1, SMB_3_0, SMB_3_0_2, SMB_3_1_1 = 0x0202, 0x0210, 0x0300, 0x0302, 0x0311
DIALECTS = {"SMB2_02": SMB_2_0_2, "SMB2_10": SMB_2_1, "SMB3_00": SMB_3_0, "SMB3_02": SMB_3_0_2, "SMB3_11": SMB_3_1_1}
# smb.conf: a bare SMB2 means SMB2_10, a bare SMB3 means SMB3_11. SMB 1 is not spoken here: as a lower bound it means the lowest there is.
_MINIMUM = DIALECTS | {"SMB2": SMB_2_1, "SMB3": SMB_3_1_1} | dict.fromkeys(("default", "NT1", "LANMAN2", "LANMAN1", "CORE"), SMB_2_0_2)
_MAXIMUM = DIALECTS | {"SMB2": SMB_2_1, "SMB3": SMB_3_1_1, "default": SMB_3_1_1}
_OFF = ("no", "false", "0", "disabled")
_IF_ASKED = ("if_required", "yes", "true", "1", "on", "enabled", "auto")
_MUST = ("mandatory", "force", "forced", "enforced")
_ENCRYPT = values.choice(
    {"default": "default", "off": "off", "desired": "desired", "required": "required"}
    | dict.fromkeys(_OFF, "off")
    | dict.fromkeys(_IF_ASKED, "default")
    | dict.fromkeys(_MUST, "required")
)
_SIGNING = values.choice(
    {"auto": "auto", "mandatory": "mandatory", "disabled": "disabled", "default": "auto", "desired": "auto", "required": "mandatory"}
    | dict.fromkeys((*_OFF, "off"), "disabled")
    | dict.fromkeys(_IF_ASKED, "auto")
    | dict.fromkeys(_MUST, "mandatory")
)
_GUEST = values.choice({"never": "never", "bad user": "bad_user", "bad password": "bad_password", "bad uid": "bad_user"})
_OFFLINE = values.choice({word: word for word in ("manual", "documents", "programs", "disable")})
# smb.conf: "auto" means yes where there is no cluster, and there is none.
_UNLESS_CLUSTERED = values.choice(
    {"auto": True} | dict.fromkeys(("yes", "true", "1", "on"), True) | {"no": False} | dict.fromkeys(("false", "0", "off"), False)
)
_CIPHERS = ("AES-128-GCM", "AES-128-CCM", "AES-256-GCM", "AES-256-CCM")
_SIGNATURES = ("AES-128-GMAC", "AES-128-CMAC", "HMAC-SHA256")
_POOL_CLASSES = tuple(CAPACITIES[number] for number in USUAL_PLAN.classes)
_SLABS = values.counts(CAPACITIES, 1024)


class Parameter(NamedTuple):
    """One parameter: ``attribute`` of the dataclass, ``name`` in smb.conf, and the other names it answers to."""

    attribute: str
    name: str
    kind: Kind
    synonyms: tuple[str, ...]
    inverses: tuple[str, ...]
    default: Any


class ConfigWarning(NamedTuple):
    """Something an administrator should know about; the configuration works without it."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


class ConfigError(Exception):
    """A configuration that cannot be used. ``further`` holds the errors after the first."""

    def __init__(self, file: str, line: int, text: str, further: tuple[ConfigError, ...] = ()) -> None:
        super().__init__(file, line, text)
        self.file = file
        self.line = line
        self.text = text
        self.further = further

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


def _par(default: T, kind: Kind, *synonyms: str, name: str = "", inverses: tuple[str, ...] = ()) -> T:
    """A dataclass field that is a parameter; without ``name`` it is called like the attribute, with spaces."""
    made: Any = field(default=default, metadata={"name": name, "kind": kind, "synonyms": synonyms, "inverses": inverses})
    return made  # type: ignore[no-any-return]  # dataclasses.field is typed as its default for the same reason


def _names() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One shared folder, or the pipe share IPC$. Texts may hold %-macros: see ``smbd.config.macros``."""

    name: str
    kind: str = "disk"  # disk or pipe
    acl_name: str = ""  # from `acl_xattr:security_acl_name`: the xattr of descriptors, where it is not the usual one
    write_time_delay: float = 0.0  # seconds, from `smbd:writetimeupdatedelay`
    shadow: Shadow | None = None  # what its options say of snapshots, where `vfs objects` names them
    options: Mapping[str, str] = field(default_factory=dict)  # parametric options, "module:name" -> value

    path: str = _par("", values.text, "directory")
    comment: str = _par("", values.text)
    available: bool = _par(True, values.boolean)
    browseable: bool = _par(True, values.boolean, "browsable")
    read_only: bool = _par(True, values.boolean, inverses=("writable", "writeable", "write ok"))
    guest_ok: bool = _par(False, values.boolean, "public")
    guest_only: bool = _par(False, values.boolean, "only guest")
    valid_users: tuple[str, ...] = _par(_names(), values.words)
    invalid_users: tuple[str, ...] = _par(_names(), values.words)
    read_list: tuple[str, ...] = _par(_names(), values.words)
    write_list: tuple[str, ...] = _par(_names(), values.words)
    admin_users: tuple[str, ...] = _par(_names(), values.words)
    hosts_allow: tuple[str, ...] = _par(_names(), values.words, "allow hosts")
    hosts_deny: tuple[str, ...] = _par(_names(), values.words, "deny hosts")
    max_connections: int = _par(0, values.whole())
    force_user: str = _par("", values.text)
    force_group: str = _par("", values.text, "group")
    create_mask: int = _par(0o744, values.mode, "create mode")
    force_create_mode: int = _par(0, values.mode)
    directory_mask: int = _par(0o755, values.mode, "directory mode")
    force_directory_mode: int = _par(0, values.mode)
    smb_encrypt: str = _par("default", _ENCRYPT, "server smb encrypt")
    hide_dot_files: bool = _par(True, values.boolean)
    hide_files: tuple[str, ...] = _par(_names(), values.patterns)
    mangled_names: str = _par("illegal", values.choice({word: word for word in ("illegal", "yes", "no")} | {"true": "yes", "false": "no"}))
    veto_files: tuple[str, ...] = _par(_names(), values.patterns)
    delete_veto_files: bool = _par(False, values.boolean)
    hide_unwriteable_files: bool = _par(False, values.boolean)
    hide_new_files_timeout: float = _par(0.0, values.seconds())
    dont_descend: tuple[str, ...] = _par(_names(), values.words)
    store_dos_attributes: bool = _par(True, values.boolean)
    ea_support: bool = _par(True, values.boolean)
    named_streams: bool = _par(True, values.boolean)
    acl_allow_execute_always: bool = _par(False, values.boolean)
    acl_flag_inherited_canonicalization: bool = _par(True, values.boolean)
    access_based_share_enum: bool = _par(False, values.boolean)
    hide_unreadable: bool = _par(False, values.boolean)
    vfs_objects: tuple[str, ...] = _par(_names(), values.words, "vfs object")
    delete_readonly: bool = _par(False, values.boolean)
    posix_locking: bool = _par(False, values.boolean)
    follow_symlinks: bool = _par(True, values.boolean)
    smb3_unix_extensions: bool = _par(True, values.boolean)
    msdfs_root: bool = _par(False, values.boolean)
    msdfs_proxy: str = _par("", values.text)
    msdfs_shuffle_referrals: bool = _par(False, values.boolean)
    oplocks: bool = _par(True, values.boolean)
    durable_handles: bool = _par(True, values.boolean)
    continuous_availability: bool = _par(False, values.boolean)
    level2_oplocks: bool = _par(True, values.boolean)
    veto_oplock_files: tuple[str, ...] = _par(_names(), values.patterns)
    strict_sync: bool = _par(True, values.boolean)
    sync_always: bool = _par(False, values.boolean)
    csc_policy: str = _par("manual", _OFFLINE)

    @property
    def lists_by_rights(self) -> bool:
        """Whether what a listing shows depends on what its reader may do with it."""
        return self.hide_unreadable or self.hide_unwriteable_files


def _memory_quarter() -> int:
    """A quarter of the machine's memory: the pools' budget unless the file names one."""
    return processes.physical_memory() // 4 // MIB * MIB


def _pairs(slabs: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(slabs.items()))


def _host_name() -> str:
    # [MS-NBTE] 2.2.1: a NetBIOS name has at most 15 characters.
    return sockets.host_name().split(".")[0][:15].upper() or "MILLPOND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration: the [global] parameters, and ``shares`` by case-folded name ([homes] is one of them)."""

    shares: Mapping[str, Share] = field(default_factory=dict)
    warnings: tuple[ConfigWarning, ...] = ()
    files: tuple[str, ...] = ()  # the files it was read from, the main one first
    options: Mapping[str, str] = field(default_factory=dict)

    workgroup: str = _par("WORKGROUP", values.text)
    netbios_name: str = _par("", values.text)  # empty in the file: the host's name
    server_string: str = _par("Millpond %v", values.text)
    smb_ports: tuple[int, ...] = _par((445,), values.numbers(1, 65535))
    interfaces: tuple[str, ...] = _par(_names(), values.interfaces)
    bind_interfaces_only: bool = _par(False, values.boolean)
    hosts_allow: tuple[str, ...] = _par(_names(), values.words, "allow hosts")
    hosts_deny: tuple[str, ...] = _par(_names(), values.words, "deny hosts")
    socket_options: tuple[str, ...] = _par(("TCP_NODELAY",), values.words)
    server_signing: str = _par("auto", _SIGNING)
    server_smb_encrypt: str = _par("default", _ENCRYPT, "smb encrypt")
    server_smb3_encryption_algorithms: tuple[str, ...] = _par(_CIPHERS, values.ordered(_CIPHERS), "smb3 encryption algorithms")
    server_smb3_signing_algorithms: tuple[str, ...] = _par(_SIGNATURES, values.ordered(_SIGNATURES), "smb3 signing algorithms")
    server_min_protocol: int = _par(SMB_2_0_2, values.choice(_MINIMUM), "min protocol")
    server_max_protocol: int = _par(SMB_3_1_1, values.choice(_MAXIMUM), "max protocol", "protocol")
    map_to_guest: str = _par("never", _GUEST)
    guest_account: str = _par("nobody", values.text)
    restrict_anonymous: int = _par(0, values.whole(0, 2))
    username_map: str = _par("", values.text)
    smb_passwd_file: str = _par("", values.text)  # empty in the file: smbpasswd in the private directory
    private_dir: str = _par("/var/lib/millpond/private", values.text, "private directory")
    state_directory: str = _par("/var/lib/millpond", values.text)
    lock_directory: str = _par("/run/millpond", values.text, "lock dir")
    pid_directory: str = _par("/run/millpond", values.text)
    log_level: int = _par(1, values.level, "debuglevel")
    log_file: str = _par("", values.text)  # empty: standard error
    max_smbd_processes: int = _par(0, values.whole(0, 65000))
    max_open_files: int = _par(16384, values.whole(16, 1 << 20))
    deadtime: int = _par(10080, values.whole())
    smb2_max_read: int = _par(8 * MIB, values.size(65536, 8 * MIB))
    smb2_max_write: int = _par(8 * MIB, values.size(65536, 8 * MIB))
    smb2_max_trans: int = _par(8 * MIB, values.size(65536, 8 * MIB))
    smb2_max_credits: int = _par(8192, values.whole(1, 65535))
    smb2_leases: bool = _par(True, values.boolean)
    server_multi_channel_support: bool = _par(True, values.boolean)
    smb2_disable_lock_sequence_checking: bool = _par(False, values.boolean)
    host_msdfs: bool = _par(True, values.boolean)
    change_notify: bool = _par(True, values.boolean)
    kernel_change_notify: bool = _par(True, values.boolean)
    smb3_directory_leases: bool = _par(True, _UNLESS_CLUSTERED)

    # Millpond's own.
    accept_any_domain: bool = _par(True, values.boolean)
    failed_logon_delay: float = _par(1.0, values.seconds())
    session_setup_timeout: float = _par(45.0, values.seconds(1))
    pdu_timeout: float = _par(30.0, values.seconds(1))
    oplock_break_timeout: float = _par(35.0, values.seconds(0.1))
    max_disconnected_opens: int = _par(16384, values.whole())
    max_disconnected_opens_per_user: int = _par(4096, values.whole())
    stop_timeout: float = _par(10.0, values.seconds())
    server_mode: str = _par("forked", values.choice({word: word for word in ("forked", "threaded")}))
    pool_mode: str = _par("dynamic", values.choice({word: word for word in ("dynamic", "static", "malloc")}))
    pool_budget: int = _par(0, values.size())  # 0 in the file: a quarter of the memory
    pool_reserve: int = _par(0, values.size())  # 0: what one turn with the largest PDU needs
    pool_decay: float = _par(30.0, values.seconds(0.1))
    pool_ceiling: int = _par(256 * MIB, values.size(MIB))
    pool_classes: tuple[int, ...] = _par(_POOL_CLASSES, values.sizes(CAPACITIES))
    # Not in the file: what follows from the classes.
    pool_reserve_slabs: tuple[tuple[int, int], ...] = _par(_pairs(usual_reserve(_POOL_CLASSES)), _SLABS)
    pool_static_slabs: tuple[tuple[int, int], ...] = _par(_pairs(usual_static(_POOL_CLASSES)), _SLABS)
    merge_memory: bool = _par(False, values.boolean)
    port: str = _par(choice.DEFAULT, values.choice({word: word for word in choice.NAMES}, "the TCP port is 'smb ports'"))
    data_path: str = _par("auto", values.choice({word: word for word in ("auto", "user", "kernel")}))
    data_path_read_threshold: int = _par(256 * KIB, values.size())  # 0: never
    data_path_write_threshold: int = _par(MIB, values.size())  # 0: never
    vfs_threads: int = _par(4, values.whole(1, 64))

    def share(self, name: str) -> Share | None:
        """The share called ``name``, however it is capitalised; None when there is none or it is not available."""
        found = self.shares.get(name.casefold())
        return found if found is not None and found.available else None


def parameters(kind: type[Config] | type[Share]) -> tuple[Parameter, ...]:
    """The parameters of a section, in the order in which they are shown."""
    return tuple(
        Parameter(
            one.name,
            one.metadata["name"] or one.name.replace("_", " "),
            one.metadata["kind"],
            one.metadata["synonyms"],
            one.metadata["inverses"],
            one.default,
        )
        for one in fields(kind)
        if "kind" in one.metadata
    )


def derived(found: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from other parameters or from the machine, where the file leaves it open."""
    made: dict[str, Any] = {}
    if not found.get("netbios_name"):
        made["netbios_name"] = _host_name()
    if not found.get("pool_budget"):
        made["pool_budget"] = _memory_quarter()
    if "pool_classes" in found:
        made["pool_reserve_slabs"] = found.get("pool_reserve_slabs", _pairs(usual_reserve(found["pool_classes"])))
        made["pool_static_slabs"] = found.get("pool_static_slabs", _pairs(usual_static(found["pool_classes"])))
    if not found.get("smb_passwd_file"):
        made["smb_passwd_file"] = os.path.join(found.get("private_dir", "/var/lib/millpond/private"), "smbpasswd")
    return made

"""The suites: what runs, with which options, and what kind of server and share each of them is written for.

Owns: the table. Its order means nothing; ``seconds`` (about what a suite takes on a slow machine) puts the long ones first.
Invariant: smbtorture's every smb2 suite stands here or in ``LEFT_OUT``, with the reason; a test compares with what smbtorture lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

# How a server and its share are unless a suite says otherwise: every user may do what a file's descriptor allows, and nothing is reserved
# for programs beside the server.
GLOBAL: Final = {"server multi channel support": "yes", "server min protocol": "SMB2_02"}
SHARE: Final = {
    "ea support": "yes",
    "map acl inherit": "yes",
    "store dos attributes": "yes",
    "map readonly": "no",
    "kernel oplocks": "no",
    "kernel share modes": "no",
    "posix locking": "no",
    "create mask": "0777",
    "directory mask": "0777",
}
# What Samba needs besides to offer what millpond offers by itself.
SAMBA_SHARE: Final = {
    "vfs objects": "acl_xattr streams_xattr",
    "acl_xattr:ignore system acls": "yes",
}

SNAPSHOT: Final = "@GMT-2015.10.31-19.40.30"
SNAPSHOT_FILE: Final = "kept"
SNAPSHOT_STREAM: Final = ("label", b"water")
DATA: Final = "prepared.bin"
NOBODYS: Final = "noperm"  # this name and the next are smbtorture's
BY_RIGHTS: Final = "hideunread"

PATIENCE: Final = 200.0  # seconds that one test may take


class Plan(NamedTuple):
    """One suite, or some of its tests, and what it wants.

    ``options`` are smbtorture's own (``torture:NAME=VALUE``), ``settings`` the server's [global], ``share`` the share's parameters and
    ``samba`` further ones when the server is Samba ("{share}" is the folder). ``fixtures`` names what has to be there before it begins
    (``ground.FIXTURES``).
    """

    suite: str
    variant: str = ""
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = {}
    share: Mapping[str, str] = {}
    samba: Mapping[str, str] = {}
    fixtures: tuple[str, ...] = ()
    seconds: float = 3
    tests: tuple[str, ...] = ()
    slow: int = 1  # how much longer than others one of its tests may take

    @property
    def title(self) -> str:
        """'smb2.session' or, for a variant of it, 'smb2.session@encrypted'."""
        return f"{self.suite}@{self.variant}" if self.variant else self.suite

    def key(self, test: str) -> str:
        """Under which name a test's outcome is kept: that of smbtorture, with the variant behind the suite's."""
        return self.title + test.removeprefix(self.suite)

    def name(self, key: str) -> str:
        """The test's name again."""
        return self.suite + key.removeprefix(self.title)


def _plain(names: str) -> list[Plan]:
    return [Plan(f"smb2.{name}") for name in names.split()]


_FILTERED: Final = ("torture:use_iptables=yes",)
_PERSISTENT: Final = {"continuous availability": "yes", "smb3 share cap:CONTINUOUS AVAILABILITY": "yes"}  # the second is Samba's
_SNAPSHOTS: Final = {"vfs objects": "shadow_copy2", "shadow:snapdir": ".snapshots", "shadow:fixinodes": "yes"}

PLANS: Final = (
    *_plain(
        "acls async_dosmode charset check-sharemode connect create credits deny fileid getinfo ioctl-on-stream mangle"
        " maximum_allowed mkdir openattr read rename sdread session-id setinfo sharemode streams tcon timestamp_resolution winattr"
    ),
    Plan("smb2.acls_non_canonical", share={"acl flag inherited canonicalization": "no"}),
    Plan("smb2.bench", options=("torture:timelimit=4", "torture:nprocs=2", "torture:qdepth=4"), seconds=15),
    Plan("smb2.change_notify_disabled", settings={"change notify": "no"}),
    Plan("smb2.compound", seconds=10),
    Plan("smb2.compound_async", seconds=6),
    Plan("smb2.compound_find", seconds=70),
    Plan("smb2.create_no_streams", share={"named streams": "no"}, samba={"vfs objects": "acl_xattr"}),
    Plan("smb2.delete-on-close-perms"),
    Plan("smb2.delete-on-close-perms", "readonly", ("torture:delete_readonly=yes",), share={"delete readonly": "yes"}),
    Plan("smb2.dir", seconds=80, share={"mangled names": "yes"}),  # it wants short names in listings
    Plan("smb2.dosmode", share={"hide files": "/hidefile/", "hide dot files": "yes"}),
    Plan("smb2.durable-open", seconds=10),
    Plan("smb2.durable-open-disconnect", seconds=10),
    Plan("smb2.durable-v2-delay", seconds=15),
    Plan("smb2.durable-v2-open", seconds=8),
    Plan("smb2.durable-v2-open", "persistent", share=_PERSISTENT, seconds=8),
    Plan(
        "smb2.ea",
        options=("torture:acl_xattr_name=millpond.sd",),  # where descriptors are kept without root
        samba={"vfs objects": "acl_xattr", "acl_xattr:security_acl_name": "user.millpond.sd"},
    ),
    Plan("smb2.ioctl", seconds=20, fixtures=("nobodys",)),
    Plan("smb2.ioctl", "btrfs", seconds=20, samba={"vfs objects": "btrfs acl_xattr streams_xattr"}, fixtures=("btrfs", "nobodys")),
    Plan("smb2.kernel-oplocks", share={"kernel oplocks": "yes"}, samba={"vfs objects": "streams_xattr"}, seconds=20),
    Plan("smb2.lease", seconds=200),
    Plan("smb2.lock", seconds=30),
    Plan("smb2.maxfid", options=("torture:maxopenfiles=4000",), seconds=60),
    Plan("smb2.multichannel", options=_FILTERED, fixtures=("iptables",), seconds=260),
    Plan("smb2.multichannel", "port445", fixtures=("port 445",), tests=("smb2.multichannel.bugs.bug_15346",)),
    Plan("smb2.notify", seconds=110),
    Plan("smb2.notify-inotify", settings={"kernel change notify": "yes"}),
    # 35 seconds ([MS-SMB2] 3.3.2.1), and one that a busy machine may add.
    Plan("smb2.oplock", options=(*_FILTERED, "torture:oplocktimeout=36"), fixtures=("iptables",), seconds=120),
    Plan("smb2.replay", options=_FILTERED, fixtures=("iptables",), seconds=210),
    Plan("smb2.replay", "persistent", share=_PERSISTENT, tests=("smb2.replay.replay5",)),
    Plan("smb2.rw", seconds=15),
    Plan("smb2.samba3misc", share={"posix locking": "yes"}, seconds=10),
    Plan("smb2.scan", seconds=55, slow=3),
    Plan("smb2.secleak", seconds=20),
    Plan("smb2.session", seconds=20),
    Plan("smb2.session", "encrypted", share={"smb encrypt": "required"}, seconds=20),
    Plan("smb2.session-require-signing", settings={"server signing": "mandatory"}),
    Plan("smb2.set-sparse-ioctl", options=(f"torture:filename={DATA}",), fixtures=("data",)),
    # As Windows was up to Server 2016, which is what the tests were written against, and as Samba is unless told otherwise.
    Plan("smb2.timestamps", share={"smbd:writetimeupdatedelay": "2000000"}, seconds=40),
    Plan(
        "smb2.twrp",
        options=(
            f"torture:twrp_snapshot={SNAPSHOT}", f"torture:twrp_file={SNAPSHOT_FILE}", f"torture:twrp_stream={SNAPSHOT_STREAM[0]}",
            f"torture:twrp_stream_size={len(SNAPSHOT_STREAM[1])}",
        ),
        share=_SNAPSHOTS,
        samba={"vfs objects": "shadow_copy2 acl_xattr streams_xattr", "shadow:mountpoint": "{share}"},
        fixtures=("snapshot",),
    ),
    Plan(
        "smb2.zero-data-ioctl",
        options=(f"torture:filename={DATA}", "torture:offset=4096", "torture:beyond_final_zero=65536"),
        fixtures=("data",),
    ),
)  # fmt: skip

LEFT_OUT: Final = {
    "smb2.hold-oplock": "waits for a person",
    "smb2.hold-sharemode": "waits for a person",
    "smb2.aio_delay": "wants READs that Samba's module delay_inject holds up, and that CANCEL leaves them alone",
}

# What every test run can wait for: much of the protocol in little time.
QUICK: Final = (
    "compound", "delete-on-close-perms@", "durable-open", "durable-v2-open@", "lock", "read", "rw", "session@", "sharemode", "streams",
    "twrp", "replay.replay-commands", "replay.replay-dhv2-oplock1", "replay.replay-dhv2-lease1", "replay.channel-sequence",
)  # fmt: skip


def full_name(suite: str) -> str:
    """'connect' and 'smb2.connect' are the same."""
    return suite if suite.startswith("smb2.") else f"smb2.{suite}"


def chosen(names: tuple[str, ...]) -> list[Plan]:
    """The plans that names mean: suites ('session', with its variants, or 'session@' without), variants ('session@encrypted') or tests
    ('lock.cancel'); all without names.

    ``LookupError`` with the name that means nothing.
    """
    found: dict[str, Plan] = {}
    for name in names:
        for plan in _meant(full_name(name)):
            known = found.get(plan.title, plan)
            tests = tuple(dict.fromkeys((*known.tests, *plan.tests))) if known.tests and plan.tests else ()
            found[plan.title] = plan._replace(tests=tests)
    return list(found.values()) if names else list(PLANS)


def _meant(name: str) -> list[Plan]:
    whole = [plan for plan in PLANS if name in (plan.suite, plan.title, f"{plan.title}@")]
    parts = [plan._replace(tests=(plan.name(name),)) for plan in PLANS if name.startswith(f"{plan.title}.")]
    if not whole and not parts:
        raise LookupError(name)
    return whole or parts

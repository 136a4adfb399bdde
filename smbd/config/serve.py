"""``millpond serve``: one folder as a configuration, without a file.

Owns: where such a server keeps its state (tmpfs, by user and port) and what its options mean in terms of parameters.
Invariant: nothing is written to disk, and a state directory is used, by ``serve`` and every other command, only if it is its user's alone.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from pools.port import credentials, files
from smbd.config.build import GLOBALS, build
from smbd.config.model import Config, ConfigError, ConfigWarning
from smbd.config.reader import GLOBAL, Lines, Setting, squeeze

PORT, PRIVILEGED_PORT = 4450, 445
_HERE = "command line"
_FORBIDDEN = re.compile(r'[\x00-\x1f"/\\\[\]:|<>+=;,*?]')
GUEST_ACCOUNT = "nobody"
_SHARE_NAME = 80  # [MS-SRVS] 2.2.4.23: more than 80 characters is no share name


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """The options of ``millpond serve``; users' passwords are none of the configuration's business."""

    directory: str
    share: str = ""
    port: int = 0
    listen: tuple[str, ...] = ()
    guest: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()  # 'name = value', as in smb.conf


def default_port() -> int:
    """445 for root, 4450 for everybody else: ports below 1024 are root's."""
    return PRIVILEGED_PORT if credentials.effective_uid() == 0 else PORT


def state_root() -> Path:
    """The tmpfs beneath which the state directories of this user's servers lie."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) if runtime and _own_directory(runtime) else Path("/dev/shm")


def _own_directory(path: str) -> bool:
    """su(1) leaves the variable as it was: in another user's directory, or one that all may change, theirs could come in place of ours."""
    try:
        found = files.stat(path)
    except OSError:
        return False
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == credentials.effective_uid() and files.may_access_path(path, os.W_OK)


def state_prefix() -> str:
    """What the names of this user's state directories begin with; a port follows."""
    return f"millpond-{credentials.effective_uid()}-"


def state_directory(port: int) -> Path:
    """Where the server of this user on ``port`` keeps what it needs while it runs."""
    return state_root() / f"{state_prefix()}{port}"


def is_state(directory: Path) -> bool:
    """Whether this is the place of a state directory of this user; whose the directory is that lies there is ``is_ours``."""
    return directory.parent == state_root() and directory.name.startswith(state_prefix())


def is_ours(directory: Path) -> bool:
    """Whether this is a directory (no symlink) of this user that nobody else can look or write into.

    A name says nothing: /dev/shm is everybody's, and another user may have made the directory to read what goes in or to have his files
    taken for a server's. Once this was seen it stays true, for there only the owner can put another in its place.
    """
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == credentials.effective_uid() and not found.st_mode & 0o077


def make_state(directory: Path) -> bool:
    """Make the state directory, or find it ours; whether it was made."""
    made = not os.path.lexists(directory)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if not is_ours(directory):
            raise ConfigError(str(directory), 0, "belongs to another user or can be read by others: remove it or choose another --port")
        for name in ("private", "state", "lock"):
            (directory / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(str(directory), 0, f"cannot make the state directory ({error.strerror}): set XDG_RUNTIME_DIR") from None
    return made


def places(port: int) -> list[tuple[str, str]]:
    """The directory parameters of a server on ``port``."""
    state = state_directory(port)
    return [
        ("lock directory", str(state / "lock")),
        ("pid directory", str(state / "lock")),
        ("private dir", str(state / "private")),
        ("state directory", str(state / "state")),
        ("smb ports", str(port)),
    ]


def instance(port: int) -> Config:
    """The directories of a running ``serve``, for the commands that talk to it; ``ConfigError`` when there is none of ours."""
    directory = state_directory(port)
    if not is_ours(directory):
        if not os.path.lexists(directory):
            raise ConfigError(str(directory), 0, f"no server runs here: start it with 'millpond serve --port {port}'")
        raise ConfigError(str(directory), 0, "belongs to another user or can be read by others: it is no 'millpond serve' of this user")
    return build(Lines([Setting(GLOBAL, name, value, _HERE, 0) for name, value in places(port)], [], [], [_HERE]))


def share_name(directory: str) -> str:
    """A share name made of a folder's: what SMB does not allow in one becomes '-'."""
    name = _FORBIDDEN.sub("-", os.path.basename(directory)).strip(" .")[:_SHARE_NAME]
    return name or "root"


def _folder(given: str) -> str:
    folder = os.path.realpath(os.path.expanduser(given))
    if not os.path.exists(folder):
        raise ConfigError(given, 0, f"no such folder: make it first (mkdir -p '{given}') or name another")
    if not os.path.isdir(folder):
        raise ConfigError(given, 0, "is a file, not a folder: name the folder it is in")
    if not files.may_access_path(folder, os.R_OK | os.X_OK):
        raise ConfigError(given, 0, "cannot be read by this user: change its permissions or serve as its owner")
    return folder


def _settings(options: Serve, folder: str) -> list[Setting]:
    share = options.share or share_name(folder)
    if _FORBIDDEN.search(share) or len(share) > _SHARE_NAME or squeeze(share) in (GLOBAL, "homes", "ipc$", "printers"):
        raise ConfigError(_HERE, 0, f"--share {share}: not a share name; use letters, digits, spaces, '-', '_' or '.'")
    found = places(options.port or default_port())
    if credentials.effective_uid() != 0:
        found.append(("guest account", owner_name(credentials.effective_uid())))
    if options.listen:
        found += [("interfaces", " ".join(options.listen)), ("bind interfaces only", "yes")]
    if options.guest:
        found.append(("map to guest", "bad user"))
    settings = [Setting(GLOBAL, name, value, _HERE, 0) for name, value in found]
    inside = [
        ("path", folder.replace("%", "%%")),
        ("read only", "yes" if options.read_only else "no"),
        ("guest ok", "yes" if options.guest else "no"),
        ("force user", _acting_user(folder, options.guest)),
    ]
    settings += [Setting(share, name, value, _HERE, 0) for name, value in [("", ""), *inside]]
    return settings


def _acting_user(folder: str, guest: bool) -> str:
    """One folder without set-up: whoever logs on acts as the folder's owner, so that what one client wrote another may change.

    But guests never act as root: in root's folder they, and everybody with them, act as nobody.
    """
    if credentials.effective_uid() != 0:
        return ""
    owner = files.stat(folder).st_uid
    return GUEST_ACCOUNT if guest and owner == 0 else owner_name(owner)


def owner_name(uid: int) -> str:
    """The name of a user, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _options(options: Serve, share: str) -> list[Setting]:
    """--config-option 'name = value': a global parameter if there is one of that name, else one of the share."""
    settings = []
    for given in options.options:
        name, equals, value = given.partition("=")
        if not equals or not name.strip():
            raise ConfigError(_HERE, 0, f"--config-option '{given}': write it as 'name = value'")
        section = GLOBAL if squeeze(name) in GLOBALS else share
        settings.append(Setting(section, " ".join(name.split()), value.strip(), _HERE, 0))
    return settings


def from_serve(options: Serve) -> Config:
    """The configuration that serves one folder; ``ConfigError`` when the folder, the share's name or an option is wrong."""
    folder = _folder(options.directory)
    settings = _settings(options, folder)
    settings += _options(options, settings[-1].section)
    warnings: list[ConfigWarning] = []
    return build(Lines(settings, warnings, [], [_HERE]))

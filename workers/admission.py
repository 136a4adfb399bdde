"""Who gets into which share, as which Unix user.

Owns: the lists of the share's configuration applied to a session, the forced user, and the VFS stack under a tree connect.
Invariant: a tree connect that returns from ``admit`` has an identity, and it is never root's unless the share names the user an admin.
"""

from __future__ import annotations

import grp
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING

from pools.port import credentials, sockets
from smbd.config import Config, Share
from smbd.config.access import access, find
from smbd.config.hosts import admitted
from smbd.config.macros import Client, expand, table
from smbd.smb2 import status
from smbd.smb2.constants import FILE_ALL_ACCESS, FILE_GENERIC_EXECUTE, FILE_GENERIC_READ
from smbd.smb2.dtyp import SID, Token
from smbd.smb2.status import SmbError
from workers import identity
from workers.baton import away
from workers.identity import Identity
from workers.vfs.posix import PosixVfs
from workers.vfs.root import VfsSettings
from workers.vfs.snapshots import SnapshotVfs

if TYPE_CHECKING:
    from workers.line import Line
    from workers.request import Request
    from workers.session import Session
    from workers.tree import TreeConnect
    from workers.worker import Worker

NOBODY = 65534
READ_ONLY_ACCESS = FILE_GENERIC_READ | FILE_GENERIC_EXECUTE


def find_share(worker: Worker, name: str, session: Session) -> Share | None:
    """The share a client means by ``name``."""
    return find(worker.config, name, session.require_token().name, home_of)


def admit(line: Line, tree: TreeConnect) -> str:
    """Let the session into ``tree.share`` or raise ACCESS_DENIED; sets identity and limits. Where the share's folder is for this client."""
    worker, share = line.worker, tree.share
    if not admitted(share.hosts_allow, share.hosts_deny, line.client_address):
        raise SmbError(status.ACCESS_DENIED)
    if share.max_connections and sum(row.share == share.name for row in worker.sharing.trees()) >= share.max_connections:
        raise SmbError(status.REQUEST_NOT_ACCEPTED)
    identify(worker, tree)
    tree.path = expand(share.path, table(_client(line, tree.session), share))
    return tree.path


def open_root(worker: Worker, tree: TreeConnect, path: str) -> None:
    """The VFS under a tree connect that was let in, opened as its user."""
    share = tree.share
    assert tree.identity is not None
    identity.assume(tree.identity)
    try:
        below = away(PosixVfs, path, settings(share, worker.config))
        tree.vfs = below if share.shadow is None else away(SnapshotVfs, below, path, share.shadow)
    except (FileNotFoundError, NotADirectoryError):
        worker.log.error("share %s: %s is not there", share.name, path)
        raise SmbError(status.BAD_NETWORK_NAME) from None


def insists_on_encryption(config: Config, share: Share) -> bool:
    """Whether nothing of the share may travel in the clear: the share's word, or that of the whole server."""
    return _encryption(config, share) == "required"


def encrypts(request: Request, share: Share) -> bool:
    """Tree connect's EncryptData."""
    config = request.worker.config
    return insists_on_encryption(config, share) or (_encryption(config, share) == "desired" and can_encrypt(request))


def can_encrypt(request: Request) -> bool:
    """Whether the session has a cipher."""
    return request.channel is not None and request.channel.cipher is not None


def _encryption(config: Config, share: Share) -> str:
    return share.smb_encrypt if share.smb_encrypt != "default" else config.server_smb_encrypt


def identify(worker: Worker, tree: TreeConnect) -> None:
    """Work out as whom the session acts on the share: at connect and after each reauthentication."""
    share, token = tree.share, tree.session.require_token()
    word = access(share, token.name, _group_names(token), token.guest or token.anonymous)
    if not word.allowed:
        raise SmbError(status.ACCESS_DENIED)
    tree.read_only = word.read_only
    tree.maximal_access = READ_ONLY_ACCESS if word.read_only else FILE_ALL_ACCESS
    tree.forced = _forced(worker, share, token)
    acting = tree.token
    if word.guest and not share.force_user:
        acting = tree.forced = _as_unix_user(worker, acting, worker.config.guest_account)
    ids = Identity(acting.uid, acting.gid, acting.groups)
    tree.identity = identity.ROOT if word.admin else ids


def shut(tree: TreeConnect) -> None:
    """The session's user has become one who may not enter: no CREATE is granted anything, and nobody's rights are used for the rest."""
    tree.maximal_access = 0
    tree.read_only = True
    tree.forced = None
    tree.identity = Identity(NOBODY, NOBODY)


def _forced(worker: Worker, share: Share, token: Token) -> Token | None:
    """``force user`` and ``force group``: names from the administrator's file, so a missing one is his mistake."""
    forced = None
    if share.force_user:
        forced = _as_unix_user(worker, token, share.force_user)
    if share.force_group:
        name = share.force_group.lstrip("+@&")
        try:
            gid = grp.getgrnam(name).gr_gid
        except KeyError:
            worker.log.error("share %s: force group names %s, who does not exist", share.name, name)
            raise SmbError(status.ACCESS_DENIED) from None
        forced = replace(forced or token, gid=gid, group_sids=(worker.ids.group_sid(gid), *(forced or token).group_sids))
    return forced


def _as_unix_user(worker: Worker, token: Token, name: str) -> Token:
    """``token`` acting as the Unix user ``name``. Without root there is one Unix user, and nothing changes."""
    if not identity.privileged():
        return token
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if name.isdecimal():  # a uid without a name: the owner of a folder served without set-up
            uid = int(name)
            sids = (worker.ids.group_sid(uid), *_well_known(token))
            return replace(token, user_sid=worker.ids.user_sid(uid), group_sids=sids, uid=uid, gid=uid, groups=(), name=name)
        worker.log.error("user %s, named in the configuration, does not exist", name)
        raise SmbError(status.ACCESS_DENIED) from None
    groups = tuple(gid for gid in credentials.groups_of(name, entry.pw_gid) if gid != entry.pw_gid)
    sids = (worker.ids.group_sid(entry.pw_gid), *(worker.ids.group_sid(gid) for gid in groups), *_well_known(token))
    user_sid = worker.ids.user_sid(entry.pw_uid)
    return replace(token, user_sid=user_sid, group_sids=sids, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups, name=name)


def _well_known(token: Token) -> tuple[SID, ...]:
    """Everyone, Network, Authenticated Users: what belongs to the logon and not to the account."""
    return tuple(sid for sid in token.group_sids if not str(sid).startswith("S-1-5-21-"))


def _group_names(token: Token) -> set[str]:
    names = set()
    for gid in (token.gid, *token.groups):
        try:
            names.add(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return names


def home_of(user: str) -> str | None:
    """The user's home directory; None when there is no such user."""
    try:
        return pwd.getpwnam(user).pw_dir
    except (KeyError, ValueError):  # ValueError: no name at all, such as one with a NUL
        return None


def _client(line: Line, session: Session) -> Client:
    token = session.require_token()
    config, dialect = line.worker.config, line.connection.dialect
    return Client(
        session_user=token.name,
        user=token.name,
        home=home_of(token.name) or "",
        domain=token.domain,
        address=line.client_address,
        protocol="SMB3" if dialect is not None and dialect.smb3 else "SMB2",
        server=config.netbios_name,
        host=sockets.host_name(),
    )


def settings(share: Share, config: Config) -> VfsSettings:
    """The part of a share's configuration that its file system needs."""
    return VfsSettings(
        create_mask=share.create_mask,
        force_create_mode=share.force_create_mode,
        directory_mask=share.directory_mask,
        force_directory_mode=share.force_directory_mode,
        hide_dot_files=share.hide_dot_files,
        hide_files=share.hide_files,
        mangled_names=share.mangled_names,
        acl_name=share.acl_name,
        veto_files=share.veto_files,
        delete_veto_files=share.delete_veto_files,
        store_dos_attributes=share.store_dos_attributes,
        follow_symlinks=share.follow_symlinks,
        msdfs_root=share.msdfs_root and config.host_msdfs,
    )

"""What a share's lists of users say: may this user connect, and write?

Owns: ``valid users`` and its kin, guests, and the share that [homes] makes of a user's name. Pure: groups and homes are given.
Invariant: a share's file permissions come on top; nothing here gives more than they do, except to ``admin users``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from smbd.config.build import HOMES
from smbd.config.model import Config, Share

_GROUP_MARKS = "@+&"


class Access(NamedTuple):
    """What a user has on a share. ``admin``: acts as root on it. ``guest``: acts as the guest account."""

    allowed: bool
    read_only: bool = True
    admin: bool = False
    guest: bool = False


NO_ACCESS = Access(False)


def listed(names: Iterable[str], user: str, groups: Collection[str], share: str = "") -> bool:
    """Whether a list names the user: by name, or by a group written @name or +name. ``%S`` is the share's name."""
    folded = {group.casefold() for group in groups}
    for written in names:
        name = written.replace("%S", share).rpartition("\\")[2].casefold()
        marks = name[: len(name) - len(name.lstrip(_GROUP_MARKS))]
        if marks:
            # & is a NIS netgroup alone: there are none here.
            if marks != "&" and name[len(marks) :] in folded:
                return True
        elif name == user.casefold():
            return True
    return False


def access(share: Share, user: str, groups: Collection[str], guest: bool = False) -> Access:
    """What ``user`` (with Unix groups ``groups``) has on ``share``; ``guest``: logged on as guest or anonymously."""

    def on(names: Iterable[str]) -> bool:
        return listed(names, user, groups, share.name)

    if not share.available or (guest and not share.guest_ok) or on(share.invalid_users):
        return NO_ACCESS
    if share.valid_users and not on(share.valid_users):
        return NO_ACCESS
    # smb.conf(5), write list: whoever is on both lists may write.
    read_only = False if on(share.write_list) else share.read_only or on(share.read_list)
    as_guest = guest or (share.guest_only and share.guest_ok)
    return Access(True, read_only, not as_guest and on(share.admin_users), as_guest)


def find(config: Config, name: str, user: str, home: Callable[[str], str | None]) -> Share | None:
    """The share a client means by ``name``: one of the file's, else, if there is [homes], the home directory of the user of that name.

    ``user``: who asks; the name HOMES itself is that user's home. ``home``: a user's home directory, None when there is no such user.
    """
    template = config.share(HOMES)
    wanted = user if name.casefold() == HOMES else name
    found = config.share(wanted) if wanted == name else None
    if found is not None or template is None:
        return found
    directory = home(wanted)
    if directory is None:
        return None
    path = template.path or directory.replace("%", "%%")
    return replace(template, name=wanted, path=path, comment=template.comment or f"Home of {wanted}", browseable=False)


def visible(config: Config) -> list[Share]:
    """The shares that a list of shares shows, in the file's order; [homes] is a template and no share."""
    return [share for key, share in config.shares.items() if share.available and share.browseable and key != HOMES]

"""What lets an open outlive its connection, and what its CREATE is known by: [MS-SMB2] 3.3.5.9.6, .7, .10, .12 and .13.

Owns: the create contexts of durable and persistent opens and of application instances: what a request asks for, what of it is granted, and
what the client hears. Invariant: nothing is granted that no context asked for; whether there is reason to grant it (a batch oplock, a lease
with HANDLE, a share that is continuously available) is the shared state's decision, and is the same there and here.

Reconnecting and what happens to an open whose connection is lost are not here; this module only finds out that a reconnect is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from pools.layout import WireError
from pools.port import files
from smbd.sharing import CacheClaim, CacheKind, DurableClaim, Lasting, Opened
from smbd.sharing.caching import HANDLE
from smbd.sharing.values import NO_GUID
from smbd.smb2 import status
from smbd.smb2.constants import DHANDLE_FLAG_PERSISTENT, FILE_WRITE_THROUGH
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.status import SmbError

if TYPE_CHECKING:
    from smbd.smb2.dialects import Dialect
    from workers.open import Open
    from workers.session import Session
    from workers.tree import TreeConnect
    from workers.vfs.interface import Handle
    from workers.worker import Worker

DURABLE_TIMEOUT: Final = 16 * 60_000
"""Milliseconds for which an open of the first version is kept, whose request names no time: what Windows and Samba give."""
DEFAULT_TIMEOUT: Final = 60_000
"""3.3.5.9.10: where the request leaves it to the server."""
LONGEST_TIMEOUT: Final = 300_000
"""And no longer than this, whatever a request says."""
_DURABLE_REQUEST_SIZE: Final = 16  # 2.2.13.2.3: all of it reserved
_RECONNECTS: Final = (contexts.DURABLE_HANDLE_RECONNECT, contexts.DURABLE_HANDLE_RECONNECT_V2)
_SINCE_300: Final = frozenset({contexts.DURABLE_HANDLE_REQUEST_V2, contexts.DURABLE_HANDLE_RECONNECT_V2, contexts.APP_INSTANCE_ID})


class Kind(IntEnum):
    """By which request an open outlives its connection: DHnQ, DH2Q or FSCTL_LMR_REQUEST_RESILIENCY."""

    NONE = 0
    DURABLE = 1
    DURABLE_V2 = 2
    RESILIENT = 3


class AppInstance(NamedTuple):
    """2.2.13.2.13, .15: whose open it is, wherever it comes from. ``version`` (high, low) is None where none was given."""

    app_id: bytes
    version: tuple[int, int] | None = None


class Wanted(NamedTuple):
    """What the contexts of a CREATE ask for. ``create_guid`` is ``NO_GUID`` unless it came with DH2Q; ``timeout`` in milliseconds.

    ``client_guid`` is the connection's: a CreateGuid is one client's name.
    """

    kind: Kind = Kind.NONE
    timeout: int = 0
    persistent: bool = False
    create_guid: bytes = NO_GUID
    app: AppInstance | None = None
    client_guid: bytes = NO_GUID


class Reconnect(NamedTuple):
    """DHnC or DH2C: which open is asked for. ``kind`` is the version of the context, ``create_guid`` ``NO_GUID`` in the first."""

    kind: Kind
    file_id_persistent: int
    file_id_volatile: int
    persistent: bool = False
    create_guid: bytes = NO_GUID


class Durability:
    """[MS-SMB2] 3.3.1.10 IsDurable, IsPersistent, IsResilient with their timeout (milliseconds), CreateGuid and application instance."""

    __slots__ = ("action", "app", "create_guid", "kind", "persistent", "timeout")

    def __init__(self, wanted: Wanted) -> None:
        self.action = 0  # CreateAction that was answered
        self.kind = Kind.NONE
        self.persistent = False
        self.timeout = 0
        self.create_guid = wanted.create_guid
        self.app = wanted.app


ORDINARY: Final = Wanted()

Found = Mapping[bytes, memoryview]


def known(found: Found, dialect: Dialect) -> Found:
    """The contexts that exist in ``dialect``: what a later one has brought is ignored as any other that nobody knows."""
    if dialect.smb3 or _SINCE_300.isdisjoint(found):
        return found
    return {name: data for name, data in found.items() if name not in _SINCE_300}


def reconnect_of(found: Found) -> Reconnect | None:
    """The open that a CREATE asks for instead of a new one. INVALID_PARAMETER for contexts that exclude each other."""
    first, second = (found.get(name) for name in _RECONNECTS)
    if first is None and second is None:
        return None
    if contexts.DURABLE_HANDLE_REQUEST_V2 in found or (second is not None and contexts.DURABLE_HANDLE_REQUEST in found):
        raise SmbError(status.INVALID_PARAMETER)  # 3.3.5.9.7, .10, .12
    if first is not None:
        if second is not None or len(first) != contexts.DURABLE_RECONNECT.size:
            raise SmbError(status.INVALID_PARAMETER)
        return Reconnect(Kind.DURABLE, *contexts.DURABLE_RECONNECT.unpack(first))
    assert second is not None
    if len(second) != contexts.DURABLE_RECONNECT_V2.size:
        raise SmbError(status.INVALID_PARAMETER)
    asked = contexts.DURABLE_RECONNECT_V2.unpack(second)
    persistent = bool(asked.flags & DHANDLE_FLAG_PERSISTENT)
    return Reconnect(Kind.DURABLE_V2, asked.file_id_persistent, asked.file_id_volatile, persistent, asked.create_guid)


def wanted_of(found: Found, dialect: Dialect, client_guid: bytes = NO_GUID) -> Wanted:
    """What a new open is to be. The contexts are ``known`` and hold no reconnect."""
    app = _app_instance(found, dialect)
    first, second = found.get(contexts.DURABLE_HANDLE_REQUEST), found.get(contexts.DURABLE_HANDLE_REQUEST_V2)
    if second is not None:
        if first is not None or len(second) != contexts.DURABLE_REQUEST_V2.size:
            raise SmbError(status.INVALID_PARAMETER)
        asked = contexts.DURABLE_REQUEST_V2.unpack(second)
        timeout = min(asked.timeout, LONGEST_TIMEOUT) or DEFAULT_TIMEOUT
        return Wanted(Kind.DURABLE_V2, timeout, bool(asked.flags & DHANDLE_FLAG_PERSISTENT), asked.create_guid, app, client_guid)
    if first is not None:
        if len(first) != _DURABLE_REQUEST_SIZE:
            raise SmbError(status.INVALID_PARAMETER)
        return Wanted(Kind.DURABLE, DURABLE_TIMEOUT, app=app, client_guid=client_guid)
    return ORDINARY if app is None else Wanted(app=app, client_guid=client_guid)


def _app_instance(found: Found, dialect: Dialect) -> AppInstance | None:
    """A version without an id says nothing; before 3.1.1 there are none."""
    instance = found.get(contexts.APP_INSTANCE_ID)
    if instance is None:
        return None
    asked = contexts.APP_INSTANCE.unpack(instance)
    if asked.structure_size != contexts.APP_INSTANCE.size:
        raise WireError(f"StructureSize {asked.structure_size} of an application instance")
    version = found.get(contexts.APP_INSTANCE_VERSION) if dialect.preauth else None
    if version is None:
        return AppInstance(asked.app_instance_id)
    number = contexts.APP_VERSION.unpack(version)
    return AppInstance(asked.app_instance_id, (number.app_instance_version_high, number.app_instance_version_low))


def is_somebody(session: Session) -> bool:
    """Whether the session's user is one of whom others can be told apart: guests, and whoever gave no name, share one SID.

    What they leave behind would be anybody's to reclaim, so their opens outlive nothing, and they reclaim none.
    """
    token = session.require_token()
    return not token.guest and not token.anonymous


def birth_of(handle: Handle) -> int:
    """The file's own time of birth, in ns; 0 where its file system keeps none."""
    st = files.stat_fd(handle.fd)
    return st.btime * 1_000_000_000 + st.btime_ns


def claim_of(wanted: Wanted, tree: TreeConnect, handle: Handle, created: tuple[int, int]) -> DurableClaim | None:
    """What the shared state is to keep of an open, of which it grants what there is reason for. ``created``: CreateOptions, CreateAction.

    Of a symlink nothing: there is no data in it that anybody could lose.
    """
    if handle.is_link:
        return None
    app = wanted.app
    lasting = 0
    if wanted.kind is not Kind.NONE and tree.share.durable_handles and is_somebody(tree.session):
        lasting = Lasting.DURABLE
        if wanted.persistent and tree.share.continuous_availability:
            lasting |= Lasting.PERSISTENT
    if app is None and not lasting and wanted.create_guid == NO_GUID:
        return None
    high, low = (app.version if app is not None else None) or (0, 0)
    return DurableClaim(
        lasting,
        int(wanted.kind),
        wanted.timeout,
        wanted.client_guid,
        wanted.create_guid,
        NO_GUID if app is None else app.app_id,
        high,
        low,
        str(tree.session.require_token().user_sid),
        birth_of(handle),
        *created,
        root=tree.path if lasting & Lasting.PERSISTENT else "",
    )


def grant(opened: Open, wanted: Wanted) -> None:
    """An open has been let in: it is from now on what the shared state says."""
    if wanted is ORDINARY:
        return
    durability = opened.durability = Durability(wanted)
    lasting = opened.cache.lasting if opened.cache is not None else 0
    if lasting:
        durability.kind = wanted.kind
        durability.timeout = wanted.timeout
        durability.persistent = bool(lasting & Lasting.PERSISTENT)


def endure(worker: Worker, opened: Open, timeout: int) -> None:
    """3.3.5.15.9: an open is resilient from now on. It keeps the names that it has."""
    key, handle = opened.key, opened.handle
    assert key is not None
    assert handle is not None
    durability = opened.durability or Durability(ORDINARY)
    wanted = Wanted(Kind.DURABLE, timeout, create_guid=durability.create_guid, app=durability.app, client_guid=worker.client_guid)
    claim = claim_of(wanted, opened.tree, handle, (FILE_WRITE_THROUGH if opened.write_through else 0, durability.action))
    if claim is None:
        raise SmbError(status.NOT_SUPPORTED)
    lasting = Lasting.RESILIENT | (Lasting.PERSISTENT if durability.persistent else 0)
    worker.sharing.endure(key, opened.persistent, claim._replace(lasting=lasting))
    durability.kind = Kind.RESILIENT
    durability.timeout = timeout
    opened.durability = durability


def told_again(cache: Opened, lease_key: bytes, claim: CacheClaim) -> Opened:
    """What a repeated CREATE is told of its open's ``cache``: never more than there is by now.

    Of a lease all of it (another one's key is ACCESS_DENIED); of an oplock what it asks for. Windows promises here whatever is asked for.
    """
    leased = cache.kind >= CacheKind.LEASE
    if claim.kind >= CacheKind.LEASE:
        if not leased or lease_key != claim.lease_key:
            raise SmbError(status.ACCESS_DENIED)
        return cache
    return Opened(False) if leased else cache._replace(granted=cache.granted & claim.state)


def response_of(durability: Durability | None, cache: Opened | None) -> tuple[bytes, bytes] | None:
    """2.2.14.2.3 and .12: the response context of what was granted, where ``cache``, as it is told, makes it last."""
    if durability is None or not (durability.persistent or (cache is not None and cache.granted & HANDLE)):
        return None
    if durability.kind is Kind.DURABLE:
        return contexts.DURABLE_HANDLE_REQUEST, bytes(8)
    if durability.kind is Kind.DURABLE_V2:
        flags = DHANDLE_FLAG_PERSISTENT if durability.persistent else 0
        return contexts.DURABLE_HANDLE_REQUEST_V2, contexts.DURABLE_RESPONSE_V2.pack(durability.timeout, flags)
    return None

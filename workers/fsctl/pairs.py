"""What the FSCTLs between two open files have in common: the other open is named by the client, and either may be closed meanwhile.

Owns: the lookup, and what others hear of the change. Invariant: an open of another session is never found.
"""

from __future__ import annotations

from smbd.smb2 import status
from smbd.smb2.constants import FILE_NOTIFY_CHANGE_LAST_WRITE, FILE_NOTIFY_CHANGE_SIZE
from smbd.smb2.status import SmbError
from workers import changes
from workers.open import Open
from workers.request import Request
from workers.vfs.interface import Handle


def named(request: Request, persistent: int, volatile: int, missing: int) -> Open:
    """The session's open of a file or directory with this FileId, on whatever share; the status ``missing`` where there is none."""
    found = request.worker.opens.get(volatile)
    if found is None or found.persistent != persistent or found.session is not request.session or found.handle is None:
        raise SmbError(missing)
    return found


def handle_of(request: Request, opened: Open) -> Handle:
    """Its handle, if it has been neither closed nor left since."""
    if not request.worker.serves(opened) or opened.handle is None:
        raise SmbError(status.FILE_CLOSED)
    return opened.handle


def data_changed(request: Request, target: Open) -> None:
    """Tell whoever caches or watches the target."""
    request.worker.breaks.data_changed(target)
    changes.modified(request.worker, target, FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE)

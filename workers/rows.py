"""The table of commands: a row each, indexed by the command's number ([MS-SMB2] 2.2.1).

Owns: ``ROWS``. Invariants: what a row asks for is checked before its handler runs; NEGOTIATE and CANCEL never come here (workers.engine).
A handler that touches the disk of a share is one that ``may_wait``. READ sees to it itself: what is in memory is read at once in any case.
"""

from __future__ import annotations

from typing import Any

from smbd.smb2 import status
from smbd.smb2.constants import FILE_APPEND_DATA, FILE_EXECUTE, FILE_LIST_DIRECTORY, FILE_READ_DATA, FILE_WRITE_DATA
from smbd.smb2.messages import control, create, directory, file, info, ioctl, session, tree
from smbd.smb2.status import SmbError
from workers.commands.change_notify import change_notify
from workers.commands.close import close
from workers.commands.create import create as create_file
from workers.commands.echo import echo
from workers.commands.flush import flush
from workers.commands.ioctl import ioctl as control_file
from workers.commands.lock import lock
from workers.commands.logoff import logoff
from workers.commands.oplock_break import ACKNOWLEDGMENT, oplock_break
from workers.commands.query_directory import query_directory
from workers.commands.query_info import query_info
from workers.commands.read import read
from workers.commands.session_setup import session_setup
from workers.commands.set_info import set_info
from workers.commands.tree_connect import tree_connect, tree_disconnect
from workers.commands.write import write
from workers.dispatch import Row
from workers.patience import may_wait
from workers.request import Request

READING = FILE_READ_DATA | FILE_EXECUTE
WRITING = FILE_WRITE_DATA | FILE_APPEND_DATA
# Windows' NtLockFile asks for one of these rights ([MS-FSA] 2.1.5.8 is silent). Locks are mandatory here: who may only look at a file's
# attributes could else keep everybody from reading it.
LOCKING = READING | WRITING


def unexpected(request: Request, body: Any) -> bytes:
    """NEGOTIATE and CANCEL are the engine's; one that comes here came in a place it has no business in."""
    raise SmbError(status.INVALID_PARAMETER)


ROWS: tuple[Row, ...] = (
    Row("NEGOTIATE", unexpected, control.ECHO_REQUEST, 0, session=False),
    Row("SESSION_SETUP", session_setup, session.SESSION_SETUP_REQUEST, 25, session=False),
    Row("LOGOFF", logoff, session.LOGOFF_REQUEST, 4, tree=False),
    Row("TREE_CONNECT", tree_connect, tree.TREE_CONNECT_REQUEST, 9, tree=False),
    Row("TREE_DISCONNECT", tree_disconnect, tree.TREE_DISCONNECT_REQUEST, 4),
    Row("CREATE", may_wait(create_file), create.CREATE_REQUEST, 57),
    Row("CLOSE", may_wait(close), file.CLOSE_REQUEST, 24, file_id=8),
    Row("FLUSH", may_wait(flush), file.FLUSH_REQUEST, 24, file_id=8),
    Row("READ", read, file.READ_REQUEST, 49, file_id=16, access=READING),
    Row("WRITE", may_wait(write), file.WRITE_REQUEST, 49, file_id=16, access=WRITING, modifies=True),
    Row("LOCK", lock, file.LOCK_REQUEST, 48, file_id=8, access=LOCKING),
    Row("IOCTL", may_wait(control_file), ioctl.IOCTL_REQUEST, 57, file_id=8, optional_open=True, modifies=True),
    Row("CANCEL", unexpected, control.CANCEL_REQUEST, 4, session=False),
    Row("ECHO", echo, control.ECHO_REQUEST, 4, session=False),
    Row("QUERY_DIRECTORY", may_wait(query_directory), directory.QUERY_DIRECTORY_REQUEST, 33, file_id=8, access=FILE_LIST_DIRECTORY),
    Row("CHANGE_NOTIFY", change_notify, directory.CHANGE_NOTIFY_REQUEST, 32, file_id=8, access=FILE_LIST_DIRECTORY),
    Row("QUERY_INFO", may_wait(query_info), info.QUERY_INFO_REQUEST, 41, file_id=24),
    Row("SET_INFO", may_wait(set_info), info.SET_INFO_REQUEST, 33, file_id=16, modifies=True),
    Row("OPLOCK_BREAK", oplock_break, ACKNOWLEDGMENT, 0),
)

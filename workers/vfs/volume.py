"""The volume behind a share's root: its room and its abilities.

Owns: what is found out about them. Invariant: asked anew each time, but for what the file system's kind says, and only of the root's own
file system, whatever is mounted beneath it.
"""

from __future__ import annotations

import errno
import os

from pools.port import files
from workers.vfs import attributes
from workers.vfs.interface import FsInfo
from workers.vfs.root import Root


def fs_info(root: Root) -> FsInfo:
    """See ``interface.Vfs``."""
    st = files.stat_fd(root.fd)
    fs = files.volume(root.fd)
    creation = st.btime * 10_000_000 + attributes.EPOCH if st.btime else attributes.EPOCH
    streams = True
    try:
        root.attributes.names(root.fd)
    except OSError as error:
        streams = error.errno != errno.EOPNOTSUPP
    serial = os.makedev(st.dev_major, st.dev_minor)
    read_only = bool(fs.f_flag & os.ST_RDONLY)
    room = (fs.f_frsize, fs.f_blocks, fs.f_bfree, fs.f_bavail)
    return FsInfo(*room, serial, fs.f_namemax, creation, streams, True, read_only, *root.abilities, fs.f_files, fs.f_ffree)

"""``python -m tests.interop.quota_server TABLE run --config FILE``: the server, on a port whose file system keeps quotas in a JSON file.

Kernels of test machines often have no quotas; all above the port is the server's own. The table: uid -> used, soft, hard.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

from pools.port import files
from pools.port.interface import Quota
from pools.port.linux import files as linux

TABLE = Path(sys.argv.pop(1))


def _read() -> dict[int, Quota]:
    return {int(uid): Quota(*values) for uid, values in json.loads(TABLE.read_text()).items()}


def quota(_fd: int, uid: int) -> Quota | None:
    return _read().get(uid, Quota(0, 0, 0))


def next_quota(_fd: int, uid: int) -> tuple[int, Quota] | None:
    found = sorted((one, values) for one, values in _read().items() if one >= uid)
    return found[0] if found else None


def set_quota(_fd: int, uid: int, soft: int, hard: int) -> None:
    known = _read()
    known[uid] = Quota(known.get(uid, Quota(0, 0, 0)).used, soft, hard)
    TABLE.write_text(json.dumps(known))


if __name__ == "__main__":
    for area in (files, linux):
        for function in (quota, next_quota, set_quota):
            setattr(area, function.__name__, function)
    runpy.run_module("smbd", run_name="__main__", alter_sys=True)

"""The composition root: which program runs in which process, and the command that starts it all.

Owns: the table of programs and the union of all kinds of messages. It is the only module that knows every room.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Sequence

import authd.messages
import authd.service
import srvsvc.messages
import srvsvc.service
import workers.host
import workers.main
from pools import port, queue
from pools.port import choice
from smbd import channel_messages, child, cli, host_messages, lease_messages
from smbd.broker import service as broker
from smbd.child import Child, Program
from smbd.config import Config
from smbd.log import follow, set_up
from smbd.master import Master
from smbd.sharing import messages as sharing_messages
from workers.doomed import remove
from workers.rehearsal import rehearse
from workers.revived import find


def _worker(own: Child) -> None:
    # Modes of a client's new files come from the share's masks alone. Set while the process has one thread.
    port.processes.set_umask(0)
    workers.main.main(own)


def _host(own: Child) -> None:
    port.processes.set_umask(0)  # likewise, for all of them
    workers.host.main(own)


TITLE = "millpond: master"
PROGRAMS: dict[str, Program] = {
    "worker": _worker,
    "authd": authd.service.main,
    "srvsvc": srvsvc.service.main,
    "host": _host,
    "broker": functools.partial(broker.main, remover=remove, finder=find),
}
KINDS: tuple[queue.Kind, ...] = (
    *queue.KINDS,
    *child.KINDS,
    *lease_messages.KINDS,
    *host_messages.KINDS,
    *authd.messages.KINDS,
    *srvsvc.messages.KINDS,
    *sharing_messages.KINDS,
    *channel_messages.KINDS,
)

log = logging.getLogger("millpond")


def run(config: Config, *, reread: Callable[[], Config], prepare: Callable[[], None], ready: Callable[[], None]) -> int:
    """Serve ``config``; see ``smbd.cli.command.Run``."""
    set_up(config)
    choice.use(config.port)
    port.memory.map_large_allocations()
    # Before anything else can be seen: `serve --user NAME:PASSWORD` stands in the list of processes until here.
    port.processes.set_title(TITLE)
    port.processes.set_umask(0o022)
    if config.data_path != "user" and port.sockets.KERNEL_FORMAT and (reason := port.sockets.no_kernel_cipher()):
        # Log level 1, once: whoever expects encrypted payload to stay in the kernel as plain payload does hears that it cannot here.
        log.warning("encrypted payload passes through memory: this kernel offers no AF_ALG sockets for AES-GCM (%s)", reason)

    if config.merge_memory and (reason := port.memory.merge_memory()):
        log.warning("`merge memory` saves nothing: %s", reason)

    def prepare_all() -> None:
        prepare()
        rehearse(config)
        port.processes.set_title(TITLE)  # the rehearsal had one of its own

    return Master(config, PROGRAMS, KINDS, reread=reread, prepare=prepare_all, ready=ready, reloaded=follow).run()


def main(argv: Sequence[str] | None = None) -> int:
    """The ``millpond`` command."""
    return cli.main(argv, run=run)


if __name__ == "__main__":
    sys.exit(main())

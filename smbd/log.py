"""The log: one line for one event, to ``log file`` or to standard error.

Owns: the form of a line, the levels, the root logger's one handler. Children inherit it; a reload is followed by each of them that runs as
the server's user. Invariant: no name that a client chose makes a line of its own or speaks to a terminal.
"""

from __future__ import annotations

import logging
import re

from smbd.config import Config

log = logging.getLogger("millpond")

# smb.conf, `log level`: 0 is errors, 1 warnings and what an administrator wants to know, 2 more of it, 3 and above everything.
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO)

# Control characters, the line separators of Unicode, and halves of surrogate pairs, which no log file can hold.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class OneLine(logging.Formatter):
    """An event is one line whatever names are in it: clients choose names, and must not write lines, nor speak to a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # the base class's name
        return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], super().formatMessage(record))


def set_up(config: Config) -> None:
    """Log where ``config`` says, from the level that it says. ``OSError`` when its file cannot be opened: the log stays where it was."""
    set_level(config)
    handler = logging.FileHandler(config.log_file, encoding="utf-8") if config.log_file else logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(process)d %(name)s %(levelname)s: %(message)s"))
    root = logging.getLogger()
    former, root.handlers[:] = root.handlers[:], [handler]
    for one in former:
        one.close()
    # At DEBUG this library writes tokens out; what proves a user belongs in no log.
    logging.getLogger("spnego").setLevel(logging.WARNING)
    # A line needs neither thread nor process names; not asking for them is cheaper and loads no module in a worker.
    logging.logThreads = logging.logMultiprocessing = False


def follow(config: Config) -> None:
    """After a reload: likewise, and a file of the same name is opened anew: one that was moved away is written to no more.

    Only where ``set_up`` made the log: elsewhere it is somebody else's.
    """
    if not any(isinstance(one.formatter, OneLine) for one in logging.getLogger().handlers):
        return
    try:
        set_up(config)
    except OSError as error:
        log.error("the log stays where it is: %s: %s", config.log_file, error.strerror)


def set_level(config: Config) -> None:
    """The level alone: for a process that may not be able to open the file."""
    logging.getLogger().setLevel(_LEVELS[config.log_level] if config.log_level < len(_LEVELS) else logging.DEBUG)

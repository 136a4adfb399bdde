"""``millpond tune pools``: what the buffer pools waste and lack, and parameters that would suit what clients ask for.

Owns: the table and the wording. Invariant: a configuration is changed only with --write, and only by what was shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import psutil

from pools.buffer import CAPACITIES, CLASSES
from pools.counters import CounterSegment
from smbd.child import COUNTERS_FILE
from smbd.cli import place
from smbd.config import Config
from smbd.config.model import parameters
from smbd.instance import StartError
from smbd.monitor import recording
from smbd.monitor.recording import Recording
from smbd.monitor.tables import size
from smbd.tuning import pools
from smbd.tuning.pools import Proposal, Usage
from smbd.tuning.rewrite import rewrite

_NOW = f"{'SIZE':>6}{'REQUESTS':>13}{'REQUESTED':>11}{'WASTED':>8}{'PEAK':>7}{'COMMITTED':>11}{'MISSES':>9}{'WAITS':>9}"
_THEN = f"{'PROPOSED':>12}{'WASTES':>8}"


def run(arguments: argparse.Namespace) -> int:
    """The command; ``arguments`` as ``smbd.cli.tune`` has parsed them."""
    given = _recording(arguments)
    found = pools.usage(given)
    proposal = pools.propose(given, found, psutil.virtual_memory().total)
    backup = _write(arguments, proposal) if arguments.write else ""
    if arguments.json:
        print(json.dumps(_document(found, proposal, backup), indent=2))
        return 0
    print(_table(given, found, proposal))
    if backup:
        print(f"\nwritten to {_target(arguments)}; the old file is {backup}. 'millpond reload' brings it to new connections.")
    elif arguments.write:
        print("\nnothing to change: the configuration stays as it is.")
    elif _texts(proposal):
        serve = _serves_one_folder(arguments)
        print("\n'millpond serve' takes this with --config-option." if serve else "\n--write puts this into the configuration.")
    return 0


def _recording(arguments: argparse.Namespace) -> Recording:
    if arguments.recording:
        try:
            return recording.read(Path(arguments.recording))
        except recording.RecordingError as error:
            raise StartError(str(error)) from None
    config = place.locate(arguments)
    place.master(config)
    with place.looking():
        counters = CounterSegment.attach(str(Path(config.lock_directory) / COUNTERS_FILE))
        try:
            head, sample = recording.look(counters, 0.0)
        finally:
            counters.close()
    return recording.Recording(head, (sample,))


def _target(arguments: argparse.Namespace) -> str:
    """The file to write to: of the server that was looked at, if one was."""
    if _serves_one_folder(arguments):
        raise StartError("a 'millpond serve' has no file to write to: give the parameters with --config-option when it is started")
    return arguments.config or place.DEFAULT_CONFIG


def _serves_one_folder(arguments: argparse.Namespace) -> bool:
    """Whether a ``serve`` is looked at: by its port, or as ``place.locate`` finds it."""
    found = not arguments.config and not arguments.recording and place.running_ports()
    return bool(arguments.port or found)


def _texts(proposal: Proposal) -> dict[str, str]:
    """What is proposed, as the configuration has it."""
    known = {one.attribute: one for one in parameters(Config)}
    changes = [change for change in proposal.changes if change.value is not None]
    return {known[change.attribute].name: known[change.attribute].kind.show(change.value) for change in changes}


def _write(arguments: argparse.Namespace, proposal: Proposal) -> str:
    """Write what is proposed; the backup's path, empty when there is nothing to write."""
    wanted = {change.attribute: change.value for change in proposal.changes if change.value is not None}

    def holds(config: Config) -> bool:
        return all(getattr(config, attribute) == value for attribute, value in wanted.items())

    target = _target(arguments)
    return rewrite(target, _texts(proposal), holds) if wanted else ""


# -- showing ---------------------------------------------------------------------------------------------------------------------


def _table(given: Recording, found: Usage, proposal: Proposal) -> str:
    span = f"in {found.seconds:,.0f} s" if found.seconds else "since the server started"
    lines = [f"pool mode {given.head.mode}; at most {found.connections} connections at a time; {span}:", "", _NOW + _THEN]
    uses = {use.size: use for use in found.classes}
    for own in sorted({*uses, *proposal.classes}):
        use = uses.get(own)
        left = f"{'':{len(_NOW)}}"
        if use is not None:
            left = (
                f"{size(own):>6}{use.requests:>13,}{size(use.requested):>11}{_part(use.wasted, use.wasted + use.requested):>8}"
                f"{use.peak:>7,}{size(round(use.committed * _slab(own))):>11}{use.misses:>9,}{use.waits:>9,}"
            )
        right = f"{size(own):>12}{_part(proposal.wasted[own], proposal.given[own]):>8}" if own in proposal.classes else ""
        lines.append((left + right).rstrip())
    lines += ["", f"memory at the peak: {size(proposal.peak_now)} with these sizes, {size(proposal.peak_then)} with those proposed", ""]
    return "\n".join(lines + list(_parameters(proposal)))


def _parameters(proposal: Proposal) -> list[str]:
    texts = _texts(proposal)
    lines = []
    for change in proposal.changes:
        name = change.attribute.replace("_", " ")
        lines.append(f"   {name} = {texts[name]}\n      {change.why}" if name in texts else f"   {name}: stays; {change.why}")
    return lines


def _slab(capacity: int) -> int:
    return CLASSES[CAPACITIES.index(capacity)].slab_bytes


def _part(value: int, whole: int) -> str:
    return f"{value / whole:.0%}" if whole else "-"


def _document(found: Usage, proposal: Proposal, backup: str) -> dict[str, Any]:
    classes = [{**use._asdict(), "wasted": use.wasted} for use in found.classes]
    return {
        "seconds": found.seconds,
        "connections": found.connections,
        "classes": classes,
        "peak_bytes": proposal.peak_now,
        "proposal": {
            "classes": [{"size": own, "wasted": proposal.wasted[own], "given": proposal.given[own]} for own in proposal.classes],
            "peak_bytes": proposal.peak_then,
            "parameters": _texts(proposal),
            "reasons": {change.attribute.replace("_", " "): change.why for change in proposal.changes},
        },
        "written": bool(backup),
        "backup": backup,
    }

"""What the pools should be like, from a recording of what was asked of them.

Owns: the arithmetic from a recording to parameters. Pure. Invariant: what is proposed is a plan that a server can use, and a parameter is
only changed for a reason that is told with it.

The model. A request of some size costs a buffer of the smallest class that holds it: what the buffer has too much is *internal* waste
(jemalloc's internal fragmentation). A class that is in use costs each connection a spare slab, for its pool asks ahead at the low-water
mark: memory that other sizes cannot use is *external* waste. More classes make the first smaller and the second larger; all sets of classes
are tried on the buffers that were out at the peak, and one is proposed when it takes noticeably less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pools.buffer import CAPACITIES, CLASSES, LARGEST, PDU, SizeClass, classes_by_bits
from pools.plan import usual_reserve, usual_static
from pools.pool import LOW_WATER
from smbd.monitor.recording import ClassSample, Recording, Sample

# A set of classes that saves less than this part is not told from chance, and the one in force is kept.
WORTH = 0.95
# Of a class's requests so many may wait or be refused before its reserve is looked at.
PATIENCE = 0.001
# Committing and giving back a MiB of slabs, in seconds of CPU (see the README of pools: 0.55 ms and less), and the part of the time that
# committing again may take. A client whose memory just went feels the wait: nothing below five seconds is proposed.
COMMIT = 0.0006
RECOMMIT = 0.001
DECAYS = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
# The reserves of all connections together stay below this part of the budget.
RESERVED = 4
_STEP = 64 << 20
_NOTHING = ClassSample()

Bucket = tuple[int, int, int]
"""Sizes up to a power of two: that power, how many requests, their bytes."""


class ClassUse(NamedTuple):
    """What one size of buffers was asked for: requests and their bytes; buffers out at the peak; slabs committed on average; events."""

    size: int
    requests: int
    requested: int
    peak: int
    committed: float
    in_use: float
    misses: int
    waits: int
    refusals: int
    high_water: int
    reserve: int
    users: int

    @property
    def wasted(self) -> int:
        """Bytes of the buffers that were handed out, less the bytes that were asked for."""
        return self.requests * _shape(self.size).stride - self.requested


class Usage(NamedTuple):
    """A recording summed up. ``seconds`` 0: one look at a server, since its start."""

    seconds: float
    connections: int
    largest: int
    demand: int
    lease_waits: int
    lease_refusals: int
    buckets: tuple[Bucket, ...]
    classes: tuple[ClassUse, ...]


class Change(NamedTuple):
    """A parameter by its name in the configuration's dataclass: what is proposed (None: leave it), and why."""

    attribute: str
    value: Any
    why: str


class Proposal(NamedTuple):
    """The classes proposed with what they would waste, memory at the peak now and then, and every parameter that was looked at."""

    classes: tuple[int, ...]
    wasted: dict[int, int]
    given: dict[int, int]
    peak_now: int
    peak_then: int
    changes: tuple[Change, ...]


def _shape(size: int) -> SizeClass:
    return CLASSES[CAPACITIES.index(size)]


def _home(size: int, classes: Sequence[int]) -> int:
    """The size of buffer that a request of up to ``size``, a power of two, gets."""
    return next(own for own in classes if own >= size)


# -- summing up ------------------------------------------------------------------------------------------------------------------


def usage(recording: Recording) -> Usage:
    """Sums between the first and the last sample; of a single one, since the server's start."""
    samples = recording.samples
    last = samples[-1]
    first = samples[0] if len(samples) > 1 else None
    buckets = tuple(_buckets(first, last))
    return Usage(
        last.at - first.at if first else 0.0,
        max(one.connections for one in samples),
        max(one.largest for one in samples),
        max(one.reserved + one.leased_bytes for one in samples),
        last.lease_waits - (first.lease_waits if first else 0),
        last.lease_refusals - (first.lease_refusals if first else 0),
        buckets,
        tuple(_class_use(size, recording, buckets) for size in recording.head.classes),
    )


def _buckets(first: Sample | None, last: Sample) -> Iterator[Bucket]:
    for size, count in sorted(last.requests.items()):
        before, bytes_before = (first.requests.get(size, 0), first.requested.get(size, 0)) if first else (0, 0)
        if size <= CAPACITIES[LARGEST] and count > before:
            yield size, count - before, last.requested.get(size, 0) - bytes_before


def _class_use(size: int, recording: Recording, buckets: Sequence[Bucket]) -> ClassUse:
    samples = recording.samples
    rows = [one.classes[size] for one in samples]
    first = rows[0] if len(rows) > 1 else _NOTHING
    own = [bucket for bucket in buckets if _home(bucket[0], recording.head.classes) == size]
    high_water = max(row.high_water for row in rows)
    return ClassUse(
        size,
        sum(count for _, count, _ in own),
        sum(requested for _, _, requested in own),
        max(high_water, *(row.in_use for row in rows)),
        sum(row.committed for row in rows) / len(rows),
        sum(row.in_use for row in rows) / len(rows),
        rows[-1].misses - first.misses,
        rows[-1].waits - first.waits,
        rows[-1].refusals + rows[-1].no_room - first.refusals - first.no_room,
        high_water,
        max(row.reserve for row in rows),
        max(row.users for row in rows),
    )


# -- classes ---------------------------------------------------------------------------------------------------------------------


def peak_bytes(found: Usage, classes: Sequence[int]) -> float:
    """Memory of the buffers out at the peak, the spare slab of each class in use and the reserves, were these the classes."""
    held = dict.fromkeys(classes, 0.0)
    users = dict.fromkeys(classes, 0)
    for size, count, _ in found.buckets:
        now = next(use for use in found.classes if use.size >= size)
        then = _home(size, classes)
        held[then] += now.peak * count / now.requests
        users[then] = max(users[then], now.users)
    reserve = usual_reserve(classes)
    total = 0.0
    for size in classes:
        shape = _shape(size)
        total += held[size] * shape.stride
        if size in reserve:
            total += max(0.0, reserve[size] * found.connections * shape.buffers - held[size]) * shape.stride
        elif LOW_WATER[shape.number]:
            total += users[size] * shape.slab_bytes
    return total


def choose_classes(found: Usage, now: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes that take least at the peak; those in force unless others are worth the change.

    A size that nobody asked for meanwhile stays: that says nothing of tomorrow, and it costs nothing.
    """
    always = {CAPACITIES[PDU], CAPACITIES[LARGEST], *(use.size for use in found.classes if not use.requests)}
    free = [size for size in CAPACITIES if size not in always]
    sets = (
        tuple(sorted((*always, *chosen))) for count in range(len(free) + 1) for chosen in itertools.combinations(free, count)
    )  # fmt: skip
    best = min(sets, key=lambda one: (round(peak_bytes(found, one)), len(set(one) ^ set(now))))
    return best if peak_bytes(found, best) <= WORTH * peak_bytes(found, now) else now


def _internal(found: Usage, classes: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """For each class what it would waste, and the bytes of the buffers it would hand out."""
    wasted, given = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    by_bits = classes_by_bits([CAPACITIES.index(size) for size in classes])
    for size, count, requested in found.buckets:
        own = CLASSES[by_bits[size.bit_length() - 1]]
        given[own.capacity] += count * own.stride
        wasted[own.capacity] += count * own.stride - requested
    return wasted, given


# -- the other parameters --------------------------------------------------------------------------------------------------------


def propose(recording: Recording, found: Usage, memory: int) -> Proposal:
    """Parameters for the load that was recorded. ``memory``: bytes the machine has, of which the budget stays below half."""
    head = recording.head
    classes = choose_classes(found, head.classes)
    wasted, given = _internal(found, classes)
    now, then = peak_bytes(found, head.classes), peak_bytes(found, classes)
    changes = [_classes(found, head.classes, classes, now, then), *_slabs(recording, found, classes)]
    changes += [_ceiling(recording, found), _budget(recording, found, memory), _decay(recording, found)]
    return Proposal(classes, wasted, given, round(now), round(then), tuple(changes))


def _classes(found: Usage, now: tuple[int, ...], then: tuple[int, ...], before: float, after: float) -> Change:
    if not found.buckets:
        return Change("pool_classes", None, "nothing was asked for")
    if now == then:
        return Change("pool_classes", None, "no other sizes would take noticeably less")
    return Change("pool_classes", then, f"{1 - after / before:.0%} less memory at the peak")


def _slabs(recording: Recording, found: Usage, classes: tuple[int, ...]) -> Iterator[Change]:
    """What a connection begins with. Changed classes are written with their slabs, whatever the file had for others."""
    changed = classes != recording.head.classes
    wanted, why = _reserve(recording, found, classes)
    now = {use.size: use.reserve for use in found.classes if use.reserve}
    if changed or (wanted != now and why):
        yield Change("pool_reserve_slabs", _pairs(wanted), why or "the least these classes need")
    else:
        yield Change("pool_reserve_slabs", None, "hardly a request waited" if found.connections else "nobody was connected")
    if recording.head.mode == "static":
        yield Change("pool_static_slabs", _pairs(_static(found, classes)), "what the connection that needed most had out at once")
    elif changed:
        yield Change("pool_static_slabs", _pairs(usual_static(classes)), "for the mode static")


def _pairs(slabs: dict[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(slabs.items()))


def _reserve(recording: Recording, found: Usage, classes: tuple[int, ...]) -> tuple[dict[int, int], str]:
    """More of the sizes up to 64 KiB that most connections waited for; the reason, empty when there is none."""
    slabs = usual_reserve(classes)
    reasons = []
    for use in found.classes:
        if use.size not in classes:
            continue
        least = max(slabs.get(use.size, 0), use.reserve)
        impatient = use.requests and (use.waits + use.refusals) / use.requests > PATIENCE and 2 * use.users >= found.connections
        if use.size <= CAPACITIES[PDU] and impatient:
            least = max(least, math.ceil(use.high_water / _shape(use.size).buffers))
            if least > use.reserve:
                reasons.append(f"of {use.requests:,} requests for {use.size >> 10}K {use.waits + use.refusals:,} waited")
        if least:
            slabs[use.size] = least
    total = sum(_shape(size).slab_bytes * count for size, count in slabs.items())
    if reasons and total * max(found.connections, 1) > recording.head.budget // RESERVED:
        return usual_reserve(classes), ""  # what is kept for each would be missing for all
    return slabs, "; ".join(reasons)


def _static(found: Usage, classes: tuple[int, ...]) -> dict[int, int]:
    slabs = {size: max(count, 1) for size, count in {**dict.fromkeys(classes, 1), **usual_reserve(classes)}.items()}
    slabs[CAPACITIES[LARGEST]] = 2  # the largest PDU and its answer
    for use in found.classes:
        if use.size in slabs:
            slabs[use.size] = max(slabs[use.size], math.ceil(use.high_water / _shape(use.size).buffers))
    return slabs


def _ceiling(recording: Recording, found: Usage) -> Change:
    head = recording.head
    waited = sum(use.waits for use in found.classes)
    if waited and found.largest >= 0.8 * head.ceiling and 2 * head.ceiling <= head.budget:
        return Change("pool_ceiling", 2 * head.ceiling, f"one connection came up to {found.largest >> 20}M and waited")
    return Change("pool_ceiling", None, f"one connection held at most {_size(found.largest)} of {_size(head.ceiling)}")


def _budget(recording: Recording, found: Usage, memory: int) -> Change:
    head = recording.head
    if not found.lease_waits and not found.lease_refusals:
        return Change("pool_budget", None, f"all connections together had at most {_size(found.demand)} of {_size(head.budget)}")
    said = f"{found.lease_waits:,} leases had to wait and {found.lease_refusals:,} were refused"
    wanted = min(-(-3 * max(found.demand, head.budget) // 2 // _STEP) * _STEP, memory // 2 // _STEP * _STEP)
    if wanted <= head.budget:
        return Change("pool_budget", None, f"{said}, but the machine has no more to give: fewer connections, or more memory")
    return Change("pool_budget", wanted, said)


def _decay(recording: Recording, found: Usage) -> Change:
    """The shortest that makes committing again cost next to nothing: memory that is asked for again soon had better stay."""
    gaps = [gap for size in recording.head.classes for gap in _gaps(recording, size)]
    if found.seconds < DECAYS[0] or not gaps:
        return Change("pool_decay", None, "no size was idle and asked for again: record for longer to learn more")
    costs = {decay: _recommitting(gaps, decay) / found.seconds for decay in DECAYS}
    wanted = next((decay for decay in DECAYS if costs[decay] <= RECOMMIT), DECAYS[-1])
    now = recording.head.decay
    if now / 2 <= wanted <= now * 2:
        return Change("pool_decay", None, f"{now:g} s is as good as {wanted:g}")
    return Change("pool_decay", wanted, f"committing again what went back takes {costs[wanted]:.2%} of a processor then")


def _gaps(recording: Recording, size: int) -> Iterator[tuple[float, int]]:
    """Each time the size was not asked for and then was again: seconds, and bytes committed beyond the reserves when it began."""
    classes, samples = recording.head.classes, recording.samples
    shape = _shape(size)
    since, held = None, 0
    for before, after in itertools.pairwise(samples):
        asked = _asked(after, size, classes) > _asked(before, size, classes)
        if asked and since is not None:
            yield before.at - since, held
            since = None
        elif not asked and since is None:
            row = before.classes[size]
            since, held = before.at, max(0, row.committed - row.reserve * before.connections) * shape.slab_bytes


def _asked(sample: Sample, size: int, classes: Sequence[int]) -> int:
    return sum(count for power, count in sample.requests.items() if power <= classes[-1] and _home(power, classes) == size)


def _recommitting(gaps: Sequence[tuple[float, int]], decay: float) -> float:
    """Seconds of CPU for what would have gone back. Half of what was idle for a whole period goes after each, the rest counts as gone."""
    return sum(held / (1 << 20) * COMMIT * (1.0 - math.pow(0.5, seconds // decay)) for seconds, held in gaps if seconds > decay)


def _size(value: int) -> str:
    return f"{value >> 20}M" if value >= 1 << 20 else f"{value >> 10}K"

"""Who has just logged on, and through which worker: what one worker may ask about another.

Owns: the table of logons that succeeded a short while ago. Pure: the time is an argument. Invariants: bounded memory; what is known of a
logon says its worker, the proof that its key is known (``messages.proof_of``) and who it is, is told once, and ends with its worker.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from smbd.smb2.dtyp.token import Token

LIFETIME = 30.0  # seconds: a connection is carried to another worker right after its logon, or not at all
REMEMBERED = 1024


class Proof(NamedTuple):
    """A logon's name: the worker, as the hub stamped it, and what only who has its key can tell."""

    slot: int
    generation: int
    proof: bytes


class Proofs:
    """The logons of the last ``LIFETIME`` seconds, the latest ``REMEMBERED`` of them."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[Proof, tuple[float, Token]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def note(self, proof: Proof, who: Token, now: float) -> None:
        """``who`` has logged on."""
        self._known[proof] = now, who
        self._known.move_to_end(proof)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def take(self, proof: Proof, now: float) -> Token | None:
        """Who it was; None for who did not log on so, not lately, or was asked about before."""
        self.expire(now)
        found = self._known.pop(proof, None)
        return None if found is None else found[1]

    def drop_peer(self, slot: int, generation: int) -> None:
        """The worker died."""
        for proof in [proof for proof in self._known if proof[:2] == (slot, generation)]:
            del self._known[proof]

    def expire(self, now: float) -> None:
        """Drop what is too old; the table is in order of age."""
        while self._known:
            proof, (noted, _) = next(iter(self._known.items()))
            if noted > now - LIFETIME:
                return
            del self._known[proof]

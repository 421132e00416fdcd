"""Towards the end: which shard of another a worker with nothing in hand takes as well. Pure.

Of the worker with the most in hand the shard it was given last, which it has least likely begun:
where it has not, it gives it back, and the shard has moved. Where it has, the faster of the two
commits, and a slow worker holds up nobody. Of workers with as many, the one whose shard is the
longest in its hands is the slowest.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from render_farm.farm.hands import Hands
from render_farm.farm.shard_queue import ShardQueue

ATTEMPTS_AT_ONCE = 2


def second_attempts(hands: Hands, queue: ShardQueue) -> Iterator[tuple[str, str, int]]:
    """The thief, whom it takes the shard from, and the shard, for each worker that finds one.

    Never a shard that is to be rendered alone, nor one that the thief has failed. Each is to be
    handed out before the next is asked for.
    """
    for thief in hands.empty:
        found = _found(thief, hands, queue)
        if found is not None:
            yield thief, *found


def _found(thief: str, hands: Hands, queue: ShardQueue) -> tuple[str, int] | None:
    for victim in sorted(hands.workers, key=partial(_haste, hands)):
        shard = _last(thief, victim, hands, queue)
        if shard is not None:
            return victim, shard
    return None


def _haste(hands: Hands, worker: str) -> tuple[int, int]:
    """The less, the more a worker is in need of help."""
    shards = hands.open_of(worker)
    return -len(shards), hands.turn(worker, shards[0]) if shards else 0


def _last(thief: str, victim: str, hands: Hands, queue: ShardQueue) -> int | None:
    for shard in reversed(hands.open_of(victim)):
        taken = len(hands.holders(shard)) >= ATTEMPTS_AT_ONCE
        if not taken and not queue.is_lonely(shard) and not queue.has_failed(thief, shard):
            return shard
    return None

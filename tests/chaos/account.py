"""The oracle: what the agents wrote down, against what senders were told. Nothing of it comes from the system.

    Sent      sender, agent -> sequence numbers given out; each is unknown until its send is acknowledged
    Account   sender, agent -> handlings, read from the agents' files
    judge     both --> Verdict

Handling is at least once: a message may be handled again by a later life of its agent (a takeover begins again at what
was not settled). Everything else is a violation:

    lost          acknowledged, and in nobody's account
    unexpected    in an account, and never sent
    reordered     first handlings out of sequence, or one life going back
    twice         handled twice by one life
    overlapping   begun by an older life after a younger one had ended its first message (not a violation of a promise
                  for a process that was frozen between its look at the lease and the message: the tests bound it)
"""

from __future__ import annotations

import itertools
import statistics
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Pair = tuple[str, str]


class Numbered(NamedTuple):
    """One message."""

    sender: str
    agent: str
    seq: int


class Handling(NamedTuple):
    """One line of an account; times are monotonic nanoseconds."""

    seq: int
    life: int
    began_ns: int
    ended_ns: int


class Sent:
    """What senders sent, and what they were told of it."""

    def __init__(self) -> None:
        self.numbers: defaultdict[Pair, int] = defaultdict(int)
        self.unknown: set[Numbered] = set()

    def number(self, sender: str, agent: str) -> Numbered:
        """Give out the next number; what becomes of it is unknown until it is acknowledged."""
        message = Numbered(sender, agent, self.numbers[sender, agent])
        self.numbers[sender, agent] += 1
        self.unknown.add(message)
        return message

    def acknowledge(self, messages: Collection[Numbered]) -> None:
        """`send()` has returned for these."""
        self.unknown.difference_update(messages)

    @property
    def acknowledged(self) -> int:
        """How many messages are durable, as their senders were told."""
        return sum(self.numbers.values()) - len(self.unknown)


class Account:
    """What all agents wrote down.

    Attributes:
        lives: (process, life) pairs; a `Handling.life` is an index of them.
    """

    def __init__(self) -> None:
        self.lives: list[tuple[int, int]] = []
        self._known: dict[tuple[int, int], int] = {}
        # Four numbers a handling, not an object: a long run has millions.
        self._rows: defaultdict[Pair, array[int]] = defaultdict(lambda: array("q"))

    @classmethod
    def read(cls, directory: Path) -> Account:
        """Read all files of a directory; a last line that was cut counts as not written."""
        account = cls()
        for path in sorted(directory.glob("account.*")):
            process = int(path.suffix[1:])
            with path.open() as lines:
                for line in lines:
                    if line.endswith("\n"):
                        agent, sender, seq, life, began, ended = line.split()
                        account.add(sender, agent, process, int(life), int(seq), int(began), int(ended))
        return account

    def add(self, sender: str, agent: str, process: int, life: int, seq: int, began_ns: int, ended_ns: int) -> None:
        """Enter one handling."""
        index = self._known.setdefault((process, life), len(self.lives))
        if index == len(self.lives):
            self.lives.append((process, life))
        self._rows[sender, agent].extend((seq, index, began_ns, ended_ns))

    def pairs(self) -> Collection[Pair]:
        """All (sender, agent) that anything was handled of."""
        return self._rows.keys()

    def handlings(self, pair: Pair) -> list[Handling]:
        """All handlings of one sender's messages by one agent, in the order in which they ended."""
        rows = self._rows.get(pair, ())
        found = [Handling(*rows[at : at + 4]) for at in range(0, len(rows), 4)]
        found.sort(key=lambda one: one.ended_ns)
        return found

    def count(self) -> int:
        """All handlings."""
        return sum(map(len, self._rows.values())) // 4


@dataclass
class Verdict:
    """What the comparison found; see the module's docstring.

    Attributes:
        messages: acknowledged.
        unknown: sent, and never acknowledged.
        handled: messages handled at least once.
        repeats: handlings beyond the first of each message.
        repeats_by: those, by the process that handled again.
    """

    messages: int = 0
    unknown: int = 0
    handled: int = 0
    repeats: int = 0
    repeats_by: dict[int, int] = field(default_factory=dict)
    lost: list[Numbered] = field(default_factory=list)
    unexpected: list[Numbered] = field(default_factory=list)
    reordered: list[Numbered] = field(default_factory=list)
    twice: list[Numbered] = field(default_factory=list)
    overlapping: list[Numbered] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.unexpected or self.reordered or self.twice)

    def __str__(self) -> str:
        found = {name: getattr(self, name) for name in ("lost", "unexpected", "reordered", "twice", "overlapping")}
        said = ", ".join(
            f"{len(what)} {name}" + (f" (first {tuple(what[0])})" if what else "") for name, what in found.items()
        )
        return f"{self.messages} acknowledged, {self.unknown} unknown, {self.repeats} handled again; {said}"


def judge(sent: Sent, account: Account) -> Verdict:
    """Compare what was acknowledged with what was handled."""
    verdict = Verdict(messages=sent.acknowledged, unknown=len(sent.unknown))
    by_agent: defaultdict[str, list[tuple[str, Handling]]] = defaultdict(list)
    for pair in {*sent.numbers, *account.pairs()}:
        sender, agent = pair
        handlings = account.handlings(pair)
        _judge_pair(verdict, sent, account, pair, handlings)
        if len({one.life for one in handlings}) > 1:
            by_agent[agent] += [(sender, one) for one in handlings]
    for agent, found in by_agent.items():
        verdict.overlapping += [Numbered(sender, agent, one.seq) for sender, one in _overlapping(found)]
    return verdict


def _judge_pair(verdict: Verdict, sent: Sent, account: Account, pair: Pair, handlings: list[Handling]) -> None:
    count = sent.numbers.get(pair, 0)
    seen = bytearray(count)
    newest = -1
    last_of: dict[int, int] = {}
    for one in handlings:
        message = Numbered(*pair, one.seq)
        if not 0 <= one.seq < count:
            verdict.unexpected.append(message)
            continue
        last = last_of.get(one.life, -1)
        if one.seq == last:
            verdict.twice.append(message)
        elif one.seq < last or (not seen[one.seq] and one.seq < newest):
            verdict.reordered.append(message)
        last_of[one.life] = max(last, one.seq)
        if seen[one.seq]:
            process = account.lives[one.life][0]
            verdict.repeats += 1
            verdict.repeats_by[process] = verdict.repeats_by.get(process, 0) + 1
        else:
            seen[one.seq] = 1
            verdict.handled += 1
            newest = max(newest, one.seq)
    at = seen.find(0)
    while at >= 0:
        message = Numbered(*pair, at)
        if message not in sent.unknown:
            verdict.lost.append(message)
        at = seen.find(0, at + 1)


def _overlapping(found: list[tuple[str, Handling]]) -> Iterator[tuple[str, Handling]]:
    """Handlings of one agent that an older life began after a younger one had ended its first message."""
    first: dict[int, Handling] = {}
    for _, one in sorted(found, key=lambda pair: pair[1].began_ns):
        first.setdefault(one.life, one)
    order = sorted(first, key=lambda life: first[life].began_ns)
    younger = {life: first[after].ended_ns for life, after in itertools.pairwise(order)}
    for sender, one in found:
        if one.life in younger and one.began_ns > younger[one.life]:
            yield sender, one


class Recovery:
    """When agents were heard of again.

    Args:
        account: what was handled.
    """

    def __init__(self, account: Account) -> None:
        rows: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for pair in account.pairs():
            for one in account.handlings(pair):
                rows[pair[1]].append((one.ended_ns, account.lives[one.life][0]))
        self._rows = {agent: sorted(found) for agent, found in rows.items()}

    def after_s(self, agents: Collection[str], at_ns: int, process: int) -> float | None:
        """Seconds from `at_ns` until any of the agents handled something in another process; None if never."""
        found = []
        for agent in agents:
            rows = self._rows.get(agent, [])
            for ended_ns, by in rows[bisect_right(rows, (at_ns, 1 << 62)) :]:
                if by != process:
                    found.append(ended_ns)
                    break
        return (min(found) - at_ns) / 1e9 if found else None


def median_and_most(values: Collection[float]) -> tuple[float | None, float | None]:
    """The two figures by which times to recovery are told; None if there is none."""
    return (statistics.median(values), max(values)) if values else (None, None)

"""Which requests bring a set of registers in the least bus time. No I/O, no Modbus: spans and costs.

Registers that nobody wants may be read along where that is cheaper than another request (a *hole*).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Rules", "Span", "plan"]


class Span(NamedTuple):
    """Addresses from ``start`` up to, not including, ``end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    def holds(self, other: Span) -> bool:
        return self.start <= other.start and other.end <= self.end

    def meets(self, other: Span) -> bool:
        """Whether they have an address in common."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class Rules:
    """What one request may touch. Whatever lies inside an allowed span is allowed too."""

    limit: int
    """Most addresses in one request."""
    barred: tuple[Span, ...] = ()
    """No request may touch these."""
    refused: frozenset[Span] = frozenset()
    """The device refused exactly these; it refuses whatever holds one of them."""
    declared: tuple[Span, ...] | None = None
    """A request must lie inside one of these; None: anywhere."""

    def allow(self, span: Span) -> bool:
        return (
            span.size <= self.limit
            and not any(span.meets(bad) for bad in self.barred)
            and not any(span.holds(bad) for bad in self.refused)
            and (self.declared is None or any(block.holds(span) for block in self.declared))
        )


def plan(wanted: Iterable[Span], cost: Callable[[int], int], rules: Rules) -> tuple[Span, ...]:
    """The cheapest requests that bring every wanted span whole, in rising order of address.

    ``cost`` gives the price of a request from its number of addresses and must not fall as that rises.
    Then some cheapest plan puts into each request a run of neighbours in the order of their first
    address: one that does not can be sorted out without growing any request. The search over such runs
    takes the number of spans times the longest run. Of equally cheap plans it gives one with the fewest
    requests.

    Raises:
        ValueError: a wanted span is not allowed even in a request of its own.
    """
    items = sorted(set(wanted))
    best: list[tuple[int, int]] = [(0, 0)]
    """Price and number of requests for the first n items."""
    choices: list[tuple[int, Span]] = []
    """For each item the first one of the request that ends with it, and that request."""
    for last, item in enumerate(items):
        choice: tuple[tuple[int, int], int, Span] | None = None
        end = item.end
        for first in range(last, -1, -1):
            end = max(end, items[first].end)
            request = Span(items[first].start, end)
            if not rules.allow(request):
                break
            price, requests = best[first]
            total = (price + cost(request.size), requests + 1)
            if choice is None or total < choice[0]:
                choice = (total, first, request)
        if choice is None:
            raise ValueError(f"addresses {item.start} to {item.end - 1} may not be read")
        best.append(choice[0])
        choices.append(choice[1:])
    found: list[Span] = []
    upto = len(items)
    while upto:
        upto, request = choices[upto - 1]
        found.append(request)
    return tuple(reversed(found))

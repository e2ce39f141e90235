"""Adapter slots on the device of one simulated engine."""

from __future__ import annotations

from collections import OrderedDict


class AdapterSlots:
    """At most ``capacity`` adapters on the device; an idle one makes room for another, least recently used first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._users: OrderedDict[str, int] = OrderedDict()
        self.freed = False
        """Set when an adapter's last running request left; cleared by whoever looks again at those that wait."""

    def fits(self, adapter: str) -> bool:
        """Whether a request for the adapter can run now."""
        users = self._users
        return adapter in users or len(users) < self.capacity or not all(users.values())

    def acquire(self, adapter: str) -> bool:
        """Hold the adapter for one more running request; only if it fits. True: it had to be loaded."""
        users = self._users
        if adapter in users:
            users[adapter] += 1
            users.move_to_end(adapter)
            return False
        if len(users) >= self.capacity:
            del users[next(name for name, count in users.items() if not count)]
        users[adapter] = 1
        return True

    def release(self, adapter: str) -> None:
        self._users[adapter] -= 1
        if not self._users[adapter]:
            self.freed = True

    def running(self) -> str:
        """Adapters of running requests, comma-joined."""
        return ",".join(sorted(name for name, count in self._users.items() if count))

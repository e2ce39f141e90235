"""Decision records kept for questions: the last N in memory."""

from __future__ import annotations

from collections import OrderedDict

from pointsman.api.record import DecisionRecord


class RecordRing:
    """The last ``capacity`` records, by request id; a repeated id replaces the older record."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._records: OrderedDict[str, DecisionRecord] = OrderedDict()

    def add(self, record: DecisionRecord) -> None:
        self._records.pop(record.request_id, None)
        self._records[record.request_id] = record
        if len(self._records) > self._capacity:
            self._records.popitem(last=False)

    def get(self, request_id: str) -> DecisionRecord | None:
        return self._records.get(request_id)

    def last(self, count: int) -> list[DecisionRecord]:
        """The newest records, newest first."""
        records: list[DecisionRecord] = []
        for request_id in reversed(self._records):
            if len(records) >= count:
                break
            records.append(self._records[request_id])
        return records

    def __len__(self) -> int:
        return len(self._records)

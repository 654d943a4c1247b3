"""Ids are UUIDv7 and sort in the order in which they were made."""

from __future__ import annotations

from ledger import ids


def test_ids_sort_by_age_and_are_version_7() -> None:
    made = [ids.new() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {(i.version, i.variant) for i in made} == {(7, "specified in RFC 4122")}

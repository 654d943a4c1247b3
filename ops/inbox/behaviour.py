"""What the local part of a recipient's address makes the inbox do.

| local part          | answer                                                         |
|---------------------|----------------------------------------------------------------|
| `refuse`, `refuse+` | RCPT: 550 5.1.1, no such user                                  |
| `full`, `full+`     | RCPT: 552 5.2.2, mailbox full                                  |
| `busy`, `busy+`     | RCPT: 421 4.3.2, and the connection is closed                  |
| `defer-once+`       | final dot: 451 4.7.1 the first time for a Message-ID, then 250 |
| `slow+N`            | final dot: answered N milliseconds later                       |
"""

from __future__ import annotations

from dataclasses import dataclass

SLOW_MAX_MS = 900_000


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`reply` answers RCPT where set; the rest concerns the answer to the final dot."""

    reply: str = ""
    closes: bool = False
    defers_once: bool = False
    delay_s: float = 0.0

    @property
    def event(self) -> str:
        """What a `reply` is remembered as: `refused` (5yz) or `deferred` (4yz)."""
        return "refused" if self.reply.startswith("5") else "deferred"


ACCEPT = Behaviour()
_BY_WORD = {
    "refuse": Behaviour(reply="550 5.1.1 No such user here"),
    "full": Behaviour(reply="552 5.2.2 Mailbox full"),
    "busy": Behaviour(reply="421 4.3.2 Too busy, closing the connection", closes=True),
    "defer-once": Behaviour(defers_once=True),
}


def of(address: str) -> Behaviour:
    """The behaviour that `address` asks for; an ordinary address is accepted at once."""
    word, _, rest = address.rpartition("@")[0].lower().partition("+")
    if word == "slow":
        delay_ms = rest.partition("+")[0]
        if delay_ms.isascii() and delay_ms.isdigit() and len(delay_ms) < len(str(SLOW_MAX_MS)) + 1:
            return Behaviour(delay_s=min(int(delay_ms), SLOW_MAX_MS) / 1000)
        return ACCEPT
    return _BY_WORD.get(word, ACCEPT)

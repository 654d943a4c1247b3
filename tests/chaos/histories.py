"""Hand-made histories for the checker."""

from __future__ import annotations

from typing import Any

from lab.chaos.history import Attempted, Call, Delivery, Event, History, Job, Mark, Message

Step = tuple[str, int] | tuple[str, int, str]


def events(*steps: Step) -> tuple[Event, ...]:
    """Events from (state, attempt[, reason]) one second apart."""
    made: list[Event] = []
    before: str | None = None
    for number, step in enumerate(steps):
        reason = step[2] if len(step) > 2 else None
        made.append(Event(number, before, step[0], step[1], "w@h:1", reason, float(number)))
        before = step[0]
    return tuple(made)


HAPPY = events(("ready", 0), ("running", 1), ("succeeded", 1))
DIED = events(
    ("ready", 0), ("running", 1), ("ready", 1, "its worker died"), ("running", 2), ("succeeded", 2)
)
RELEASED = events(
    ("ready", 0),
    ("running", 1),
    ("ready", 1, "its worker was shutting down"),
    ("running", 2),
    ("succeeded", 2),
)
SENT = (("sending", 1, 0), ("dot_sent", 1, 1), ("sent", 1, 1))
SENT_TWICE = (
    ("sending", 1, 0), ("dot_sent", 1, 1), ("dot_sent", 2, 1), ("dot_sent", 2, 2), ("sent", 2, 2),
)  # fmt: skip


def mail(
    *,
    chain: tuple[Event, ...] = HAPPY,
    marks: tuple[tuple[str, int, int], ...] = SENT,
    deliveries: int = 1,
    relay: str = "default",
    has_callback: bool = False,
) -> History:
    """One acknowledged mail to one recipient, and what became of it."""
    history = History()
    history.attempted["k"] = Attempted(
        "k", "email.send", 0.0, ("a@example.org",), relay, has_callback
    )
    history.acknowledged["k"] = "j"
    last = chain[-1]
    history.jobs["j"] = Job(
        "j", "k", "email.send", last.to_state, last.attempt, last.reason, "chaos", has_callback,
        0.0, last.at, None, chain,
    )  # fmt: skip
    entered = tuple(
        Mark("a@example.org", attempt, state, tries, float(number))
        for number, (state, attempt, tries) in enumerate(marks)
    )
    if entered:
        state, attempt = entered[-1].state, entered[-1].attempt
        history.messages.append(Message("j", "a@example.org", state, attempt, entered))
    history.deliveries = [Delivery("a@example.org", float(n)) for n in range(deliveries)]
    return history


def called_back(*, ids: tuple[str, ...] = ("c",), calls: int = 1, attempts: int = 1) -> History:
    """The same with a callback that arrived `calls` times under each of `ids`."""
    history = mail(has_callback=True)
    for name in ids:
        steps: list[Step] = [("ready", 0)]
        for attempt in range(1, attempts):
            steps += [("running", attempt), ("ready", attempt, "its worker died")]
        steps += [("running", attempts), ("succeeded", attempts)]
        history.jobs[name] = Job(
            name, None, "http.callback", "succeeded", attempts, None, "job:j", False,
            0.0, 9.0, None, events(*steps),
        )  # fmt: skip
        history.calls += [Call("k", f"msg_{name}", 200, float(n)) for n in range(calls)]
    return history


def add_task(
    history: History,
    name: str,
    *,
    chain: tuple[Event, ...] = HAPPY,
    key: str | None = None,
    **asked: Any,
) -> Job:
    """Add a task of the harness, acknowledged, and what became of it; its id is `name`."""
    last = chain[-1]
    made = Job(
        name, key or name, "chaos.task", last.to_state, last.attempt, last.reason, "chaos", False,
        chain[0].at, last.at, None, chain,
    )  # fmt: skip
    history.jobs[name] = made
    history.attempted[made.key or ""] = Attempted(made.key or "", "chaos.task", 0.0, **asked)
    history.acknowledged[made.key or ""] = name
    return made

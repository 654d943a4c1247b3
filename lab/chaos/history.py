"""What is known at the end of a run: the clients', the recorders' and the ledger's histories."""

from __future__ import annotations

from dataclasses import dataclass, field

FINISHED = frozenset({"succeeded", "failed", "cancelled", "unknown"})


@dataclass(frozen=True, slots=True)
class Attempted:
    """A job that a client tried to hand over."""

    key: str
    kind: str
    at: float
    recipients: tuple[str, ...] = ()
    relay: str = "default"
    has_callback: bool = False
    delay_s: float = 0.0
    parents: tuple[str, ...] = ()  # ids of the jobs that must succeed first
    ends: str = "succeeded"  # the end that it shall come to where nobody interferes
    queue: str = ""
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a job's state, as the trigger wrote it; in order of `seq`."""

    seq: int
    from_state: str | None
    to_state: str
    attempt: int
    worker: str | None
    reason: str | None
    at: float
    repeats: int = 1  # so many snoozes in a row, the last of them at `last_at`
    last_at: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands in the ledger at the end."""

    id: str
    key: str | None
    kind: str
    state: str
    attempt: int
    reason: str | None
    accepted_by: str | None
    has_callback: bool
    created_at: float
    finished_at: float | None
    rendered: str | None = None
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """One state of a message, as the witness wrote it; in order."""

    recipient: str
    attempt: int
    state: str
    tries: int  # dots that were marked so far
    at: float


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it stands in the ledger."""

    job_id: str
    recipient: str
    state: str
    attempt: int
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that the recorder took over."""

    recipient: str
    at: float


@dataclass(frozen=True, slots=True)
class Call:
    """A callback that reached its receiver; `status` 0: it never answered."""

    name: str
    webhook_id: str
    status: int
    at: float
    is_signed: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """What a task of the harness noted itself: an attempt that began or ended."""

    key: str
    what: str
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class Probe:
    """How long somebody waited whom a fault did not concern, and how long that may take."""

    fault: str
    what: str
    seconds: float  # infinity: as long as was looked
    bound_s: float


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault: from when to when (seconds since 1970), and whether it met what it waited for."""

    kind: str
    service: str
    began: float
    ended: float
    is_met: bool = True


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended; `name` as the harness calls it."""

    name: str
    pid: int
    at: float


@dataclass(slots=True)
class History:
    """Everything that the checker looks at."""

    attempted: dict[str, Attempted] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)  # key -> job id
    acknowledged_twice: list[str] = field(default_factory=list)  # keys that got two ids
    cancel_asked: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)  # and the gateway said that they are
    cancel_taken: dict[str, float] = field(default_factory=dict)  # key -> when a 200 was in hand
    refused_requests: list[str] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)  # by id
    messages: list[Message] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    refused_addresses: set[str] = field(default_factory=set)  # a 5yz was said to them
    calls: list[Call] = field(default_factory=list)
    inward: int = 0  # requests that came through a redirect
    faults: list[Struck] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)  # keys of jobs that kill their process
    runs: list[Run] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)  # what a fault saw that may never be
    failed_elsewhere: list[str] = field(default_factory=list)  # of tenants that asked for nothing
    stray_ticks: int = 0  # jobs of the schedule that no tick stands for

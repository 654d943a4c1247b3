"""What is wrong with a service that the user runs, in its own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence and what to do; `is_passing`: transient, so waiting may help."""

    variable: str  # empty where the sentence begins with it
    sentence: str
    remedy: str
    is_passing: bool = False

    @property
    def told(self) -> str:
        """The sentence with the variable's name."""
        return f"{self.variable}: {self.sentence}" if self.variable else self.sentence

    def __str__(self) -> str:
        """All of it in one line."""
        return f"{self.told} {self.remedy}"


def unreachable(variable: str, name: str, words: str) -> Finding:
    """No response, or not a proper one; `words` are the network's."""
    sentence = f"{name} cannot be reached: {words}."
    return Finding(variable, sentence, "Start it, or correct host and port.", is_passing=True)


def words_of(error: BaseException) -> str:
    """The server's or network's message: one line, without what libpq adds."""
    error = getattr(error, "orig", None) or error  # what SQLAlchemy has wrapped
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.rstrip(".")
    if isinstance(error.__cause__, OSError):
        return words_of(error.__cause__)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = [line.partition("FATAL:")[2] for line in lines if "FATAL:" in line]
    text = said[0] if said else lines[0].rpartition(" failed: ")[2]
    return " ".join(text.split()).rstrip(".")

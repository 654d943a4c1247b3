"""Errors of the command line and the local stack.

RelaisError
└── OpsError               a sentence, and exit code 1
    ├── UsageError         the caller asked for something that cannot be: exit code 2
    └── StackError         a service of the local stack is not as it should be
        ├── PortInUseError     somebody else listens where a service should
        ├── DiskFullError      too little room for the data folder
        └── MissingProgramError  a server program was not found
"""

from __future__ import annotations

from runtime.errors import RelaisError


class OpsError(RelaisError):
    """Something about running Relais failed; ends with exit code 1."""


class UsageError(OpsError):
    """Wrong input on the command line; ends with exit code 2."""


class StackError(OpsError):
    """A service of the local stack did not start, stop or respond."""


class PortInUseError(StackError):
    """A port that a service needs is in use."""


class DiskFullError(StackError):
    """The data folder's disk has too little room left."""


class MissingProgramError(StackError):
    """No wheel and no program on PATH provides a server."""

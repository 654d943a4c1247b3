"""The version, defined once: everything else reads it here."""

VERSION = "0.1.0"

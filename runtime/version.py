"""The version, said once: everything else reads it here."""

VERSION = "0.1.0"

"""Webhooks of mail providers: body and headers in, proven events of one type out.

Each module has `read`: it raises WrongSignature where the request is not proven to come from the
provider, FeedbackError where it is but cannot be read, and SettingsError where a key in our own
settings is none. `headers` have lower-case names; `body` is the exact bytes.
"""

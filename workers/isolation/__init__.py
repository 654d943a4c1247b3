"""Runs handlers and pure functions in processes that may be killed at any moment."""

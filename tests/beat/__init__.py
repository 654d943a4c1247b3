"""Tests of what fires."""

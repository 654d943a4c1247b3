"""Tests of logs, metrics, traces and the processes that show them."""

"""Doorbells over Redis: rung when a job becomes ready, heard by the workers."""

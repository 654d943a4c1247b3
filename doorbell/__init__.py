"""Doorbells over Redis: rung by whoever made a job ready, heard by the workers."""

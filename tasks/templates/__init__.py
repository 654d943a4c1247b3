"""Rendering of callers' templates."""

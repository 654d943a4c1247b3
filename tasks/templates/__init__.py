"""Rendering of templates that strangers wrote."""

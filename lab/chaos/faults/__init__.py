"""Faults: one small class each; `registry` knows them all."""

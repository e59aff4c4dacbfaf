"""Canonical forms: every model says the same thing the same way, whatever wrote it."""

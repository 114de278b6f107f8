"""Checking and repairing an archive."""

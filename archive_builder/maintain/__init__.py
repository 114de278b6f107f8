"""Verification and repair of an archive."""

"""Lookups of cutouts in an archive."""

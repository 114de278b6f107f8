"""Bulk requests: a list in, files out."""

"""Using the archive."""

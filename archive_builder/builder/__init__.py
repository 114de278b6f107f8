"""Building the archive."""

"""Making the archive."""

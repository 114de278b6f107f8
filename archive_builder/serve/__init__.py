"""Looking cutouts up."""

"""What is on disk: shards and the index."""

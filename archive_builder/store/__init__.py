"""The archive on disk: shards and the index."""

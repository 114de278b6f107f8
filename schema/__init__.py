"""The written formats: the tables of the index, the shard, the recipe."""

"""Many pictures at once: a model and a number in, a shard set out. Ray Data does the work."""

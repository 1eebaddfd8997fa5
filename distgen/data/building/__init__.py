"""From pictures and videos of any kind to shard sets, and an index for tars of others."""

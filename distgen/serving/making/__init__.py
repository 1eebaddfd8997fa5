"""From seeds to files: sampling, batching and encoding; nothing of HTTP or Ray."""

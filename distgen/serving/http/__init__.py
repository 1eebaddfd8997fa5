"""The endpoint as clients see it: HTTP in, HTTP out; nothing of Ray."""

"""Pictures over HTTP: made in `making`, spoken of in `http`, put on a cluster in `deploy`."""

"""A farm from Python: in this Ray cluster, over HTTP, or one of its own."""

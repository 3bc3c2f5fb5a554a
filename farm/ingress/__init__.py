"""The front door: HTTP, by a FastAPI app that knows the farm by a small protocol alone."""

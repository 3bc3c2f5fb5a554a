"""The farm over HTTP: a FastAPI app that reaches the farm only through `FarmApi`."""

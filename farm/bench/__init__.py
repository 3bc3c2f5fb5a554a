"""`python -m farm.bench`: what the farm costs beside the work itself."""

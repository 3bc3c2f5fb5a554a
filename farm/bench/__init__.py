"""`python -m farm.bench`: measurements of the farm's overhead on top of rendering."""

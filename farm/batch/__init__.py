"""`python -m farm.batch`: render a clip of each of many pictures."""

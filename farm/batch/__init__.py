"""`python -m farm.batch`: many pictures in, many clips out."""

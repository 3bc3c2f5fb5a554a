"""A farm of SVD engines on Ray. Importing this loads neither ray nor torch."""

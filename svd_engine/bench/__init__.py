"""How fast the engine is, beside diffusers: `python -m svd_engine bench`."""

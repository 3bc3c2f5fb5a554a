"""Parses a request's body into its fields and its picture."""

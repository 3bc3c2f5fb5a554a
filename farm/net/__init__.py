"""Requests that leave the farm for the web, to public addresses alone, checked before each use."""

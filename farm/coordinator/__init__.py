"""The one process that owns a farm's queue and writes its jobs' states."""

"""The farm's records in the store: jobs, their event logs, finished clips and pictures."""

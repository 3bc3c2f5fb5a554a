"""Jobs, event logs, clips and pictures as they are kept in the store."""

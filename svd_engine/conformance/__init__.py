"""Records what a port of SVD computes, compares it stage by stage, and names its mistakes."""

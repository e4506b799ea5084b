"""Students, probes and their tables: what is said about a set. Nothing here knows a method."""

"""Run programs that nobody has read, and say honestly how they ended."""

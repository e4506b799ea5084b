"""What everything else stands on: errors, keyed draws, progress, the process and its workers."""

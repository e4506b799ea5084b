"""What one process does of a run's work, whoever calls it: this process, an actor, a Train worker, a trial."""

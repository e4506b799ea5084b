"""Records put together: summaries, comparisons, scores."""

"""Students and what is said about them: training recipes, one record per student, and the summary of many."""

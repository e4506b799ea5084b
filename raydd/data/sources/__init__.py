"""One file for each kind of dataset, and the table of all."""

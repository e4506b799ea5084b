"""Ray, and nothing but Ray: where the work runs. No line here can change a number."""

"""Students: networks trained on a set, and what is measured on them."""

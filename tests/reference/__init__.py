"""Independent restatements of the papers' equations, slow and plain, to compare the product with."""

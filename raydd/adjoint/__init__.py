"""The exact gradient of an unrolled inner loop: equation, pure steps, and steps written out for the ConvNet."""

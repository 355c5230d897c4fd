"""How good a version is: against another, on slices, on images from outside the pool."""

"""Pictures: safely decoded in children that a bad file may kill; shown small or at full size."""

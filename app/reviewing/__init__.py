"""Where a person checks the model: the review lists and the test runs."""

"""The sample library and its scripted rater."""

"""The pages and the JSON API. Nothing here, nor anything it imports, loads torch."""

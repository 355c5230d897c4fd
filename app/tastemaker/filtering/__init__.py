"""A head as a filter over pictures and embeddings outside the library; a server as programs see
it."""

"""From picture to vector: encoders, and the embeddings they leave behind."""

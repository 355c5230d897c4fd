"""Signing in: accounts, who is behind a request, and what they may do."""

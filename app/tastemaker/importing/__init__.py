"""How images come in: folders, uploads, zips, and what lies beside a picture."""

"""The only truth: tables, sessions, migration, backups."""

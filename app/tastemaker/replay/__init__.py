"""The learning benchmark: known labels hidden, and bought back one by one."""

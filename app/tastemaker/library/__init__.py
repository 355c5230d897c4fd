"""Everything in a project: filtered, browsed, tagged, cut into slices."""

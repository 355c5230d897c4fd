"""Text in CSV files that a spreadsheet may open, and take for a formula."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return "'" + cell if cell.startswith(FORMULA) else cell


def bare(cell: str) -> str:
    """What `inert` made safe, as it was."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell

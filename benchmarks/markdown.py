"""Tables in Markdown."""

import pandas as pd


def markdown(frame: pd.DataFrame, *, index: bool = True, numbers: str | None = None) -> str:
    """A data frame as a table.

    Args:
      frame: the rows.
      index: whether the names of the rows are the first column.
      numbers: the format of all numbers, which then stand on the right of their columns, nothing
        for those that are missing. Without it all cells are text and stay as they are.

    Returns:
      The lines of the table.
    """
    if numbers is None:
        return str(frame.to_markdown(index=index, disable_numparse=True))
    known = frame.astype(object).where(frame.notna(), None)
    return str(known.to_markdown(index=index, floatfmt=numbers, missingval=""))

"""The report of a run: records read from disk, figures of plain data, one self-contained page."""

"""Tables as text."""

from __future__ import annotations

from dap_led_training.measure import metrics


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as columns of text; the first one is flush left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(
        '  '.join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths)))
        for row in rows
    )


def version_line() -> str:
    """The libraries that the figures depend on, in one line."""
    return ', '.join(f'{name} {version}' for name, version in metrics.versions().items())

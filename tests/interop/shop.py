"""Exceptions that both ends know by one module, as two services of one application do."""

from __future__ import annotations

from typing import Any

__all__ = ["OutOfStock"]


class OutOfStock(Exception):
    """With a positional and a keyword argument."""

    def __init__(self, sku: str, **kwargs: Any) -> None:
        super().__init__(sku)
        self.kwargs = kwargs

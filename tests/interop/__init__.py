"""The predecessor, unmodified and in processes of its own, on the other end of the wire."""

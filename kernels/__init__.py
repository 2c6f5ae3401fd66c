"""Implementations of every op, side by side, and the table that chooses among them. See README.md in this folder."""

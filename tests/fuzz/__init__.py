"""Broken inputs of every kind that errata reads, made from whole ones, and what errata makes of them."""

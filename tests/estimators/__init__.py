"""Tests of the mathematical floor: exact expectations, known values, properties, and what each test would catch."""

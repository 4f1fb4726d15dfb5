"""The test suite of sb3_pg."""

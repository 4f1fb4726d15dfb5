"""The comparison: scores, analysis, verdict, page, command."""

"""Policies and what is asked of them: actions, log-probs and values of many rows, how far two are apart."""

"""From environment steps to a batch of facts, and what each of its steps is credited with."""

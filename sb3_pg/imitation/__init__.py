"""Behaviour cloning: the policy gradient's own surrogate, on somebody else's actions, at weight 1."""

from sb3_pg.imitation.cloning import clone
from sb3_pg.imitation.demonstrations import Demonstration, demonstrations_from, played_by
from sb3_pg.imitation.warm_start import warm_start

__all__ = ["Demonstration", "clone", "demonstrations_from", "played_by", "warm_start"]

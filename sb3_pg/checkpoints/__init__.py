"""Runs that go on as if they had never been interrupted: what that takes is saved at the edges of rollouts."""

from sb3_pg.checkpoints.algorithm import ResumableAlgorithm
from sb3_pg.checkpoints.resume_callback import ResumeCallback, has_checkpoint

__all__ = ["ResumableAlgorithm", "ResumeCallback", "has_checkpoint"]

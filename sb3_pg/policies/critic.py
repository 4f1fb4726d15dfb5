"""SB3's and sb3-contrib's policies with a critic, with files that are whole."""

from __future__ import annotations

import io
import os
from pathlib import Path

from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)

from sb3_pg.files import whole_file


class SavedWhole(BasePolicy):
    """Stands before SB3's policy among the bases of a class, and writes its files."""

    def save(self, path: str | os.PathLike[str] | io.BufferedIOBase) -> None:
        """As in SB3; whenever the process is killed, the file is there whole, the old one or the new one."""
        if isinstance(path, io.BufferedIOBase):
            super().save(path)  # type: ignore[arg-type]  # PyTorch takes an open file
            return
        with whole_file(Path(path)) as unfinished:
            super().save(str(unfinished))


class CriticPolicy(SavedWhole, ActorCriticPolicy):
    """SB3's :class:`~stable_baselines3.common.policies.ActorCriticPolicy`; nothing but :meth:`save` is different."""


class CriticCnnPolicy(SavedWhole, ActorCriticCnnPolicy):
    """:class:`CriticPolicy` for images."""


class MultiInputCriticPolicy(SavedWhole, MultiInputActorCriticPolicy):
    """:class:`CriticPolicy` for dictionaries of observations."""


class MaskableCriticPolicy(SavedWhole, MaskableActorCriticPolicy):
    """sb3-contrib's ``MaskableActorCriticPolicy``; nothing but :meth:`save` is different."""


class MaskableCriticCnnPolicy(SavedWhole, MaskableActorCriticCnnPolicy):
    """:class:`MaskableCriticPolicy` for images."""


class MaskableMultiInputCriticPolicy(SavedWhole, MaskableMultiInputActorCriticPolicy):
    """:class:`MaskableCriticPolicy` for dictionaries of observations."""

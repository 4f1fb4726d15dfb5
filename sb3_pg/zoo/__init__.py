"""The RL Zoo with our algorithms: ``pip install "sb3-pg[zoo]"``.

Nothing here imports rl_zoo3 before it is asked to, since importing it changes Gymnasium's TimeLimit.
"""

from sb3_pg.zoo.configs import config_path

__all__ = ["config_path", "register"]


def register() -> None:
    """Make ``--algo reinforce``, ``vanillapg`` and ``offpolicyispg`` known to rl_zoo3; twice is as good as once.

    The Zoo's own scripts then need ``--conf-file`` with one of ours (:func:`config_path`); the commands of ``sb3-pg``
    find it themselves.

    :raises ImportError: without the extra ``zoo``
    """
    try:
        from sb3_pg.zoo.registration import register as set_keys
    except ModuleNotFoundError as error:
        raise ImportError(f"the RL Zoo needs {str(error.name).partition('.')[0]}: pip install 'sb3-pg[zoo]'") from error
    set_keys()

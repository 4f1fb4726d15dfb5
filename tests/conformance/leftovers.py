"""What is swapped into the tests of Stable-Baselines3 and sb3-contrib, and which of these cannot pass there.

A leftover is a test of the original's tuning or name, or of something that the swapped class does not have by design
(a critic, GAE). A difference in the interface is a bug, not a leftover. Each entry is expected to fail: the day it
passes, or no longer names a test, the run fails until it is taken off the list. One that learns just enough in one
place and just too little in another is ``Borderline``.
"""

from __future__ import annotations


class Borderline(str):
    """The reason of a leftover that was seen to miss its threshold and to reach it, the code being the same.

    It may do either, but nothing else: an error that is not the threshold's is a failure.
    """


PPO_STEPS = "PPO's tuning: it takes a step on every 64 rows by default, OffPolicyISPG one on every 256"
A2C_STEPS = "A2C's tuning: 500 to 2,000 steps are 100 to 400 updates of A2C, and one of OffPolicyISPG with its defaults"
ASSERTION = "PPO's asserts: what it refuses with an AssertionError, we refuse with a ValueError, or mend (one row)"
WITHOUT_MASKS = (
    "MaskablePPO refuses an environment without masks unless use_masking=False; there ours learns as SB3's PPO does "
    "('MlpPolicy' takes no masks), and refuses it for a maskable policy alone"
)

#: Swap, as ``NAME=MODULE:CLASS`` -> test id, as pytest prints it (without its brackets: all its parameters) -> reason.
LEFTOVERS: dict[str, dict[str, str]] = {
    "A2C=sb3_pg:REINFORCE": {
        "tests/test_gae.py::test_gae_computation": "GAE: REINFORCE is Monte Carlo and has no gae_lambda",
        "tests/test_gae.py::test_infinite_horizon[True-REINFORCE]": (
            "value learning: the test reads the critic's value, which the default baseline does not train"
        ),
        "tests/test_identity.py::test_discrete[env2-REINFORCE]": (
            "A2C's tuning: 1,200 steps are 240 updates of A2C, and 2 of REINFORCE with its default n_steps"
        ),
        "tests/test_identity.py::test_continuous[REINFORCE]": (
            "A2C's tuning: 2,000 steps are 400 updates of A2C, and 2 of REINFORCE with its default n_steps"
        ),
        "tests/test_tensorboard.py::test_tensorboard[a2c]": (
            "A2C's name: the test looks for a log folder called A2C_1, ours is named after the class, as SB3's are"
        ),
    },
    "A2C=sb3_pg:VanillaPG": {
        "tests/test_identity.py::test_discrete[env2-VanillaPG]": (
            "A2C's tuning: 1,200 steps are 240 updates of A2C, and 150 of VanillaPG with its default n_steps"
        ),
        "tests/test_tensorboard.py::test_tensorboard[a2c]": (
            "A2C's name: the test looks for a log folder called A2C_1, ours is named after the class, as SB3's are"
        ),
    },
    "A2C=sb3_pg:OffPolicyISPG": {
        "tests/test_gae.py::test_infinite_horizon[True-OffPolicyISPG]": A2C_STEPS,
        "tests/test_identity.py::test_discrete[env1-OffPolicyISPG]": A2C_STEPS,
        "tests/test_identity.py::test_discrete[env2-OffPolicyISPG]": A2C_STEPS,
        "tests/test_identity.py::test_continuous[OffPolicyISPG]": A2C_STEPS,
        "tests/test_tensorboard.py::test_tensorboard[a2c]": (
            "A2C's name: the test looks for a log folder called A2C_1, ours is named after the class, as SB3's are"
        ),
    },
    "PPO=sb3_pg:OffPolicyISPG": {
        "tests/test_identity.py::test_discrete[env2-OffPolicyISPG]": PPO_STEPS,
        "tests/test_identity.py::test_continuous[OffPolicyISPG]": PPO_STEPS,
        "tests/test_run.py::test_ppo[-0.2-CartPole-v1]": ASSERTION,
        "tests/test_run.py::test_ppo[-0.2-Pendulum-v1]": ASSERTION,
        "tests/test_run.py::test_ppo_warnings": ASSERTION,
        "tests/test_tensorboard.py::test_tensorboard[ppo]": (
            "PPO's name: the test looks for a log folder called PPO_1, ours is named after the class, as SB3's are"
        ),
    },
    "MaskablePPO=sb3_pg:OffPolicyISPG": {
        "tests/test_invalid_actions.py::test_identity": (
            "MaskablePPO's tuning: a step on every 64 rows of one rollout (with which ours passes), ours takes 256"
        ),
        "tests/test_invalid_actions.py::test_disabling_masking": WITHOUT_MASKS,
        "tests/test_invalid_actions.py::test_supports_multi_envs": WITHOUT_MASKS,
        "tests/test_invalid_actions.py::test_maskable_policy_required": (
            "MaskablePPO refuses a policy without masks, with which ours learns as SB3's PPO does"
        ),
        "tests/test_invalid_actions.py::test_discrete_action_space_required": (
            "MaskablePPO's assert: it refuses Box actions, of which ours learns without masks"
        ),
    },
    "RecurrentPPO=sb3_pg:OffPolicyISPG": {
        "tests/test_lstm.py::test_ppo_lstm_performance": Borderline(
            "RecurrentPPO's tuning: 50,000 steps are just enough for ours, or just too few: seen to do both"
        ),
    },
    # VanillaPG under TRPO's names: its batch_size is our value_batch_size, its learning rate the critic's
    "TRPO=tests.conformance.as_trpo:VanillaPGAsTRPO": {
        "tests/test_run.py::test_trpo_params": "TRPO's sub_sampling_factor: VanillaPG computes F on the whole batch",
        "tests/test_utils.py::test_trpo_warnings": (
            "TRPO's assert, a ValueError here, and its warning about the last minibatch, which ours weighs as it is"
        ),
    },
}

#: Tests of rl_zoo3's own suite, of built-in algorithms, that want what its source distribution lacks -> reason.
ZOO: dict[str, str] = {
    "tests/test_enjoy.py::test_load": "tests/test_config.yml is not shipped",
    "tests/test_hyperparams_opt.py::test_optimize[tqc-parking-v0-median-random]": "highway-env is not installed",
    "tests/test_hyperparams_opt.py::test_optimize_log_path": "scripts/parse_study.py is not shipped",
    "tests/test_train.py::test_continue_training": "rl-trained-agents/ is not shipped",
    "tests/test_train.py::test_python_config_file": "hyperparams/python/ is not shipped",
    "tests/test_train.py::test_gym_packages": "tests/dummy_env is not shipped",
}

"""sb3-contrib's LSTM policies, asked about whole episodes.

While a policy acts, one step of all environments goes through sb3-contrib's own methods, and through the cells of the
LSTM. Of a batch of episodes each is one sequence for the LSTM, from its beginning or from the state that came with its
first row; everything around the LSTM sees rows. So no state of an earlier policy is left over in an episode that is
whole, and no padding goes into a mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_pg.data.batch import Observations
from sb3_pg.data.checks import check_not_negative
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.critic import SavedWhole
from sb3_pg.policies.sequence.cells import States, steps_through_cells, through_cells
from sb3_pg.policies.sequence.sequences import (
    Memory,
    Sequences,
    check_episode_start,
    check_state,
    n_observations,
    over_sequences,
)

#: Hidden and cell state of the actor's LSTM, and of the critic's if it has one: ``(n, 2 or 4, n_layers, size)``.
LSTM_STATES = "lstm_states"

#: Arguments of ``torch.nn.LSTM`` that an acting policy cannot have, and why not.
REFUSED = {
    "bidirectional": "a policy that acts has not seen the future",
    "batch_first": "the policy orders batches itself",
    "proj_size": "the layers behind the LSTM see its whole hidden state; lstm_hidden_size makes that smaller",
}
#: Those that a policy has arguments of its own for.
ELSEWHERE = {
    "input_size": "it is that of the features",
    "hidden_size": "give the policy lstm_hidden_size",
    "num_layers": "give the policy n_lstm_layers",
}


class RaggedStates(NamedTuple):
    """What an LSTM begins each of several sequences of different lengths with, in the place of a pair of states.

    :param hidden: ``(n_layers, n_sequences, hidden_size)``
    :param cell: the same
    :param lengths: ``(n_sequences,)``
    """

    hidden: th.Tensor
    cell: th.Tensor
    lengths: th.Tensor


class LstmCriticPolicy(SavedWhole, RecurrentActorCriticPolicy):
    """sb3-contrib's ``RecurrentActorCriticPolicy``, asked about whole episodes. It takes the same arguments, and one.

    ``n_lstm_layers``, ``lstm_hidden_size``, ``lstm_kwargs``; ``enable_critic_lstm=True`` gives the critic its own,
    ``shared_lstm=True`` the actor's, whose weights it does not move.

    :param forget_bias: added to the biases of the forget gates as PyTorch draws them. At 0 an LSTM that has learned
        nothing yet keeps about half of what it knows from step to step, at 3 about 95% (Gers et al. 2000, "Learning to
        forget"; Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures").
    :raises ValueError: for one that is no number of at least 0, or above 0 where ``lstm_kwargs`` has ``bias=False``;
        for ``lstm_kwargs`` of an LSTM that is no memory of what was before
    """

    whole_episodes = True

    def __init__(self, *args: Any, forget_bias: float = 0.0, **kwargs: Any):
        check_not_negative("forget_bias", forget_bias)
        _check_lstm_kwargs(kwargs.get("lstm_kwargs"))
        super().__init__(*args, **kwargs)
        self.forget_bias = forget_bias
        if forget_bias:
            _add_to_forget_gates((self.lstm_actor, self.lstm_critic), forget_bias)

    # --- what is asked of a policy that remembers: see RememberingPolicy ----------------------------------------------

    def empty_memory(self, n: int) -> Memory:
        """Zeros for ``n`` episodes that begin."""
        n_layers, _, size = self.lstm_hidden_state_shape
        like = next(self.lstm_actor.parameters())
        return {LSTM_STATES: like.new_zeros(n, 2 if self.lstm_critic is None else 4, n_layers, size)}

    def step(
        self, observations: Observations, memory: Memory, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, Memory]:
        """Actions ``(n, *action_shape)``, values ``(n, 1)``, log-probs ``(n,)`` and the memory after them."""
        states = _states_of(memory)
        # Nothing begins in the middle of this: a memory of an episode's beginning is zeros already
        goes_on = states.pi[0].new_zeros(states.pi[0].shape[1])
        actions, values, log_probs, states = self(observations, states, goes_on, **extras)
        return actions, values, log_probs, memory_of(states if self.lstm_critic is not None else [states.pi])

    def evaluate_sequences(
        self, observations: Observations, actions: th.Tensor, sequences: Sequences, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Values ``(n_rows, 1)``, log-probs ``(n_rows,)`` and entropies ``(n_rows,)`` or None."""
        states = _ragged(sequences)
        return self.evaluate_actions(observations, actions, states, _no_starts(sequences), **extras)  # type: ignore[arg-type]

    def distribution_of_sequences(
        self, observations: Observations, sequences: Sequences, **extras: th.Tensor
    ) -> Distribution:
        """The distribution of each row's action."""
        states = _ragged(sequences)
        return self.get_distribution(observations, states.pi, _no_starts(sequences), **extras)[0]  # type: ignore[arg-type]

    def values_of_sequences(self, observations: Observations, sequences: Sequences) -> th.Tensor:
        """``(n_rows, 1)``"""
        return self.predict_values(observations, _ragged(sequences).vf, _no_starts(sequences))  # type: ignore[arg-type]

    @staticmethod
    def _process_sequence(
        features: th.Tensor, lstm_states: tuple[th.Tensor, ...], episode_starts: th.Tensor, lstm: nn.LSTM
    ) -> tuple[th.Tensor, Any]:
        if not isinstance(lstm_states, RaggedStates):
            hidden, cell = lstm_states
            if len(features) == hidden.shape[1] and steps_through_cells(lstm):
                goes_on = (1.0 - episode_starts).view(1, -1, 1)
                return through_cells(lstm, features, (hidden * goes_on, cell * goes_on))
            return RecurrentActorCriticPolicy._process_sequence(features, (hidden, cell), episode_starts, lstm)

        def run(rows: th.Tensor, which: th.Tensor) -> th.Tensor:
            first = (lstm_states.hidden[:, which].contiguous(), lstm_states.cell[:, which].contiguous())
            # cuDNN's LSTM has no gradient in evaluation mode, and no second one
            with th.backends.cudnn.flags(enabled=lstm.training or not th.is_grad_enabled()):
                said: th.Tensor = lstm(rows.transpose(0, 1), first)[0]
            return said.transpose(0, 1)

        return over_sequences(run, features, lstm_states.lengths), None

    def _build(self, lr_schedule: Schedule) -> None:
        self.features_dim = int(self.features_dim)  # NumPy's, of MultiDiscrete observations, which nn.LSTM refuses
        super()._build(lr_schedule)

    # --- as in sb3-contrib --------------------------------------------------------------------------------------------

    def forward(  # type: ignore[override]  # as in sb3-contrib
        self,
        obs: th.Tensor,
        lstm_states: RNNStates | None = None,
        episode_starts: th.Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, RNNStates]:
        """As in sb3-contrib.

        :raises ValueError: without states, as an algorithm calls it that knows of none
        """
        if lstm_states is None or episode_starts is None:
            raise ValueError(
                f"{type(self).__name__} is asked for actions without the states of its LSTM: learn with REINFORCE, "
                "VanillaPG or OffPolicyISPG, or with sb3-contrib's RecurrentPPO"
            )
        return super().forward(obs, lstm_states, episode_starts, deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As in sb3-contrib.

        :param state: ``(n_lstm_layers, n_envs, lstm_hidden_size)`` hidden and cell states; None: at the beginning
        :param episode_start: ``(n_envs,)`` bool, where an episode begins and the state counts for nothing
        :raises ValueError: for a state, or an ``episode_start``, of other shapes
        """
        n_envs = n_observations(self, observation)
        n_layers, _, size = self.lstm_hidden_state_shape
        if state is not None:
            check_state(state, dict.fromkeys(("hidden", "cell"), (n_layers, n_envs, size)))
        if episode_start is not None:
            episode_start = check_episode_start(episode_start, n_envs)
        return super().predict(observation, state, episode_start, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # sb3-contrib leaves these out, and its policy.save() writes what policy.load() cannot read
        return super()._get_constructor_parameters() | {
            "lstm_hidden_size": self.lstm_output_dim,
            "n_lstm_layers": self.lstm_hidden_state_shape[0],
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
            "forget_bias": self.forget_bias,
        }


def _check_lstm_kwargs(lstm_kwargs: Any) -> None:
    if lstm_kwargs is not None and not isinstance(lstm_kwargs, dict):
        raise ValueError(f"lstm_kwargs must be a dictionary of arguments of torch.nn.LSTM, got {lstm_kwargs!r}")
    for name, value in (lstm_kwargs or {}).items():
        if name in ELSEWHERE:
            raise ValueError(f"lstm_kwargs must not have {name}, got {value!r}: {ELSEWHERE[name]}")
        if value and name in REFUSED:
            raise ValueError(f"lstm_kwargs must not have {name}={value!r}: {REFUSED[name]}; leave it out")


def _add_to_forget_gates(lstms: Iterable[nn.LSTM | None], bias: float) -> None:
    for lstm in filter(None, lstms):
        if not lstm.bias:
            raise ValueError(f"forget_bias must be 0 where lstm_kwargs has bias=False, got {bias!r}")
        for name, parameter in lstm.named_parameters():
            if name.startswith("bias_ih"):  # of the input, forget, cell and output gates, in this order
                parameter.data.chunk(4)[1].add_(bias)


def states_in(memory: Memory) -> list[States]:
    """Those of the actor's LSTM, and of the critic's if it has one, ``(n_layers, n, hidden_size)`` each."""
    parts = [one.contiguous() for one in memory[LSTM_STATES].permute(1, 2, 0, 3)]
    return list(zip(parts[::2], parts[1::2], strict=True))


def memory_of(states: Iterable[States]) -> Memory:
    """The memory that these states are."""
    return {LSTM_STATES: th.stack([part for pair in states for part in pair]).permute(2, 0, 1, 3)}


def _states_of(memory: Memory) -> RNNStates:
    """As sb3-contrib wants them: the critic's are the actor's, if it has no LSTM of its own."""
    states = states_in(memory)
    return RNNStates(states[0], states[-1])


def _ragged(sequences: Sequences) -> RNNStates:
    states = _states_of(sequences.memory)
    return RNNStates(*(RaggedStates(hidden, cell, sequences.lengths) for hidden, cell in states))


def _no_starts(sequences: Sequences) -> th.Tensor:
    """No sequence has an episode's beginning in its middle."""
    return sequences.lengths.new_zeros(0)


class LstmCriticCnnPolicy(LstmCriticPolicy, RecurrentActorCriticCnnPolicy):
    """:class:`LstmCriticPolicy` for images."""


class MultiInputLstmCriticPolicy(LstmCriticPolicy, RecurrentMultiInputActorCriticPolicy):
    """:class:`LstmCriticPolicy` for dictionaries of observations."""


class LstmActorPolicy(WithoutCritic, LstmCriticPolicy):
    """An LSTM policy whose critic has no parameters and says 0.

    It takes the same arguments as :class:`LstmCriticPolicy`. ``net_arch["vf"]``, ``share_features_extractor``,
    ``shared_lstm`` and ``enable_critic_lstm`` have nothing to act on.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs | {"shared_lstm": True, "enable_critic_lstm": False})

    @property
    def _latent_dim(self) -> int:
        return self.lstm_output_dim


class LstmActorCnnPolicy(LstmActorPolicy, RecurrentActorCriticCnnPolicy):
    """:class:`LstmActorPolicy` for images."""


class MultiInputLstmActorPolicy(LstmActorPolicy, RecurrentMultiInputActorCriticPolicy):
    """:class:`LstmActorPolicy` for dictionaries of observations."""

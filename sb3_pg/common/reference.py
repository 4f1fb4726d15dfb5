"""A reference policy that learning stays near: what it may be given as, how it is kept, and what straying costs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, get_args

import torch as th
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule

from sb3_pg.archives import UnreadableError, read_file, read_tensors, said_of, whole_archive
from sb3_pg.common.known import known_with
from sb3_pg.common.plain_model import plain_entry
from sb3_pg.common.trainer import Trainer
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.checks import check_choice, check_schedule
from sb3_pg.data.distributed import all_mean, failing_together
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.policies.divergence import frozen_copy, has_closed_form, policy_kl
from sb3_pg.policies.evaluation import action_distribution, extras_of, wants_whole_episodes
from sb3_pg.policies.passes import all_log_probs
from sb3_pg.policies.sequence.sequences import remembering
from sb3_pg.update.gradient import Penalty
from sb3_pg.update.weighting import current_log_prob

ReferencePenalty = Literal["reward", "loss"]
#: What a reference policy may be given as: a policy, a model that has one, or the path of a saved model.
Reference = ActorCriticPolicy | OnPolicyAlgorithm | str | os.PathLike[str]
#: Entries of a saved model that its policy is made of.
OF_POLICY = ("policy_class", "policy_kwargs", "observation_space", "action_space", "use_sde")
KINDS = (ActorCriticPolicy, MaskableActorCriticPolicy)


def reference_of(given: Any, policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """A frozen copy of a policy, of that of a model, or of that in a file which ``save`` of a model wrote.

    :param policy: that is to stay near it
    :raises ValueError: for something else, for other spaces, or for a file that would have to be trusted
    """
    if isinstance(given, (str, os.PathLike)):
        found: Any = _read(given, policy.device)
    else:
        found = given.policy if isinstance(given, OnPolicyAlgorithm) else given
    if not isinstance(found, KINDS):
        raise ValueError(
            "reference_policy must be an actor-critic policy, an on-policy model, the path of a saved one, or None, "
            f"got {given!r}"
        )
    for name in ("action_space", "observation_space"):
        own, other = getattr(policy, name), getattr(found, name)
        if own != other:
            raise ValueError(
                f"reference_policy has the {name} {other}, and the policy that is to stay near it {own}: give one of "
                "the same environment, with the same wrappers"
            )
    return frozen_copy(found).to(policy.device)  # type: ignore[arg-type]  # of either kind


def _read(path: str | os.PathLike[str], device: th.device) -> ActorCriticPolicy:
    """The policy of a saved model, made without running anything that is in the file."""
    try:
        content, name = read_file(os.fspath(path), "zip")
    except OSError as error:
        raise ValueError(f"reference_policy={path!r} is no file that can be read: {error}") from error
    with said_of(name), whole_archive(content) as archive:
        if not {"data", "policy.pth"} <= set(archive.namelist()):
            raise UnreadableError("holds no on-policy model: give a file that save wrote")
        data, known = json.loads(archive.read("data")), known_with(())
        entries = {key: plain_entry(key, data[key], known) for key in OF_POLICY}
        kwargs = dict(entries["policy_kwargs"])
        if not issubclass(entries["policy_class"], MaskableActorCriticPolicy):
            kwargs["use_sde"] = entries["use_sde"]
        with th.random.fork_rng(devices=[]):
            made: ActorCriticPolicy = entries["policy_class"](
                entries["observation_space"], entries["action_space"], lambda _: 0.0, **kwargs
            )
        made.load_state_dict(read_tensors(archive.read("policy.pth")))
    return made.to(device)


def described(reference: ActorCriticPolicy) -> dict[str, Any]:
    """What a reference policy is made of, for :func:`made_again`: plain data, if its class is no user's."""
    if not type(reference).__module__.startswith(("stable_baselines3.", "sb3_contrib.", "sb3_pg.")):
        return {"policy": reference}  # whose constructor may take what SB3 knows nothing of
    arguments = reference._get_constructor_parameters()
    arguments.pop("lr_schedule", None)
    arguments["share_features_extractor"] = reference.share_features_extractor  # SB3's forget it
    state = {name: tensor.cpu().numpy() for name, tensor in reference.state_dict().items()}
    return {"class": type(reference), "arguments": arguments, "state": state}


def made_again(description: Mapping[str, Any], device: th.device) -> ActorCriticPolicy:
    """The reference policy that was :func:`described`.

    :raises ValueError: for something else
    """
    if isinstance(description.get("policy"), KINDS):
        return description["policy"].to(device)  # type: ignore[no-any-return]
    if not (isinstance(description.get("class"), type) and issubclass(description["class"], KINDS)):
        raise ValueError("the model's reference policy is none: the file was written by something else")
    with th.random.fork_rng(devices=[]):
        policy: ActorCriticPolicy = description["class"](**description["arguments"], lr_schedule=lambda _: 0.0)
    policy.load_state_dict({name: th.as_tensor(array) for name, array in description["state"].items()})
    return frozen_copy(policy).to(device)


class ReferringTrainer(Trainer):
    """A trainer whose policy may be held near another, which stays as it is."""

    #: The policy that learning stays near, frozen; None for none. Whatever it may be given as can be put in its place.
    reference_policy: Any
    reference_coef: float | Schedule
    reference_penalty: ReferencePenalty

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # What a saved model has in the place of the policy: its path if it was given as one, else what it is made of
        self._reference_description: dict[str, Any] | str | None = None
        self._frozen_reference: ActorCriticPolicy | None = None
        self._reference_kl = math.nan
        # What the reference was checked for last, and whether there has been one: then its key is logged for ever
        self._checked_penalty, self._had_reference = "", False

    def _find_reference(self) -> None:
        """Have :attr:`reference_policy` be a frozen policy, whatever it was given as.

        :raises ValueError: for what is no reference of this policy, or a coefficient that is none
        """
        check_schedule("reference_coef", self.reference_coef)
        check_choice("reference_penalty", self.reference_penalty, get_args(ReferencePenalty))
        given = self.reference_policy
        if given is None:
            self._frozen_reference = self._reference_description = None
            return
        if given is self._frozen_reference and self._checked_penalty == self.reference_penalty:
            return
        reference: Any = given if given is self._frozen_reference else reference_of(given, self.policy)
        self._check_reference(reference)
        self._checked_penalty, self._had_reference = self.reference_penalty, True
        if given is self._frozen_reference:
            return
        is_path = isinstance(given, (str, os.PathLike))
        self._reference_description = os.path.abspath(given) if is_path else None
        self.reference_policy = self._frozen_reference = reference

    def _check_reference(self, reference: ActorCriticPolicy) -> None:
        if hasattr(reference, "lstm_actor") and remembering(reference) is None:
            raise ValueError(
                f"reference_policy is a {type(reference).__name__}, which cannot be asked about whole episodes: give a "
                "model of this package, whose recurrent policies can"
            )
        kinds = [
            # None of a policy made again is False
            (bool(one.squash_output), getattr(one, "diffusion_kwargs", {}).get("n_denoising_steps"))
            for one in (self.policy, reference)
        ]
        if kinds[0] != kinds[1]:
            said = [f"squash_output={squashes}, n_denoising_steps={steps}" for squashes, steps in kinds]
            raise ValueError(
                f"reference_policy has another kind of action than the policy that is to stay near it ({said[1]}; the "
                f"policy has {said[0]}): give one of the same kind"
            )
        if remembering(reference) is not None and self.incomplete_episodes in ("bootstrap", "truncate"):
            raise ValueError(
                f"A reference_policy that remembers ({type(reference).__name__}) has to see episodes from their "
                f"beginning, and incomplete_episodes={self.incomplete_episodes!r} cuts them: write 'carry' or 'drop'"
            )
        if self.reference_penalty == "loss" and wants_whole_episodes(reference) > wants_whole_episodes(self.policy):
            raise ValueError(
                f"reference_penalty='loss' asks a reference_policy that remembers ({type(reference).__name__}) about "
                f"rows that {type(self.policy).__name__} is asked about, which are no whole episodes: write "
                "reference_penalty='reward', or let the policy remember too"
            )
        if missing := sorted(set(extras_of(reference)) - set(extras_of(self.policy))):
            raise ValueError(
                f"reference_policy takes {', '.join(missing)}, which {type(self.policy).__name__} is not given: let "
                "both take them, or neither"
            )
        if self.reference_penalty == "loss" and not has_closed_form(self.policy, reference):
            raise ValueError(
                "reference_penalty='loss' needs a KL in closed form, and there is none between the distributions of "
                f"{type(self.policy).__name__} and {type(reference).__name__} here: write reference_penalty='reward'"
            )

    def _restore_reference(self) -> None:
        """Find the reference of a new model, or make that of a loaded one again."""
        description = self._reference_description
        if self.reference_policy is None and description is not None:  # a loaded model
            is_path = isinstance(description, str)
            self.reference_policy = description if is_path else made_again(description, self.policy.device)  # type: ignore[arg-type]
        self._frozen_reference = None
        self._find_reference()

    def _describe_reference(self) -> None:
        """Have :attr:`_reference_description` say what the reference is, for a file: the last that was one."""
        with suppress(ValueError):  # the next update says what is wrong
            self._find_reference()
        if self._frozen_reference is not None and not isinstance(self._reference_description, str):
            self._reference_description = described(self._frozen_reference)

    # --- in an update -------------------------------------------------------------------------------------------------

    def _begin_update(self) -> EpisodeBatch | None:
        with failing_together():
            self._find_reference()
        batch = super()._begin_update()
        return batch if batch is None or self.reference_policy is None else self._near_reference(batch)

    def _near_reference(self, batch: EpisodeBatch) -> EpisodeBatch:
        """The batch, and what it costs the policy to stray, if that is part of the rewards.

        r - coef (log pi - log pi_ref), whose expected sum has the optimum pi_ref exp(r / coef) / Z where an episode is
        a step (Ziebart 2010; Jaques et al. 2017, "Sequence tutor"). Log pi is that of the policy as it is, also of
        carried steps, so that the gradient is that of the penalised return.
        """
        rows, known = self._rows_per_pass, replace(batch, memory={})
        ours = current_log_prob(self.policy, batch, rows)
        theirs = all_log_probs(self.reference_policy, known, whole_batch(known), rows).to(ours)
        self._reference_kl = all_mean(ours - theirs).item()
        if self.reference_penalty == "loss":
            return batch
        return replace(batch, rewards=batch.rewards - self._reference_weight * (ours - theirs))

    @property
    def _reference_weight(self) -> float:
        return self._now(self.reference_coef, "reference_coef")

    def _own_penalties(self, batch: EpisodeBatch) -> dict[str, Penalty]:
        """coef KL(pi || pi_ref) of the states of a batch, if it is part of the loss."""
        reference = self.reference_policy
        if reference is None or self.reference_penalty == "reward":
            return {}
        weight, known = self._reference_weight, replace(batch, memory={})

        def penalty(rows: slice | th.Tensor) -> th.Tensor:
            steps = batch.at(rows)
            if len(steps.actions) == 0:
                return batch.rewards.new_zeros(())
            with th.no_grad():
                there = action_distribution(reference, known.at(rows))
            return weight * policy_kl(action_distribution(self.policy, steps), there).sum()

        return {"reference_penalty": penalty}

    @property
    def _logged(self) -> list[str]:
        return super()._logged + (["reference_kl"] if self._had_reference else [])

    def _finish_update(self, batch: EpisodeBatch, statistics: dict[str, float], n_updates: int = 1) -> None:
        kl = math.nan if self.reference_policy is None else self._reference_kl
        super()._finish_update(batch, statistics | {"reference_kl": kl}, n_updates)

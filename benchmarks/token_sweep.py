"""What a reward model makes of a language, by how much straying from it costs: ``python -m benchmarks.token_sweep``.

A policy is cloned from sentences of a small grammar, then learns to please a reward model that likes kind words and
does not look at grammar. Writes ``docs/results/tokens.md``. Takes some five minutes on one core.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.provenance import Stamp, publish
from sb3_pg import REINFORCE, GymnasiumVecEnv
from sb3_pg.envs import TokenVectorEnv
from sb3_pg.imitation import clone
from sb3_pg.policies.sequence.tokens import TokenTransformer

PAGE = Path("docs/results/tokens.md")
DETERMINERS, NOUNS = ("the", "a", "my"), ("cat", "dog", "child", "storm")
ADJECTIVES, VERBS = ("kind", "happy", "old", "loud"), ("sees", "loves", "hears")
END = "."
WORDS = (*DETERMINERS, *ADJECTIVES, *NOUNS, *VERBS, END)
KIND_WORDS = ("kind", "happy", "loves")
#: Words of a completion, sentences of the corpus, completions of a prompt written side by side.
MAX_WORDS, N_SENTENCES, GROUP = 10, 2000, 8
COEFS, SEEDS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0), (0, 1, 2)
N_ENVS, STEPS, N_SAMPLES = 64, 60_000, 512


def number(word: str) -> int:
    """The token of a word."""
    return WORDS.index(word)


def noun_phrase(rng: np.random.Generator) -> list[str]:
    """A determiner, an adjective in two of five, a noun."""
    adjective = [str(rng.choice(ADJECTIVES))] if rng.random() < 0.4 else []
    return [str(rng.choice(DETERMINERS)), *adjective, str(rng.choice(NOUNS))]


def sentence(rng: np.random.Generator) -> list[str]:
    """Somebody sees, loves or hears somebody."""
    return [*noun_phrase(rng), str(rng.choice(VERBS)), *noun_phrase(rng), END]


def is_sentence(words: Sequence[str]) -> bool:
    """Whether the grammar has it."""
    kinds = "".join(
        next(
            letter
            for letter, group in zip("danv.", (DETERMINERS, ADJECTIVES, NOUNS, VERBS, (END,)), strict=True)
            if word in group
        )
        for word in words
    )
    return kinds in {f"d{first}nvd{second}n." for first in ("", "a") for second in ("", "a")}


def kindness(prompt: tuple[int, ...], completion: tuple[int, ...]) -> float:
    """The reward model: how many kind words there are. What it was meant to like is a kind sentence."""
    return float(sum(WORDS[token] in KIND_WORDS for token in completion))


def vector_env() -> TokenVectorEnv:
    """Sentences are begun by a determiner; completions of one stand side by side."""
    prompts = [[number(word)] for word in DETERMINERS]
    return TokenVectorEnv(N_ENVS, len(WORDS), kindness, MAX_WORDS, prompts, number(END), GROUP)


def token_env(seed: int) -> VecEnv:
    """The same, as SB3's."""
    adapted = GymnasiumVecEnv(vector_env())
    adapted.seed(seed)
    return adapted


def corpus(seed: int) -> list[dict[str, np.ndarray]]:
    """Sentences as demonstrations: the prompt is given, the other words are actions."""
    rng, env = np.random.default_rng(seed), vector_env()
    demonstrations = []
    for _ in range(N_SENTENCES):
        first, *rest = map(number, sentence(rng))
        observed = [env.task.observed((first,), rest[:n]) for n in range(len(rest))]
        demonstrations.append({"observations": np.stack(observed), "actions": np.array(rest)})
    return demonstrations


def new_model(seed: int, **arguments: Any) -> REINFORCE:
    """A small Transformer; what its completions earn is compared within the group."""
    kwargs = {"features_extractor_class": TokenTransformer, "net_arch": []}
    defaults: dict[str, Any] = {"n_steps": 32, "learning_rate": 2e-3, "gamma": 1.0, "baseline": "group_leave_one_out"}
    return REINFORCE(
        "MlpPolicy", token_env(seed), seed=seed, policy_kwargs=kwargs, device="cpu", **defaults | arguments
    )


def samples(model: REINFORCE, seed: int) -> list[list[str]]:
    """What the policy writes, prompts included."""
    env = token_env(seed)
    said: list[list[str]] = []
    th.manual_seed(seed)
    observed = env.reset()
    while len(said) < N_SAMPLES:
        actions, _ = model.predict(observed)  # type: ignore[arg-type]
        observed, _, dones, infos = env.step(actions)
        ended = [infos[env_number] for env_number in np.flatnonzero(dones)]
        said += [[WORDS[token] for token in (*info["prompt"], *info["completion"])] for info in ended]
    env.close()
    return said


def measured(model: REINFORCE, seed: int) -> dict[str, float]:
    """Of many samples: what the reward model says, how many are sentences, kind sentences, and different ones."""
    said = samples(model, 1000 + seed)
    kind = [sum(word in KIND_WORDS for word in words) for words in said]
    fluent = [is_sentence(words) for words in said]
    return {
        "reward": float(np.mean(kind)),
        "fluent": float(np.mean(fluent)),
        "both": float(np.mean([number_of if is_one else 0.0 for number_of, is_one in zip(kind, fluent, strict=True)])),
        "different": len(Counter(map(tuple, said))) / len(said),
    }


def one_seed(seed: int) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Clone, then learn from there at every coefficient; what each gives, and an example of each."""
    cloned = new_model(seed)
    clone(cloned, corpus(seed), n_epochs=3)
    found, examples = {"cloned": measured(cloned, seed)}, [" ".join(samples(cloned, seed)[0])]
    for coef in COEFS:
        model = new_model(seed, reference_policy=cloned.policy, reference_coef=coef)
        model.policy.load_state_dict(cloned.policy.state_dict())
        model.learn(STEPS)
        found[f"{coef:g}"] = measured(model, seed)
        examples.append(" ".join(samples(model, seed)[0]))
    return found, examples


def page(found: list[dict[str, dict[str, float]]], examples: list[str], seconds: float) -> str:
    """The table."""
    lines = [
        "| beta | reward | sentences | reward of sentences | different | an example |",
        "|---|---|---|---|---|---|",
    ]
    for name, example in zip(found[0], examples, strict=True):
        mean = {key: np.mean([one[name][key] for one in found]) for key in found[0][name]}
        cells = [f"{mean['reward']:.2f}", f"{mean['fluent']:.0%}", f"{mean['both']:.2f}", f"{mean['different']:.0%}"]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {example} |")
    return f"""# A reward model that can be hacked, and what holds a policy back

Made by `python -m benchmarks.token_sweep`, in {seconds:.0f} s on one core. A small Transformer is cloned from
{N_SENTENCES:,} sentences of a grammar (`the happy dog sees a child .`), then REINFORCE writes completions of at most
{MAX_WORDS} words for a reward model that counts kind words ({", ".join(KIND_WORDS)}) and does not look at grammar:
{STEPS:,} words, groups of {GROUP} completions of one prompt (`baseline="group_leave_one_out"`),
`reference_policy` the cloned one, `reference_coef` beta. Means over {N_SAMPLES} samples and seeds
{SEEDS[0]} to {SEEDS[-1]}: what the reward model says, which part are sentences of the grammar, the reward where those
that are none count 0, and which part of the samples differ.

{chr(10).join(lines)}
"""


def main() -> int:
    """Learn, and write the page."""
    th.set_num_threads(1)
    stamp, begin = Stamp.now(PAGE), time.perf_counter()
    found, examples = zip(*(one_seed(seed) for seed in SEEDS), strict=True)
    publish(page(list(found), examples[0], time.perf_counter() - begin), PAGE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the tests share. Which module to use for what:

- :mod:`~tests.helpers.environments`: an environment whose every number is known beforehand (``DiaryEnv``, with faults;
  ``ProbeEnv``), or a random one of any spaces (``RandomEnv``)
- :mod:`~tests.helpers.vec_envs`: vector environments, awkward ones among them, compared step by step with SB3's
- :mod:`~tests.helpers.tabular`: a finite MDP with its exact gradient, and the environment that plays it
- :mod:`~tests.helpers.enumeration`: the exact expectation of an estimate in such an MDP
- :mod:`~tests.helpers.models`: a small model of each algorithm, the estimators' settings, snapshots and differences
- :mod:`~tests.helpers.recording`: what a run did: ``record`` for everything that was played, ``Batches`` for the
  batches, ``log_to_memory`` for the log
- :mod:`~tests.helpers.updates`: how far each update of a small OffPolicyISPG goes
- :mod:`~tests.helpers.edits`: a callback that changes something in a model
- :mod:`~tests.helpers.spies`: a spy, or a mistake, in the place of a function
- :mod:`~tests.helpers.literal`: returns, baselines and weights as ``docs/estimators.md`` defines them, in plain Python
- :mod:`~tests.helpers.gradients`: the literal gradients of a recorded run
"""

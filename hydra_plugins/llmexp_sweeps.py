"""What Hydra's scanner finds: it takes launchers and sweepers of this namespace only."""

from llmexp.sweeps import local, search, submitit


class Local(local.Local):
    """`hydra/launcher=local`"""


class Search(search.Search):
    """`hydra/sweeper=optuna`"""


class Submitit(submitit.Submitit):
    """`hydra/launcher=submitit_slurm`"""

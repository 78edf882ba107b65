"""The options of `llmexp run`: Hydra's, but for those that would run what nothing has judged."""

from __future__ import annotations

import argparse

from hydra._internal.utils import get_args_parser

from llmexp.configure.refusals import options_of
from llmexp.errors import UserError

INSTEAD = {
    "config_path": "add a folder with --config-dir FOLDER",
    "experimental_rerun": "llmexp resume FOLDER goes on with a run",
    "hydra_help": "llmexp run --help shows what there is",
}
USAGE = """\
usage: llmexp run [KEY=VALUE ...] [-m] [--config-dir FOLDER]

One experiment, or with -m one for each combination of values: -m seed=0,1,2

Choices, each a file of conf/:
{groups}

Any other key of the config can be set as well: optim.learning_rate=1e-4

Options:
  -m, --multirun       a sweep: several values of a key, a job for each
  --config-dir FOLDER  YAML of your own, in groups named as above
  --cfg job            show the config and stop; --resolve fills in what it refers to
  dry=true             check everything that needs no weights and stop
  preview=true         show what would be trained on and stop, as llmexp doctor does
"""


def parsed(argv: list[str]) -> argparse.Namespace:
    """What the words of a command line say, Hydra's options and ours."""
    # Intermixed: Hydra's own parser refuses `a=1 -m b=2,3`.
    args = get_args_parser().parse_intermixed_args(argv)
    for name, instead in INSTEAD.items():
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is not supported; {instead}")
    args.config_name = args.config_name or "run"
    return args


def usage(config_dir: str | None) -> str:
    """The groups with their files, looked up as names only: nothing is composed."""
    from llmexp.configure.compose import search_of

    search = search_of(config_dir)
    groups = sorted({f.name for root in search for f in root.iterdir() if f.is_dir()})
    found = {group: options_of(group, search) for group in groups if group != "hydra"}
    width = max(map(len, found))
    lines = [f"  {group:<{width}}  {', '.join(names)}" for group, names in found.items() if names]
    return USAGE.format(groups="\n".join(lines))

"""The ``glip`` command. Each sub-command is a module that is imported only when it is asked for."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from maskrcnn_benchmark import __version__
from maskrcnn_benchmark.cli.console import Parser, report_errors, set_up_messages


class Command(NamedTuple):
    """``module`` holds ``add_parser(subparsers)``, which names the command, and ``run(args) -> exit code``."""

    module: str
    help: str


COMMANDS = {
    "predict": Command("maskrcnn_benchmark.cli.predict", "find the things that a text names on pictures"),
    "demo": Command("maskrcnn_benchmark.cli.demo", "draw a few scenes and find the things in them"),
    "scenes": Command("maskrcnn_benchmark.cli.scenes", "write a data set of drawn scenes"),
    "data": Command("maskrcnn_benchmark.cli.data", "fetch public datasets, check any dataset"),
    "train": Command("maskrcnn_benchmark.cli.train", "train a model from a configuration file"),
    "finetune": Command("maskrcnn_benchmark.cli.finetune", "fine-tune a model on your own annotated pictures"),
    "prompt": Command("maskrcnn_benchmark.cli.prompt", "find the words that find your classes best"),
    "eval": Command("maskrcnn_benchmark.cli.eval", "measure a model on test sets"),
    "env": Command("maskrcnn_benchmark.cli.env", "show the versions and devices in use"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a mistake of the user becomes one line on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    return report_errors(lambda: _run(words))


def _run(argv: list[str]) -> int:
    chosen = next((word for word in argv if not word.startswith("-")), None)
    parser = Parser(
        prog="glip",
        description="Finds the things that a text names on pictures (GLIP).",
        epilog="glip COMMAND --help says more. With GLIP_DEBUG=1 in the environment a mistake shows where it arose.",
    )
    parser.add_argument("--version", action="version", version=f"glip {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    module = None
    for name, command in COMMANDS.items():
        if name == chosen:
            module = import_module(command.module)
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=command.help, add_help=False)
    args, more = parser.parse_known_args(argv)
    assert chosen is not None and module is not None  # argparse accepts only names of the table
    own_parser = subparsers.choices[chosen]
    own_parser.refuse_unknown_flags(more)
    if more and not hasattr(args, "opts"):
        own_parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # configuration entries, KEY VALUE ..., behind flags that follow others
        args.opts = [*args.opts, *more]
    set_up_messages()
    return module.run(args)


if __name__ == "__main__":
    sys.exit(main())

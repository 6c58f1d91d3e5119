"""`pneumoscope COMMAND`: the installed command; each part is imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys

from engine import cli

COMMANDS = {
    "train": ("engine.train", "train on a data set"),
    "check": ("engine.check", "look at a data set before training"),
    "evaluate": ("engine.evaluate", "a model on a labelled data set, with intervals"),
    "predict": ("engine.predict", "score images with a model"),
    "export": ("engine.export", "a model as ONNX or a PyTorch program"),
    "report": ("engine.report.__main__", "write a run's report again"),
    "serve": ("server.__main__", "the page, the routes and the live stream"),
    "runs": ("engine.runs", "list runs, and back up their database"),
}
HELP = ("-h", "--help", "help")


def main() -> None:
    """Run the named command and end the process with its exit code."""
    words = sys.argv[1:]
    if words and words[0] == "--version":
        print(f"pneumoscope {cli.installed_version()}")
        sys.exit(0)
    if not words or words[0] in HELP:
        print(usage())
        sys.exit(0 if words else cli.MISTAKE)
    name = words[0]
    if name not in COMMANDS:
        print(f"error: unknown command {name[:60]}\n\n{usage()}", file=sys.stderr)
        sys.exit(cli.MISTAKE)
    cli.Parser.program = f"pneumoscope {name}"
    module = importlib.import_module(COMMANDS[name][0])
    if name == "serve":  # it has its own end: the server answers signals itself
        sys.exit(module.main(words[1:]))
    cli.run_command(lambda: module.main(words[1:]))


def usage() -> str:
    """The commands with a line for each."""
    lines = [f"  {name:9} {meaning}" for name, (_, meaning) in COMMANDS.items()]
    head = "usage: pneumoscope COMMAND [options]   (pneumoscope COMMAND --help)"
    return "\n".join([head, "", *lines, "", "  --version"])


if __name__ == "__main__":
    main()

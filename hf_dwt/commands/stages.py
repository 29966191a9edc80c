"""The command `hf-dwt stages`; whatever takes long to import is imported when it runs."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError


def add_stages(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Run a list of stages, each on the student of the one before, from a YAML file; or go on where it was broken off.

    The keys of the file are arguments of hf_dwt.stages.run_stages.
    """
    parser.add_argument("file", type=Path, help="YAML, with stages, args and what they need")
    parser.add_argument("--dry-run", action="store_true", help="print the table of stages; no weight is read")

    def run(options: argparse.Namespace) -> None:
        if not options.file.is_file():
            raise DataError("file", str(options.file), "There is no such file.", "Give a YAML file of stages.")
        from ..stages.file import plan_file

        plan = plan_file(options.file)
        print(plan)
        if not options.dry_run:
            plan.run()
            print(f"saved in {plan.stages[-1].folder}")

    return run

"""Command line: `hf-dwt grow TEACHER --hidden-size 1024 --init auto --out DIR`."""

import argparse
import json
import sys
from pathlib import Path

from .errors import DistillationError
from .growth import INITS, from_weak_teacher, plan_growth

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; 1 with a sentence on stderr where the input is wrong."""
    options = _parser().parse_args(argv)
    try:
        return grow(options)
    except DistillationError as error:
        print(error, file=sys.stderr)
        return 1


def grow(options: argparse.Namespace) -> int:
    """Grow a student and write it to a folder, or with --dry-run print the plan without reading weights."""
    sizes = {name: getattr(options, name) for name in SIZES}
    if options.dry_run:
        init = options.init if options.init in ("clone", "pad") else "clone"
        plan = plan_growth(options.teacher, auto_class=options.auto_class, init=init, **sizes)
        print(plan.config.to_json_string())
        print(plan)
        return 0
    if options.out is None:
        print("Say where the student goes: --out DIR, or --dry-run.", file=sys.stderr)
        return 1
    student, report = from_weak_teacher(
        options.teacher,
        auto_class=options.auto_class,
        init=options.init,
        depth=options.depth,
        seed=options.seed,
        output_report=True,
        **sizes,
    )
    student.save_pretrained(options.out)
    (options.out / "growth.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    print(report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-dwt", description="Distillation from a weak teacher.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("grow", help="make a larger student from a smaller teacher")
    command.add_argument("teacher", help="Hub id or path of the teacher")
    for name in SIZES:
        command.add_argument(f"--{name.replace('_', '-')}", type=int)
    command.add_argument("--auto-class", help="class for the task, such as AutoModelForMaskedLM")
    command.add_argument("--init", default="auto", choices=list(INITS), help="how the student starts")
    command.add_argument("--depth", help="which layers new ones are made from")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, help="folder for the student")
    command.add_argument("--dry-run", action="store_true", help="print what would be done; no weight is read")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

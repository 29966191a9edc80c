"""What can be done without a script: `hf-dwt assess`, `grow`, `cache`, `card`, `push`, `stages` and `train`."""

import argparse
import difflib
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from .commands.cache import add_cache
from .commands.stages import add_stages
from .commands.train import add_train
from .errors import DataError, DistillationError, GrowthError, HubError, first_line, unknown_argument
from .growth.config.names import SIZES
from .publish.run_record import RUN_FILE


class _Parser(argparse.ArgumentParser):
    """Names the nearest flag or command for one that there is not."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        usage = self.format_usage()
        # Behind "..." are words of a command or a script, which checks its flags; the usage has no long name of help.
        known = ["--help", *re.findall(r"(?<![\w-])--[\w-]+", usage)]
        words = (
            [*itertools.takewhile(lambda word: word.startswith("--"), args or ())] if "..." in usage else args or ()
        )
        for flag in (word.split("=")[0] for word in words if word.startswith("--")):
            if not any(name.startswith(flag) for name in known):
                error = unknown_argument(flag, flag, known, self.prog)
                self.error(f"{flag} {error.problem} {error.fix}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            close = difflib.get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1, cutoff=0.5)
            message += f". Did you mean {close[0]!r}?" if close else ""
        super().error(message)


def _assess(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Measure before training, in about a minute, whether a teacher helps on your text, and with which arguments."""
    parser.add_argument("teacher", help="Hub id or path of the teacher")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="held-out text, one paragraph a line")
    sizes = parser.add_argument_group(
        "sizes of the student", "With any of them, a student from scratch and a grown one are measured too."
    )
    for name in SIZES:
        sizes.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N")
    parser.add_argument(
        "--samples", type=int, default=256, metavar="N", help="about how many blocks of text to use (default: 256)"
    )
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="blocks of a batch (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks (default: 0)")
    parser.add_argument("--revision", metavar="REV", help="of the teacher: branch, tag or commit")
    parser.add_argument("--json", action="store_true", help="print the assessment as JSON")

    def run(options: argparse.Namespace) -> None:
        if not options.text.is_file():
            raise DataError("--text", str(options.text), "There is no such file.", "Give a file of text.")
        from .assess import assess_teacher

        texts = options.text.read_text(encoding="utf-8").splitlines()
        wanted = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
        revision = {"revision": options.revision} if options.revision else {}
        found = assess_teacher(
            options.teacher,
            texts,
            student=wanted or None,
            samples=options.samples,
            batch_size=options.batch_size,
            seed=options.seed,
            **revision,
        )
        print(json.dumps(found.to_dict(), indent=1) if options.json else found)

    return run


def _grow(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int | None]:
    """Make a larger student from a smaller teacher, or with --dry-run print the plan without reading weights.

    The student is written part by part, so that neither of them has to fit into memory. If that is interrupted, the
    same command goes on behind the last whole file.
    """
    from .flags import add_flags
    from .growth import plan_growth
    from .growth.api import from_weak_teacher
    from .growth.arguments import NAMED
    from .growth.disk.shards import MAX_SHARD_SIZE, write_whole
    from .growth.paging import NotByPartsError
    from .growth.report import REPORT_FILE

    parser.add_argument("teacher", help="Hub id or path of the teacher")
    names = add_flags(parser, from_weak_teacher, NAMED)
    parser.add_argument("--revision", help="branch, tag or commit of the teacher on the Hub")
    dtypes = ("float32", "bfloat16", "float16")
    parser.add_argument("--dtype", choices=dtypes, help="of the weights; default: the checkpoint's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the student, made if there is none")
    parser.add_argument(
        "--max-shard-size",
        type=lambda text: int(text) if text.isdigit() else text,
        default=MAX_SHARD_SIZE,
        metavar="SIZE",
        help=f"of a file there, in bytes or as 5GB (default: {MAX_SHARD_SIZE})",
    )
    parser.add_argument("--dry-run", action="store_true", help="print config, size and plan; no weight is read")

    def run(options: argparse.Namespace) -> None:
        wanted = {name: getattr(options, name) for name in names}
        wanted |= {name: value for name in ("revision", "dtype") if (value := getattr(options, name))}
        plan = plan_growth(options.teacher, **wanted)
        if options.dry_run:
            print(plan.config.to_json_string())
            print(plan)
            return
        folder = _folder_for_student(options.out, options.teacher)
        try:
            report = plan.apply(to=folder, max_shard_size=options.max_shard_size)
        except NotByPartsError as error:
            print(f"{error.problem} It is grown in memory.", file=sys.stderr)
            student = plan.apply()
            student.save_pretrained(folder, max_shard_size=options.max_shard_size)
            report = student.growth_report
            write_whole(folder / REPORT_FILE, json.dumps(report.to_dict(), indent=1) + "\n")
        own, base = options.tokenizer, report.base_model
        _copy_processor(own or options.teacher, None if own else options.revision, folder, base)
        print(report)
        print(f"saved in {folder}")

    return run


def _require_folder(words: Sequence[str]) -> None:
    """Raise where the flags of `grow` say neither where the student goes nor --dry-run."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out")
    for flag in ("--dry-run", "--help", "-h"):
        parser.add_argument(flag, action="store_true", dest="student_less")
    options, _ = parser.parse_known_args(words)
    if options.out is None and not options.student_less:
        raise GrowthError("--out", None, "is missing: there is no folder for the student.", _GIVE_FOLDER)


_GIVE_FOLDER = "Give --out DIR, or --dry-run."


def _copy_processor(source: str, revision: str | None, folder: Path, base: str = "") -> None:
    """Save a tokenizer or processor beside the student: its own, the teacher's, or that of the model it adapts."""
    from transformers import AutoProcessor

    try:
        AutoProcessor.from_pretrained(source, revision=revision).save_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if base:
            return _copy_processor(base, None, folder)
        print(f"no tokenizer or processor could be copied from {source}: {first_line(error)}", file=sys.stderr)


def _folder_for_student(folder: Path, teacher: str) -> Path:
    """`folder`, if a student can be saved there: known before it is grown, which may take minutes."""
    if folder.exists() and not folder.is_dir():
        raise GrowthError("--out", str(folder), "It is a file.", "Give a folder.")
    if folder.exists() and Path(teacher).exists() and folder.samefile(teacher):
        raise GrowthError("--out", str(folder), "The student would overwrite its teacher.", "Give another folder.")
    return folder


def _card(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Write the model card of a run, or refresh it; what stands between its keep marks stays."""
    parser.add_argument("folder", type=Path, help="output_dir of a run, or one of its checkpoints")
    parser.add_argument("--model-id", metavar="ID", help="owner/name on the Hub, for the usage block of the card")
    parser.add_argument(
        "--license", metavar="NAME", help="of the model, as the Hub names it; default: that in the teacher's card"
    )

    def run(options: argparse.Namespace) -> None:
        if not (options.folder / RUN_FILE).is_file():
            problem = f"has no {RUN_FILE}, which a run leaves beside its weights."
            raise HubError("folder", str(options.folder), problem, "Give the output_dir of a run, or a checkpoint.")
        from .publish.bookkeeping import Bookkeeping
        from .publish.card import CARD_FILE, write_card
        from .publish.plot import draw
        from .publish.run_record import RunRecord

        record = RunRecord.load(options.folder)
        if options.model_id:
            record.asked["model_id"] = options.model_id
        if options.license:
            record.asked["license"] = options.license
        record.save(options.folder)
        with Bookkeeping()("the card's picture"):
            draw(record, options.folder)
        write_card(record, options.folder)
        print(options.folder / CARD_FILE)

    return run


def _push(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], None]:
    """Push a saved model in one commit. After a failure run it again: what the Hub has is not sent twice."""
    parser.add_argument("folder", type=Path, help="with weights and config: output_dir of a run, or a checkpoint")
    parser.add_argument("repo", help="name or owner/name; made if there is none")
    parser.add_argument("--revision", metavar="REV", help="branch; made if there is none")
    parser.add_argument(
        "--private", action="store_true", default=None, help="make the repository private, if it is new"
    )
    parser.add_argument("--create-pr", action="store_true", help="open a pull request")
    parser.add_argument("--message", default="Push of a finished run", metavar="TEXT", help="of the commit")

    def run(options: argparse.Namespace) -> None:
        from dataclasses import replace

        from .errors import raise_all
        from .publish.model_files import files_to_push
        from .publish.upload import Destination, access_problems, prepare, push_files

        to = Destination(options.repo, options.revision, options.private, options.create_pr)
        files_to_push(options.folder)
        if not to.create_pr:  # anybody may propose
            raise_all(access_problems(to.repo_id, None, "repo", "HF_TOKEN"))
        to = replace(to, repo_id=prepare(to, options.folder))
        _describe(options.folder, to.repo_id)
        print(push_files(files_to_push(options.folder), to, options.message, options.folder, prepare=False))

    return run


def _describe(folder: Path, repo: str) -> None:
    """Write the card with the id of the repository, unless the card there is not ours or there is no run.json."""
    from .publish.card import may_write_card, write_card
    from .publish.run_record import RunRecord

    if may_write_card(folder) and (folder / RUN_FILE).exists():
        record = RunRecord.load(folder)
        record.asked["model_id"] = repo
        write_card(record, folder)


# name -> adds its arguments and returns what runs it; whatever takes long to import is imported there
COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], int | None]]] = {
    "assess": _assess,
    "grow": _grow,
    "cache": add_cache,
    "card": _card,
    "push": _push,
    "stages": add_stages,
    "train": add_train,
}
# name -> raises what is wrong with the words behind it and can be known before its flags are, which takes seconds
FIRST: dict[str, Callable[[Sequence[str]], None]] = {"grow": _require_folder}


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command; 1 and a line on stderr for what is wrong with its input, 2 for what is no flag or command."""
    words = sys.argv[1:] if argv is None else argv
    chosen = words[0] if words else ""
    parser = _Parser(prog="hf-dwt", description="Distillation from Weak Teacher: what needs no script.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    try:
        if chosen in FIRST:
            FIRST[chosen](words[1:])
        for name, add in COMMANDS.items():
            sub = subparsers.add_parser(name, help=(add.__doc__ or "").split("\n\n")[0], description=add.__doc__)
            if name == chosen:  # the flags of another may take seconds to import
                sub.set_defaults(run=add(sub))
        options = parser.parse_args(words)
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output wants no more of it, as `head` after some lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except DistillationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

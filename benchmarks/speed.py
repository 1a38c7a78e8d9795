"""How fast certificates are, against what others do, and what stopping early is worth.

    python benchmarks/speed.py encoder --venv FOLDER     samples a second: ours, the plain loop, IBM ART
    python benchmarks/speed.py prompts                   m prompt sets in one pass
    python benchmarks/speed.py stopping                  draws an image on a published distribution, exactly
    MEDROBUST_DATA=FOLDER python benchmarks/speed.py replay    draws an image on real certificates
    MEDROBUST_DATA=FOLDER python benchmarks/speed.py whole     whole runs
    python benchmarks/speed.py together                  what the first and third are worth multiplied

Each writes docs/evidence/data/speed-PART.json and its table in docs/evidence. Raw timings are kept in runs/speed: the
same command again goes on where it stopped and measures nothing twice, unless told --fresh. Timings are divided by a
matrix product of the same moment, so they stand other load, but a quiet machine is better.
"""

import argparse
import importlib
import os
from pathlib import Path

from speed_networks import ARCHITECTURES

PARTS = {  # module and function; imported when asked for
    "encoder": ("speed_encoder", "encoder"),
    "prompts": ("speed_prompts", "prompts"),
    "stopping": ("speed_stopping", "stopping"),
    "replay": ("speed_replay", "replay"),
    "whole": ("speed_whole", "whole"),
    "whole-run": ("speed_whole", "whole_run"),
    "together": ("speed_together", "together"),
}


def main() -> None:
    """Do one part."""
    arguments = _parser().parse_args()
    if "threads" in arguments:
        os.environ.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    module, function = PARTS[arguments.part]
    getattr(importlib.import_module(module), function)(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    timed = argparse.ArgumentParser(add_help=False)
    timed.add_argument("--threads", type=int, default=1)
    timed.add_argument("--fresh", action="store_true", help="forget the raw timings of this part")

    encoder = parts.add_parser("encoder", parents=[timed])
    encoder.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    encoder.add_argument("--rounds", type=int, default=5)
    encoder.add_argument("--seconds", type=float, default=2.0, help="of each timing, about")
    encoder.add_argument("--venv", type=Path, help="folder for ART's own environment; without it ART is left out")

    prompts = parts.add_parser("prompts", parents=[timed])
    prompts.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=["vit-b32", "builtin"])
    prompts.add_argument("--rounds", type=int, default=3)
    prompts.add_argument("--eager", action="store_true", help="without torch.compile")

    stopping = parts.add_parser("stopping")
    stopping.add_argument("--grids", nargs="+", choices=["0.5", "1", "2", "curve"], default=["0.5", "1", "2", "curve"])

    replay = parts.add_parser("replay")
    replay.add_argument("--threads", type=int, default=1)
    replay.add_argument("--sets", nargs="+", choices=["blood", "chest"], default=["blood", "chest"])
    replay.add_argument("--images", type=int, default=250)
    replay.add_argument("--minutes", type=float, default=8.0, help="to collect in this call, all sets together")
    replay.add_argument("--eager", action="store_true", help="without torch.compile")

    whole = parts.add_parser("whole", parents=[timed])
    whole.add_argument("--images", type=int, default=8)
    whole.add_argument("--n", type=int, default=10_000)
    whole.add_argument("--rounds", type=int, default=2)
    one = parts.add_parser("whole-run", help="one run of `whole`, in a process of its own")
    one.add_argument("spec")
    one.add_argument("out", type=Path)

    parts.add_parser("together")
    return parser


if __name__ == "__main__":
    main()

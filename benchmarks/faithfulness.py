"""Which maps can be trusted, on 200 phantoms: ``PYTHONPATH=. python benchmarks/faithfulness.py``.

The same as ``python -m nearl faithfulness``; what the Explain tab says of each map is written to
assets/faithfulness.json.

Nothing is tuned on these phantoms: adapters are taught with the default recipe on 16 others per class and kind.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from nearl.backbones import load_backbone
from nearl.data.phantoms.kinds import KINDS
from nearl.explain.faithfulness import Plan, study, table

ASSET = Path(__file__).resolve().parents[1] / "assets" / "faithfulness.json"


def rounded(value):
    """Four decimals everywhere, to keep the file small."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--curves", type=int, default=60)
    parser.add_argument("--methods", nargs="*", help="keys of maps; default: every map that the model can draw")
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    log = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    result = study(load_backbone(args.backbone), Plan(KINDS, args.images, args.curves, maps=args.methods), log)
    args.out.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(result)))

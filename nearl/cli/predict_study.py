"""The other images of a chest study that ``nearl predict`` reads with its image: prior and lateral."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nearl.cli.options import there
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.data.images import ImageRecord
    from nearl.methods.studies import Study
    from nearl.reading.classifier import Classifier

OPTIONS = {  # by option: its time, its view, and what it shows
    "lateral": (0, 1, "the lateral image taken with it"),
    "prior": (1, 0, "the frontal image of an earlier study"),
    "prior_lateral": (1, 1, "the lateral image of an earlier study"),
}


def study_options(sub: argparse.ArgumentParser) -> None:
    for name, (_, _, shows) in OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        sub.add_argument(
            flag, metavar="FILE", help=f"{shows}; IMG is the current frontal one, read with an alta adapter"
        )


def given(args: argparse.Namespace) -> list[str]:
    """The options that name other images of a study. NearlError where they do not go with the rest of the line."""
    found = [name for name in OPTIONS if getattr(args, name)]
    if not found:
        return []
    flag = f"--{found[0].replace('_', '-')}"
    if len(args.images) != 1 or args.csv or args.aggregate:
        raise NearlError(f"{flag} belongs to one image; give one IMG, without --csv and --aggregate.")
    for name in found:
        there(getattr(args, name), "image")
    return found


def beside(args: argparse.Namespace, classifier: Classifier) -> Study:
    """The other images of the study, decoded. NearlError for one that cannot be read, and for an adapter that does not
    read studies."""
    names = given(args)
    if not names:
        return {}
    from nearl.data.images import decode_one
    from nearl.methods.alta import Alta
    from nearl.methods.studies import Place

    method = classifier.method
    if not isinstance(method, Alta) or not method.options.get("studies"):
        raise NearlError(
            "Priors and laterals need an adapter of ALTA that was taught with studies (docs/usage.md says how); this "
            "one reads single images."
        )
    return {Place(*OPTIONS[name][:2]): decode_one(getattr(args, name)).still() for name in names}


def together(classifier: Classifier, record: ImageRecord, others: Study) -> tuple[list[float], list[str]]:
    """(Probabilities [C] of the study after teaching, the names of its images in the order of their places)."""
    from nearl.methods.alta import Alta
    from nearl.methods.studies import ALONE, TIMES, VIEWS

    study, method = {ALONE: record, **others}, classifier.method
    assert isinstance(method, Alta)  # `beside` has seen to that
    names = [f"{TIMES[place.time]} {VIEWS[place.view]}" for place in sorted(study)]
    return method.read_studies([study])[0].tolist(), names

"""``nearl retrieve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    adapter_options,
    backbone_of,
    log,
    prompt_options,
    say,
    there,
)
from nearl.cli.progress import Bar
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.data.records import Problem
    from nearl.prompts import PromptSet
    from nearl.reading.gallery import Gallery, Places, Seer

K = 10
NAMED = 3  # files that were left out and are named one by one
CUT = 100  # characters of a caption in a line for people


def run(args: argparse.Namespace) -> Result:
    if sum(map(bool, (args.text, args.image, args.evaluate))) != 1:
        raise NearlError("Say what to look for: give one of --text SENTENCE, --image FILE and --evaluate.")
    if args.k < 1:
        raise NearlError("--k is the number of images to find; give 1 or more.")
    there(args.gallery, "folder or zip of images")
    there(args.image, "image")
    there(args.adapter, "adapter")
    own = _own_prompts(args)

    from nearl.measure.retrieval import study, words_of

    seer, taught = _seer(args)
    gallery, facts, beside = _gallery(args, seer)
    if args.evaluate:
        prompts = own or beside or taught or _made(gallery)
        found = study(seer, gallery, prompts)
        return {"evaluation": found, **facts, "notice": NOTICE}, [*words_of(found), NOTICE]
    result, lines = _text(args, seer, gallery) if args.text else _image(args, seer, gallery)
    return {**result, **facts, "notice": NOTICE}, [*lines, NOTICE]


def _own_prompts(args: argparse.Namespace) -> PromptSet | None:
    if not args.prompts:
        return None
    from nearl.prompts import PromptSet

    return PromptSet.load(args.prompts)


def _seer(args: argparse.Namespace) -> tuple[Seer, PromptSet | None]:
    """What encodes, and the prompts that the adapter was taught with."""
    from nearl.adapters.store import load_adapter
    from nearl.methods import Task, make, restore
    from nearl.prompts import default_prompts
    from nearl.reading.gallery import Seer

    backbone = backbone_of(args)
    zero_shot = make("zero-shot", Task(backbone, default_prompts(["image"])))
    if not args.adapter:
        return Seer(zero_shot), None
    method = restore(backbone, load_adapter(args.adapter, backbone.identity), zero_shot.task.frozen)
    return Seer(zero_shot, method), method.taught


def _gallery(args: argparse.Namespace, seer: Seer) -> tuple[Gallery, dict, PromptSet | None]:
    """The gallery, what --json says of it, and the prompts in it. What was left out is printed on stderr."""
    from nearl.data.sets.listing import list_images
    from nearl.prompts import PromptSet
    from nearl.reading.gallery import index_images
    from nearl.reading.index import Index, usual_place

    with list_images(args.gallery, args.captions) as listing, Bar() as bar:
        kept = None
        try:
            kept = Index(args.index or usual_place())
        except NearlError:
            if args.index:
                raise
            log("nearl: there is no place to keep the index, so it is made again each time; give --index FILE.")
        try:
            gallery = index_images(seer, listing, kept, lambda done, n: bar.move("indexed", done, n))
        except KeyboardInterrupt:
            log("nearl: what was indexed is kept; the same command goes on from there.")
            raise
        finally:
            if kept is not None:
                kept.close()
    reasons = [_reason(problem) for problem in gallery.problems]
    more = [f"{len(reasons) - NAMED} more were left out."] if len(reasons) > NAMED else []
    say([*reasons[:NAMED], *more, *gallery.notes])
    labels = sorted({entry.label for entry in gallery.entries} - {""})
    facts = {
        "images": len(gallery),
        "indexed": gallery.indexed,
        "classes": {name: sum(entry.label == name for entry in gallery.entries) for name in labels},
    }
    beside = None if listing.prompts is None else PromptSet.from_dict(listing.prompts)
    return gallery, {"gallery": facts, "left_out": reasons, "notes": list(gallery.notes)}, beside


def _reason(problem: Problem) -> str:
    """Why a file was left out, with its folder: files of the same name may lie in several."""
    from nearl.data.records import base_name

    name, reason = problem
    return reason if name in reason else reason.replace(base_name(name), name, 1)


def _made(gallery: Gallery) -> PromptSet | None:
    """Prompts made of the names of the classes."""
    from nearl.prompts import default_prompts

    names = {entry.label: None for entry in gallery.entries if entry.label}
    return default_prompts(names) if len(names) > 1 else None


def _text(args: argparse.Namespace, seer: Seer, gallery: Gallery) -> Result:
    query, unknown = seer.sentence(args.text), seer.unknown(args.text)
    (rest,) = seer.backbone.unread([args.text])
    result = {"text": args.text, "unknown_words": unknown, "unread": rest, **_found(query, gallery, args.k)}
    lines = _lines(result)
    if unknown:
        lines.append(f"The model ignores these words, which it does not know: {', '.join(unknown)}.")
    if rest:
        lines.append(f"The model reads only the beginning of the sentence; it does not read “{rest}”.")
    return result, lines


def _image(args: argparse.Namespace, seer: Seer, gallery: Gallery) -> Result:
    from nearl.data.images import decode_one

    record = decode_one(args.image)
    query = seer.images([record.still()])
    refused = "" if args.anyway else gallery.unlike(query)
    result = {"image": args.image, "refused": refused}
    if refused:
        result["results"] = []
        return result, [refused, "Give --anyway to see the nearest all the same."]
    result |= _found(query, gallery, args.k)
    lines = _lines(result)
    texts = list(dict.fromkeys(entry.text for entry in gallery.entries if entry.text))
    if texts:
        result["texts"] = _texts(seer, query, texts, args.k)
        lines.append("texts closest to the image:")
        lines += [f"  {row['score']:5.2f}  {row['text'][:CUT]}" for row in result["texts"]]
    return result, lines


def _found(query: Places, gallery: Gallery, k: int) -> dict:
    """ "results" of the model as it is in use and, with an adapter, "before" of the frozen one."""
    from nearl.reading.gallery import nearest

    def rows(when: str) -> list[dict]:
        hits = nearest(query.moments[when], gallery.places.moments[when], k)
        return [_row(gallery, hit.index, hit.score) for hit in hits]

    if query.adapted is None:
        return {"results": rows("before")}
    return {"results": rows("after"), "before": rows("before")}


def _row(gallery: Gallery, index: int, score: float) -> dict:
    entry = gallery.entries[index]
    row = {"file": entry.name, "score": round(score, 6), "label": entry.label or None}
    return row | ({"part": entry.part} if entry.part else {}) | ({"text": entry.text} if entry.text else {})


def _texts(seer: Seer, query: Places, texts: list[str], k: int) -> list[dict]:
    from nearl.reading.gallery import nearest

    when = "before" if query.adapted is None else "after"
    hits = nearest(query.moments[when], seer.texts(texts).moments[when], k)
    return [{"text": texts[hit.index], "score": round(hit.score, 6)} for hit in hits]


def _lines(result: dict) -> list[str]:
    """What was found, for people."""
    lines = []
    for title, key in (("before teaching", "before"), ("after teaching", "results")):
        if key not in result:
            continue
        lines += [f"{title}:"] if "before" in result else []
        for row in result[key]:
            lines.append(f"  {row['score']:5.2f}  {row['file']}" + (f"  ({row['label']})" if row["label"] else ""))
    return [*lines, "Similar means similar to this model; the images may show different things."]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("gallery", metavar="GALLERY", help="a folder or zip of images; class folders give them labels")
    sub.add_argument("--text", metavar="SENTENCE", help="find the images that a sentence describes")
    sub.add_argument("--image", metavar="FILE", help="find the images and texts closest to an image")
    sub.add_argument("--evaluate", action="store_true", help="precision and recall at 1, 5 and 10")
    sub.add_argument("--k", type=int, default=K, metavar="K", help=f"how many to find (default: {K})")
    sub.add_argument(
        "--captions", metavar="CSV", help="a table with the columns file and text (default: one in GALLERY)"
    )
    sub.add_argument("--anyway", action="store_true", help="show the nearest also of an image unlike all of GALLERY")
    sub.add_argument("--index", metavar="FILE", help="where embeddings are kept (default: in the user's cache)")
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command("retrieve", "Find the images closest to a sentence or an image, before and after teaching.", run, add)

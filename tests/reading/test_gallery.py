"""A gallery: what is listed, indexed once, found and refused."""

import shutil
import sqlite3

import numpy as np
import pytest
import torch
from PIL import Image

from nearl.data.images import decode_one
from nearl.data.sets.listing import list_images
from nearl.errors import NearlError
from nearl.methods import make
from nearl.reading.gallery import Entry, Gallery, Places, Seer, index_images, nearest
from nearl.reading.index import Index
from tests.support.methods_data import shades, task_of, taught, write_set


def _entries(count):
    return [Entry(f"{number}.png") for number in range(count)]


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny("clip")


@pytest.fixture(scope="module")
def seer(backbone):
    task = task_of(backbone)
    return Seer(make("zero-shot", task), taught(make("nearl", task)))


@pytest.fixture
def folder(tmp_path):
    """Images of two classes, a caption for one of them, and a file that is none."""
    write_set(tmp_path / "gallery", per_class=3)
    (tmp_path / "gallery" / "captions.csv").write_text("file,text\ntrain/one/0.png,a dark square\n")
    (tmp_path / "gallery" / "train" / "one" / "broken.png").write_bytes(b"no image")
    return tmp_path / "gallery"


def test_a_listing_knows_labels_parts_and_texts_without_reading_an_image(folder, tmp_path):
    with list_images(folder) as found:
        by = {image.path: image for image in found.images}
        assert len(by) == 13 and by["train/one/0.png"][2:] == ("one", "train", "", "a dark square")
        assert by["test/two/4.png"][2:] == ("two", "test", "", "") and "1 of 13" in found.notes[-1]
    with list_images(shutil.make_archive(str(tmp_path / "packed"), "zip", folder)) as zipped:
        assert [image[0] for image in zipped.images] == [image[0] for image in found.images]
        assert [image[2:] for image in zipped.images] == [image[2:] for image in found.images]
    loose = tmp_path / "loose"
    loose.mkdir()
    for number in range(2):
        Image.new("L", (40, 40), 90 * number).save(loose / f"{number}.png")
    assert [image[2:] for image in list_images(loose).images] == [("", "", "", "")] * 2
    (loose / "labels.csv").write_text("file,label,patient,split\n0.png,one,a,train\n1.png,two,b,test\n")
    assert [image[2:5] for image in list_images(loose).images] == [("one", "train", "a"), ("two", "test", "b")]
    with pytest.raises(NearlError, match=r"labels\.csv needs the columns file and text"):
        list_images(loose, loose / "labels.csv")
    (loose / "empty").mkdir()
    with pytest.raises(NearlError, match="no files that could be images"):
        list_images(loose / "empty")


def test_an_index_is_made_once_resumed_and_never_trusted_blindly(seer, folder, tmp_path):
    def build(watch=lambda done, n: None, file="index.sqlite", by=seer):
        kept = Index(tmp_path / file)
        try:
            with list_images(folder) as listing:
                return index_images(by, listing, kept, watch)
        finally:
            kept.close()

    first = build()
    assert len(first) == first.indexed == 12 and [p.name for p in first.problems] == ["train/one/broken.png"]
    again = build()
    assert again.indexed == 0 and torch.equal(again.places.adapted, first.places.adapted)
    records = [shades(3, 0).records[0]]
    direct = seer.images(records)
    row = next(i for i, entry in enumerate(first.entries) if entry.name == "train/one/0.png")
    torch.testing.assert_close(first.places.frozen[row], direct.frozen[0])
    torch.testing.assert_close(first.places.adapted[row], direct.adapted[0])
    torch.testing.assert_close(seer.method.embeddings(records)[0], direct.adapted)

    (folder / "train").rename(folder / "training")  # the content counts, not the name
    Image.new("RGB", (32, 32), (200, 10, 10)).save(folder / "training" / "two" / "new.png")
    assert build().indexed == 1
    assert build(by=Seer(seer.zero_shot)).indexed == 0 and build(by=Seer(seer.zero_shot)).places.adapted is None
    assert build(by=Seer(seer.zero_shot, taught(make("nearl", task_of(seer.backbone)), seed=5))).indexed == 13

    def stop(done, n):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(stop, "stopped.sqlite")
    assert build(file="stopped.sqlite").indexed < 13
    with sqlite3.connect(tmp_path / "index.sqlite") as file:
        content = "".join(map(str, file.execute("SELECT * FROM vectors").fetchall()))
        assert "new.png" not in content and "gallery" not in content
        file.execute("UPDATE vectors SET vector = x'00' WHERE image = (SELECT max(image) FROM vectors)")
    assert build().indexed == 1
    for damage in ("NULL", "7", "zeroblob(length(vector))"):
        with sqlite3.connect(tmp_path / "index.sqlite") as file:
            file.execute(f"UPDATE vectors SET vector = {damage}")
        assert build().indexed == 13
    (tmp_path / "damaged.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(NearlError, match="cannot be used"):
        build(file="damaged.sqlite")


def test_a_file_that_changes_while_it_is_read_is_left_out_and_not_kept(seer, folder, tmp_path):
    changing, kept = folder / "test" / "two" / "4.png", Index(tmp_path / "index.sqlite")
    before = changing.read_bytes()

    def build(watch=lambda done, n: None):
        with list_images(folder) as listing:
            return index_images(seer, listing, kept, watch)

    def change(done, n):
        if not done:
            Image.new("RGB", (32, 32), (200, 10, 10)).save(changing)

    found = build(change)
    assert "test/two/4.png" in {problem.name for problem in found.problems} and found.indexed == 11
    changing.write_bytes(before)
    again = build()
    assert again.indexed == 1 and len(again) == 12
    row = [entry.name for entry in again.entries].index("test/two/4.png")
    torch.testing.assert_close(again.places.frozen[row], seer.images([decode_one(changing)]).frozen[0])
    kept.close()


def test_the_closest_come_first_before_and_after(seer):
    data = shades(4, seed=3)
    places = seer.images(data.records)
    query = seer.images(data.records[2:3])
    for when, among in places.moments.items():
        hits = nearest(query.moments[when], among, 3)
        assert hits[0].index == 2 and hits[0].score == pytest.approx(1, abs=1e-5)
        expected = np.sort((query.moments[when] @ among.T).numpy()[0])[::-1][:3]
        np.testing.assert_allclose([hit.score for hit in hits], expected, rtol=1e-5)
    assert nearest(query.frozen, places.frozen, 99)[-1].index in range(8)
    sentence, method = seer.sentence("a  scan of one"), seer.method
    tokens = seer.backbone.tokenize(["a scan of one"])
    torch.testing.assert_close(sentence.frozen, seer.backbone.encode_text(tokens).float())
    torch.testing.assert_close(sentence.adapted, method.encode_prompts(tokens).detach())
    with pytest.raises(NearlError, match="no sentence"):
        seer.sentence("  ")
    with pytest.raises(NearlError, match="image"):
        Seer(seer.zero_shot, taught(make("nearl:image-context", task_of(seer.backbone))))


def test_an_image_unlike_all_is_refused_and_a_group_does_not_vouch_for_itself():
    rng = np.random.default_rng(0)
    near = torch.nn.functional.normalize(torch.tensor(rng.normal(0, 0.1, (40, 8)) + np.eye(8)[0]), dim=1).float()
    gallery = Gallery(_entries(40), Places(near))
    assert gallery.unlike(Places(near[:1])) == ""
    other = torch.zeros(1, 8)
    other[0, 5] = 1
    assert "unlike all 40 images" in gallery.unlike(Places(other))
    assert Gallery(_entries(10), Places(near[:10])).unlike(Places(other)) == ""  # too few to tell
    twins = torch.cat([near[:20], near[:20]])
    alone = Gallery(_entries(40), Places(twins))
    apart = Gallery([entry._replace(group=str(i % 20)) for i, entry in enumerate(_entries(40))], Places(twins))
    assert alone.far == pytest.approx(0, abs=1e-6) and apart.far > 0.001

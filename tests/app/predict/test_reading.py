"""Reading images, before and after teaching."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from app.events import sentence
from app.predict import actions as reading
from app.predict import html as predict_views
from app.predict.actions import AFTER, BEFORE, MapChoice
from app.teach.shelf import actions as adapting
from app.visitor.maps import MapKey
from app.visitor.pages import Pages
from nearl.errors import NearlError
from nearl.explain import MapRequest
from nearl.prompts import default_prompts
from tests.support.app_work import taught
from tests.support.hostile import packed


def test_read_before_and_after_teaching(engine, workspace, images):
    reading.bring(workspace, images[:2])
    prompts = default_prompts(["no lesion", "lesion"]).to_dict()
    reading.read(engine, workspace, prompts)
    before = workspace.viewing.prediction.frozen
    assert workspace.viewing.prediction.adapted is None
    assert "not taught" not in predict_views.reading_html(workspace)

    adapting.use(engine, workspace, workspace.shelf.put(taught(engine)))
    reading.read(engine, workspace, prompts)
    np.testing.assert_allclose(workspace.viewing.prediction.frozen, before, atol=1e-6)
    assert workspace.viewing.prediction.adapted.shape == (2, 2)
    for when in (BEFORE, AFTER):
        layer, words = reading.map_layer(engine, workspace, MapChoice(when, "lesion"))
        assert f"“lesion”, {when} teaching" in words
        assert layer.startswith("data:image/png") if "empty" not in words else layer is None
    assert len(workspace.maps) == 2

    wider = default_prompts(["no lesion", "lesion", "scar"]).to_dict()
    reading.read(engine, workspace, wider)
    assert "was never taught scar" in predict_views.reading_html(workspace)


def test_what_can_be_made_again_leaves_memory_with_the_visitor(engine, registry, images):
    pages = Pages(registry)
    page = pages.open("page", None)
    reading.bring(page, images[:1])
    adapting.use(engine, page, page.shelf.put(taught(engine)))
    reading.read(engine, page, default_prompts(["no lesion", "lesion"]).to_dict())
    shown, answer = predict_views.reading_html(page), page.viewing.prediction
    left = weakref.ref(page.viewing.classifier), weakref.ref(page.shelf.adapter)
    pages.close("page")
    gc.collect()
    assert [reference() for reference in left] == [None, None]
    again = pages.open("reloaded", page.id)
    assert predict_views.reading_html(again) == shown and again.viewing.prediction is answer
    assert reading.map_layer(engine, again, MapChoice(AFTER, "lesion"))[1]
    np.testing.assert_allclose(
        again.viewing.classifier.predict(again.viewing.records).adapted, answer.adapted, atol=1e-6
    )


def test_an_empty_map_is_said_in_words(engine, workspace, images):
    reading.bring(workspace, images[:1])
    reading.read(engine, workspace, default_prompts(["a", "b"]).to_dict())
    reading.map_layer(engine, workspace, MapChoice(BEFORE, "a"))
    (record,) = workspace.viewing.records
    key = MapKey(record.digest, MapRequest("gradcam", 0, adapted=False))
    workspace.maps.keep([(key, replace(workspace.maps[key], values=0 * workspace.maps[key].values))])
    layer, words = reading.map_layer(engine, workspace, MapChoice(BEFORE, "a"))
    assert layer is None
    assert "“a”" in words and "the map is empty" in words


def test_one_bad_file_does_not_cost_the_others(workspace, images, tmp_path):
    bad = tmp_path / "notes.png"
    bad.write_bytes(b"no image")
    reading.bring(workspace, [bad, images[0]])
    assert [r.name for r in workspace.viewing.records] == [images[0].name]
    assert [p.name for p in workspace.viewing.problems] == ["notes.png"]


def test_images_are_counted_before_any_is_decoded(workspace, images, tmp_path):
    """The images are cut short: whoever decodes them finds that none can be read."""
    reading.bring(workspace, images[:2])
    entry = images[0].read_bytes()[:200]
    (tmp_path / "many.zip").write_bytes(packed({f"{i}.png": entry for i in range(reading.MAX_IMAGES + 1)}))
    with pytest.raises(NearlError, match=f"{reading.MAX_IMAGES + 1} images"):
        reading.bring(workspace, [tmp_path / "many.zip"])
    assert len(workspace.viewing.records) == 2


def test_reading_needs_an_image_and_a_class(engine, workspace, images):
    with pytest.raises(NearlError, match="no image yet"):
        reading.read(engine, workspace, default_prompts(["a"]).to_dict())
    reading.bring(workspace, images[:1])
    with pytest.raises(NearlError, match="no class"):
        reading.read(engine, workspace, None)


def test_unexpected_errors_are_logged_and_told_in_one_sentence(caplog):
    caplog.set_level("ERROR")  # the command line quietens the root logger
    assert sentence(NearlError("Say this.")) == "Say this."
    text = sentence(RuntimeError("secret path /root"))
    assert "secret" not in text
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text  # which may be the name of a file

"""The Learn tab: what happens when the model is taught, in plain words, with each of the field's terms once."""

from __future__ import annotations

import gradio as gr

from app.context import asset_text

PAGE = f"""
<article class="page">
<h2>What happens here</h2>

<h3>A model that has read pictures and words together</h3>
<p>The model under this page was trained on pairs of images and sentences. It has two halves, one for images and one
for words, and both turn what they are given into a list of numbers. A picture and a sentence that go together end up
close to each other. Such a model is called a <dfn>vision-language model</dfn>; this family of them is called CLIP.</p>

<h3>Reading an image with your words</h3>
<p>You write one or more sentences for each class, the <dfn>prompts</dfn>. The page measures how close the image lies to
each of them and turns the distances into shares that add up to 100 %. If a class has several prompts, their average
counts, which makes the result less dependent on a single choice of words. The shares compare <em>your</em> classes with
each other. If the right answer is not among them, the model still has to choose, so a high share is not a probability
of disease.</p>

<h3>Teaching, without touching the model</h3>
<p>A model that was trained on everything knows little about your task. Training all of it again would need many images
and could make it forget what it knew. So the model stays as it is, <dfn>frozen</dfn>, and a small addition learns
beside it: the <dfn>adapter</dfn>, about one and a half million numbers beside the tens or hundreds of millions of a
usual model. The labelled images that you give it are the <dfn>support set</dfn>. Take the adapter away and the frozen
model is back, exactly; that is the “before” in every chart.</p>

<h3>What is special about NEARL</h3>
<ol>
<li><strong>Images and words talk to each other.</strong> A small transformer runs alongside both halves. At every
layer it looks at what the image half and the word half have worked out so far, and writes a few short notes, the
<dfn>queries</dfn>, from which both halves can learn. The authors call it the Unified Synergy Embedding
Transformer.</li>
<li><strong>Only what is new is added.</strong> From these notes, each layer computes a correction. The part of it that
merely repeats what the layer already says is removed, so that only the part at a right angle to it, the
<dfn>orthogonal</dfn> part, is added. This is the Orthogonal Cross-Attention Adapter. The old knowledge is not
overwritten; something is put beside it.</li>
</ol>
<div class="drawings">
<figure>{asset_text("towers.svg")}<figcaption>The two halves stay as they are. The queries read every layer of both, and
the adapters (⊥) add what is new.</figcaption></figure>
<figure>{asset_text("orthogonal.svg")}<label for="turn">Turn the correction</label>
<input type="range" id="turn" min="0" max="180" value="48">
<figcaption id="turned" aria-live="polite"></figcaption></figure>
</div>
<p>At the first step of teaching the correction is zero, so the taught model begins exactly where the frozen one is.
Teaching then lowers the <dfn>loss</dfn>: how surprised the model is by the right labels. That is the line you see
while it learns.</p>

<h3>How to judge it</h3>
<p>Some of your images are kept aside and never used for teaching. The figure that is reported on them is the
<dfn>balanced accuracy</dfn>: the share it gets right in each class, averaged over the classes, so that a frequent class
cannot hide a rare one. With few images the figure is uncertain, and the bar carries its 95 % interval. If the interval
is wide, believe it.</p>

<h3>Where it looked</h3>
<p>The map shows which parts of the image would change the answer for one class most, a technique called
<dfn>Grad-CAM</dfn>. It is coarse. It tells where the evidence was found, not whether the evidence is sound: a model can
look at the right place for the wrong reason. Where the picture is empty a map may light up all the same: such models
keep there what they saw elsewhere.</p>

<h3>What to try</h3>
<ul>
<li>Rename a class or write its prompt in other words, read again, and see how much the shares depend on wording.</li>
<li>Add a class that cannot be right, and watch the shares of the others shrink.</li>
<li>Teach with four images per class, then with sixteen, and compare the intervals.</li>
<li>After teaching, add a class that was never taught. The model still understands words, and the page says what it
was never taught.</li>
</ul>

<p class="quiet">Source of the method: Peng and colleagues, “NEARL-CLIP: Interacted Query Adaptation with Orthogonal
Regularization for Medical Vision-Language Understanding”, arXiv 2508.04101. The authors' code was
not public when this was written: the number of queries, their width and the recipe for teaching are our own
choices.</p>
</article>
"""


def build() -> None:
    gr.HTML(PAGE, js_on_load=asset_text("orthogonal.js"), elem_id="learn-page")

"""The About tab: what this is, what it is not, where it comes from."""

from __future__ import annotations

import gradio as gr

from nearl import NOTICE, __version__

PAGE = f"""
<article class="page">
<h2>About this page</h2>
<p><strong>{NOTICE}</strong> It has not been tested as a medical device, it has no approval of any kind, and nothing it
shows may enter a decision about a patient.</p>

<h3>What it is</h3>
<p>NEARL-CLIP {__version__}, an open demonstration of how a vision-language model is adapted to a medical task from a
handful of labelled images. It is an independent reading of a published method and was not made by its authors.</p>

<h3>Your images</h3>
<ul>
<li>They are read on the machine that runs this page and are sent nowhere else. If you did not start it yourself, that
machine is somebody else's: bring only images that may leave yours, without names or numbers of patients in
them.</li>
<li>Each visitor has a workspace of their own. It is forgotten an hour after its last use, or ten minutes after the page
is closed. Uploaded files are deleted within about an hour.</li>
<li>No usage statistics are collected, and the page loads nothing from other sites.</li>
</ul>

<h3>Limits</h3>
<ul>
<li>The shares depend on the classes and words you write. A share is not a probability of disease.</li>
<li>A model taught with a few images learns what these have in common, which may be the scanner, the hospital or a
marker at the edge. The check on images kept aside cannot reveal that if all come from the same place.</li>
<li>The embedded model is small and was trained on a few thousand public images of eight kinds and on drawn ones. It
knows nothing of others.</li>
<li>The synthetic examples are drawn by a program. They show how the page works, and nothing about medicine.</li>
<li>Scans are shown with the window and in the slice that you choose, and the model sees just that. It was never taught
on whole volumes; the curve over all slices adds nothing up that it has not read slice by slice.</li>
</ul>

<h3>Licence and citation</h3>
<p>The program is under the Apache License 2.0. Models and images keep their own licences; an adapter inherits the terms
of the model and of the images it was taught with. If you use this in teaching or research, please cite the method:</p>
<pre>Peng et al., NEARL-CLIP: Interacted Query Adaptation with Orthogonal
Regularization for Medical Vision-Language Understanding.
arXiv:2508.04101, 2025.</pre>
</article>
"""


def build() -> None:
    gr.HTML(PAGE, js_on_load=None, elem_id="about-page")

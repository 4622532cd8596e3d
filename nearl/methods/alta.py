"""Bottleneck adapters inside the towers, after ALTA (Lian et al., TMI 2025)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from nearl.backbones import Backbone
from nearl.backbones.shadow import shadow
from nearl.backbones.towers.base import Tower
from nearl.methods.base import Card, InsideText, InsideTower
from nearl.methods.frozen import BATCH, Task
from nearl.methods.studies import TIMES, VIEWS, Images, Study, StudyViews, chosen, mean_of
from nearl.train.answers import shares
from nearl.train.batches import draw_prompts
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe

PAPER = (
    "Lian et al., Efficient Medical Vision-Language Alignment Through Adapting Masked Vision Models, arXiv 2506.08990"
)
REDUCTION = 4  # of a tower's width inside a bottleneck
START = 0.1  # standard deviation of the embeddings of prior and lateral at the start (our choice)


class Bottleneck(nn.Module):
    """U gelu(V x) with biases: 2 D r + r + D parameters for tokens x of width D. U starts at zero."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def start(self) -> None:
        """Draw V again, and put U back to zero."""
        self.down.reset_parameters()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))


def put_in(tower: Tower, rank: int, scale: float, device: torch.device) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Bottlenecks S and P for every block of a shadow's tower, in which a = attention(x) becomes a + S(a) and
    m = MLP(y) becomes m + scale * P(y)."""
    with torch.random.fork_rng():
        make = lambda: nn.ModuleList(Bottleneck(tower.width, rank) for _ in range(tower.depth))  # noqa: E731
        serial, parallel = make().to(device), make().to(device)
    for k in range(tower.depth):
        tower.hook(k, serial[k], lambda x, k=k: scale * parallel[k](x))
    return serial, parallel


class Plus(nn.Module):
    """A frozen tensor and what is learned to add to it, which starts at zero."""

    def __init__(self, learned: nn.Parameter):
        super().__init__()
        self.learned = learned

    def forward(self, frozen: Tensor) -> Tensor:
        return frozen + self.learned


class Alta(InsideText, InsideTower):
    """In every block of both towers a = attention(x) becomes a + S(a) and m = MLP(y) becomes m + P(y) / 2, with
    bottlenecks S and P of a quarter of the tower's width. Layer norms, projections and the logit scale are trained too.

    A block whose norms follow its residuals (BERT) gets S(a) after the norm of its attention and P(y) after the norm of
    its MLP. What is trained of the backbone's own tensors is a difference from them that starts at zero, so that weight
    decay pulls towards the frozen model (our choice). Images are embedded once, by the frozen model: the norm after the
    embedding is trained as a scale and a shift of the tokens that it gives, and the class token as a shift of it after
    that norm (our choice).

    ALTA aligns a masked image model with reports on many pairs; here the adapters learn the task from the support
    images, through its prompts.

    ``studies`` 1: it also reads studies of up to four images (`nearl.methods.studies`), one image after the other, with
    a learned embedding of its time and one of its view added to every token as it enters the first block. Those of
    current and frontal start at zero, those of prior and lateral at random, all in units of the tokens' standard
    deviation (our choice). A study is the mean of the pooled tokens of the images that there are: what is missing is
    left out rather than replaced by a token, so that one image is read as it would be alone (our choice).
    `teach_studies` gives the studies to teach with.
    """

    card = Card(
        "alta",
        "ALTA-style adapters",
        "Every block of both towers gets two narrow networks, after its attention and parallel to its MLP. They "
        "add nothing at the start. Layer norms and projections are trained too.",
        PAPER,
        "two bottlenecks in every block of both towers, the layer norms, the class token, the projections, and the "
        "logit scale",
        features=False,
        recipe={"lr": 1e-3},
    )

    def __init__(self, task: Task, scale: float = 0.5, studies: int = 0):
        super().__init__(task, scale=scale, studies=studies)
        device = task.backbone.device
        self.adapted = shadow(task.backbone)
        vision, text = self.adapted.vision, self.adapted.text
        zeros = lambda *shape: nn.Parameter(torch.zeros(*shape, device=device))  # noqa: E731
        pairs = [*vision.norms_and_head(), *text.norms_and_head()]
        names = {id(parameter): name for name, parameter in self.adapted.model.named_parameters()}
        self.difference = nn.ParameterDict()
        for module, name in pairs:
            frozen = getattr(module, name)
            learned = self.difference[names[id(frozen)].replace(".", "/")] = zeros(*frozen.shape)
            register_parametrization(module, name, Plus(learned), unsafe=True)  # unsafe: without a trial on `META`
        self.entry = nn.ParameterDict()
        if vision.entry_norm:
            self.entry.update({"scale": zeros(vision.width), "shift": zeros(vision.width)})
        if vision.prefix_tokens:
            self.entry["prefix"] = zeros(vision.prefix_tokens, vision.width)
        if studies:
            self.entry.update({"time": zeros(len(TIMES), vision.width), "view": zeros(len(VIEWS), vision.width)})
            self.register_buffer("spread", torch.ones(1, device=device))
        self.log_scale = zeros(1)
        self._studies: tuple[Images, float] | None = None
        put = partial(put_in, scale=scale, device=device)
        self.image_serial, self.image_parallel = put(vision, vision.width // REDUCTION)
        self.text_serial, self.text_parallel = put(text, text.width // REDUCTION)

    def start(self, recipe: Recipe) -> None:
        for bottlenecks in (self.image_serial, self.image_parallel, self.text_serial, self.text_parallel):
            for bottleneck in bottlenecks:
                bottleneck.start()
        for parameter in (*self.difference.values(), *self.entry.values(), self.log_scale):
            nn.init.zeros_(parameter)
        if "time" in self.entry:
            self.spread.copy_(self.task.frozen.patches(self.task.support.records[:1]).std())
            for name in ("time", "view"):
                nn.init.normal_(self.entry[name][1], std=START)

    @property
    def tower(self) -> Backbone:
        return self.adapted

    def embed(self, pooled: Tensor) -> Tensor:
        projection = self.adapted.vision.projection
        return F.normalize(pooled if projection is None else F.linear(pooled, *projection), dim=-1)

    def enter(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D] as the first block takes them, of embedded patches [B, N, D] of the frozen model. ``places``
        int64 [B, 2]: time and view of each image; current and frontal by default."""
        own, count = self.entry, self.adapted.vision.prefix_tokens
        if "scale" in own:
            x = x * (1 + own["scale"].to(x.dtype)) + own["shift"].to(x.dtype)
        if "prefix" in own:
            x = torch.cat([x[:, :count] + own["prefix"].to(x.dtype), x[:, count:]], dim=1)
        if "time" in own:
            places = torch.zeros(len(x), 2, dtype=torch.long, device=x.device) if places is None else places
            x = x + (self.spread * (own["time"][places[:, 0]] + own["view"][places[:, 1]]))[:, None].to(x.dtype)
        return x

    def encode_tokens(self, x: Tensor) -> Tensor:
        return super().encode_tokens(self.enter(x))

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        return self.adapted.encode_text(tokens).float()

    @property
    def logit_scale(self) -> Tensor:
        """The trained factor before cosines, [1]."""
        return self.backbone.logit_scale * self.log_scale.exp()

    def scores(self, images: Tensor) -> Tensor:
        return self.logit_scale * images @ self.classes().T

    # ---- studies -----------------------------------------------------------------------------------------------------

    def teach_studies(self, studies: Sequence[Study], alone: float = 0.5) -> None:
        """Teach with these studies, which belong to the support images in their order. In a step the share ``alone`` of
        them is read from the current frontal image only, as later images may be (our choice). ValueError where there
        are not as many studies as images, or the method was not made with ``studies``."""
        if "time" not in self.entry or self.task.support is None or len(studies) != len(self.task.support):
            raise ValueError("studies=1, and as many studies as support images")
        self._studies = Images.of(studies, self.backbone.device), alone

    def pooled(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Pooled features [M, P] of embedded patches [M, N, D] of images of studies, float32."""
        vision, x = self.adapted.vision, self.enter(tokens, places)
        for k in range(vision.depth):
            x = vision.block(k, x)
        return vision.features(x).float()

    @torch.no_grad()
    def read_studies(self, studies: Sequence[Study]) -> np.ndarray:
        """Probabilities float32 [B, C] of studies, relative to the prompts. NearlError for one without an image."""
        images, found = Images.of(studies, self.backbone.device), []
        with self.backbone.lock:
            for at in range(0, len(images.records), BATCH):
                patches = self.task.frozen.patches(images.records[at : at + BATCH])
                found.append(self.pooled(patches, images.places[at : at + BATCH]))
            logits = self.scores(self.embed(mean_of(torch.cat(found), images.owners)))
        return shares(logits.float(), self.questions).cpu().numpy()

    # ---- teaching ----------------------------------------------------------------------------------------------------

    def _encoder(self, recipe: Recipe) -> Callable[[np.ndarray, np.random.Generator, slice], Tensor]:
        """A function that draws views of the support images, or of their studies, at an index, and gives the unit
        embeddings of some rows of them."""
        if self._studies is None:
            plain = self.task.views(recipe)
            return lambda index, rng, rows: self.encode_tokens(plain.draw(index, rng)[rows])
        images, alone = self._studies
        views = StudyViews(self.backbone, images, recipe, self.task.frozen)

        def encode(index: np.ndarray, rng: np.random.Generator, rows: slice) -> Tensor:
            number = rng.integers(views.count, size=len(index))
            mine, owners = chosen(images, index, alone, rng)
            tokens = views.drawn(mine, number[owners].tolist(), rng)
            kept = np.flatnonzero(np.isin(owners, np.arange(len(index))[rows]))
            features = self.pooled(tokens[kept], images.places[mine[kept]])
            owners = torch.from_numpy(owners[kept] - owners[kept[0]]).to(features.device)
            return self.embed(mean_of(features, owners))

        return encode

    def phases(self, recipe: Recipe) -> list[Phase]:
        encode = self._encoder(recipe)
        texts = [self.backbone.tokenize(group) for group in self.task.prompt_set.texts()]

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            classes = self.encode_text(draw_prompts(texts, recipe.prompts_per_class, rng))
            return self.logit_scale * encode(index, rng, rows) @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]


class AltaVision(InsideTower):
    """`Alta` in the image tower alone, with bottlenecks of rank 64 (our choice). All else is frozen."""

    card = Card(
        "alta-vision",
        "ALTA-style, image tower",
        "Every block of the image tower gets two narrow networks, one after its attention and one parallel to its MLP. "
        "They add nothing at the start.",
        PAPER,
        "two bottlenecks in every block of the image tower",
        features=False,
        recipe={"lr": 1e-3},
    )

    def __init__(self, task: Task, rank: int = 64, scale: float = 0.5):
        super().__init__(task, rank=rank, scale=scale)
        self.adapted = shadow(task.backbone)
        self.serial, self.parallel = put_in(self.adapted.vision, rank, scale, task.backbone.device)

    @property
    def tower(self) -> Backbone:
        return self.adapted

    def start(self, recipe: Recipe) -> None:
        for bottleneck in (*self.serial, *self.parallel):
            bottleneck.start()

    def phases(self, recipe: Recipe) -> list[Phase]:
        views, classes = self.task.views(recipe), self.task.classes()

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            return self.backbone.logit_scale * self.adapted.encode_tokens(views.draw(index, rng)[rows]) @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]

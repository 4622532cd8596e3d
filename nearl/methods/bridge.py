"""A bank of atoms that both images and texts are rebuilt from, after BrgSA (Lai et al., 2025), over pooled slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.data.images import ImageRecord
from nearl.data.reports import NOTHING, summarise
from nearl.data.sets.labelled import LabelledSet
from nearl.data.terms import vocabulary
from nearl.errors import NearlError
from nearl.methods.base import Card, Method
from nearl.methods.frozen import Task, ensemble
from nearl.prompts import FINDINGS
from nearl.train.answers import members
from nearl.train.batches import draw_view
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe

HEADS, BINS = 4, 8  # of the pooling; places along a volume between which a slice's is interpolated (our choice)
SCALE = 10.0  # of cosines, in the contrastive loss
SPREAD = 1.0  # standard deviation of the logits over the atoms at the start (our choice)
SAME = 1 - 1e-5  # cosine from which two texts are one


class Stack:
    """B studies of up to S slices: ``features`` [B, S, E], ``places`` [B, S] in 0..1 from the first slice to the last,
    and ``there`` bool [B, S], False after a study's own slices."""

    def __init__(self, studies: Sequence[Tensor]):
        self.features = nn.utils.rnn.pad_sequence(list(studies), batch_first=True)
        counts = torch.tensor([len(one) for one in studies], device=self.features.device)[:, None]
        number = torch.arange(self.features.shape[1], device=self.features.device)[None]
        self.there = number < counts
        self.places = ((number + 0.5) / counts).clamp(max=1)

    def __getitem__(self, index: np.ndarray) -> Stack:
        part = Stack.__new__(Stack)
        chosen = torch.from_numpy(np.asarray(index)).to(self.features.device)
        part.features, part.places, part.there = (x[chosen] for x in (self.features, self.places, self.there))
        return part


class Bridge(Method):
    """v = pooled slices, t = W t_0, and one bank K [A, E] that rebuilds both: x^ = softmax(s x K^T) K.

    ::

        L     = InfoNCE(v, t) + 0.5 (|v^ - v|^2 + |t^ - t|^2) + InfoNCE(v^, t^)      InfoNCE: both ways, 10 cos
        score = (cos(v, t) + cos(v^, t)) / 2

    The bank, the loss and the score are BrgSA's. Ours: the frozen tower sees 2-D slices, which a trained attention that
    knows each slice's position pools (v starts as their mean, W as the identity); v and t are unit vectors, so that s
    is trained, without which the softmax is nearly uniform and every x^ the bank's mean; equal texts in a batch count
    as matches. The text of a study is its report, one embedding per sentence, or else says which classes it has.

    ``atoms``: A; 0 for the contrastive loss alone. ``summary``: 1 teaches with the summary of a report
    (`nearl.data.reports`), 0 with the report. ``answers``: 1 adds the cross-entropy of the labels' answers to the loss
    (our choice; BrgSA learns from texts alone). ``learned_bank``: 0 leaves the bank as it is drawn, a control.
    """

    card = Card(
        "bridge",
        "BrgSA-style bridge",
        "A trained attention pools the slices of a volume, and one bank of atoms rebuilds them and the prompts. Both "
        "towers stay frozen.",
        "Lai et al., Bridged Semantic Alignment for Zero-shot 3D Medical Image Diagnosis, arXiv 2501.03565",
        "the pooling of slices, a linear map of the texts and the bank",
        volumes=True,
        recipe={"steps": 300, "batch_size": 32, "lr": 1e-3, "label_smoothing": 0.0},
    )

    def __init__(self, task: Task, atoms: int = 256, summary: int = 1, answers: int = 1, learned_bank: int = 1):
        super().__init__(task, atoms=atoms, summary=summary, answers=answers, learned_bank=learned_bank)
        width, device = task.backbone.embed_dim, task.backbone.device
        if width % HEADS:
            raise NearlError(
                f"{self.card.title} needs embeddings whose width {HEADS} divides, not {width}; use another model."
            )
        zeros = lambda *shape: nn.Parameter(torch.zeros(*shape, device=device))  # noqa: E731
        self.heads, self.along = zeros(HEADS, width), zeros(BINS, HEADS)
        self.value, self.out, self.text = zeros(width, width), zeros(width, width), zeros(width, width)
        self.sharpness = nn.Parameter(torch.zeros(1, device=device))
        bank = torch.zeros(atoms, width, device=device)
        if learned_bank:
            self.bank = nn.Parameter(bank)
        else:
            self.register_buffer("bank", bank)

    def start(self, recipe: Recipe) -> None:
        width = self.text.shape[0]
        nn.init.normal_(self.heads, std=width**-0.5)
        nn.init.orthogonal_(self.value)
        self.text.data.copy_(torch.eye(width))
        for empty in (self.along, self.out):
            nn.init.zeros_(empty)
        self.sharpness.data.fill_(np.log(SPREAD * width**0.5))
        if len(self.bank):
            nn.init.orthogonal_(self.bank.data)
            self.bank.data.copy_(F.normalize(self.bank.data, dim=-1))

    # ---- from features to v and t ------------------------------------------------------------------------------------

    def attention(self, stack: Stack) -> Tensor:
        """The weight of each slice in each head, [B, HEADS, S]; those of a head sum to one."""
        at = stack.places * (BINS - 1)
        low = at.floor().clamp(max=BINS - 2).long()
        part = (at - low)[..., None]
        along = self.along[low] * (1 - part) + self.along[low + 1] * part  # [B, S, HEADS]
        logits = self.heads.shape[-1] ** 0.5 * stack.features @ self.heads.T + along
        return logits.masked_fill(~stack.there[..., None], -torch.inf).softmax(1).mT

    def pool(self, stack: Stack) -> Tensor:
        """Unit embeddings v [B, E] of studies: the mean of the slices and what the heads add to it."""
        features, there = stack.features, stack.there[..., None]
        mean = (features * there).sum(1) / there.sum(1)
        seen = (self.attention(stack) @ features).unsqueeze(2)  # [B, HEADS, 1, E]
        value = self.value.unflatten(0, (HEADS, -1)).mT  # [HEADS, E, E / HEADS]
        return F.normalize(mean + F.linear((seen @ value).flatten(1), self.out), dim=-1)

    def rebuilt(self, x: Tensor) -> Tensor:
        """x^ [..., E] of unit embeddings x [..., E]."""
        return self.weights(x) @ self.bank

    def weights(self, x: Tensor) -> Tensor:
        """The weight of each atom, [..., A]; those of an embedding sum to one."""
        return (self.sharpness.exp() * x @ self.bank.T).softmax(-1)

    def similarity(self, v: Tensor, t: Tensor) -> Tensor:
        """The score [B, C] of unit embeddings v [B, E] and t [C, E]; without a bank their cosine."""
        if not len(self.bank):
            return v @ t.T
        return (v @ t.T + F.normalize(self.rebuilt(v), dim=-1) @ t.T) / 2

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        return self.mapped(super().encode_prompts(tokens))

    def classes(self) -> Tensor:
        groups = self.task.prompt_set.texts()
        return ensemble(self.mapped(self.frozen_texts([t for group in groups for t in group])), [*map(len, groups)])

    def mapped(self, frozen: Tensor) -> Tensor:
        """t [..., E] of the frozen model's unit text embeddings."""
        return F.normalize(F.linear(frozen, self.text), dim=-1)

    def frozen_texts(self, texts: list[str]) -> Tensor:
        """The frozen model's unit embeddings [P, E] of texts."""
        return self.task.frozen.of_texts("text", texts, lambda tokens: self.backbone.encode_text(tokens).float())

    # ---- reading -----------------------------------------------------------------------------------------------------

    def embed(self, pooled: Tensor) -> Tensor:
        """v [..., E] of single images; a study is pooled by `images`."""
        alone = self.task.frozen.embed(pooled).flatten(0, -2)
        return self.pool(Stack(alone[:, None])).unflatten(0, pooled.shape[:-1])

    def images(self, records: Sequence[ImageRecord]) -> Tensor:
        if not any(record.stack for record in records):
            return super().images(records)
        return self.pool(self.studies(records))

    def studies(self, records: Sequence[ImageRecord]) -> Stack:
        """The frozen model's unit embeddings of the slices of each record."""
        frozen = self.task.frozen
        return Stack([frozen.embed(frozen.slices(record)) for record in records])

    def scores(self, images: Tensor) -> Tensor:
        return self.backbone.logit_scale * self.similarity(images, self.classes())

    # ---- teaching ----------------------------------------------------------------------------------------------------

    def texts(self, support: LabelledSet) -> Tensor:
        """The frozen model's unit embedding [N, E] of the text of each image: its report, or what its labels say."""
        prompts = self.task.prompt_set
        if support.reports is not None:
            return self._of_reports(support.reports)
        classes = self.task.classes()
        table = torch.from_numpy(members(support.labels, len(classes))).to(classes)
        if prompts.kind == FINDINGS:  # a report says what is there
            table, classes = table[:, ::2], classes[::2]
        said = F.normalize(table @ classes, dim=-1)
        return torch.where(table.any(1, keepdim=True), said, self.frozen_texts([NOTHING]))

    def _of_reports(self, reports: Sequence[str]) -> Tensor:
        prompts = self.task.prompt_set
        terms = vocabulary(prompts.findings or prompts.classes)
        found = [summarise(report, terms) for report in reports]
        sentences = [one.sentences if self.options["summary"] else [line.text for line in one.lines] for one in found]
        sentences = [some or [NOTHING] for some in sentences]
        return ensemble(self.frozen_texts([s for some in sentences for s in some]), [*map(len, sentences)])

    def phases(self, recipe: Recipe) -> list[Phase]:
        records, texts = self.task.support.records, self.texts(self.task.support)
        whole = any(record.stack for record in records)
        stack = self.studies(records) if whole else None
        views = None if whole else self.task.frozen.views(records, recipe)

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, Tensor]:
            v = self.pool(stack[index]) if stack is not None else self.embed(draw_view(views, index, rng))
            scores = self.scores(v[rows])
            return scores if self.options["answers"] else scores.detach(), self.alignment(v, texts[index])

        return [Phase(recipe.steps, recipe.batch_size, forward)]

    def alignment(self, v: Tensor, frozen_text: Tensor) -> Tensor:
        """The loss L, a scalar, of v [B, E] and the frozen embeddings of their texts [B, E]."""
        t = self.mapped(frozen_text)
        match = (frozen_text @ frozen_text.T > SAME).float()
        loss = contrast(v, t, match)
        if not len(self.bank):
            return loss
        v_, t_ = self.rebuilt(v), self.rebuilt(t)
        gap = (v_ - v).square().sum(-1).mean() + (t_ - t).square().sum(-1).mean()
        return loss + 0.5 * gap + contrast(F.normalize(v_, dim=-1), F.normalize(t_, dim=-1), match)


def contrast(v: Tensor, t: Tensor, match: Tensor) -> Tensor:
    """InfoNCE, the mean of both directions, of unit embeddings [B, E]; ``match`` [B, B]: 1 for pairs that belong
    together, among which the target is spread evenly."""
    logits, target = SCALE * v @ t.T, match / match.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

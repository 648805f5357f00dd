"""Figures that need networks or images: put together here, drawn by the modules they name. Imports torch late."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from csa.config.faults import Fault, UserError
from csa.figures import images, representation
from csa.figures.points import packed
from csa.figures.store import told
from csa.figures.style import files, style
from csa.reporting.names import printed
from csa.reporting.page import Drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config
    from csa.data.split import Split
    from csa.figures.models import Model
    from csa.reporting.runs import Run

SHOWN_IMAGES = 6
LAMBDA = 0.7  # of the blended images that are drawn; in training it is uniform


def draw_representation(name: str, runs: Sequence[Run], config: Config, dataset: str) -> Drawn:
    from csa.data.decoding import pixels_at
    from csa.figures.models import features, load_models, split_of

    models = load_models(runs)
    split = split_of(models[0], config.data_dir, config.download)
    classes = representation.shown_classes(split.counts)
    flat = models[0].backbone.feature_dim == 2
    parts = {
        "training set": (split.train_images, split.train_labels),
        "test set": (split.test_images, split.test_labels),
    }
    rows = []
    for model in models:
        chosen = []
        for pixels, labels in parts.values():
            positions = representation.sample(labels, classes, 500 if flat else representation.PER_CLASS)
            found = features(model, pixels_at(pixels, positions))
            if not np.isfinite(found).all() or not np.ptp(found, axis=0).any():
                problem = "its network gives every image the same feature, or one that is not finite"
                raise UserError(Fault("methods", model.run.method, problem, "a run that has not collapsed"))
            chosen.append((found, labels[positions]))
        points = representation.in_two_dimensions([found for found, _ in chosen])
        rows.append(
            [
                representation.Cloud(f"{printed(model.run.method)}, {part}", cloud, labels)
                for part, cloud, (_, labels) in zip(parts, points, chosen, strict=True)
            ]
        )
    what, axis = ("2-d features", "feature") if flat else ("t-SNE of the features", "t-SNE dimension")
    caption = f"{what} of training and test set of {printed(dataset)}; {told(runs)}."
    shown = representation.Representation(rows, classes, split.classes, axis)
    fingerprints = [run.fingerprint for run in runs]
    drawn = representation.drawn_representation(name, caption, fingerprints, shown)
    return replace(drawn, points=packed(shown, caption, fingerprints))


def draw_class_maps(name: str, runs: Sequence[Run], config: Config, dataset: str) -> Drawn:
    from csa.data.decoding import pixels_at
    from csa.figures.models import class_maps, load_models, split_of

    models = load_models(runs)
    split = split_of(models[0], config.data_dir, config.download)
    positions = first_of_classes(split)
    pixels, labels = pixels_at(split.test_images, positions), split.test_labels[positions]
    maps = [(printed(model.run.method), *class_maps(model, pixels, labels)) for model in models]
    titles = [_title(split, int(k)) for k in labels]
    with style():
        content = files(images.draw_class_maps(pixels, titles, maps))
    caption = (
        f"Grad-CAM of each test image's own class on {printed(dataset)}, and its probability p; below the names the "
        f"training images of the class; {told([model.run for model in models])}."
    )
    return _drawn(name, caption, content, models)


def draw_contexts(name: str, runs: Sequence[Run], config: Config, dataset: str) -> Drawn:
    """What is in the context bank at the end of training, and how it is blended into tail images."""
    import torch

    from csa.data.decoding import pixels_at
    from csa.figures.models import as_images, load_models, split_of
    from csa.methods.context_bank import ContextBank
    from csa.methods.mixing import blend_context

    models = load_models(runs)
    bank = getattr(models[0].method, "bank", None)
    held = int(bank.count) if isinstance(bank, ContextBank) else 0
    if not isinstance(bank, ContextBank) or held == 0:
        problem = "its context bank is empty" if isinstance(bank, ContextBank) else "it has no context bank"
        raise UserError(Fault("run", models[0].run.where, problem, "a run of CSA that fits its images"))
    split = split_of(models[0], config.data_dir, config.download)
    shown = min(SHOWN_IMAGES, held)
    contexts, masks = bank.images[:shown], bank.masks[:shown]
    tail = representation.shown_classes(split.counts)[-shown:]
    positions = [int(np.flatnonzero(split.train_labels == k)[0]) for k in tail]
    plain = as_images(pixels_at(split.train_images, positions))
    weight = torch.tensor(LAMBDA)
    blended = blend_context(plain, contexts[: len(tail)], masks[: len(tail)], weight)
    rows = [("context", contexts), ("mask M", masks), ("balanced\nbatch", plain), (f"blended,\nλ = {LAMBDA}", blended)]
    titles = [_title(split, k) for k in tail]
    with style():
        pictures = [(label, tensor.permute(0, 2, 3, 1).clamp(0, 1).numpy()) for label, tensor in rows]
        content = files(images.draw_contexts(pictures, titles))
    caption = (
        f"Contexts in the bank of CSA on {printed(dataset)} after training, their background masks, images of the "
        f"class-balanced batch (named above with their classes' training images), and the blend; "
        f"{told([model.run for model in models])}."
    )
    return _drawn(name, caption, content, models)


def first_of_classes(split: Split) -> list[int]:
    """Of six classes evenly over the ranks the first test image."""
    order = sorted(range(len(split.counts)), key=lambda k: -split.counts[k])
    places = np.linspace(0, len(order) - 1, min(SHOWN_IMAGES, len(order))).round().astype(int)
    return [int(np.flatnonzero(split.test_labels == order[place])[0]) for place in places]


def _title(split: Split, k: int) -> str:
    return f"{split.classes[k]}\n({split.counts[k]})"


def _drawn(name: str, caption: str, content: dict[str, bytes], models: Sequence[Model]) -> Drawn:
    return Drawn(name, caption, caption, content, tuple(model.run.fingerprint for model in models))

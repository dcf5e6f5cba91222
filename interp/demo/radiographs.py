"""Synthetic chest radiographs whose findings, severities, sides and lesion boxes are known.

Images are computed from coordinate grids, batched over patients, so tens of thousands take seconds.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SIZE = 64  # side length [pixels]
FINDINGS = ("cardiomegaly", "effusion", "pneumothorax", "opacity")
SIDED = ("effusion", "pneumothorax", "opacity")
GRADED = ("cardiomegaly", "effusion", "pneumothorax")
OPACITY_KINDS = ("nodular", "patchy", "linear")
LEVELS = ("mild", "moderate", "severe")
SIDES = ("left", "right")
VIEWS = ("pa", "ap")


class Anatomy(NamedTuple):
    """The true findings and the appearance of n patients, a row each."""

    present: np.ndarray
    """Which findings the image shows: bool [n, len(FINDINGS)]."""
    side: np.ndarray
    """The side of each finding, an index into SIDES; the image shows it mirrored: [n, len(FINDINGS)]."""
    level: np.ndarray
    """The severity of each finding, an index into LEVELS: [n, len(FINDINGS)]."""
    kind: np.ndarray
    """The kind of the opacity, an index into OPACITY_KINDS: [n]."""
    view: np.ndarray
    """The view of the image, an index into VIEWS: [n]."""
    visibility: np.ndarray
    """How clearly each finding shows, uniform in [0, 1] from faintest to strongest: [n, len(FINDINGS)]."""
    contrast: np.ndarray
    """The visibility as brightness [lung-to-tissue steps], log-uniform: [n, len(FINDINGS)]."""
    jitter: np.ndarray
    """Random offsets of body position, size, anatomy and the place of focal findings, in [-1, 1]: [n, 8]."""


def sample_anatomy(n: int, rng: np.random.Generator, faintest: float, strongest: float) -> Anatomy:
    """Draw `n` patients: 40% have no finding, the others one or two, and all findings are equally frequent.

    `faintest` and `strongest` bound the log-uniform contrast of a finding [lung-to-tissue steps].
    """
    k = len(FINDINGS)
    count = rng.choice([0, 1, 2], size=n, p=[0.4, 0.35, 0.25])
    order = rng.random((n, k)).argsort(axis=1).argsort(axis=1)
    visibility = rng.random((n, k))
    return Anatomy(
        present=order < count[:, None],
        side=rng.integers(0, 2, (n, k)),
        level=rng.integers(0, 3, (n, k)),
        kind=rng.integers(0, len(OPACITY_KINDS), n),
        view=rng.integers(0, len(VIEWS), n),
        visibility=visibility,
        contrast=faintest * (strongest / faintest) ** visibility,
        jitter=rng.uniform(-1, 1, (n, 8)),
    )


PixelGrid = Tensor | float


def _column(values: np.ndarray) -> Tensor:
    """Values [n] as float32 [n, 1, 1], which broadcast against pixel grids."""
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)[..., None, None]


def draw(anatomy: Anatomy, rng: np.random.Generator, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the radiograph of every patient of `anatomy`.

    Returns images, uint8 [n, SIZE, SIZE], and lesion boxes, float [n, len(FINDINGS), 4], as x0, y0, x1, y1 in
    pixels (NaN where the finding is absent). `noise` is the standard deviation of the pixel noise on a 0-1 scale.
    """
    t = _column
    n = len(anatomy.view)
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    x, y = (x / SIZE)[None], (y / SIZE)[None]
    j = [t(anatomy.jitter[:, i]) for i in range(8)]
    x, y = x - 0.03 * j[0], y - 0.03 * j[1]
    scale = 1 + 0.05 * j[2]
    ap = t(anatomy.view)
    shows = {f: t(anatomy.present[:, i]) for i, f in enumerate(FINDINGS)}
    contrast = {f: t(anatomy.contrast[:, i]) for i, f in enumerate(FINDINGS)}
    level = {f: t(anatomy.level[:, i]) for i, f in enumerate(FINDINGS)}
    on_right = {f: 1.0 - t(anatomy.side[:, i]) for i, f in enumerate(FINDINGS)}  # image right = patient's left

    def ellipse(cx: PixelGrid, cy: PixelGrid, rx: PixelGrid, ry: PixelGrid, soft: float = 0.03) -> Tensor:
        radius = torch.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + 1e-9)
        return torch.sigmoid((1 - radius) / soft * 0.3)

    # The normal chest: tissue, two lungs, spine, ribs, heart, diaphragm, clavicles.
    body = ellipse(0.5, 0.55, 0.47 * scale, 0.56, 0.05)
    floor = 0.80 - 0.05 * ap + 0.02 * j[3]
    lungs = torch.maximum(ellipse(0.29, 0.47, 0.165 * scale, 0.33), ellipse(0.71, 0.47, 0.165 * scale, 0.33))
    lungs = lungs * torch.sigmoid((floor - y) * 40)
    image = 0.12 + 0.55 * body - 0.38 * lungs
    image = image + 0.10 * torch.exp(-(((x - 0.5) / 0.035) ** 2)) * body
    ribs = torch.sin((y + 0.35 * (x - 0.5) ** 2 - 0.1 * j[4]) * 58)
    image = image + 0.025 * ribs * lungs
    clavicle = y - (0.20 + (0.30 - 0.28 * ap) * (x - 0.5).abs())
    image = image + 0.09 * torch.exp(-((clavicle / 0.018) ** 2)) * body
    bubble = ellipse(0.68, floor + 0.09, 0.055, 0.04) * (1 - ap)
    image = image - 0.16 * bubble

    boxes = np.full((n, len(FINDINGS), 4), np.nan)

    def flat(a: Tensor) -> np.ndarray:
        return np.broadcast_to(a.numpy(), (n, 1, 1))[:, 0, 0]

    def box(name: str, x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> None:
        i = FINDINGS.index(name)
        dx, dy = 0.03 * j[0], 0.03 * j[1]
        edges = np.stack([flat(x0 + dx), flat(y0 + dy), flat(x1 + dx), flat(y1 + dy)], axis=1) * SIZE
        boxes[anatomy.present[:, i], i] = np.clip(edges, 0, SIZE)[anatomy.present[:, i]]

    # The heart, which cardiomegaly widens, less so if it is faint.
    grow = shows["cardiomegaly"] * (0.035 + 0.022 * level["cardiomegaly"]) * (0.55 + 0.45 * contrast["cardiomegaly"])
    half = (0.125 + 0.012 * ap + 0.008 * j[5] + grow) * scale
    heart = ellipse(0.545 + 0.3 * grow, 0.645, half, 0.155 + 0.25 * grow)
    image = image + 0.30 * heart * lungs
    tall = 0.155 + 0.25 * grow
    box("cardiomegaly", 0.545 - half, 0.645 - 1.1 * tall, 0.545 + 1.1 * half, 0.645 + 1.05 * tall)

    # Effusion: a white basin that fills one lung from below.
    centre = 0.29 + 0.42 * on_right["effusion"]
    depth = 0.07 + 0.075 * level["effusion"]
    meniscus = floor - depth - 0.25 * ((x - centre).abs() / 0.165) ** 2 * 0.12
    basin = torch.sigmoid((y - meniscus) * 70) * torch.sigmoid((0.17 - (x - centre).abs()) * 60) * lungs
    image = image + 0.36 * contrast["effusion"] * shows["effusion"] * basin
    box("effusion", centre - 0.17, floor - depth - 0.03, centre + 0.17, floor + 0.01)

    # Pneumothorax: a black outer rim with a thin pleural line.
    centre = 0.29 + 0.42 * on_right["pneumothorax"]
    outward = 2 * on_right["pneumothorax"] - 1
    rim = 0.045 + 0.03 * level["pneumothorax"]
    radius = torch.sqrt(((x - centre) / 0.165) ** 2 + ((y - 0.47) / 0.33) ** 2)
    outer = torch.sigmoid(outward * (x - centre) * 40) * torch.sigmoid((0.52 - y) * 30)
    gap = torch.sigmoid((radius - (1 - rim / 0.165)) * 30) * outer * lungs
    line = torch.exp(-(((radius - (1 - rim / 0.165)) / 0.07) ** 2)) * outer * lungs
    image = image + contrast["pneumothorax"] * shows["pneumothorax"] * (0.22 * line - 0.20 * gap)
    edge = centre + outward * 0.175
    inner = centre + 0.0 * outward  # the rim bends inwards over the apex
    box("pneumothorax", torch.minimum(edge, inner), 0.12 + 0 * edge, torch.maximum(edge, inner), 0.55 + 0 * edge)

    # A focal opacity of one of three kinds.
    cx = 0.29 + 0.42 * on_right["opacity"] + 0.055 * j[6]
    cy = 0.42 + 0.16 * j[7]
    kind = t(anatomy.kind)
    nodular = ellipse(cx, cy, 0.055, 0.055)
    patches = 0.75 * ellipse(cx - 0.03, cy - 0.04, 0.075, 0.05, 0.08) + 0.75 * ellipse(
        cx + 0.03, cy + 0.045, 0.07, 0.06, 0.08
    )
    linear = torch.exp(-(((y - cy - 0.5 * (x - cx)) / 0.022) ** 2)) * torch.sigmoid((0.105 - (x - cx).abs()) * 80)
    shape = torch.where(kind == 0, nodular, torch.where(kind == 1, patches, linear))
    image = image + 0.30 * contrast["opacity"] * shows["opacity"] * shape
    box("opacity", cx - 0.11, cy - 0.1, cx + 0.11, cy + 0.1)

    grain = torch.from_numpy(rng.standard_normal((n, SIZE, SIZE)).astype(np.float32))
    exposure = torch.from_numpy(rng.uniform(0.93, 1.07, (n, 1, 1)).astype(np.float32))
    image = (image * exposure + noise * grain).clamp(0, 1)
    return (image * 255).round().to(torch.uint8).numpy(), boxes

"""The pictures that the pack shows: a node in its help page, and what a workflow makes in its thumbnail."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from tests.host.chromium import drive
from tests.host.serving import Server
from tests.host.shipped import FOLDER, NAMES
from tests.rules.node_table import ROOT, read_table
from unitalk_core.media import read_video

HELP = ROOT / "web" / "docs"
COLOURS = 64  # of a help picture: enough for a node, and a third of the size
WIDTH, ROW, WAVE, PICTURE = (
    960,
    160,
    40,
    240,
)  # pixels: a thumbnail's width; heights of frames, loudness, a picture
BACK, LINE = (24, 24, 27), (120, 190, 250)


def draw_nodes(server: Server, out: Path) -> None:
    """Write web/docs/TYPE.png for every node, as the real frontend draws it with a workflow's values."""
    out.mkdir(exist_ok=True)
    (out / "nodes.json").write_text(json.dumps(used_nodes()), "utf8")
    drive("node_pictures.mjs", server.url, out, out / "nodes.json", seconds=1800)
    for path in sorted(out.glob("*.png")):
        picture = Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        picture.save(HELP / path.name, optimize=True)


def used_nodes() -> list[dict]:
    """Type, width and widget values of each of our nodes, from the first workflow that has it."""
    found: dict[str, dict] = {}
    for name in NAMES:
        for node in json.loads((FOLDER / f"{name}.json").read_text("utf8"))["nodes"]:
            if node["type"] in read_table():
                one = {"width": node["size"][0], "values": node["widgets_values"]}
                found.setdefault(node["type"], {"type": node["type"]} | one)
    return [found[kind] for kind in sorted(found)]


def draw_thumbnails(out: Path) -> None:
    """Write workflows/NAME.jpg from what its run made, or from its graph where nothing was."""
    for name in NAMES:
        made, graph = out / "media" / name, out / "browser" / f"{name}.graph.png"
        rows = [strip(path) for path in sorted(made.glob("*.mp4"))]
        if pictures := sorted(made.glob("*.png")):
            rows.append(beside([Image.open(path).convert("RGB") for path in pictures]))
        if not rows and graph.is_file():
            rows = [Image.open(graph).convert("RGB").resize((WIDTH, WIDTH // 2))]
        if rows:
            below(rows).save(FOLDER / f"{name}.jpg", quality=88)


def strip(path: Path) -> Image.Image:
    """Frames of a clip, and its loudness below them on the same clock."""
    clip = read_video(path)
    count = WIDTH // ROW
    picks = torch.linspace(0, len(clip.frames) - 1, count).round().long()
    row = Image.new("RGB", (WIDTH, ROW + WAVE), BACK)
    for i, frame in enumerate(clip.frames[picks]):
        pixels = (frame * 255).round().byte().numpy()
        row.paste(Image.fromarray(pixels).resize((ROW, ROW)), (i * ROW, 0))
    loudness = clip.waveform.abs().amax(0)
    bars = torch.nn.functional.adaptive_max_pool1d(loudness[None], WIDTH // 4)[0]
    draw = ImageDraw.Draw(row)
    for i, height in enumerate((bars / bars.max().clamp_min(1e-3) * (WAVE / 2 - 3)).tolist()):
        middle = ROW + WAVE / 2
        draw.line([(4 * i + 1, middle - height - 1), (4 * i + 1, middle + height + 1)], fill=LINE, width=2)
    return row


def beside(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one height in a row."""
    row, left = Image.new("RGB", (WIDTH, PICTURE), BACK), 0
    for one in pictures:
        scaled = one.resize((one.width * PICTURE // one.height, PICTURE))
        row.paste(scaled, (left, 0))
        left += scaled.width
    return row


def below(rows: list[Image.Image]) -> Image.Image:
    """Rows below each other."""
    picture, top = Image.new("RGB", (WIDTH, sum(row.height for row in rows)), BACK), 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    return picture

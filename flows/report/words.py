"""Figures in words: the same number is said alike wherever it stands."""

from __future__ import annotations

import math

from components.shape import MixedShape, Shape, parse_shape
from flows.report.record import DrawnShape, Estimate, Full, Release, Spot, Task

_MEASURED = {"device": "measured on the device", "host": "measured on the machine that built it"}
_PREDICTED = {
    "device": "predicted from the device's figures, not measured",
    "host": "predicted from what ran on the machine that built the others, not measured",
}


def number(value: float | None, digits: int = 3) -> str:
    """With as many digits as mean something: 0.012, 6.49, 152, 1,234."""
    if value is None:
        return "not measured"
    if math.isnan(value):
        return "no number"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{max(0, digits - whole)}f}"


def tick(value: float) -> str:
    """A round number with no more digits than it has: 2, 2.5, 1,500."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def signed(change: float) -> str:
    """With a minus sign that is as wide as the plus."""
    return f"{change:+.1f}".replace("-", "\u2212")


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def estimate(figure: Estimate | None) -> str:
    return "not measured" if figure is None else number(figure.value, 4)


def span(figure: Estimate | None) -> str:
    if figure is None or figure.interval is None:
        return ""
    return f"{number(figure.interval[0], 4)} to {number(figure.interval[1], 4)}"


def share_span(figure: Estimate | None) -> str:
    if figure is None or figure.interval is None:
        return ""
    return f"{100 * figure.interval[0]:.1f} to {100 * figure.interval[1]:.1f} %"


def count(amount: int, thing: str) -> str:
    """`1 layer`, `30 layers`."""
    return f"{amount} {thing}" if amount == 1 else f"{amount} {thing}s"


def shape(name: str, layers: int | None = None) -> str:
    """What a shape is: `24 of 30 layers, 75 % of the FFN neurons in each`."""
    try:
        known = parse_shape(name)
    except ValueError:  # whoever published it knows a notation that this version does not
        return f"the shape {name}"
    if isinstance(known, Shape):
        if layers is not None and known.depth == layers and known.width_percent == 100:
            return "the whole model"
        of = f" of {layers}" if layers is not None else ""
        width = "all" if known.width_percent == 100 else f"{known.width_percent} %"
        return f"{known.depth}{of} layers, {width} of the FFN neurons in each"
    return _mixed(known)


def _mixed(known: MixedShape) -> str:
    kept = [layer for layer in known.layers if not layer.gone]
    neurons = sum(layer.quarters for layer in known.layers) / (4 * len(known.layers))
    attending = sum(layer.attention for layer in known.layers)
    return (
        f"{len(kept)} of {len(known.layers)} layers, {attending} with attention, {100 * neurons:.0f} % of the base's FFN "
        "neurons, layer by layer"
    )


def layer_by_layer(drawn: DrawnShape) -> str:
    """A drawing's long form: runs of like layers, counted from 0."""
    runs: list[tuple[int, int, str]] = []
    for index, layer in enumerate(drawn.layers):
        said = (
            "gone"
            if layer.gone
            else f"{'attention' if layer.attention else 'no attention'}, {100 * layer.ffn:.0f} % of the FFN"
        )
        if runs and runs[-1][2] == said:
            runs[-1] = (runs[-1][0], index, said)
        else:
            runs.append((index, index, said))
    return "; ".join(
        f"layer {first}: {said}" if first == last else f"layers {first} to {last}: {said}" for first, last, said in runs
    )


def measured(spot: Spot) -> str:
    """Where its milliseconds and megabytes come from."""
    return _PREDICTED[spot.machine] if spot.measured_on == "predicted" else _MEASURED[spot.measured_on]


def place(spot: Spot) -> str:
    """What one mark of a chart stands for."""
    perplexity = "quality not measured" if spot.perplexity is None else f"perplexity {number(spot.perplexity.value, 4)}"
    return f"{spot.name}, {spot.shape} {spot.quantization}: {number(spot.tpot_ms.value)} ms a token, {perplexity}"


def released(device: str, release: Release, full: Full | None, layers: int | None) -> str:
    """One sentence on what a device gets."""
    spot = release.spot
    rate = f"{number(spot.tpot_ms.value)} ms a token ({1000 / spot.tpot_ms.value:.0f} tokens a second)"
    size = "" if spot.size_mb is None else f", {number(spot.size_mb)} MB"
    said = f"{device} gets {shape(spot.shape, layers)}, in {spot.quantization}{size}: {rate}, {measured(spot)}"
    if spot.perplexity is None or spot.accuracy is None:
        return f"{said}. Its quality is not known: nothing but the device runs it."
    told = f"perplexity {number(spot.perplexity.value, 4)}"
    right = f"{percent(spot.accuracy.value)} of the questions right"
    if not spot.same_text:
        told, right = f"{told} on another text than the full model's", f"{right} of other questions"
    elif full is not None:
        told += f", {spot.perplexity.value / full.perplexity:.2f} times the full model's {number(full.perplexity, 4)}"
        right += f", the full model {percent(full.accuracy.value)}"
    return f"{said}. It has {told}, and answers {right}."


def asked(task: Task) -> str:
    return f"{task.right} of {task.asked}"

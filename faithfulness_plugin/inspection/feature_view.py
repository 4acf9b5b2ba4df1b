"""One feature of an inspection, as an object that a notebook shows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from faithfulness_plugin.display import line
from faithfulness_plugin.inspection.datapoint_score import FLAGGED
from faithfulness_plugin.inspection.details import AFTER, BEFORE, random_firings
from faithfulness_plugin.inspection.inspection import Inspection
from faithfulness_plugin.inspection.token_text import token_texts

COORDINATES = 5
"""Coordinates of a row that are shown, of those that are not 0."""
LIT = "0, 114, 178"
PRE = "font-family:ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;text-align:left"


@dataclass(frozen=True, repr=False)
class FeatureView:
    """A feature's numbers, its tokens, and rows or contexts where it fires: the top ones, some of the bands below, and
    some at random. Tokens are shown as text, whatever they hold.

    Example:
        >>> from faithfulness_plugin.toy.abs_network import AbsNetwork
        >>> from faithfulness_plugin.toy.exact_transcoder import exact_transcoder
        >>> from faithfulness_plugin.toy.inputs import AbsInputs
        >>> from faithfulness_plugin.inspection import inspect_transcoder, row_sample
        >>> layer = AbsNetwork(4)
        >>> found = inspect_transcoder(exact_transcoder(layer), layer, row_sample(layer, next(AbsInputs(4))))
        >>> found.feature(0).numbers["fires"] > 0
        True
    """

    of: Inspection
    index: int
    """The feature's number."""

    def __repr__(self) -> str:
        return line("FeatureView", {"transcoder": self.of.name, "feature": self.index, **self.numbers})

    @property
    def numbers(self) -> dict[str, float]:
        """Its numbers, by the names that the page has for them."""
        r, i = self.of.records, self.index
        arrays: dict[str, Any] = {"fires": r.firing_rate, "mean activation": r.mean_activation}
        arrays |= {"largest activation": r.max_activation, "written": r.written, "carried": r.carried}
        arrays |= {"of ‖J‖²": r.jacobian_share, "masking": r.masking, "datapoint score": r.datapoint.score}
        if r.faithfulness is not None:
            arrays |= {"faithful": r.faithfulness.faithfulness, "unbacked": r.unbacked}
        return {name: float(values[i]) for name, values in arrays.items()}

    @property
    def groups(self) -> dict[str, list[tuple[int, int, float]]]:
        """Rows where it fires, by what they are examples of: each row's place among the windows, its number in the
        sample, and the activation there."""
        r, i, bands = self.of.records, self.index, self.of.details.bands
        random, low = random_firings(r), ["above the median", "below it", "the lowest quarter"]
        kinds = [("most active", r.top_rows[i], r.top_activations[i])]
        kinds += list(zip(low, bands.rows[i], bands.activations[i], strict=True))
        kinds += [("its near-duplicates do not fire", r.alone_rows[i], r.alone_activations[i])]
        kinds += [("at random", random.rows[i], random.activations[i])]
        found, place = {}, 0
        for name, rows, activations in kinds:
            some = zip(range(place, place + len(rows)), rows.tolist(), activations.tolist(), strict=True)
            found[name] = [each for each in some if each[1] >= 0]
            place += len(rows)
        return {name: rows for name, rows in found.items() if rows}

    @property
    def tokens(self) -> dict[str, list[str]]:
        """Tokens that it raises, lowers and reads most, and on which it fires most often; none without a model."""
        of, texts = self.of, self.of.token_text
        kinds = {} if of.tokens is None else {n: getattr(of.tokens, n) for n in ("raised", "lowered", "read")}
        found = {name: most.tokens for name, most in kinds.items() if most is not None}
        if of.details.places is not None:
            found["fires on"] = of.details.places.tokens
        shown = {name: [t for t in tokens[self.index].tolist() if t >= 0] for name, tokens in found.items()}
        return {name: [f"[{t}]" if texts is None else texts(t) for t in of_name] for name, of_name in shown.items()}

    def _repr_html_(self) -> str:
        flag = " (looks like a datapoint feature)" if self.numbers["datapoint score"] >= FLAGGED else ""
        numbers = " · ".join(f"{escape(name)} {value:.3g}" for name, value in self.numbers.items())
        parts = [f"<h4>Feature {self.index} of {escape(self.of.name)}{flag}</h4><p>{numbers}</p>"]
        for name, tokens in self.tokens.items():
            shown = " ".join(f"<code>{escape(token)}</code>" for token in tokens)
            parts.append(f"<p>{name}: {shown}</p>")
        texts: dict[int, Sequence[str]] = {}
        for name, rows in self.groups.items():
            parts.append(f"<p><b>{name}</b></p>")
            parts += [f'<div style="{PRE}">{self._example(*row, texts)}</div>' for row in rows]
        if not self.groups:
            parts.append("<p>It does not fire on this sample.</p>")
        return "".join(parts)

    def _example(self, place: int, row: int, activation: float, texts: dict[int, Sequence[str]]) -> str:
        """Return a row as HTML: its coordinates, or the tokens around it with the activation at each as their shade."""
        origins, windows = self.of.sample.origins, self.of.details.windows
        if origins is None or windows is None:
            x = self.of.sample.x[row].tolist()
            there = [f"x{i + 1} = {v:.3g}" for i, v in enumerate(x) if v][: COORDINATES + 1]
            shown = ", ".join(there[:COORDINATES]) + ", …" * (len(there) > COORDINATES)
            return f"row {row}, {activation:.3g}: {shown or 'all zeros'}"
        prompt, at = int(origins.prompt[row]), int(origins.position[row])
        parts = texts.setdefault(prompt, token_texts(self.of.token_text, origins.tokens[prompt].tolist()))
        lit = windows[self.index, place]
        said = f"{activation:.3g}, prompt {prompt}, token {at}"
        if (found := origins.document(row)) is not None:
            number, name, position = found
            said += f" of {name or f'document {number}'}, token {position}"
        return "".join(_spans(parts, at, lit)) + f" <small>{escape(said)}</small>"


def _spans(parts: Sequence[str], at: int, lit: np.ndarray) -> Iterator[str]:
    """Yield the tokens around one, each shaded by its activation."""
    for p in range(max(0, at - BEFORE), min(len(parts), at + AFTER + 1)):
        shade = 0.12 + 0.6 * value / 255 if (value := int(lit[p - at + BEFORE])) else 0.0
        style = f"background:rgba({LIT},{shade:.2f})" + ";font-weight:bold" * (p == at)
        yield f'<span style="{style}">{escape(parts[p])}</span>' if value or p == at else escape(parts[p])

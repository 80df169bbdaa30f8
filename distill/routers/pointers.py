"""Reading comprehension for arguments: one encoder pass answers every parameter of a call.

The text is a tool's question (`distill.routers.slots`) and its evidence
(`distill.routers.evidence`). For each slot two pointers over the tokens say where its value begins
and where it ends (pointer networks: Vinyals et al. 2015, arXiv:1506.03134); a slot asks with the
mean state of its own name. Four things can be pointed at:

    the first token of all          the parameter is left out (as in SQuAD 2.0, arXiv:1806.03822)
    the first token of its name     it has a value, which is nowhere to be found
    the first token of an option    that option
    a token of the evidence         the stretch from there to where the second pointer says

This module knows nothing of routers or training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.chat import canonical
from distill.routers.dates import resolved
from distill.routers.evidence import evidence
from distill.routers.slots import NoValueError, Slot, Span, question
from distill.types import Context, ToolSpec

Array = npt.NDArray[np.float64]

_WIDTH = 128
_STRETCH = 48
"""Tokens of the longest value."""
_BEGINNINGS, _ENDINGS = 8, 4
"""Most probable places that are looked at for a slot, and for each its most probable ends."""
_EVIDENCE_SHARE = 0.4
"""Of the tokens, what must be left for the evidence once the question is asked."""


class Missing(Enum):
    """What stands in place of a value."""

    OMITTED = "left out"
    UNKNOWN = "not to be found"


class PointerHead(nn.Module):
    """Each slot's attention over the tokens, from their sum and from their product.

    Additive attention (Bahdanau et al. 2015, arXiv:1409.0473) with a product term beside it, by
    which a slot and a token that are alike are told at once, as in the trilinear similarity of
    Seo et al. 2017 (arXiv:1611.01603, section 2).
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(hidden, _WIDTH), nn.Linear(hidden, _WIDTH)
        self.like, self.alike = nn.Linear(hidden, _WIDTH), nn.Linear(hidden, _WIDTH)
        self.score = nn.Linear(_WIDTH, 2)

    def forward(self, states: Tensor, names: Tensor) -> Tensor:
        """Scores [2, batch, slots, time]: of beginning there, and of ending there.

        Args:
            states: [batch, time, hidden].
            names: [batch, slots, time], each slot's share in its name's tokens.
        """
        asking = names @ states
        total = self.query(asking).unsqueeze(2) + self.key(states).unsqueeze(1)
        product = self.like(asking).unsqueeze(2) * self.alike(states).unsqueeze(1)
        scores: Tensor = self.score(nn.functional.gelu(total + product))
        return scores.movedim(-1, 0)


class PointerReader(nn.Module):
    """Encoder and pointer head, which is shown the last states and those half way.

    A sentence encoder's last states have told more of the sentence than of the word.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = PointerHead(2 * encoder.config.hidden_size)

    def forward(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        names: Tensor,
        starts: Tensor,
        ends: Tensor,
        start_targets: Tensor | None = None,
        end_targets: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Point at padded readings.

        Args:
            input_ids: [batch, time] int64.
            attention_mask: [batch, time], 1 for real tokens.
            names: [batch, slots, time], each slot's share in its name's tokens.
            starts: [batch, slots, time] bool, where a value may begin.
            ends: [batch, slots, time] bool, where it may end.
            start_targets: as `starts`, every right place; adds `losses` and `loss`.
            end_targets: as `ends`; of a slot whose value is no stretch, nowhere.

        Returns:
            `pointers` [2, batch, slots, time]: log-probabilities of beginning and of ending.
            `losses` [batch]: minus the log-probability that all pointers are right, those of
            equal values taken together (Clark and Gardner 2018, arXiv:1710.10723, eq. 1), and
            `loss`, their mean.
        """
        output = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        layers = output.hidden_states
        states = torch.cat([output[0], layers[len(layers) // 2]], dim=-1)
        scores = self.head(states.to(names.dtype), names)
        allowed = torch.stack([starts, ends])
        # Finite, so that a slot with nowhere to end gives no NaN.
        lowest = torch.finfo(scores.dtype).min
        pointers = scores.masked_fill(~allowed, lowest).log_softmax(-1)
        result = {"pointers": pointers}
        if start_targets is not None and end_targets is not None:
            targets = torch.stack([start_targets, end_targets])
            right = pointers.masked_fill(~targets, lowest).logsumexp(-1)
            result["losses"] = -torch.where(targets.any(-1), right, 0.0).sum((0, 2))
            result["loss"] = result["losses"].mean()
        return result


@dataclass(frozen=True)
class Reading:
    """A question and its evidence as tokens, and what each slot's pointers may point at.

    `spans` are the characters of each token, spaces around them left out. `options` are, for each
    slot, the first token of an option and its index; `begins` the tokens where a stretch may begin,
    and `ends` those where it may end.
    """

    text: str
    slots: tuple[Slot, ...]
    ids: list[int]
    spans: list[Span]
    names: list[list[int]]
    options: list[dict[int, int]]
    begins: list[list[int]]
    ends: list[int]

    def targets(self, i: int, value: Any) -> tuple[list[int], list[int]]:
        """The tokens where slot `i`'s pointers should be for a value or `Missing`.

        The second list is empty where the first are no stretches.
        """
        slot, unknown = self.slots[i], self.names[i][0]
        if isinstance(value, Missing):
            omitted = value is Missing.OMITTED and not slot.required
            return [0 if omitted else unknown], []
        option = slot.option(value)
        starts = [token for token, index in self.options[i].items() if index == option]
        stretches = self._stretches(i, value)
        starts += sorted({start for start, _ in stretches})
        return starts or [unknown], sorted({end for _, end in stretches})

    def _stretches(self, i: int, value: Any) -> list[tuple[int, int]]:
        begins = {self.spans[token][0]: token for token in self.begins[i]}
        ends = {self.spans[token][1]: token for token in self.ends}
        return [
            (begins[start], ends[end])
            for start, end in self.slots[i].find(value, self.text)
            if start in begins and end in ends and ends[end] - begins[start] < _STRETCH
        ]

    def _near(self, begin: int) -> list[int]:
        """Where a stretch that begins at a token may end: on its line, and not too far."""
        line_end = self.text.find("\n", self.spans[begin][0])
        return [
            end
            for end in self.ends
            if begin <= end < begin + _STRETCH and (self.spans[end][1] <= line_end or line_end < 0)
        ]

    def answer(self, i: int, starts: Array, ends: Array) -> tuple[Any, float]:
        """Slot `i`'s most probable value (or `Missing`), and the probability of it.

        A value that stands in several places has the sum of their probabilities. That of an end is
        its share among the ends that are near, since the second pointer does not know the first.

        Args:
            starts: [time] probability of beginning at each token.
            ends: [time] probability of ending there.
        """
        found: list[tuple[Any, float]] = [(Missing.UNKNOWN, float(starts[self.names[i][0]]))]
        if not self.slots[i].required:
            found.append((Missing.OMITTED, float(starts[0])))
        found += [(self.slots[i].options[o], float(starts[t])) for t, o in self.options[i].items()]
        for begin in sorted(self.begins[i], key=lambda t: -starts[t])[:_BEGINNINGS]:
            near = self._near(begin)
            total = float(ends[near].sum())
            for end in sorted(near, key=lambda t: -ends[t])[:_ENDINGS] if total > 0 else []:
                try:
                    value = self.slots[i].read(self.text, self.spans[begin][0], self.spans[end][1])
                except NoValueError:
                    continue
                found.append((value, float(starts[begin] * ends[end]) / total))
        sums: dict[bytes, tuple[Any, float]] = {}
        for value, probability in found:
            key = value.name.encode() if isinstance(value, Missing) else b"=" + canonical(value)
            first, so_far = sums.get(key, (value, 0.0))
            sums[key] = first, so_far + probability
        return max(sums.values(), key=lambda pair: pair[1])


def read(
    context: Context,
    tool: ToolSpec,
    slots: tuple[Slot, ...],
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
) -> Reading | None:
    """What is read to fill a call of `tool`; None where its question leaves no room for evidence.

    Args:
        tokenizer: a fast one, which knows its tokens' characters.
        limit: tokens in all.
    """

    def count(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [len(row) for row in cast(list[list[int]], ids)]

    asked = question(tool, slots)
    room = limit - tokenizer.num_special_tokens_to_add() - count([asked.text])[0]
    if room < _EVIDENCE_SHARE * limit:
        return None
    # Days first: what is cut off where nothing fits is the end.
    days = resolved(context, clock="HH:MM" in asked.text)
    text = asked.text + days + evidence(context, tool.name, count, room - count([days])[0])
    batch = tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
    spans = [_trimmed(text, *span) for span in cast(list[Span], batch["offset_mapping"])]
    after = len(asked.text)
    begins = [t for t, (a, b) in enumerate(spans) if after <= a < b and not _joined(text, a)]
    return Reading(
        text,
        slots,
        cast(list[int], batch["input_ids"]),
        spans,
        [_inside(spans, place) for place in asked.names],
        [
            {found[0]: o for o, place in enumerate(places) if (found := _inside(spans, place))}
            for places in asked.options
        ],
        [[t for t in begins if _may_begin(text[spans[t][0]], slot)] for slot in slots],
        [t for t, (a, b) in enumerate(spans) if after <= a < b and not _joined(text, b)],
    )


def _may_begin(character: str, slot: Slot) -> bool:
    return slot.kind == "string" or (slot.kind is not None and character in "+-0123456789")


def _trimmed(text: str, start: int, end: int) -> Span:
    """Byte-level tokenizers count the space before a word as the word's."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _inside(spans: Sequence[Span], place: Span) -> list[int]:
    return [t for t, (a, b) in enumerate(spans) if place[0] <= a < b <= place[1]]


def _joined(text: str, at: int) -> bool:
    """Whether `at` is in the middle of a word or number, of a script that divides words."""
    around = text[max(0, at - 1) : at + 1]
    return len(around) == 2 and all(
        c == "_" or c.isdigit() or c.lower() != c.upper() for c in around
    )


def padded(readings: Sequence[Reading], pad: int) -> dict[str, Tensor]:
    """`PointerReader`'s inputs for several readings, padded on the right.

    A slot that only fills up a row begins at the first token with certainty.
    """
    rows, time = len(readings), max(len(reading.ids) for reading in readings)
    slots = max(len(reading.slots) for reading in readings)
    batch = {
        "input_ids": torch.full((rows, time), pad),
        "attention_mask": torch.zeros((rows, time), dtype=torch.long),
        "names": torch.zeros((rows, slots, time)),
        "starts": torch.zeros((rows, slots, time), dtype=torch.bool),
        "ends": torch.zeros((rows, slots, time), dtype=torch.bool),
    }
    batch["starts"][:, :, 0] = True
    for row, reading in enumerate(readings):
        batch["input_ids"][row, : len(reading.ids)] = torch.tensor(reading.ids)
        batch["attention_mask"][row, : len(reading.ids)] = 1
        for i, slot in enumerate(reading.slots):
            name = reading.names[i]
            batch["names"][row, i, name] = 1 / len(name)
            batch["starts"][row, i, 0] = not slot.required
            batch["starts"][row, i, [name[0], *reading.options[i], *reading.begins[i]]] = True
            batch["ends"][row, i, reading.ends] = True
    return batch

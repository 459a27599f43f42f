"""Architectures that answer questions about images: each sees an image once and is asked often.

A family turns images into features (`see`), and features with texts into what its language model
generates from (`inputs`). Rows of one batch are padded where the architecture does not look: on the
right for what is read with positions counted from the start, on the left for what is continued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor

from selma.errors import ModelError


class Family(Protocol):
    """One architecture, loaded."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def equal_lengths(self) -> bool:
        """Whether texts of one batch must have equally many tokens."""
        ...

    @property
    def generator(self) -> Any:
        """The part whose `generate` writes the answer."""
        ...

    @property
    def ends(self) -> list[int | None]:
        """Tokens that end an answer, as far as the architecture's config names them."""
        ...

    def see(self, images: Sequence[Image.Image]) -> list[Any]:
        """One image's features each; the vision tower runs here and nowhere else."""
        ...

    def inputs(self, seen: Sequence[Any], texts: Sequence[str]) -> tuple[dict[str, Any], int]:
        """What `generate` takes for one text about each of these images, and how many tokens at
        the start of what it gives are not part of the answer."""
        ...


@dataclass
class Loaded:
    """A model with what reads for it."""

    equal_lengths: ClassVar[bool] = False
    model: Any
    tokenizer: Any
    images: Any
    """The image processor."""

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """[b, 3, h, w] as the model's own preprocessing has them."""
        values = self.images(images=list(images), return_tensors="pt")["pixel_values"]
        return values.to(self.model.device, self.model.dtype)

    def read(self, tokenizer: Any, texts: Sequence[str], limit: int | None) -> Any:
        """Token ids and mask, padded on the right; texts longer than `limit` are cut."""
        cut = {"truncation": True, "max_length": limit} if limit else {}
        read = tokenizer(
            list(texts), padding=True, padding_side="right", return_tensors="pt", **cut
        )
        return read.to(self.model.device)


class Blip(Loaded):
    """BLIP fine-tuned for questions (arXiv:2201.12086): an encoder reads the question with the
    image, a decoder writes the answer from that."""

    # transformers' decoder of BLIP takes a mask on what it looks at and drops it (5.23: the layer
    # hands it on as the wrong argument), so that the longest question of a batch would change the
    # answers to the others. Without padding there is nothing to mask.
    equal_lengths = True

    @property
    def generator(self) -> Any:
        return self.model.text_decoder

    @property
    def ends(self) -> list[int | None]:
        return [self.model.config.text_config.sep_token_id]

    def see(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return list(self.model.vision_model(pixel_values=self.pixels(images)).last_hidden_state)

    def inputs(self, seen: Sequence[Tensor], texts: Sequence[str]) -> tuple[dict[str, Any], int]:
        image, config = torch.stack(list(seen)), self.model.config.text_config
        words = self.read(self.tokenizer, texts, config.max_position_embeddings)
        question = self.model.text_encoder(
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            encoder_hidden_states=image,
            encoder_attention_mask=_ones(image),
        ).last_hidden_state
        start = torch.full_like(words.input_ids[:, :1], config.bos_token_id)
        return {
            "input_ids": start,
            "attention_mask": torch.ones_like(start),
            "encoder_hidden_states": question,
            "encoder_attention_mask": _ones(question),
        }, 1


class Blip2(Loaded):
    """BLIP-2 (arXiv:2301.12597): what a Q-Former makes of the image stands before the text."""

    @property
    def generator(self) -> Any:
        return self.model.language_model

    @property
    def ends(self) -> list[int | None]:
        return [self.model.config.text_config.eos_token_id]

    def see(self, images: Sequence[Image.Image]) -> list[Tensor]:
        image = self.model.vision_model(pixel_values=self.pixels(images)).last_hidden_state
        queries = self.model.qformer(
            query_embeds=self.model.query_tokens.expand(len(image), -1, -1),
            encoder_hidden_states=image,
            encoder_attention_mask=_ones(image),
        ).last_hidden_state
        return list(self.model.language_projection(queries.to(image.dtype)))

    def inputs(self, seen: Sequence[Tensor], texts: Sequence[str]) -> tuple[dict[str, Any], int]:
        embed = self.generator.get_input_embeddings()
        continued = self.model.config.use_decoder_only_language_model
        rows = []
        for image, text in zip(seen, texts, strict=True):
            words = self.tokenizer(text, return_tensors="pt").input_ids[0].to(image.device)
            rows.append(torch.cat([image, embed(words).to(image.dtype)]))
        padded, mask = _padded(rows, left=continued)
        # Of embeddings alone a decoder gives back only what it wrote; an encoder's partner also
        # gives the token that it started from.
        return {"inputs_embeds": padded, "attention_mask": mask}, 0 if continued else 1


@dataclass
class InstructBlip(Blip2):
    """InstructBLIP (arXiv:2305.06500): the Q-Former reads the question as well, so that only the
    vision tower's output is the same for all questions."""

    qformer_tokenizer: Any = None

    def see(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return list(self.model.vision_model(pixel_values=self.pixels(images)).last_hidden_state)

    def inputs(self, seen: Sequence[Tensor], texts: Sequence[str]) -> tuple[dict[str, Any], int]:
        image, config = torch.stack(list(seen)), self.model.config.qformer_config
        words = self.read(self.qformer_tokenizer, texts, config.max_position_embeddings)
        queries = self.model.query_tokens.expand(len(image), -1, -1)
        outputs = self.model.qformer(
            input_ids=words.input_ids,
            attention_mask=torch.cat([_ones(queries), words.attention_mask], dim=1),
            query_embeds=queries,
            encoder_hidden_states=image,
            encoder_attention_mask=_ones(image),
        ).last_hidden_state[:, : queries.shape[1]]
        return super().inputs(list(self.model.language_projection(outputs.to(image.dtype))), texts)


@dataclass
class Looked:
    """One image as a chat model has it."""

    head: list[int]
    """Token ids up to the image's end: whatever is asked, they are the same."""
    plain: list[int]
    """The same start before the image's one placeholder became many."""
    marks: dict[str, list[int]]
    """Further numbers that the model wants for each token of the head (token types)."""
    rest: dict[str, int]
    """The same for each token of the question."""
    beside: dict[str, Tensor]
    """Sizes and grids of the image."""
    features: Any


@dataclass
class Chat:
    """A vision-language model with a chat template (Qwen2-VL and its like): the image's features
    take the places of its tokens in the text."""

    equal_lengths: ClassVar[bool] = False
    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def generator(self) -> Any:
        return self.model

    @property
    def ends(self) -> list[int | None]:
        return [self.model.config.get_text_config().eos_token_id]

    def see(self, images: Sequence[Image.Image]) -> list[Looked]:
        # One by one: images of different sizes have different numbers of tokens.
        return [self._see(image) for image in images]

    def inputs(self, seen: Sequence[Looked], texts: Sequence[str]) -> tuple[dict[str, Any], int]:
        read = [self._tokens(self._asked(text)) for text in texts]
        rows: list[Tensor] = []
        marks: dict[str, list[Tensor]] = {name: [] for name in seen[0].marks}
        for image, ids in zip(seen, read, strict=True):
            start = len(image.plain)
            if ids[:start] != image.plain:
                raise ModelError(self._strange("puts words of the question before the image"))
            question = ids[start:]
            rows.append(torch.tensor(image.head + question))
            for name, values in marks.items():
                rest = [image.rest[name]] * len(question)
                values.append(torch.tensor(image.marks[name] + rest))
        padded, mask = _padded(rows, left=True, fill=self.tokenizer.pad_token_id or 0)
        given = {"input_ids": padded, "attention_mask": mask}
        given |= {name: _padded(values, left=True)[0] for name, values in marks.items()}
        given |= {name: torch.cat([p.beside[name] for p in seen]) for name in seen[0].beside}
        moved: dict[str, Any] = {name: value.to(self.model.device) for name, value in given.items()}
        moved["mm_encoder_outputs"] = {"image": _together([p.features for p in seen])}
        return moved, padded.shape[1]

    def _asked(self, text: str) -> str:
        """The whole text with one placeholder for the image."""
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return str(
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        )

    def _shown(self, text: str) -> str:
        """What the processor is handed to make `_asked` of."""
        return self._asked(text)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=not self._begun(text)).input_ids)

    def _begun(self, text: str) -> bool:
        begin = self.tokenizer.bos_token
        return begin is not None and text.startswith(begin)

    def _see(self, image: Image.Image) -> Looked:
        text = self._shown("Is it?")
        inputs = self.processor(
            images=[image],
            text=[text],
            return_tensors="pt",
            add_special_tokens=not self._begun(text),
        )
        shape, ids = inputs["input_ids"].shape, inputs["input_ids"][0].tolist()
        plain = self._tokens(self._asked("Is it?"))
        before = _common(plain, ids)
        after = min(_common(plain[::-1], ids[::-1]), len(plain) - before)
        if before + after < len(plain) - 1 or not after:
            raise ModelError(self._strange("has tokens that do not fit its own processor"))
        end = len(ids) - after
        of_tokens = {
            name: value[0].tolist()
            for name, value in inputs.items()
            if name not in ("input_ids", "attention_mask", "labels") and value.shape == shape
        }
        others = {n: v for n, v in inputs.items() if n not in of_tokens and v.shape != shape}
        encode = self.model.base_model.get_image_features
        with_pixels = {
            name: value.to(self.model.device, self.model.dtype)
            if value.is_floating_point()
            else value.to(self.model.device)
            for name, value in others.items()
        }
        return Looked(
            head=ids[:end],
            plain=plain[: len(plain) - after],
            marks={name: values[:end] for name, values in of_tokens.items()},
            rest={name: values[-1] for name, values in of_tokens.items()},
            beside={
                name: value
                for name, value in others.items()
                if name in self._takes["forward"] and not value.is_floating_point()
            },
            features=encode(
                **{n: v for n, v in with_pixels.items() if n in self._takes["encode"]},
                return_dict=True,
            ),
        )

    @cached_property
    def _takes(self) -> dict[str, set[str]]:
        """Names that the model's forward pass and its vision tower take."""
        from inspect import signature

        forward = set(signature(self.model.forward).parameters)
        encode = getattr(self.model.base_model, "get_image_features", None)
        if encode is None or "mm_encoder_outputs" not in forward:
            raise ModelError(self._strange("cannot be given images that are encoded already"))
        return {"forward": forward, "encode": set(signature(encode).parameters)}

    def _strange(self, what: str) -> str:
        return (
            f"The judge {type(self.model).__name__} {what}, with the transformers that is "
            "installed. Choose another model, or serve it and set the judge's kind to openai."
        )


class PaliGemma(Chat):
    """PaliGemma (arXiv:2407.07726): image, one line of text, answer; no chat."""

    def _asked(self, text: str) -> str:
        return f"{self.processor.image_token}{self.tokenizer.bos_token}{text}\n"

    def _shown(self, text: str) -> str:
        return f"{self.processor.image_token}{text}"  # its processor adds the rest itself

    def _begun(self, text: str) -> bool:
        return False  # nor does its tokenizer add anything


def _ones(states: Tensor) -> Tensor:
    """[b, t] mask of states [b, t, d] that are all there."""
    return torch.ones(states.shape[:-1], dtype=torch.long, device=states.device)


def _padded(rows: Sequence[Tensor], *, left: bool, fill: float = 0) -> tuple[Tensor, Tensor]:
    """Rows [t, ...] of different lengths as [b, t, ...], and the mask [b, t] of what is there."""
    side = "left" if left else "right"
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad(list(rows), batch_first=True, padding_value=fill, padding_side=side)
    masks = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    return padded, pad(masks, batch_first=True, padding_side=side)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading elements are equal."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(map(len, (a, b)))
    )


def _together(outputs: Sequence[Any]) -> Any:
    """The features of several images as if they had been encoded in one call."""
    joined: dict[str, Any] = {
        "pooler_output": _joined([output.pooler_output for output in outputs])
    }
    layers = getattr(outputs[0], "deepstack_features", None)
    if layers is not None:
        joined["deepstack_features"] = [
            _joined([output.deepstack_features[layer] for output in outputs])
            for layer in range(len(layers))
        ]
    return type(outputs[0])(**joined)


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return [piece for part in parts for piece in part]


FAMILIES: Mapping[str, type[Loaded] | type[Chat]] = {
    "blip": Blip,
    "blip-2": Blip2,
    "instructblip": InstructBlip,
    "paligemma": PaliGemma,
}
"""transformers' model type → its family; all others are asked as chat models."""

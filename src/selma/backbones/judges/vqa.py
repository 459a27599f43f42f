"""A judge that is a transformers model: batched, each image encoded once for all its questions.

Safetensors only, and never code from a model's folder. The answer to a question depends on the
weights, the wording and the decoding alone: no neighbour in a batch changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from selma.backbones.hub import find_device, hub_commit, model_config, weights_digest
from selma.backbones.image_processors import load_image_processor, load_processor
from selma.backbones.judges.judge import FirstToken, Spelled, parts
from selma.backbones.judges.wordings import QUESTION, MultipleChoice, put_all, wording
from selma.backbones.quiet import quiet
from selma.config.scores import LocalJudge, judge_name
from selma.errors import ModelError
from selma.image_modes import plain_rgb
from selma.workspace import recipe_key

if TYPE_CHECKING:
    from torch import Tensor

    from selma.backbones.judges.families import Family

_DIGITS = 4  # of P(yes), so that sums in another order give the same number
_WORDS = {
    word: tuple(space + form for space in ("", " ") for form in (word, word.title(), word.upper()))
    for word in ("yes", "no")
}

# transformers' model type → its class and the wording that it was trained with.
_TYPES = {
    "blip": ("BlipForQuestionAnswering", "bare"),
    "blip-2": ("Blip2ForConditionalGeneration", "answer"),
    "instructblip": ("InstructBlipForConditionalGeneration", "short_answer"),
    "paligemma": ("PaliGemmaForConditionalGeneration", "paligemma"),
}
_CHAT = ("AutoModelForImageTextToText", "yes_or_no")


def class_of(model_type: str) -> str:
    """The class of transformers that answers questions with a model of this type."""
    return _TYPES.get(model_type, _CHAT)[0]


MPLUG = (
    "mPLUG-large exists only in modelscope, with code of its own that selma does not run. "
    "Salesforce/blip-vqa-capfilt-large is the nearest in kind, Salesforce/blip2-flan-t5-xl the "
    "other judge of the paper; their scores cannot be compared with mPLUG's. Answers that mPLUG "
    "gave elsewhere are scored by `selma score dsg`."
)


class VqaJudge:
    """See `selma.backbones.judges.judge.Judge`. The weights are loaded when first asked."""

    def __init__(self, settings: LocalJudge, *, setting: str = "scores.judge") -> None:
        """Raises ModelError for what can be seen without loading, ConfigError for a wording."""
        if "mplug" in settings.model.lower():
            raise ModelError(f"{setting}: {MPLUG}")
        self.name = judge_name(settings)
        self._settings = settings
        self._setting = setting
        config = model_config(settings.model, settings.revision, setting=setting)
        self._type = str(config.get("model_type"))
        self._class, default = _TYPES.get(self._type, _CHAT)
        made_for = config.get("architectures") or [self._class]
        if self._type in _TYPES and self._class not in made_for:
            raise ModelError(
                f"{setting}: {settings.model} must be a {self._class}, but its config.json names "
                f"{', '.join(map(str, made_for))}, which does not answer questions."
            )
        if default == "answer" and not config.get("use_decoder_only_language_model", True):
            default = "short_answer"  # BLIP-2 with FlanT5
        self._words = wording(settings.prompt or default, QUESTION, key=f"{setting}.prompt")

    @cached_property
    def fingerprint(self) -> str:
        """Changes with weights, wording, decoding and precision; not with batch size or device."""
        asked = self._settings
        return recipe_key(
            {
                "weights": self._weights,
                "words": self._words,
                "beams": asked.beams,
                "length_penalty": asked.length_penalty if asked.beams > 1 else None,
                "repetition_penalty": asked.repetition_penalty,
                "max_new_tokens": asked.max_new_tokens,
                "precision": asked.precision,
            }
        )

    @cached_property
    def _weights(self) -> str:
        return weights_digest(self._settings.model, self._settings.revision, setting=self._setting)

    @property
    def about(self) -> dict[str, str]:
        name, _, commit = self._weights.rpartition("@")
        weights = f"{name}@{commit[:16]}" if name else commit[:16]
        return {
            "weights": weights,
            "wording": self._words,
            "precision": self._settings.precision,
        }

    def answer(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, float | None]]]:
        """P(yes) is that of the first token, shared between the words yes and no alone; None where
        the tokenizer has neither as one token."""
        texts = [[self._words.format(question=text) for text in group] for group in questions]
        return self._say(images, texts)

    def choose(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[Sequence[MultipleChoice]],
        *,
        words: str = "selma",
    ) -> list[list[str]]:
        """Free answers to multiple-choice questions, put by a wording of `wordings.CHOICES`; which
        choice each counts as is for a matcher to say."""
        answers = self._say(images, put_all(questions, words))
        return [[text for text, _ in group] for group in answers]

    def spell(
        self, images: Sequence[Image.Image], questions: Sequence[Sequence[Spelled]]
    ) -> list[list[tuple[str, list[FirstToken]]]]:
        """As `judge.Speller` has it; probabilities have four significant digits."""
        texts = [[question.text for question in group] for group in questions]
        first: dict[tuple[int, int], list[FirstToken]] = {}

        def tell(place: tuple[int, int], logits: Tensor) -> None:
            i, j = place
            chances = logits.double().softmax(dim=0)
            first[place] = [
                (token, float(f"{chances[id].item():.4g}"))
                for token, id in map(self._first_token, questions[i][j].spellings)
            ]

        answers = self._say(images, texts, tell)
        return [
            [(text, first[i, j]) for j, (text, _) in enumerate(group)]
            for i, group in enumerate(answers)
        ]

    def _first_token(self, spelling: str) -> tuple[str, int]:
        """The first token of a text and its id; see `judge.FirstToken`."""
        tokenizer = self._family.tokenizer
        ids = tokenizer(spelling, add_special_tokens=False).input_ids
        token = str(tokenizer.convert_ids_to_tokens(ids[0]))
        # Byte-level tokenizers write a blank as Ġ, SentencePiece as ▁.
        telling = token.strip(" Ġ▁") and ids[0] != tokenizer.unk_token_id
        return (token if telling else ""), ids[0]

    def _say(
        self,
        images: Sequence[Image.Image],
        texts: Sequence[Sequence[str]],
        tell: Callable[[tuple[int, int], Tensor], None] | None = None,
    ) -> list[list[tuple[str, float | None]]]:
        """tell: called with the place of each text (image, number) and the logits [vocabulary] of
        its answer's first token."""
        import torch

        size = self._settings.batch_size
        answers: list[list[tuple[str, float | None]]] = [[("", None)] * len(t) for t in texts]
        with torch.inference_mode():
            for part in parts(len(images), size):
                places = [
                    (i, j) for i in range(part.start, part.stop) for j in range(len(texts[i]))
                ]
                if not places:
                    continue
                seen = self._family.see([plain_rgb(image) for image in images[part]])
                for batch in self._batches(places, texts):
                    replies, logits = self._generate(
                        [seen[i - part.start] for i, _ in batch], [texts[i][j] for i, j in batch]
                    )
                    for (i, j), reply, row in zip(batch, replies, logits, strict=True):
                        answers[i][j] = reply
                        if tell is not None:
                            tell((i, j), row)
        return answers

    def _batches(
        self, places: Sequence[tuple[int, int]], texts: Sequence[Sequence[str]]
    ) -> Iterator[list[tuple[int, int]]]:
        """The places in batches, equal lengths side by side: little is computed on padding."""
        tokens = {(i, j): len(self._family.tokenizer(texts[i][j]).input_ids) for i, j in places}
        ordered = sorted(places, key=tokens.__getitem__)
        key = tokens.__getitem__ if self._family.equal_lengths else lambda position: 0
        for _, group in groupby(ordered, key=key):
            alike = list(group)
            for batch in parts(len(alike), self._settings.batch_size):
                yield alike[batch]

    def _generate(
        self, seen: Sequence[Any], texts: Sequence[str]
    ) -> tuple[list[tuple[str, float | None]], Tensor]:
        """Answers, and the logits [b, vocabulary] of their first tokens."""
        inputs, skip = self._family.inputs(seen, texts)
        written = self._family.generator.generate(**inputs, generation_config=self._decoding)
        beams = self._settings.beams
        first = written.logits[0].float()[::beams]  # of one row's beams all begin alike
        if not first.isfinite().all():
            raise ModelError(
                f"The judge {self.name} gave logits that are not finite in "
                f"{self._settings.precision}. Set its precision to bf16 or fp32."
            )
        chances = self._chances(first)
        rows = written.sequences[:, skip:].tolist()
        answers = [(self._text(row), chance) for row, chance in zip(rows, chances, strict=True)]
        return answers, first

    def _text(self, row: list[int]) -> str:
        ends = self._decoding.eos_token_id
        stop = next((at for at, token in enumerate(row) if token in ends), len(row))
        return str(self._family.tokenizer.decode(row[:stop], skip_special_tokens=True)).strip()

    def _chances(self, logits: Tensor) -> list[float | None]:
        """P(yes) of each row's logits [b, vocabulary]; P(yes) + P(no) = 1."""
        yes, no = self._ids["yes"], self._ids["no"]
        if not yes or not no:
            return [None] * len(logits)
        apart = logits[:, yes].logsumexp(dim=1) - logits[:, no].logsumexp(dim=1)
        return [round(chance, _DIGITS) for chance in apart.double().sigmoid().tolist()]

    @cached_property
    def _ids(self) -> dict[str, list[int]]:
        """Word → the tokens that are this word alone, in any case, with or without a space."""
        tokenizer = self._family.tokenizer
        ids_by_word: dict[str, set[int]] = {}
        for word, forms in _WORDS.items():
            read = [tokenizer(form, add_special_tokens=False).input_ids for form in forms]
            ids_by_word[word] = {ids[0] for ids in read if len(ids) == 1} - {tokenizer.unk_token_id}
        both = ids_by_word["yes"] & ids_by_word["no"]
        return {word: sorted(ids - both) for word, ids in ids_by_word.items()}

    @cached_property
    def _decoding(self) -> Any:
        from transformers import GenerationConfig

        asked, family = self._settings, self._family
        # Whatever else the model's authors liked (sampling, minimal lengths) is not asked for.
        own, family.generator.generation_config = (
            family.generator.generation_config,
            GenerationConfig(),
        )
        ends = [own.eos_token_id, family.tokenizer.eos_token_id, *family.ends]
        flat = {e for end in ends for e in (end if isinstance(end, list) else [end])} - {None}
        pad = family.tokenizer.pad_token_id
        start = own.decoder_start_token_id
        if start is None:
            start = getattr(family.generator.config, "decoder_start_token_id", None)
        return GenerationConfig(
            do_sample=False,
            num_beams=asked.beams,
            **({"length_penalty": asked.length_penalty} if asked.beams > 1 else {}),
            repetition_penalty=asked.repetition_penalty,
            max_new_tokens=asked.max_new_tokens,
            eos_token_id=sorted(flat),
            pad_token_id=min(flat) if pad is None else pad,
            bos_token_id=own.bos_token_id,
            decoder_start_token_id=start,
            return_dict_in_generate=True,
            output_logits=True,
        )

    @cached_property
    def _family(self) -> Family:
        asked = self._settings
        where: dict[str, Any] = {"local_files_only": Path(asked.model).is_dir()}
        if not where["local_files_only"]:
            where = {"revision": hub_commit(asked.model, asked.revision, setting=self._setting)}
        try:
            return self._load(where)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"{self._setting}: {asked.model} cannot be loaded as {self._class} from "
                f"safetensors files: {error}"
            ) from error

    def _load(self, where: dict[str, Any]) -> Family:
        import torch
        import transformers

        from selma.backbones.judges.families import FAMILIES, Chat

        quiet("transformers")
        source, kind = self._settings.model, FAMILIES.get(self._type, Chat)
        dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        model, report = getattr(transformers, self._class).from_pretrained(
            source,
            dtype=dtypes[self._settings.precision],
            use_safetensors=True,
            output_loading_info=True,
            **where,
        )
        if report["missing_keys"]:
            raise ValueError(f"weights are missing, {sorted(report['missing_keys'])[0]} first")
        device = find_device(self._settings.device, setting=f"{self._setting}.device")
        model = model.eval().requires_grad_(False).to(device)
        files = {"pretrained_model_name_or_path": source, **where}
        if issubclass(kind, Chat):
            return kind(model, load_processor(files, model.config))
        images = load_image_processor(files)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
        more = {}
        if self._type == "instructblip":
            more["qformer_tokenizer"] = transformers.AutoTokenizer.from_pretrained(
                source, subfolder="qformer_tokenizer", **where
            )
        loaded: Any = kind(model, tokenizer, images, **more)
        return loaded

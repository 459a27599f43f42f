"""Questions about images: batched with each image encoded once, beside one question at a time.

One question at a time is what the released evaluation programs do: processor and generate for each
question. Both sides have the same weights, threads, precision and decoding; rounds are interleaved
and timed in CPU seconds, as other work may share the machine. Random weights of the real
architectures, small ones: ratios, not seconds, are what carries over.

    .venv/bin/python bench/judging.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from selma.backbones.judges.vqa import VqaJudge
from selma.config.scores import LocalJudge

SUBJECTS = ("dog", "cat", "tree", "car")
ASKED = ("Is there a {}?", "Is there a red {}?")

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "[DEC]")
COMMON = ("Is", "there", "a", "red", "?", "yes", "no", "two", "Question", ":", "Answer", "Short")
WORDS = (*SPECIAL, *SUBJECTS, *COMMON)
TEXT = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SEEN_PX = 32
VISION = {**LAYER, "image_size": SEEN_PX, "patch_size": 16}


def main(
    images: Annotated[int, typer.Option(min=1)] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repetitions.")] = 3,
    shapes: Annotated[list[str] | None, typer.Option("--shape")] = None,
    image_px: Annotated[int, typer.Option(help="Side of the images.")] = 128,
) -> None:
    """Print the ratio for each architecture, and fail if any answer differs."""
    torch.set_num_threads(1)
    numbers = np.random.default_rng(0)
    shown = [
        Image.fromarray(numbers.integers(0, 256, (image_px, image_px, 3), np.uint8))
        for _ in range(images)
    ]
    questions = [[words.format(name) for name in SUBJECTS for words in ASKED]] * images
    title = f"{images} images x {len(questions[0])} questions, CPU seconds"
    table = Table("model", "one at a time", "batched", "ratio", "spread", "answers", title=title)
    same = True
    for shape in shapes or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            SHAPES[shape](Path(folder))
            model = str(folder)
            ours = VqaJudge(LocalJudge(model=model, max_new_tokens=4, device="cpu"))
            theirs = one_at_a_time(ours, model)
            ours.answer(shown[:2], questions[:2])
            theirs(shown[:2], questions[:2])
            slow, fast = [], []
            for _ in range(rounds):
                alone, seconds = timed(theirs, shown, questions)
                slow.append(seconds)
                batched, seconds = timed(ours.answer, shown, questions)
                fast.append(seconds)
                same &= alone == [[text for text, _ in some] for some in batched]
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        told = "identical" if same else "DIFFER"
        middle = [f"{median(found):.1f}" for found in (slow, fast, ratios)]
        table.add_row(shape, *middle, spread, told)
    Console().print(table)
    raise typer.Exit(0 if same else 1)


def one_at_a_time(judge: VqaJudge, model: str) -> Callable[..., list[list[str]]]:
    """Call the model's own processor and `generate` for each question."""
    family: Any = judge._family
    processor = transformers.AutoProcessor.from_pretrained(model)

    def answer(images: list[Image.Image], questions: list[list[str]]) -> list[list[str]]:
        said: list[list[str]] = []
        with torch.inference_mode():
            for image, some in zip(images, questions, strict=True):
                said.append([])
                for question in some:
                    text = judge._words.format(question=question)
                    inputs = processor(images=image, text=[text], return_tensors="pt")
                    written = family.model.generate(**inputs, generation_config=judge._decoding)
                    new = written.sequences[0][-len(written.logits) :].tolist()
                    said[-1].append(judge._text(new))
        return said

    return answer


def blip(folder: Path) -> None:
    """Save a small BLIP with what reads for it."""
    words = {**LAYER, **TEXT, "encoder_hidden_size": 32, "max_position_embeddings": 48,
             "bos_token_id": WORDS.index("[DEC]"), "sep_token_id": 2}  # fmt: skip
    config = transformers.BlipConfig(text_config=words, vision_config=VISION)
    save(transformers.BlipForQuestionAnswering(config), folder)
    transformers.BlipProcessor(images_of(), words_of("<s> $A </s>")).save_pretrained(folder)


def blip2(folder: Path) -> None:
    """Save a small BLIP-2 with T5."""
    text = transformers.T5Config(
        d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0, **TEXT
    )
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**LAYER, "encoder_hidden_size": 32},
        text_config=text.to_dict(),
        num_query_tokens=3,
        image_token_index=WORDS.index("<image>"),
    )
    save(transformers.Blip2ForConditionalGeneration(config), folder)
    reader = words_of("$A </s>")
    transformers.Blip2Processor(images_of(), reader, num_query_tokens=3).save_pretrained(folder)


SHAPES: dict[str, Callable[[Path], None]] = {"blip": blip, "blip2-t5": blip2}


def words_of(template: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with one token for each word; `template` says what surrounds each text."""
    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<s>", 1), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=marks)
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, extra_special_tokens=["<image>", "[DEC]"], **named
    )


def images_of() -> Any:
    return transformers.BlipImageProcessorPil(size={"height": SEEN_PX, "width": SEEN_PX})


def save(model: Any, folder: Path) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:  # as initialised, all images look alike to so small a model
                weight.normal_(std=0.35)
    model.generation_config.do_sample = False
    model.save_pretrained(folder)


def timed(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    began = time.process_time()
    result = work(*given)
    return result, time.process_time() - began


if __name__ == "__main__":
    typer.run(main)

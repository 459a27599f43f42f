"""What generators write about their prompts: texts, JSON, graphs; and where they stand."""

from __future__ import annotations

import io
import json
import time
import zlib
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from selma.applications.sur.comfy import graph_prompt
from selma.applications.sur.parameters import prompt_inside, statement_inside
from selma.applications.sur.statements import text_statement, value_statement

SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512, Model: m"

TEXTS = {
    "settings": (f"a red fox, snow\n{SETTINGS}", "a red fox, snow"),
    "negative": (f"a red fox\nNegative prompt: blurry\n{SETTINGS}", "a red fox"),
    "lines": (f"a red fox,\nin snow\n\nNegative prompt: ugly\nbad\n{SETTINGS}",
              "a red fox,\nin snow"),
    "break": (f"a fox BREAK snow\nBREAK\nsky\n{SETTINGS}", "a fox BREAK snow\nBREAK\nsky"),
    "lora": (f"a fox <lora:fur:0.8>, (snow:1.2)\n{SETTINGS}", "a fox <lora:fur:0.8>, (snow:1.2)"),
    "windows": (f"a fox\r\nNegative prompt: x\r\n{SETTINGS}", "a fox"),
    "steps in the prompt": (f"a girl\nSteps: of marble, wide\nNegative prompt: x\n{SETTINGS}",
                            "a girl\nSteps: of marble, wide"),
    "settings in the prompt": (f"Steps: 3, Sampler: a robot, Seed: corn\n{SETTINGS}",
                               "Steps: 3, Sampler: a robot, Seed: corn"),
    "negative in a line": (f"a sign that says Negative prompt: cat\n{SETTINGS}",
                           "a sign that says Negative prompt: cat"),
    "colons": (f"style: oil, mood: calm, light: soft\n{SETTINGS}",
               "style: oil, mood: calm, light: soft"),
    "only colons": ("style: oil, mood: calm, light: soft", "style: oil, mood: calm, light: soft"),
    "short settings": ("only this\nSteps: 3", "only this"),
    "two settings": ("only this\nSteps: 3, Seed: 4", "only this"),
    "quoted settings": (f'a fox\n{SETTINGS}, Lora hashes: "a: 1, b: 2", Template: "x, y"', "a fox"),
    "resources": (f'a fox\n{SETTINGS}, Civitai resources: [{{"type":"lora","weight":1}}]', "a fox"),
    "after settings": (f"a fox\n{SETTINGS}\nTemplate: {{a|b}} fox", "a fox"),
    "choices": (f"{{red|blue}} fox\n{SETTINGS}", "{red|blue} fox"),
    "no settings": ("a plain fox", "a plain fox"),
    "two negatives": (f"a fox\nNegative prompt: x\nNegative prompt: y\n{SETTINGS}", "a fox"),
    "odd lines": (f"a\u2028fox\x0bb\n{SETTINGS}", "a\u2028fox\x0bb"),
    "byte order": (f"\ufeffa fox\n{SETTINGS}", "a fox"),
    "only negative": (f"Negative prompt: blurry\n{SETTINGS}", None),
    "only settings": (SETTINGS, None),
    "nothing": ("  \n", None),
}  # fmt: skip

VALUES: dict[str, tuple[Any, str | None]] = {
    "SwarmUI": ({"sui_image_params": {"prompt": "an owl, (night:1.2)", "negativeprompt": "b"},
                 "sui_extra_data": {"original_prompt": "<random:owl,cat>"}}, "an owl, (night:1.2)"),
    "SwarmUI, empty": ({"sui_image_params": {"prompt": " ", "seed": 1}}, None),
    "Fooocus": ({"prompt": "a whale", "negative_prompt": "b", "full_prompt": ["a whale, sharp"],
                 "version": "Fooocus v2.5"}, "a whale"),
    "RuinedFooocus": ({"Prompt": "a whale", "Negative": "b", "software": "RuinedFooocus"},
                      "a whale"),
    "InvokeAI 3": ({"positive_prompt": "a gull", "negative_prompt": "b", "seed": 1}, "a gull"),
    "InvokeAI 3, SDXL": ({"positive_prompt": "a gull", "positive_style_prompt": "oil"},
                         "a gull, oil"),
    "InvokeAI 2": ({"model": "stable diffusion", "image": {"prompt": [
        {"prompt": "a gull", "weight": 1.0}, {"prompt": "sea", "weight": 0.5}]}}, "a gull, sea"),
    "InvokeAI 2, text": ({"image": {"prompt": "a gull", "steps": 5}}, "a gull"),
    "NovelAI 3": ({"prompt": "1girl, sea", "uc": "bad", "steps": 28}, "1girl, sea"),
    "NovelAI 4": ({"v4_prompt": {"caption": {"base_caption": "2girls, sea", "char_captions": []}},
                   "uc": "bad"}, "2girls, sea"),
    "Civitai": ({"prompt": "a kite", "negativePrompt": "b"}, "a kite"),
    "Civitai, nested": ({"id": 1, "meta": {"prompt": "a kite"}}, "a kite"),
    "Civitai, nested twice": ({"id": 1, "meta": {"id": 2, "meta": {"prompt": "a kite"}}}, "a kite"),
    "Civitai, ComfyUI": ({"comfy": json.dumps({"prompt": {
        "1": {"class_type": "K", "inputs": {"positive": ["2", 0]}},
        "2": {"class_type": "C", "inputs": {"text": "a kite", "clip": ["9", 0]}}}})}, "a kite"),
    "Civitai's generator": ({"extraMetadata": json.dumps({"prompt": "a kite", "steps": 25}),
                             "3": {"class_type": "K", "inputs": {"positive": ["4", 0]}}}, "a kite"),
    "JSON in the prompt": ({"prompt": json.dumps({"sui_image_params": {"prompt": "a kite"}})},
                           "a kite"),
    "no prompt": ({"steps": 20, "seed": 1}, None),
    "empty prompt": ({"prompt": "", "seed": 1}, None),
    "number": (3, None), "text": ("a cat", None), "nothing": (None, None), "list": ([1, 2], None),
    "deep": (json.loads('{"meta":' * 40 + "1" + "}" * 40), None),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_a1111(name: str) -> None:
    text, prompt = TEXTS[name]
    statement = text_statement(text, bare=True)
    assert statement.prompt == (prompt or "")
    assert bool(statement.reason) is (prompt is None)


@pytest.mark.parametrize("name", VALUES)
def test_values_in_json(name: str) -> None:
    value, prompt = VALUES[name]
    statement = value_statement(value)
    assert statement.prompt == (prompt or "")
    assert bool(statement.reason) is (prompt is None)


@pytest.mark.parametrize(
    "text", ['{"sui_image_params": {"prompt": "an o', '{\n "prompt": "a', "[[1,", "[" * 100_000]
)
def test_damaged_json_is_no_prompt(text: str) -> None:
    assert text_statement(text, bare=True).reason == "JSON that is damaged"


@pytest.mark.parametrize("comment", ["Screenshot", "a cat", "Created with GIMP", "Steps: up"])
def test_comments_of_other_programs_are_no_prompt(comment: str) -> None:
    assert text_statement(comment, bare=False).reason == "a comment without a generator's settings"
    settled = text_statement(f"a fox\n{SETTINGS}", bare=False)
    assert settled.prompt == "a fox"


# Graphs of ComfyUI. `text` encodes; the rest is named as its nodes name it.


def node(kind: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind or "Node", "inputs": inputs}


def text(words: Any, **inputs: Any) -> dict[str, Any]:
    return node("CLIPTextEncode", text=words, clip=["model", 1], **inputs)


def graph(positive: Any, **nodes: Any) -> dict[str, Any]:
    """A picture saved from one sampler, whose positive side is given; the rest is added."""
    return {
        "save": node("SaveImage", images=["decode", 0], filename_prefix="ComfyUI"),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "sampler": node("KSampler", seed=1, model=["model", 0], positive=positive,
                        negative=["no", 0], latent_image=["latent", 0]),
        "latent": node("EmptyLatentImage", width=64, height=64),
        "model": node("CheckpointLoaderSimple", ckpt_name="m.safetensors"),
        "no": text("blurry"),
        **nodes,
    }  # fmt: skip


def guided(guider: dict[str, Any], **nodes: Any) -> dict[str, Any]:
    """A picture of SamplerCustomAdvanced, whose latent another sampler made of another text."""
    sampler = node("SamplerCustomAdvanced", guider=["guider", 0], latent_image=["first", 0])
    first = node("KSampler", positive=["other", 0], negative=["no", 0], latent_image=["latent", 0])
    return graph([], sampler=sampler, guider=guider, first=first, other=text("not this"), **nodes)


def chain(length: int) -> dict[str, Any]:
    links = {f"c{n}": node("X", conditioning=[f"c{n + 1}", 0]) for n in range(length)}
    return graph(["c0", 0], **links, **{f"c{length}": text("a hen")})


HEN = {"a": text("a hen"), "b": text("in hay")}
GRAPHS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": (graph(["a", 0], **HEN), "a hen"),
    "ids sorted as text": (graph(["10", 0], **{"10": text("a hen"), "2": node(
        "KSampler", positive=["9", 0], negative=["no", 0]), "9": text("not this")}), "a hen"),
    "other samplers first": ({"0": node("KSampler", positive=["no", 0], negative=["no", 0]),
                              **graph(["a", 0], **HEN)}, "a hen"),
    "a preview of another": (graph(["a", 0], **HEN, p=node("PreviewImage", images=["d", 0]),
                                   d=node("VAEDecode", samples=["k", 0]),
                                   k=node("KSampler", positive=["b", 0], negative=["no", 0])),
                             "a hen"),
    "only a preview": (graph(["a", 0], **HEN, save=node("PreviewImage", images=["decode", 0])),
                       "a hen"),
    "hires": (graph(["a", 0], **HEN, latent=node("LatentUpscale", samples=["k", 0]),
                    k=node("KSampler", positive=["b", 0], negative=["no", 0])), "a hen"),
    "upscaled": (graph(["a", 0], **HEN,
                       save=node("SaveImage", images=["up", 0], filename_prefix="x"),
                       up=node("ImageUpscaleWithModel", upscale_model=["model", 0],
                               image=["decode", 0])), "a hen"),
    "ControlNet": (graph(["c", 0], **HEN, c=node(
        "ControlNetApply", conditioning=["a", 0], control_net=["model", 0], image=["i", 0]),
        i=node("LoadImage", image="b.png")), "a hen"),
    "ControlNet of both": (graph(["c", 0], **HEN, c=node(
        "ControlNetApplyAdvanced", positive=["a", 0], negative=["no", 0], image=["i", 0]),
        i=node("LoadImage", image="b.png"), sampler=node(
            "KSampler", positive=["c", 0], negative=["c", 1])), "a hen"),
    "both sides exchanged": (graph([], **HEN, c=node(
        "ControlNetApplyAdvanced", positive=["no", 0], negative=["a", 0]), sampler=node(
            "KSampler", positive=["c", 1], negative=["c", 0])), "a hen"),
    "sides behind a model": (graph([], **HEN, c=node(
        "ApplyInstantID", model=["model", 0], positive=["a", 0], negative=["no", 0]), sampler=node(
            "KSampler", model=["c", 0], positive=["c", 1], negative=["c", 2])), "a hen"),
    "Flux": (guided(node("BasicGuider", model=["model", 0], conditioning=["g", 0]),
                    g=node("FluxGuidance", guidance=3.5, conditioning=["a", 0]), **HEN), "a hen"),
    "CFGGuider": (guided(node("CFGGuider", model=["model", 0], positive=["a", 0],
                              negative=["no", 0], cfg=4), **HEN), "a hen"),
    "DualCFGGuider": (guided(node("DualCFGGuider", cond1=["a", 0], cond2=["b", 0],
                                  negative=["no", 0]), **HEN), "a hen"),
    "Flux's two texts": (graph(["f", 0], f=node(
        "CLIPTextEncodeFlux", clip_l="hen, hay", t5xxl="A hen sits in hay.", guidance=3.5,
        clip=["model", 1])), "A hen sits in hay., hen, hay"),
    "SDXL, two texts": (graph(["x", 0], x=node(
        "CLIPTextEncodeSDXL", width=64, text_l="oil", clip=["model", 1], text_g="a hen")),
        "a hen, oil"),
    "SDXL, one text": (graph(["x", 0], x=node(
        "CLIPTextEncodeSDXL", text_g="a hen", clip=["model", 1], text_l="a hen")), "a hen"),
    "SDXL's refiner": (graph(["a", 0], **HEN, latent=node(
        "KSamplerAdvanced", positive=["x", 0], negative=["no", 0]), x=node(
            "CLIPTextEncodeSDXL", text_g="a", text_l="b", clip=["model", 1])), "a hen"),
    "SD 3": (graph(["x", 0], x=node("CLIPTextEncodeSD3", clip_l="c", clip_g="b", t5xxl="a",
                                    clip=["model", 1], empty_padding="none")), "b, a, c"),
    "combined": (graph(["c", 0], **HEN, c=node(
        "ConditioningCombine", conditioning_1=["a", 0], conditioning_2=["b", 0])),
        "a hen, in hay"),
    "concatenated": (graph(["c", 0], **HEN, c=node(
        "ConditioningConcat", conditioning_from=["b", 0], conditioning_to=["a", 0])),
        "a hen, in hay"),
    "combined with itself": (graph(["c", 0], **HEN, c=node(
        "ConditioningCombine", conditioning_1=["a", 0], conditioning_2=["a", 0])), "a hen"),
    "zeroed": (graph(["z", 0], **HEN, z=node("ConditioningZeroOut", conditioning=["a", 0])),
               "a hen"),
    "primitive": (graph(["a", 0], a=text(["p", 0]), p=node("PrimitiveString", value="a hen")),
                  "a hen"),
    "joined": (graph(["a", 0], a=text(["j", 0]), j=node(
        "StringConcatenate", string_a="a hen", string_b=["p", 0], delimiter=" in "),
        p=node("PrimitiveStringMultiline", value="hay")), "a hen in hay"),
    "joined by commas": (graph(["a", 0], a=text(["j", 0]), j=node(
        "Text Concatenate", delimiter=", ", clean_whitespace="true", text_a=["p", 0],
        text_b=["q", 0]), p=node("Text", text="a hen"), q=node("Text", text="hay")), "a hen, hay"),
    "shown": (graph(["a", 0], a=text(["s", 0]), s=node(
        "ShowText", text=["p", 0], text_0="a stale hen"), p=node("Text", text="a hen")), "a hen"),
    "rerouted": (graph(["r", 0], **HEN, r=node("Reroute", **{"": ["a", 0]})), "a hen"),
    "wildcards": (graph(["w", 0], w=node(
        "ImpactWildcardEncode", model=["model", 0], clip=["model", 1],
        wildcard_text="a {hen|cock}", populated_text="a hen", mode="populate")), "a hen"),
    "styler": (graph(["a", 0], a=text(["s", 0]), s=node(
        "SDXLPromptStyler", text_positive="a hen", text_negative="b", style="base")), "a hen"),
    "loader with texts": (graph(["l", 1], l=node(
        "Efficient Loader", ckpt_name="m", positive="a hen", negative="b", lora_name="None"),
        sampler=node("KSampler (Efficient)", model=["l", 0], positive=["l", 1],
                     negative=["l", 2])), "a hen"),
    "pipe": (graph([], **HEN, sampler=node("KSampler /pipe", basic_pipe=["p", 0]), p=node(
        "ToBasicPipe", model=["model", 0], clip=["model", 1], positive=["a", 0],
        negative=["no", 0])), "a hen"),
    "switch by number": (graph(["s", 0], **HEN, s=node(
        "CR Conditioning Input Switch", Input=2, conditioning1=["b", 0], conditioning2=["a", 0])),
        "a hen"),
    "switch by yes": (graph(["s", 0], **HEN, s=node(
        "ComfySwitchNode", switch=True, on_false=["b", 0], on_true=["a", 0])), "a hen"),
    "first of any": (graph(["s", 0], **HEN, s=node(
        "Any Switch (rgthree)", any_01=["a", 0], any_02=["b", 0])), "a hen"),
    "system prompt": (graph(["l", 0], l=node("CLIPTextEncodeLumina2", system_prompt="superior",
                                             user_prompt="a hen", clip=["model", 1])), "a hen"),
    "edited": (graph(["q", 0], q=node("TextEncodeQwenImageEdit", clip=["model", 1],
                                      prompt="a hen", image=["i", 0]),
                     i=node("LoadImage", image="b.png")), "a hen"),
    "of a service": ({"s": node("SaveImage", images=["x", 0], filename_prefix="x"),
                      "x": node("FluxProUltraImageNode", prompt="a hen", seed=1)}, "a hen"),
    "tiles": (graph([], **HEN, save=node("SaveImage", images=["u", 0], filename_prefix="x"), u=node(
        "UltimateSDUpscale", image=["i", 0], model=["model", 0], positive=["a", 0],
        negative=["no", 0]), i=node("LoadImage", image="b.png")), "a hen"),
    "two savers of one": (graph(["a", 0], **HEN, s2=node(
        "SaveImage", images=["up", 0], filename_prefix="y"), up=node(
            "ImageScale", image=["decode", 0])), "a hen"),
    "numbers as ids": (graph([7, 0], **{"7": text("a hen")}), "a hen"),
    "subgraph": (graph(["57:8", 0], **{"57:8": text("a hen")}), "a hen"),
    "a long way": (chain(60), "a hen"),
    "other keys": ({**graph(["a", 0], **HEN), "extra": {"airs": []}, "version": 0.4}, "a hen"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    nodes, prompt = GRAPHS[name]
    assert graph_prompt(nodes).prompt == prompt
    # The order in which nodes are written says nothing.
    assert graph_prompt(dict(reversed(nodes.items()))).prompt == prompt


def diamonds(count: int) -> dict[str, Any]:
    joins = {f"c{n}": node("ConditioningCombine", conditioning_1=[f"c{n + 1}", 0],
                           conditioning_2=[f"c{n + 1}", 0]) for n in range(count)}  # fmt: skip
    return graph(["c0", 0], **joins, **{f"c{count}": text("a hen")})


def doubled(count: int) -> dict[str, Any]:
    joins = {
        f"c{n}": node("StringConcatenate", string_a=[below, 0], string_b=[below, 0], delimiter="")
        for n in range(count)
        for below in [f"c{n + 1}"]
    }
    return graph(["a", 0], a=text(["c0", 0]), **joins, **{f"c{count}": node("S", value="hen")})


UNCLEAR = {
    "circle": (graph(["c", 0], c=node("X", conditioning=["d", 0]),
                     d=node("X", conditioning=["c", 0])), "round in a circle"),
    "circle of images": ({"s": node("SaveImage", images=["u", 0], filename_prefix="x"),
                          "u": node("ImageScale", image=["v", 0]),
                          "v": node("ImageScale", image=["u", 0])}, "no saved image to a sampler"),
    "nothing but a circle": ({"u": node("ImageScale", image=["v", 0]),
                              "v": node("ImageScale", image=["u", 0])}, "no saved image"),
    "two prompts": (graph(["a", 0], **HEN, s2=node("SaveImage", images=["d", 0],
                                                  filename_prefix="x"),
                          d=node("VAEDecode", samples=["k", 0]), k=node(
                              "KSampler", positive=["b", 0], negative=["no", 0])),
                    "different prompts"),
    "loaded image": ({"s": node("SaveImage", images=["i", 0], filename_prefix="x"),
                      "i": node("LoadImage", image="b.png")}, "no saved image to a sampler"),
    "tagged": (graph(["a", 0], a=text(["t", 0]), t=node(
        "JoyCaption", image=["i", 0], prompt="Describe the image."),
        i=node("LoadImage", image="b.png")), "text of an image while it runs"),
    "lost link": (graph(["gone", 0]), "no saved image to a sampler"),
    "no text": (graph(["a", 0], a=node("CLIPTextEncode", clip=["model", 1])), "no text"),
    "empty": (graph(["a", 0], a=text("  ")), "empty one"),
    "link to a text that is no node": (graph(["a", 0], a=text(["gone", 0])), "no text"),
    "a way without end": (chain(4000), "too long a way"),
    "many nodes": (graph(["a", 0], **HEN, **{f"x{n}": node("X") for n in range(10_001)}), "nodes"),
    "a text that doubles": (doubled(60), "without end"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCLEAR)
def test_graphs_without_a_prompt_say_why(name: str) -> None:
    nodes, reason = UNCLEAR[name]
    started = time.monotonic()
    statement = graph_prompt(nodes)
    assert statement.prompt == "" and reason in statement.reason
    assert time.monotonic() - started < 2


def test_diamonds_end_quickly() -> None:
    started = time.monotonic()
    assert graph_prompt(diamonds(100)).prompt == "a hen"
    assert time.monotonic() - started < 2


ODD = [None, True, 1, 1.5, "x", [], {}, [None, None], ["a", 0], ["a", -5], ["a", 0, 1], [["a"], 0]]


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["positive", "images", "text", "samples", "select"])
def test_odd_values_are_no_traceback(name: str, value: Any) -> None:
    for nodes in (graph(["a", 0], **HEN), graph(value, **HEN), {"a": value, "": {"inputs": {}}}):
        changed = {id: {**part, "inputs": {**part["inputs"], name: value}}
                   if isinstance(part, dict) and part else part
                   for id, part in nodes.items()}  # fmt: skip
        assert isinstance(graph_prompt(changed).prompt, str)


# Where in a file


def image_bytes(kind: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, kind, **how)
    return buffer.getvalue()


def png(*, plain: bool = False, **texts: str) -> bytes:
    info = PngInfo()
    for key, value in texts.items():
        (info.add_text if plain else info.add_itxt)(key, value)
    return image_bytes(pnginfo=info)


def commented(comment: Any, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0131] = "a generator"  # of an empty first table, Pillow writes nothing into AVIF
    exif.get_ifd(0x8769)[0x9286] = comment
    return image_bytes(kind, exif=exif)


def described(kind: str, **tags: str) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[int(tag.removeprefix("x"), 16)] = value
    return image_bytes(kind, exif=exif)


def behind_the_pixels(parameters: str) -> bytes:
    """PNG's texts may come last."""
    data = png()
    body = b"iTXtparameters\0\0\0\0\0" + parameters.encode()
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[:-12] + chunk + data[-12:]


A1111 = f"a Füchsin, snow\nNegative prompt: blurry\n{SETTINGS}"
JAPANESE = f"狐、雪\n{SETTINGS}"
SWARM = json.dumps({"sui_image_params": {"prompt": "an owl"}})
COMFY = json.dumps(graph(["a", 0], **HEN))
FILES: dict[str, tuple[bytes, str]] = {
    "A1111": (png(parameters=A1111), "a Füchsin, snow"),
    "A1111 in JPEG": (commented(b"UNICODE\0" + A1111.encode("utf-16-be")), "a Füchsin, snow"),
    "A1111 in WebP": (commented(b"UNICODE\0" + A1111.encode("utf-16-be"), "WEBP"),
                      "a Füchsin, snow"),
    "A1111 in AVIF": (commented(b"UNICODE\0" + A1111.encode("utf-16-be"), "AVIF"),
                      "a Füchsin, snow"),
    "little-endian": (commented(b"UNICODE\0" + A1111.encode("utf-16-le")), "a Füchsin, snow"),
    "with a mark": (commented(b"UNICODE\0" + b"\xff\xfe" + A1111.encode("utf-16-le")),
                    "a Füchsin, snow"),
    "Japanese first": (commented(b"UNICODE\0" + JAPANESE.encode("utf-16-be")), "狐、雪"),
    "UTF-8 by another name": (commented(b"UNICODE\0" + A1111.encode()), "a Füchsin, snow"),
    "ASCII": (commented(b"ASCII\0\0\0" + f"a fox\n{SETTINGS}".encode()), "a fox"),
    "no alphabet": (commented(bytes(8) + A1111.encode()), "a Füchsin, snow"),
    "nothing before": (commented(A1111.encode()), "a Füchsin, snow"),
    "Latin-1 that is UTF-8": (png(plain=True, parameters=A1111.encode().decode("latin-1")),
                              "a Füchsin, snow"),
    "Latin-1": (png(plain=True, parameters=A1111), "a Füchsin, snow"),
    "SwarmUI": (png(parameters=SWARM), "an owl"),
    "SwarmUI in JPEG": (commented(b"UNICODE\0" + SWARM.encode("utf-16-be")), "an owl"),
    "Fooocus": (png(parameters=json.dumps({"prompt": "a whale"}), fooocus_scheme="fooocus"),
                "a whale"),
    "ComfyUI": (png(prompt=COMFY, workflow='{"nodes": []}'), "a hen"),
    "ComfyUI in WebP": (described("WEBP", x010f="workflow:{}", x0110=f"prompt:{COMFY}"), "a hen"),
    "ComfyUI's and A1111's": (png(prompt=COMFY, parameters=A1111), "a Füchsin, snow"),
    "InvokeAI": (png(invokeai_metadata=json.dumps({"positive_prompt": "a gull"})), "a gull"),
    "InvokeAI 1": (png(Dream='"a gull, sea" -s 50 -S 1 -C 7.5'), "a gull, sea"),
    "NovelAI": (png(Software="NovelAI", Description="1girl", Comment=json.dumps(
        {"prompt": "1girl, sea", "uc": "bad"})), "1girl, sea"),
    "NovelAI's description": (png(Software="NovelAI", Description="1girl"), "1girl"),
    "Easy Diffusion": (png(prompt="a barn", seed="3", negative_prompt="b"), "a barn"),
    "comment of a GIF": (image_bytes("GIF", comment=A1111.encode()), "a Füchsin, snow"),
    "behind the pixels": (behind_the_pixels(A1111), "a Füchsin, snow"),
    "comment of a JPEG": (image_bytes("JPEG", comment=A1111.encode()), "a Füchsin, snow"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(name: str) -> None:
    data, prompt = FILES[name]
    assert prompt_inside(data) == prompt


def test_halves_of_characters_become_question_marks() -> None:
    data = png(parameters='{"prompt": "a fox \\ud83d, snow \\ud83d\\ude00"}')
    assert prompt_inside(data) == "a fox ?, snow 😀"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(), "no metadata of a generator"),
        (png(prompt="no json"), "a comment without a generator's settings"),
        (png(prompt="[[1]]"), "JSON that names no prompt"),
        (png(prompt="[1]"), "a comment without"),
        (png(workflow='{"nodes": []}'), "workflow without the graph"),
        (png(parameters='{"sui_image_params": {"pro'), "JSON that is damaged"),
        (png(Description="a photo of mine"), "no metadata of a generator"),
        (commented(b"ASCII\0\0\0Screenshot"), "a comment without a generator's settings"),
        (png(parameters=f"\n{SETTINGS}"), "the prompt is empty"),
        (b"no image", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_files_without_a_prompt_say_why(data: bytes, reason: str) -> None:
    statement = statement_inside(data)
    assert statement.prompt == "" and reason in statement.reason

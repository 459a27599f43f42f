"""An adapter's key follows its weights, wherever it lies."""

import shutil

import pytest

from selma.adapters.contents import keyed
from selma.errors import AdapterError
from selma.manifests import signed
from selma.workspace import write_json

FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture
def folder(tmp_path):
    merged = tmp_path / "run" / "4-merged"
    merged.mkdir(parents=True)
    (merged / FILE).write_bytes(b"weights")
    write_json(merged / "plan.json", {"key": "k", "recipe": {}})
    finished = {"key": "k", "recipe": {}, "files": {}, "summary": {}}
    write_json(merged / "manifest.json", signed(finished))
    return merged


def test_the_key_is_the_weights_alone(folder, tmp_path):
    first = keyed(folder)
    assert first.path == folder and first.strength == 1
    assert keyed(folder / FILE).key == first.key
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("a card")
    assert keyed(copy).key == first.key
    (copy / FILE).write_bytes(b"weightz")
    assert keyed(copy).key != first.key


def test_pefts_settings_count_since_they_hold_alphas(tmp_path):
    keys = set()
    (tmp_path / "unet").mkdir()
    for alpha in (8, 16):
        (tmp_path / "unet/adapter_model.safetensors").write_bytes(b"weights")
        write_json(tmp_path / "unet/adapter_config.json", {"lora_alpha": alpha})
        keys.add(keyed(tmp_path).key)
    assert len(keys) == 2


def test_what_is_not_finished_or_not_there_is_refused(folder, tmp_path):
    (folder / "manifest.json").unlink()
    with pytest.raises(AdapterError, match="must be finished"):
        keyed(folder)
    with pytest.raises(AdapterError, match="has none"):
        keyed(tmp_path)

"""Checkpoints: what they may hold, what is loaded of it, and that nothing in them is run."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from small_net import Small

from fusion.conversion.checkpoints import load_strictly, read_state_dict
from fusion.errors import SHOWN, WeightsMismatch


class Running:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.mkdir, (Path("was_run"),)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", 0])
def test_a_state_dict_is_found_under_its_usual_keys(key: str, small: Small) -> None:
    state = small.state_dict()
    more = {"epoch": 3, "loss": torch.tensor(0.1), "optimizer": {"state": {}, "lr": torch.tensor(0.1), "steps": 2}}
    torch.save({key: state, **more}, "checkpoint.pth")
    found = read_state_dict("checkpoint.pth")
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_several_state_dicts_are_not_chosen_from(small: Small) -> None:
    torch.save({"model": small.state_dict(), "model_ema": small.state_dict()}, "checkpoint.pth")
    with pytest.raises(WeightsMismatch, match="it holds 2 state dicts: model, model_ema"):
        read_state_dict("checkpoint.pth")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod."])
def test_a_prefix_of_all_keys_is_dropped(prefix: str, small: Small) -> None:
    state = {f"{prefix}{key}": value for key, value in small.state_dict().items()}
    other = Small()
    load_strictly(other, state, "small.pth")
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in other.state_dict().items())


def test_a_name_that_all_keys_of_the_module_begin_with_is_kept() -> None:
    """Also where the weights have one key more, and it is the only one that the module lacks."""
    module = torch.nn.ModuleDict({"features": torch.nn.Linear(2, 1)})
    state = {"features.weight": torch.tensor([[3.0, 4.0]]), "features.bias": torch.tensor([5.0])}
    load_strictly(module, state, "a.pth")
    assert {key: value.tolist() for key, value in module.state_dict().items()} == {
        "features.weight": [[3, 4]],
        "features.bias": [5],
    }
    with pytest.raises(WeightsMismatch, match=r"'features\.more' is unknown"):
        load_strictly(module, {**state, "features.more": torch.ones(1)}, "a.pth")


def test_safetensors(small: Small) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(small.state_dict(), "small.safetensors")
    found = read_state_dict("small.safetensors")
    assert all(torch.equal(found[key], value) for key, value in small.state_dict().items())
    Path("small.safetensors").write_bytes(Path("small.safetensors").read_bytes()[:100])
    with pytest.raises(WeightsMismatch, match="it cannot be read"):
        read_state_dict("small.safetensors")


def test_nothing_in_a_file_is_run(small: Small) -> None:
    torch.save({"state_dict": small.state_dict(), "hook": Running()}, "bad.pth")
    with pytest.raises(WeightsMismatch, match="pickled Python objects, which are not loaded because they can run code"):
        read_state_dict("bad.pth")
    torch.save(small, "module.pth")
    with pytest.raises(WeightsMismatch, match="pickled Python objects"):
        read_state_dict("module.pth")
    assert not Path("was_run").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "no checkpoint of PyTorch"), (b"PK\3\4 cut off", "no checkpoint of PyTorch"), (b"text", "no checkpoint")],
)
def test_damaged_files(content: bytes, says: str, small: Small) -> None:
    Path("bad.pth").write_bytes(content)
    with pytest.raises(WeightsMismatch, match=says):
        read_state_dict("bad.pth")


def test_files_without_a_state_dict(small: Small) -> None:
    for content in ({"epoch": 3}, [1, 2], {"lr": {"a": 0.1}}, {}, {"state_dict": {}}, {0: torch.ones(1)}):
        torch.save(content, "other.pth")
        with pytest.raises(WeightsMismatch, match="it holds no state dict"):
            read_state_dict("other.pth")
    with pytest.raises(FileNotFoundError):
        read_state_dict("nix.pth")
    with pytest.raises(FileNotFoundError):
        read_state_dict("nix.safetensors")


def test_torchscript_has_a_way_out(small: Small) -> None:
    with zipfile.ZipFile("script.pt", "w") as archive:
        for name in ("script/data.pkl", "script/code/__torch__.py", "script/constants.pkl", "script/version"):
            archive.writestr(name, "3")
    with pytest.raises(WeightsMismatch, match="TorchScript archive") as raised:
        read_state_dict("script.pt")
    assert "torch.jit.load" in str(raised.value.hint)


def test_every_key_that_does_not_fit_is_listed(small: Small) -> None:
    state = small.state_dict()
    state["more.weight"] = state.pop("fc.bias")
    state["conv.weight"] = torch.zeros(4, 4, 1, 1)
    state["stem.1.num_batches_tracked"] = torch.zeros(1, dtype=torch.int64)
    before = {key: value.clone() for key, value in small.state_dict().items()}
    with pytest.raises(WeightsMismatch) as raised:
        load_strictly(small, state, "small.pth")
    lines = str(raised.value).splitlines()
    assert [re.sub(r"^ +", "", line) for line in lines[1:5]] == [
        "'fc.bias' is missing",
        "'more.weight' is unknown",
        "'stem.1.num_batches_tracked' is 1, not a number",
        "'conv.weight' is 4x4x1x1, not 4x4x3x3",
    ]
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())


@pytest.mark.parametrize("more", [0, 2])
def test_long_lists_are_cut(more: int) -> None:
    state = {f"{number}.{number}": torch.ones(1) for number in range(SHOWN - 2 + more)}
    with pytest.raises(WeightsMismatch) as raised:
        load_strictly(torch.nn.Linear(1, 1), state, "a.pth")
    lines = raised.value.message.splitlines()[1:]
    last = [f"    ... and {more} more"] if more else []
    assert lines == ["    'weight' is missing", "    'bias' is missing",
                     *(f"    '{number}.{number}' is unknown" for number in range(SHOWN - 2)), *last]  # fmt: skip

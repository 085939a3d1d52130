"""fusion-predict as a person uses it: files, folders, standard input; text, CSV and JSON."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from caffe_fusion_tools import predict
from caffe_fusion_tools.predict import main
from PIL import Image

from fusion.serving import Server
from prototxt.formats.datum import write_mean
from prototxt.formats.weights import write_weights

NET = """
layer { name: "d" type: "ImageData" top: "data" top: "label" transform_param { mean_value: 100 scale: 0.5 }
  image_data_param { source: "absent" batch_size: 4 new_height: 2 new_width: 2 is_color: false } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
Check = Callable[..., object]
NETS = ["net.prototxt", "net.caffemodel"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
    write_weights("net.caffemodel", {"ip": [weights, np.zeros(3)]})
    Path("pictures").mkdir()
    Image.fromarray(np.array([[110, 100], [100, 100]], np.uint8)).save("pictures/a.png")
    Image.fromarray(np.array([[100, 120], [100, 100]], np.uint8)).save("pictures/b.png")
    Path("labels.txt").write_text("zero\none\ntwo\n")
    return tmp_path


def test_a_folder_prepared_as_the_data_layer_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NETS, "pictures", "--output-blob", "ip", "--top", "2", "--labels", "labels.txt"]) == 0
    out, err = capsys.readouterr()
    assert out == "pictures/a.png  ip: 0 zero 5, 1 one 0\npictures/b.png  ip: 1 one 10, 0 zero 0\n"
    assert err == ""


def test_own_classes_get_no_name_of_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*NETS, "pictures/b.png", "--output-blob", "ip", "--top", "1"]
    Path("ten.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    assert main([*asked, "--labels", "ten.txt"]) == 0
    out, err = capsys.readouterr()
    assert out == "pictures/b.png  ip: 1 10\n"
    assert err == (
        "note: 'ip' has 3 scores, but 10 classes have names: its numbers are its own; give their classes with "
        "--classes ip=N,N,...\n"
    )
    assert main([*asked, "--labels", "ten.txt", "--classes", "ip=1,3,5"]) == 0
    assert capsys.readouterr() == ("pictures/b.png  ip: 3 three 10\n", "")
    assert main([*asked, "--classes", "pi=1,3,5"]) == 1
    assert "--classes names no net or output: 'pi'" in capsys.readouterr().err


def test_the_net_keeps_names_and_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = '# class-names: ["zero", "one", "two", "three"]\n# class-numbers: {"ip": [3, 1, 0]}\n'
    Path("net.prototxt").write_text(head + NET)
    assert main([*NETS, "pictures/b.png", "--output-blob", "ip", "--top", "1"]) == 0
    assert capsys.readouterr() == ("pictures/b.png  ip: 1 one 10\n", "")
    Path("labels.txt").write_text("null\n\nzwei\ndrei\n")
    assert main([*NETS, "pictures/a.png", "--output-blob", "ip", "--top", "2", "--labels", "labels.txt", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["pictures/a.png,ip,1,3,drei,5", "pictures/a.png,ip,2,1,,0"]


def test_scores_are_probabilities_by_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NETS, "pictures/a.png", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["output"] == "prob"
    assert sum(item["score"] for item in found["top"]) == pytest.approx(1)
    assert found["top"][0]["class"] == 0


def test_lines_of_json_come_batch_after_batch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--output-blob", "ip", "--top", "1", "--batch", "1"]
    assert main([*NETS, "pictures", *options, "--jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"picture": "pictures/a.png", "output": "ip", "top": [{"class": 0, "score": 5.0}]},
        {"picture": "pictures/b.png", "output": "ip", "top": [{"class": 1, "score": 10.0}]},
    ]
    assert main([*NETS, "pictures", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lines
    assert main([*NETS, "pictures", *options, "--csv"]) == 0
    assert capsys.readouterr().out.count("picture,output") == 1


def test_options_may_stand_between_positions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["net.prototxt", "--top", "1", "net.caffemodel", "--output-blob", "ip", "pictures/a.png"]
    assert main(words) == 0
    assert capsys.readouterr().out == "pictures/a.png  ip: 0 5\n"


@pytest.mark.parametrize("side", [2, 4])
def test_mean_image(folder: Path, capsys: pytest.CaptureFixture[str], side: int) -> None:
    """Of the input's size, or larger: images are resized to it, then both are cropped to the input."""
    Path("deploy.prototxt").write_text(
        'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 } } }'
        + NET[NET.index('layer { name: "ip"') : NET.index('layer { name: "loss"')]
    )
    mean = np.full((1, side, side), 90, np.float32)
    mean[0, side // 2 - 1, side // 2 - 1] = 60  # the first pixel of the central 2 x 2
    write_mean("mean.binaryproto", mean)
    Image.fromarray(np.full((side, side), 100, np.uint8)).save("even.png")
    words = ["deploy.prototxt", "net.caffemodel", "even.png", "--mean", "mean.binaryproto", "--scale", "0.5"]
    assert main([*words, "--csv"]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]
    assert {row[3]: float(row[5]) for row in rows} == {"0": 20.0, "1": 5.0, "2": 10.0}


def test_csv_goes_on_past_bad_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures/aa.png").write_bytes(b"no picture")
    assert main([*NETS, "pictures", "--output-blob", "ip", "--top", "1", "--csv"]) == 1
    out, err = capsys.readouterr()
    assert out == "picture,output,rank,class,label,score\npictures/a.png,ip,1,0,,5\npictures/b.png,ip,1,1,,10\n"
    assert err.startswith("error: pictures/aa.png: this is no image that can be read")


@pytest.mark.parametrize("what", ["picture", "paths"])
def test_standard_input(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    content = Path("pictures/b.png").read_bytes() if what == "picture" else b"pictures/b.png\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main([*NETS, "-", "--output-blob", "ip", "--top", "1"]) == 0
    name = "-" if what == "picture" else "pictures/b.png"
    assert capsys.readouterr().out == f"{name}  ip: 1 10\n"


def test_a_deploy_net_is_told_how(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 } } }\n'
    Path("deploy.prototxt").write_text(text + NET.splitlines()[3])
    asked = ["deploy.prototxt", "net.caffemodel", "pictures/a.png", "--top", "1"]
    assert main(asked) == 0
    assert "takes pixels as they are" in capsys.readouterr().err
    assert main([*asked, "--mean", "100", "--scale", "0.5", "--resize", "2,2"]) == 0
    assert capsys.readouterr() == ("pictures/a.png  ip: 0 5\n", "")


def test_a_web_page_until_ctrl_c(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(server: Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    Path("twin.prototxt").write_text(NET.replace("new_height: 2 new_width: 2", ""))  # its pictures are not here to tell
    assert main([*NETS, "--serve", "--port", "0", "--beside", "twin=twin.prototxt:net.caffemodel"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"drop images at http://127\.0\.0\.1:\d+/ \(Ctrl-C ends\)\n", out)
    assert err == "ended\n"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--classes", "prob=1,2"], "2 classes are given for 'prob'"),
        (["--classes", "porb=1,2"], "--classes names no net or output: 'porb'"),
        (["--host", "203.0.113.7"], "cannot listen at 203.0.113.7, port 0"),
        (["--beside", "a=absent.prototxt:net.caffemodel"], "absent.prototxt"),
    ],
)
def test_what_no_page_can_answer_is_said_at_the_start(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert main([*NETS, "--serve", "--port", "0", *more]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*NETS, "absent.png"], "absent.png: there is no such file or folder"),
        ([*NETS, "pictures", "--output-blob", "pi"], "no blob 'pi'"),
        ([*NETS, "pictures", "--labels", "absent.txt"], "absent.txt"),
        (["absent.prototxt", "net.caffemodel", "pictures"], "absent.prototxt"),
        (["net.prototxt", "net.prototxt", "pictures"], "this is a text file; weights are binary"),
        ([*NETS, "pictures", "--mean", "1,2"], "2 mean values for 1 channels"),
    ],
)
def test_bad_input_is_one_message(folder: Path, refused: Check, arguments: list[str], says: str) -> None:
    refused(main, arguments, says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["n", "w", "p", "--top", "0"], "--top: '0' is not a whole number from 1"),
        (["n", "w", "p", "--resize", "3"], "not a size: '3'"),
        (["n", "w", "p", "--mean", "a"], "is neither numbers such as 104,117,123 nor a file that ends in .binaryproto"),
        (["n", "w", "p", "--json", "--csv"], "not allowed with"),
        (["n", "w"], "give images, or --serve"),
        (["n", "w", "p", "--serve"], "not both"),
        (["n", "w", "p", "--beside", "a=n.prototxt:w"], "is for --serve"),
        (["n", "w", "--serve", "--beside", "a=w"], "is not NAME=NET.prototxt:WEIGHTS"),
        (["n", "w", "--serve", "--classes", "a=1,x"], "'x' is not a class number"),
        (["n", "w", "--serve", "--port", "65536"], "--port is from 0 to 65535"),
    ],
)
def test_bad_usage_is_exit_2(misused: Check, arguments: list[str], says: str) -> None:
    misused(main, arguments, says)


def test_values_are_no_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = 'layer { name: "l" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "l" }\n'
    net = NET[: NET.index('layer { name: "loss"')]
    Path("value.prototxt").write_text(net + value)
    assert main(["value.prototxt", "net.caffemodel", "pictures"]) == 1
    assert "blob 'ip' does not hold class scores but values compared with targets" in capsys.readouterr().err
    second = net.replace('"ip"', '"more"').split("\n", 3)[3] + 'layer { name: "s" type: "SoftmaxWithLoss" '
    Path("both.prototxt").write_text(net + value + second + 'bottom: "more" bottom: "label" top: "s" }\n')
    weights = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
    write_weights("both.caffemodel", {name: [weights, np.zeros(3)] for name in ("ip", "more")})
    assert main(["both.prototxt", "both.caffemodel", "pictures/a.png", "--top", "1"]) == 0
    out, err = capsys.readouterr()
    assert "note: 'ip' is left out: its loss takes values, not classes" in err
    assert "  ip:" not in out
    assert len(out.splitlines()) == 1
    assert main(["both.prototxt", "both.caffemodel", "pictures/a.png", "--output-blob", "ip"]) == 1


def test_several_right_answers_have_no_shares_on_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("many.prototxt").write_text(NET.replace("SoftmaxWithLoss", "SigmoidCrossEntropyLoss"))
    asked = ["many.prototxt", "net.caffemodel"]
    assert main([*asked, "pictures/a.png", "--top", "1"]) == 0
    assert re.search(r": 0 0\.9933\n", capsys.readouterr().out)  # sigmoid(5), by itself
    assert main([*asked, "--serve", "--port", "0"]) == 1
    assert "answers yes or no per class" in capsys.readouterr().err


@pytest.mark.parametrize("streams", range(8))
def test_a_bar_is_shown_where_the_answers_do_not_go(streams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    err, out, quiet = (bool(streams >> bit & 1) for bit in range(3))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: err))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: out))
    shown = predict._progress(argparse.Namespace(quiet=quiet))
    assert type(shown).__name__ == ("Bar" if err and not out and not quiet else "Silent")


def test_batches_and_their_progress(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[object, ...]] = []
    display = SimpleNamespace(progress=lambda *call: told.append(call), close=lambda: None)
    monkeypatch.setattr(predict, "_progress", lambda arguments: display)
    asked = [*NETS, "pictures/a.png", "pictures/b.png", "pictures/a.png", "--output-blob", "ip", "--top", "1"]
    for form in ("--json", "--csv"):
        assert main([*asked, "--batch", "2", form]) == 0
        out = capsys.readouterr().out
        assert told == [("classifying", 2, 3), ("classifying", 3, 3)]
        told.clear()
        if form == "--json":
            assert out == json.dumps(json.loads(out), indent=2) + "\n"
            assert [answer["picture"] for answer in json.loads(out)] == asked[2:5]
        else:
            assert [line.split(",")[0] for line in out.splitlines()] == ["picture", *asked[2:5]]


@pytest.mark.parametrize("more", [["--json"], ["--csv"], ["--jsonl"]])
def test_no_images(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
                   ) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert main([*NETS, "-", *more]) == 0
    expected = {"--json": "[]\n", "--csv": "picture,output,rank,class,label,score\n", "--jsonl": ""}
    assert capsys.readouterr().out == expected[more[0]]


def test_a_line_is_written_as_soon_as_it_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "flush", lambda: flushed.append(stream.getvalue().count("\n")))
    monkeypatch.setattr(sys, "stdout", stream)
    assert main([*NETS, "pictures", "--output-blob", "ip", "--jsonl"]) == 0
    assert flushed[:2] == [1, 2]


def test_a_note_is_said_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ten.txt").write_text("a\n" * 10)
    asked = [*NETS, "pictures", "--output-blob", "ip", "--labels", "ten.txt", "--batch", "1"]
    assert main(asked) == 0
    assert capsys.readouterr().err.count("note: 'ip' has 3 scores, but 10 classes have names") == 1
    assert main([*asked, "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_classes_of_an_output_count_over_those_of_its_net(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*NETS, "pictures/b.png", "--output-blob", "ip", "--top", "1"]
    assert main([*asked, "--classes", "net=5,6,7"]) == 0
    assert capsys.readouterr().out == "pictures/b.png  ip: 6 10\n"
    assert main([*asked, "--classes", "net=5,6,7", "--classes", "ip=1,3,5"]) == 0
    assert capsys.readouterr().out == "pictures/b.png  ip: 3 10\n"


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("a/lenet.prototxt", "lenet"),
        ("a/train_val.prototxt", "a"),
        ("a/deploy.prototxt", "a"),
        ("deploy.prototxt", "deploy"),
        ("train_val.prototxt", "train_val"),
        ("net.onnx", "net"),
    ],
)
def test_a_net_is_called_after_its_file_or_its_folder(path: str, title: str) -> None:
    assert predict._title(path) == title


def test_a_page_for_other_machines_is_warned_about(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped:
        url = "http://x/"

        def __enter__(self) -> Stopped:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def serve_forever(self) -> None:
            raise KeyboardInterrupt

    heard = []
    monkeypatch.setattr("fusion.serving.open_server", lambda *_, **given: heard.append(given) or Stopped())
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        assert main([*NETS, "--serve", "--host", host, "--port", "65535"]) == 0
        assert ("anyone who can reach this machine" in capsys.readouterr().err) is warned
    assert heard == [{"host": "127.0.0.1", "port": 65535}, {"host": "0.0.0.0", "port": 65535}]


def test_what_stands_beside_and_which_classes() -> None:
    assert predict._beside("a=n.prototxt:w") == ("a", ("n.prototxt", "w"))
    assert predict._beside("a=n.ONNX") == ("a", ("n.ONNX", None))
    for text in ("=n.onnx", "=n.prototxt:w", "a=w"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=NET"):
            predict._beside(text)
    assert predict._classes("a=b=1,3") == ("a=b", [1, 3])
    for text in ("1,3", "=1,3"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=C,C"):
            predict._classes(text)


@pytest.mark.parametrize("option", [["--mean", "1"], ["--scale", "2"], ["--rgb"]])
def test_an_onnx_file_is_not_told_how(option: list[str], misused: Check) -> None:
    misused(main, ["net.onnx", "a.png", *option], "are for prototxts")


def test_a_net_without_weights_or_with_port_0_or_less(misused: Check) -> None:
    misused(main, ["net.prototxt"], "give the weights of the net")
    misused(main, [*NETS, "--serve", "--port", "-1"], "--port is from 0 to 65535")
